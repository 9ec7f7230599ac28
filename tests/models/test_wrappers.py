"""Wrapped networks are the network inside: its names, its hash, its weights, and each hook once."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from streamdissect.errors import BadInput
from streamdissect.models import hash_state, list_layers, load_model, resolve_layers
from streamdissect.models.hooks import ActivationHooks
from streamdissect.models.layers import LayerRef
from streamdissect.models.weights import with_keys_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.body = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU())
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.body(self.stem(x)).mean((2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def distributed(tmp_path):
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(module):
    return torch.compile(module, backend="eager")


def part_compiled(net):
    net.body = compiled(net.body)
    return net


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


WRAPS = {
    "compile": compiled,
    "ddp": DistributedDataParallel,
    "ddp of compile": lambda net: DistributedDataParallel(compiled(net)),
    "compile of ddp": lambda net: compiled(DistributedDataParallel(net)),
    "a compiled part": part_compiled,
    "compiled in place": compiled_in_place,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_wrapped_network_is_the_network_inside(distributed, net, wrap):
    names, digest, x = list_layers(net), hash_state(net), torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        expected = net.body(net.stem(x))
    wrapped = wrap(net)
    assert list_layers(wrapped) == names
    assert hash_state(wrapped) == digest
    assert {key.replace("_orig_mod.", "") for key in with_keys_of(wrapped, net.state_dict())} >= {
        key.replace("_orig_mod.", "") for key in wrapped.state_dict()
    }
    loaded = load_model(wrapped)
    assert loaded.module is net and loaded.spec.endswith("test_wrappers.Net")
    assert loaded.state_hash == digest
    for module in (wrapped, loaded.module):
        for name in ("body.1", "module.body.1", "_orig_mod.body.1", "module._orig_mod.body.1", "body._orig_mod.1"):
            refs = resolve_layers(module, [name])
            assert [ref.name for ref in refs] == ["body.1"]
            before = net.passes
            with torch.inference_mode(), ActivationHooks(module, refs) as hooks:
                for _ in range(2):  # `take` refuses a layer that was called twice, or never
                    module(x)
                    torch.testing.assert_close(hooks.take()["body.1"], expected)
            # Two passes, and the first time one more that finds out where the units are.
            assert net.passes - before == 3


def test_hooks_on_a_network_that_was_compiled_and_run_before(net):
    wrapped, x = compiled(net), torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        for _ in range(2):
            wrapped(x)
        with ActivationHooks(wrapped, resolve_layers(wrapped, ["stem", "body"])) as hooks:
            wrapped(x)
            assert list(hooks.take()) == ["stem", "body"]


@pytest.mark.parametrize("own", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("given", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_go_in_whatever_prefixes_file_and_module_have(net, own, given):
    outer = net
    for name in reversed(own.split(".")[:-1]):
        inner, outer = outer, nn.Module()
        outer.add_module(name, inner)
    state = {given + key: value for key, value in net.state_dict().items()}
    assert with_keys_of(outer, state).keys() == outer.state_dict().keys()
    assert resolve_layers(outer, ["stem"]) == [LayerRef("stem", own + "stem")]


def test_a_module_of_that_name_inside_is_no_wrapper(net):
    holder = nn.Module()
    holder.module, holder.head = net, nn.ReLU()
    assert list_layers(holder)[:2] == ["module", "module.stem"]
    assert with_keys_of(holder, holder.state_dict()).keys() == holder.state_dict().keys()


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: nn.Sequential(nn.DataParallel(net))])
@pytest.mark.parametrize("use", [load_model, lambda net: resolve_layers(net, ["stem"])])
def test_data_parallel_is_refused(net, wrap, use):
    with pytest.raises(BadInput, match=r"DataParallel.*one device.*module.*one process for each"):
        use(wrap(net))
