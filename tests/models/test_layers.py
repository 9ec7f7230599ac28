"""Layer names and recorded activations."""

from collections import OrderedDict

import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from streamdissect.errors import BadInput
from streamdissect.models import list_layers, resolve_layers
from streamdissect.models.hooks import ActivationHooks, to_maps
from streamdissect.models.layers import LayerRef


class Net(nn.Module):
    """A block that runs twice, one that never runs, outputs of several kinds."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.idle = nn.ReLU()
        self.pair, self.named, self.odd = Pair(), Named(), Odd()
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.block(self.block(self.relu(self.conv1(x))))
        x = self.named(self.pair(x)[0])["map"]
        self.odd(x)
        return self.fc(x.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


class Named(nn.Module):
    def forward(self, x):
        return {"map": x, "more": 3}


class Odd(nn.Module):
    def forward(self, x):
        return "text"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def names(module, *patterns):
    return [ref.name for ref in resolve_layers(module, patterns)]


def record(net, *patterns, x=None, **options):
    x = torch.linspace(-1, 1, 2 * 3 * 6 * 5).reshape(2, 3, 6, 5) if x is None else x
    with torch.inference_mode(), ActivationHooks(net, resolve_layers(net, patterns), **options) as hooks:
        net(x)
        return hooks.take()


def refusal(function, *args, **options):
    with pytest.raises(BadInput) as caught:
        function(*args, **options)
    return str(caught.value)


def test_names_and_globs(net):
    assert list_layers(net)[:4] == ["conv1", "relu", "block", "block.0"]
    assert names(net, "relu", "conv1", "relu") == ["relu", "conv1"]
    assert names(net, "block.*", "block*") == ["block.0", "block.1", "block"]
    assert names(net, "module.conv1", "_orig_mod.module.relu") == ["conv1", "relu"]
    assert resolve_layers(net, ["conv1:relu", "block#1", "block#0:input", "relu:input#0"]) == [
        LayerRef("conv1:relu", "conv1", "relu"),
        LayerRef("block#1", "block", "output", 1),
        LayerRef("block#0:input", "block", "input", 0),
        LayerRef("relu#0:input", "relu", "input", 0),
    ]
    assert names(net, "block.?:relu") == ["block.0:relu", "block.1:relu"]


def test_wrapped_networks(net):
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module._orig_mod = net
    assert list_layers(wrapped) == list_layers(net)
    assert resolve_layers(wrapped, ["conv1", "module.conv1"]) == [LayerRef("conv1", "module._orig_mod.conv1")]


def test_a_shared_module_has_both_names():
    conv = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(conv, conv)
    assert list_layers(net) == ["0"]
    assert names(net, "1") == ["1"]


def test_unknown_layers(net):
    line = refusal(resolve_layers, net, ["conv2"])
    assert line.startswith("layers: got 'conv2', expected a module of this model; nearest is 'conv1'; list them")
    assert "nearest" not in refusal(resolve_layers, net, ["zzzzzzzz"])
    assert "'nothing*'" in refusal(resolve_layers, net, ["nothing*"])
    assert "'conv1:gelu'" in refusal(resolve_layers, net, ["conv1:gelu"])
    assert "at least one" in refusal(resolve_layers, net, [])


def test_activations_are_copied_before_an_in_place_relu(net):
    found = record(net, "conv1", "conv1:relu", "relu", "conv1:input")
    assert float(found["conv1"].min()) < 0
    assert_array_equal(found["conv1"].clamp(min=0), found["conv1:relu"])
    assert_array_equal(found["conv1:relu"], found["relu"])
    assert found["conv1:input"].shape == (2, 3, 6, 5)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_kinds_of_output(net):
    found = record(net, "fc", "pair", "named")
    assert found["fc"].shape == (2, 5, 1, 1)
    assert_array_equal(found["pair"], found["named"])
    assert "a str" in refusal(record, net, "odd")


def test_a_module_called_twice(net):
    line = refusal(record, net, "block:relu")
    assert "called 2 times" in line
    assert "block#0:relu ... block#1:relu" in line
    found = record(net, "block#0", "block#1", "block#1:input")
    assert not torch.equal(found["block#0"], found["block#1"])
    assert_array_equal(found["block#0"], found["block#1:input"])
    assert "at most #1" in refusal(record, net, "block#2")


def test_a_layer_that_never_runs(net):
    assert "'idle'" in refusal(record, net, "conv1", "idle")


def test_hooks_can_be_entered_again_and_stand_beside_others(net):
    first = ActivationHooks(net, resolve_layers(net, ["conv1"]))
    second = ActivationHooks(net, resolve_layers(net, ["conv1", "relu"]))
    x = torch.ones(1, 3, 4, 4)
    for _ in range(2):
        with first, second:
            net(x)
            net(x)  # a pass nobody took is forgotten
            assert list(second.take()) == ["conv1", "relu"]
            assert not first.take()["conv1"].requires_grad
            with pytest.raises(BadInput):
                first.take()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_tokens():
    x = torch.arange(2 * 13 * 3.0).reshape(2, 13, 3)
    maps = to_maps(x, "t", prefix_tokens=1, grid=(3, 4))
    assert maps.shape == (2, 3, 3, 4)
    assert_array_equal(maps[1, 2].flatten(), x[1, 1:, 2])
    assert to_maps(x[:, :9], "t").shape == (2, 3, 3, 3)
    assert to_maps(x[:, :10], "t", "tokens", 1).shape == (2, 3, 3, 3)
    for options in ({}, {"grid": (3, 4)}, {"prefix_tokens": 13}, {"layout": "nchw"}, {"layout": "nhwc"}):
        line = refusal(to_maps, x, "t", **options)
        assert "layer t" in line
        assert "--layout, --grid and --prefix-tokens" in line


def test_layouts():
    x = torch.zeros(2, 5, 6, 3)
    assert to_maps(x, "t").shape == (2, 5, 6, 3)
    assert to_maps(x, "t", "nhwc").shape == (2, 3, 5, 6)
    assert to_maps(x[:, :, 0, 0], "t", "nhwc").shape == (2, 5, 1, 1)
    assert "(2, 5, 6, 3, 1)" in refusal(to_maps, x[..., None], "t")


def test_a_name_that_ends_several_layers_is_completed():
    blocks = {name: nn.Sequential(OrderedDict(act=nn.ReLU())) for name in ("a", "b")}
    net = nn.Sequential(OrderedDict(blocks))
    with pytest.raises(BadInput, match=r"got 'act', .*did you mean '\*\.act', as 'a\.act'\?"):
        resolve_layers(net, ["act"])
