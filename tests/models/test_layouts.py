"""Which axis is what: guessed where one reading alone is left, refused with the remedy otherwise."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from torch import nn

from streamdissect.errors import BadInput
from streamdissect.models import resolve_layers
from streamdissect.models.hooks import ActivationHooks
from streamdissect.models.layouts import choose_layout, to_maps, token_grid

SMALL = st.integers(1, 20)


def refusal(function, *args, **options):
    with pytest.raises(BadInput) as caught:
        function(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


@given(h=SMALL, w=SMALL, patch=SMALL)
def test_square_patches_that_tile_the_image_are_found(h, w, patch):
    assume(h * w > 1)
    assert token_grid(h * w, (h * patch, w * patch)) == (h, w)


@given(n=st.integers(0, 400), rows=st.integers(1, 64), columns=st.integers(1, 64))
def test_a_grid_holds_all_tokens_and_tiles_the_image(n, rows, columns):
    grid = token_grid(n, (rows, columns))
    if grid is not None and n > 1:
        assert grid[0] * grid[1] == n
        assert rows % grid[0] == columns % grid[1] == 0
        assert rows // grid[0] == columns // grid[1]
    square = token_grid(n, None)
    assert square is None or square[0] ** 2 == square[1] ** 2 == n


@given(h=SMALL, w=SMALL, units=st.integers(1, 40), step=SMALL)
def test_the_wrong_order_is_never_chosen_where_cells_tile_the_image(h, w, units, step):
    size = (h * step, w * step)
    assert choose_layout((2, units, h, w), size) != "nhwc"
    found = choose_layout((2, h, w, units), size)
    assert found != "nchw" or h == w == units == 1
    assert choose_layout((2, h, w, units), size, "nhwc") == "nhwc"


@pytest.mark.parametrize(
    "shape, size, expected",
    [
        ((8, 768, 7, 7), (224, 224), "nchw"),
        ((8, 7, 7, 768), (224, 224), "nhwc"),
        ((8, 96, 13, 14), (224, 224), "nchw"),
        ((8, 7, 14, 64), (224, 448), "nhwc"),
        ((8, 2, 4, 6), (32, 48), "nchw"),
        ((8, 96, 1, 1), (224, 224), "nchw"),
        ((8, 1, 1, 96), (224, 224), "nhwc"),
        ((8, 1, 1, 1), (224, 320), "nchw"),
        ((8, 64, 64, 64), (256, 256), "unclear"),
        ((8, 5, 20, 40), (224, 224), "unclear"),
    ],
)
def test_proportions_tell_the_order(shape, size, expected):
    assert choose_layout(shape, size) == expected


def test_tokens_of_an_image_that_is_no_square():
    x = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    maps = to_maps(x, "t", size=(32, 64))
    assert maps.shape == (2, 3, 2, 4)
    assert_array_equal(maps[1, 2].flatten(), x[1, :, 2])
    sixteen = torch.zeros(2, 16, 3)
    assert to_maps(sixteen, "t", size=(64, 64)).shape == (2, 3, 4, 4)
    assert "tile the 32x48 image" in refusal(to_maps, sixteen, "t", size=(32, 48)), "4 x 4 would be a wrong guess"
    assert to_maps(sixteen, "t", grid=(2, 8), size=(32, 48)).shape == (2, 3, 2, 8)


def test_the_remedy_names_the_number_of_tokens_before_the_grid():
    line = refusal(to_maps, torch.zeros(2, 197, 5), "t", size=(224, 224))
    assert "got 197 tokens" in line and "--prefix-tokens 1 (then 14 x 14 are left)" in line
    assert "--prefix-tokens 5" in refusal(to_maps, torch.zeros(2, 17, 5), "t", grid=(3, 4))
    assert "perhaps" not in refusal(to_maps, torch.zeros(2, 8, 5), "t", size=(64, 64))


def test_tokens_and_units_that_could_be_exchanged_are_refused():
    x = torch.zeros(2, 16, 64)
    assert "--layout tokens" in refusal(to_maps, x, "t", size=(64, 64))
    for told in ({"layout": "tokens"}, {"prefix_tokens": 0}, {"grid": (4, 4)}):
        assert to_maps(x, "t", size=(64, 64), **told).shape == (2, 64, 4, 4)


class Turned(nn.Module):
    """Cells and units in several orders, all of one length, so that shapes tell nothing."""

    def __init__(self, sort=False):
        super().__init__()
        self.conv, self.last, self.swapped = nn.Conv2d(3, 8, 2, 2), nn.Identity(), nn.Identity()
        self.sort = sort

    def forward(self, x):
        x = self.conv(x)
        if self.sort:  # an operation that the trace cannot follow
            x = torch.sort(x, 1)[0]
        self.swapped(x.transpose(2, 3))
        return self.last(x.permute(0, 2, 3, 1))


def record(net, *patterns, n=2, **options):
    x = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), ActivationHooks(net, resolve_layers(net, patterns), **options) as hooks:
        net(x)
        return hooks.take(), x


def test_the_trace_tells_each_layer_apart_where_shapes_do_not():
    net = Turned()
    found, x = record(net, "conv", "last")
    assert_array_equal(found["conv"], net.conv(x).detach())
    assert_array_equal(found["last"], found["conv"])


def test_what_neither_trace_nor_shape_tells_is_refused():
    for net, layer in ((Turned(sort=True), "last"), (Turned(), "swapped")):
        line = refusal(record, net, layer)
        assert f"layer {layer}" in line and "--layout nchw or --layout nhwc" in line
    found, _ = record(Turned(sort=True), "last", layout="nhwc")
    assert found["last"].shape == (2, 8, 8, 8)


class TokensOf(nn.Module):
    """4 x 4 patches: (B, tokens, units), or (tokens, B, units) as `nn.MultiheadAttention` has it by default."""

    def __init__(self, is_batch_first):
        super().__init__()
        self.conv, self.out, self.is_batch_first = nn.Conv2d(3, 6, 4, 4), nn.Identity(), is_batch_first

    def forward(self, x):
        x = self.conv(x).flatten(2)
        return self.out(x.transpose(1, 2) if self.is_batch_first else x.permute(2, 0, 1))


def test_the_batch_must_come_first():
    assert "(16, 3, 6) from 3 images" in refusal(record, TokensOf(False), "out", n=3)
    assert record(TokensOf(True), "out", n=3)[0]["out"].shape == (3, 6, 4, 4)


def test_as_many_tokens_as_images_are_settled_by_another_batch():
    net = TokensOf(True)
    assert "give another --batch-size" in refusal(record, net, "out", n=16)
    with torch.inference_mode(), ActivationHooks(net, resolve_layers(net, ["out"])) as hooks:
        net(torch.zeros(16, 3, 16, 16))
        assert hooks.unsettled()
        net(torch.zeros(15, 3, 16, 16))
        hooks.take()
        net(torch.zeros(16, 3, 16, 16))
        assert not hooks.unsettled()
        assert hooks.take()["out"].shape == (16, 6, 4, 4)
