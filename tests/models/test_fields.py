"""Field maps (methods 2.2, 2.3): the published table, real networks, random stacks; trace and probe agree."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from streamdissect.measure.fieldmap import AxisField, FieldMap
from streamdissect.models import field_maps, load_model, resolve_layers
from streamdissect.models.probe import probe_fields
from streamdissect.models.quiet import native_kernels
from streamdissect.models.reaching import NanReach
from streamdissect.models.tracing import trace_fields


def conv(kernel, stride=1, padding=0, cin=2, **more):
    return nn.Conv2d(cin, 2, kernel, stride, padding, **more)


def caffe_alexnet():
    layers = [conv(11, 4, 0, 3), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5)]
    layers += [conv(5, 1, 2, groups=2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5)]
    layers += [conv(3, 1, 1), nn.ReLU(True), conv(3, 1, 1, groups=2), nn.ReLU(True), conv(3, 1, 1), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(2 * 36, 5))


def torchvision_alexnet():
    layers = [conv(11, 4, 2, 3), nn.ReLU(True), nn.MaxPool2d(3, 2), conv(5, 1, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    layers += [conv(3, 1, 1), nn.ReLU(True), conv(3, 1, 1), nn.ReLU(True), conv(3, 1, 1), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(72, 5))


def vgg16():
    layers, cin = [], 3
    for n in (2, 2, 3, 3, 3):
        for _ in range(n):
            layers += [conv(3, 1, 1, cin), nn.ReLU(True)]
            cin = 2
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.body = nn.Sequential(conv(3, stride, 1), nn.BatchNorm2d(2), nn.ReLU(True), conv(3, 1, 1))
        self.down = conv(1, stride) if stride > 1 else None

    def forward(self, x):
        return torch.relu_(self.body(x) + (x if self.down is None else self.down(x)))


def resnet18():
    blocks = [Residual(stride) for stride in (1, 1, 2, 1, 2, 1, 2, 1)]
    return nn.Sequential(conv(7, 2, 3, 3), nn.BatchNorm2d(2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1), *blocks)


def axis(offset, size, step):
    return AxisField(offset, size, step)


def both(module, names, shape):
    """Field maps by trace, after checking that the probe finds the same."""
    refs = resolve_layers(module, names)
    traced, probed = trace_fields(module, refs, shape), probe_fields(module, refs, shape, "nchw")
    assert {name: str(one) for name, one in traced.items()} == {name: str(one) for name, one in probed.items()}
    assert {one.source for one in traced.values()} <= {"trace"}
    assert {one.source for one in probed.values()} <= {"probe"}
    return traced


@pytest.mark.parametrize(
    "make, size, expected",
    [
        (caffe_alexnet, 227, {"9": (-32, 99, 16), "11": (-48, 131, 16), "13": (-64, 163, 16)}),
        (torchvision_alexnet, 224, {"11": (-66, 163, 16)}),
        (vgg16, 224, {"29": (-90, 196, 16)}),
        (resnet18, 224, {"11": (-217, 435, 32)}),
    ],
)
def test_table_of_the_methods(make, size, expected):
    found = both(make(), list(expected), (size, size))
    assert {name: (one.rows, one.columns) for name, one in found.items()} == {
        name: (axis(*of), axis(*of)) for name, of in expected.items()
    }


V2 = {3: (-2, 11, 4), 7: (-22, 59, 8), 14: (-118, 267, 16), 15: (-118, 299, 32), 17: (-182, 427, 32)}


@pytest.mark.parametrize("shape", [(224, 224), (240, 320)])
def test_mobilenet_v2(shared_models, shape):
    net = load_model(f"{shared_models}/mobilenet.py:mobilenet_v2", f"{shared_models}/mobilenet_v2_imagenet.safetensors")
    expected = {f"features.{i}.expand.act": of for i, of in V2.items()} | {"features.18.conv": (-214, 491, 32)}
    found = both(net.module, list(expected), shape)
    for name, (o, s, t) in expected.items():
        shift = 16 if t == 32 and shape[0] == 240 else 0
        assert (found[name].rows, found[name].columns) == (axis(o - shift, s, t), axis(o, s, t)), name


@pytest.mark.parametrize("shape", [(224, 224), (240, 320)])
def test_mobilenet_v1(shared_models, shape):
    net = load_model(f"{shared_models}/mobilenet.py:mobilenet_v1", "random")
    expected = {"5": (-14, 43, 8), "11": (-94, 219, 16), "13": (-126, 315, 32)}
    found = both(net.module, [f"features.{i}.pw.act" for i in expected], shape)
    for i, (o, s, t) in expected.items():
        shift = 16 if t == 32 and shape[0] == 240 else 0
        one = found[f"features.{i}.pw.act"]
        assert (one.rows, one.columns) == (axis(o - shift, s, t), axis(o, s, t)), i


def test_resnet_with_identity_shortcuts(shared_models):
    net = load_model(f"{shared_models}/resnet_cifar.py:resnet_cifar?depth=20", None)
    found = both(net.module, ["layer1.2.act2", "layer2.2.act2", "layer3.2.act2"], (32, 32))
    assert [str(one) for one in found.values()] == ["(-7,15,1)", "(-18,37,2)", "(-40,81,4)"]


@st.composite
def stacks(draw):
    """Up to four layers that shrink an image of at most 64 times the product of their strides."""
    layers, channels, stride = [], 3, 1
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "pool", "pad", "same", "branch"]))
        k, d = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        r = draw(st.integers(1, 3)) if stride < 6 else 1
        p = draw(st.integers(0, k // 2))
        if kind == "conv":
            layers.append(conv(k, r, p, channels, dilation=d))
        elif kind == "pool":
            pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
            layers.append(pool(k, r, p, ceil_mode=draw(st.booleans())))
        elif kind == "pad":
            layers.append(nn.ZeroPad2d((draw(st.integers(0, 3)), 1, draw(st.integers(0, 3)), 2)))
        elif kind == "same":
            layers.append(conv(k, 1, "same", channels, dilation=d))
        else:
            layers.append(Residual(1) if channels == 2 else nn.BatchNorm2d(channels))
        stride *= r if kind in ("conv", "pool") else 1
        channels = 2 if kind in ("conv", "same") else channels
        layers.append(draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.Hardswish, nn.GELU]))())
    return nn.Sequential(*layers)


@given(net=stacks(), rows=st.integers(64, 90), columns=st.integers(64, 90))
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_trace_equals_probe_on_random_stacks(net, rows, columns):
    last = str(len(net) - 1)
    assert list(both(net, [last], (rows, columns))) == [last]


def test_a_dilated_kernel_looks_past_a_single_cell():
    """A narrow image, as the probe likes it, has one cell across here, which only padding reaches."""
    net = nn.Sequential(conv(1, 2, cin=3), conv(2, 3), conv(2, padding="same", dilation=2), nn.ReLU())
    assert str(both(net, ["3"], (64, 64))["3"]) == "(-6,15,6)"


def test_probe_and_trace_leave_the_network_alone():
    net = nn.Sequential(conv(3, cin=3), nn.BatchNorm2d(2), nn.Dropout(), nn.ReLU()).train()
    net[1].eval()
    before = load_state(net)
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    native = torch._C._get_mkldnn_enabled()
    both(net, ["3"], (40, 40))
    assert [part.training for part in net.modules()] == [True, True, False, True, True]
    assert load_state(net) == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch._C._get_mkldnn_enabled() == native


def load_state(net):
    return {key: value.tolist() for key, value in net.state_dict().items()}


class Excite(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


def test_squeeze_excite_keeps_the_geometry_and_is_global():
    net = nn.Sequential(conv(3, 2, 1, 3), Excite(), nn.ReLU())
    refs = resolve_layers(net, ["2", "1.gate"])
    found = trace_fields(net, refs, (64, 48))
    assert str(found["2"]) == "(-1,3,2) global"
    assert str(found["1.gate"]) == "(0,64,64) x (0,48,48) global"
    probed = probe_fields(net, refs, (64, 48))
    assert probed["2"].is_global
    assert str(probed["2"].rows.centre) == "1/2"


@pytest.mark.parametrize(
    "layer, expected",
    [
        (nn.Upsample(scale_factor=2), (-0.5, 1)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (-0.5, 1)),
        (nn.ConvTranspose2d(2, 2, 2, 2), (-0.5, 1)),
        (nn.ConvTranspose2d(2, 2, 4, 2, 1), (-0.5, 1)),
        (nn.AdaptiveAvgPool2d(8), (3, 8)),
        (nn.Upsample(size=63, mode="bilinear", align_corners=True), (0, 1)),
    ],
)
def test_resizing(layer, expected):
    net = nn.Sequential(conv(3, 2, 1, 3), layer)
    one = trace_fields(net, resolve_layers(net, ["1"]), (64, 64))["1"].rows
    assert (float(one.centre), float(one.step)) == expected


def test_uneven_fields_are_left_out_by_the_probe():
    net = nn.Sequential(conv(3, 4, 1, 3), nn.Upsample(scale_factor=2), nn.ReLU())
    assert probe_fields(net, resolve_layers(net, ["2"]), (64, 64)) == {}


class Odd(nn.Module):
    """Operations without a rule, one that a probe still sees through and one that mixes cells and units."""

    def __init__(self):
        super().__init__()
        self.conv, self.sort, self.tokens = conv(3, 2, 1, 3), nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.sort(torch.sort(self.conv(x), 1)[0] * 0 + self.conv(x))
        return self.tokens(x.flatten(2).transpose(1, 2))


def test_field_maps_go_from_trace_to_probe_to_none():
    net = Odd()
    found = field_maps(net, resolve_layers(net, ["conv", "sort", "tokens"]), (64, 64))
    assert found["tokens"] is None
    assert found["conv"] == FieldMap(axis(-1, 3, 2), axis(-1, 3, 2), "trace")
    assert found["sort"] is None or str(found["sort"]) == "(-1,3,2)"


class Circular(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 2, 1, 3, padding_mode="circular"), conv(3, 1, 1)

    def forward(self, x):
        return self.b(self.a(x))


def test_what_the_trace_cannot_follow_is_probed():
    net = Circular()
    refs = resolve_layers(net, ["b"])
    assert trace_fields(net, refs, (64, 64)) == {}
    assert str(field_maps(net, refs, (64, 64))["b"]) == "(-3,7,2)"


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 1, 0, 3), nn.Identity()

    def forward(self, x):
        x = F.pad(x, (x.shape[-1] % 2, 1, 2, 0))
        x = F.avg_pool2d(self.a(x), 2)[:, :, 1:, ::2]
        return self.b(x.permute(0, 2, 3, 1)).mean((1, 2))


def test_channels_last_and_slices_are_followed():
    net = Functional()
    one = trace_fields(net, resolve_layers(net, ["b"]), (64, 65))["b"]
    assert (one.rows, one.columns) == (axis(0, 4, 2), axis(-1, 4, 4))
    probed = probe_fields(net, resolve_layers(net, ["b"]), (64, 65), "nhwc")["b"]
    assert (probed.rows, probed.columns) == (one.rows, one.columns)


class Branches(nn.Module):
    """Two fields of which neither holds the other."""

    def __init__(self, join):
        super().__init__()
        self.a, self.b, self.join = conv((3, 1), 2, 0, 3), conv((3, 1), 2, 0, 3), join

    def forward(self, x):
        return self.join(self.a(F.pad(x, (0, 0, 2, 0))), self.b(F.pad(x, (0, 0, 0, 2))))


@pytest.mark.parametrize("join", [torch.add, lambda a, b: torch.cat([a, b], 1), torch.maximum])
def test_branches_make_what_either_sees(join):
    net = nn.Sequential(Branches(join), nn.ReLU())
    assert str(both(net, ["1"], (64, 48))["1"]) == "(-2,5,2) x (0,1,2)"


class Tokens(nn.Module):
    """Patches that attend to each other; takes one input size only."""

    def __init__(self):
        super().__init__()
        self.patch, self.attend, self.out = conv(8, 8, 0, 3), nn.MultiheadAttention(2, 1, batch_first=True), nn.ReLU()
        self.position = nn.Parameter(torch.zeros(1, 24, 2))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.out(self.attend(x, x, x)[0].transpose(1, 2).reshape(-1, 2, 4, 6))


def test_attention_is_global_with_cells_that_tile_the_image():
    found = field_maps(Tokens(), resolve_layers(Tokens(), ["patch", "out"]), (32, 48))
    assert found["out"] == FieldMap(axis(-12, 32, 8), axis(-20, 48, 8), "probe", True)
    assert (found["out"].rows.centre, str(found["patch"])) == (axis(0, 8, 8).centre, "(0,8,8)")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 8, (2, 3), (1, 2), (0, 1), groups=2),
        nn.Conv2d(4, 4, 1, 2),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
        nn.ConvTranspose2d(4, 4, 4, 1, 0, dilation=2),
    ],
)
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 5, 3), (3, 11, 8), (2, 6, slice(None))])
def test_the_stand_in_passes_nan_on_like_a_convolution(layer, at):
    x = torch.zeros(2, 4, 12, 9)
    x[(1, *at)] = torch.nan
    with torch.inference_mode(), native_kernels():
        expected = layer(x).isnan()
        with NanReach():
            assert torch.equal(layer(x).isnan(), expected)


def test_every_activation_passes_nan_on():
    x = torch.full((3, 8), math.nan)
    for act in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.Hardswish(), nn.GELU(), nn.SiLU(), nn.LeakyReLU()):
        assert act(x).isnan().all(), act
    assert nn.MaxPool2d(2)(x.new_full((1, 1, 4, 4), math.nan)).isnan().all()


class Written(nn.Module):
    """A wider field reaches the output through a view of all of a tensor, of its own or of a new one."""

    def __init__(self, write):
        super().__init__()
        self.narrow, self.wide, self.out = conv(1, cin=3), conv(3, padding=1), nn.Identity()
        self.write = write

    def forward(self, x):
        x = self.narrow(x)
        return self.out(self.write(x, self.wide(x)))


def into_a_turned_view(x, wide):
    y = x.clone()
    y.permute(0, 2, 3, 1).add_(wide.permute(0, 2, 3, 1))
    return y


def into_a_view_of_a_new_tensor(x, wide):
    y = torch.empty_like(x)
    y.view(x.shape).copy_(wide)
    return x + y


def by_an_out_argument(x, wide):
    y = x.clone()
    torch.add(x, wide, out=y.view(x.shape))
    return y


def through_the_tensor_of_a_view(x, wide):
    y = x.clone()
    turned = y.permute(0, 2, 3, 1)
    y.add_(wide)
    return turned.permute(0, 3, 1, 2)


WRITES = [into_a_turned_view, into_a_view_of_a_new_tensor, by_an_out_argument, through_the_tensor_of_a_view]


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_through_a_view_is_seen_by_all_that_share_its_memory(write):
    net = Written(write).eval()
    refs = resolve_layers(net, ["wide", "out"])
    traced = trace_fields(net, refs, (32, 32))
    assert str(traced["wide"]) == "(-1,3,1)"
    assert "out" not in traced or str(traced["out"]) == "(-1,3,1)"
    assert str(field_maps(net, refs, (32, 32))["out"]) == "(-1,3,1)"


def test_writing_in_place_without_views_is_still_followed():
    net = nn.Sequential(conv(3, 1, 1, 3), nn.ReLU(True), Written(lambda x, wide: x.clone().add_(wide).relu_()))
    net[2].narrow = conv(1)
    assert trace_fields(net, resolve_layers(net, ["2.out"]), (32, 32))["2.out"].source == "trace"
    assert str(trace_fields(net, resolve_layers(net, ["2.out"]), (32, 32))["2.out"]) == "(-2,5,1)"
