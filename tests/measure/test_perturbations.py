"""What perturbations do to images, and where they move labels, masks and cells."""

import io
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import streamdissect as sd
from streamdissect.kernels.reference import pack, unpack
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.perturbations import (
    KINDS,
    Blur,
    Brightness,
    Draw,
    Fgsm,
    Jpeg,
    Noise,
    Rotation,
    ShuffleGrid,
    ShufflePatch,
)
from streamdissect.measure.upsample import axis_weights
from streamdissect.measure.warps import CellAxis, PixelWarp, RotationWarp, Tiles, TileWarp, centres
from streamdissect.perturboptions import PERTURBATIONS, PerturbOptions

DRAW = Draw(seed=3, trial=1, name="street/7.png", mean_colour=(10.0, 20.0, 30.0))


def picture(shape=(24, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.float32)


ALL = [Noise(7), Rotation(33), ShuffleGrid(4), ShufflePatch(8), Blur(1.3), Brightness(1.4), Jpeg(60), Fgsm(2)]


@pytest.mark.parametrize("perturbation", ALL, ids=lambda each: each.text)
def test_the_image_given_stays_and_what_comes_is_an_image(perturbation):
    image = picture()
    before = image.copy()
    draw = Draw(3, 1, "a", ascent=np.sign(picture(seed=5) - 128).astype(np.float32))
    found = perturbation.image(image, draw)
    assert_array_equal(image, before)
    assert found.shape == image.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 255.001 and not np.array_equal(found, image)
    assert_array_equal(perturbation.image(image, draw), found)


@pytest.mark.parametrize(
    "nothing", [Noise(0), Rotation(0), Rotation(360), ShuffleGrid(1), Blur(0), Brightness(1), Fgsm(0)]
)
def test_magnitude_zero_leaves_the_image_as_it_is(nothing):
    image = picture()
    assert_array_equal(nothing.image(image, Draw(0, 0, "a", ascent=np.ones_like(image))), image)
    if (warp := nothing.warp((24, 32), DRAW)) is not None:
        for shape in ((24, 32), (12, 16), (113, 7)):
            assert_array_equal(warp.pixels(shape), np.arange(shape[0] * shape[1]).reshape(shape))


def test_options_and_kinds_go_together():
    assert {name.replace("_", "-") for name in PERTURBATIONS} == KINDS.keys()
    options = PerturbOptions(noise=5, center=True, gray=True, clip="none", rotate=[45], fill="black", derange=True)
    assert KINDS["noise"].make(5.0, options).text == "noise 5 centred unclipped grey"
    assert KINDS["rotate"].make(45.0, options).text == "rotate 45 black"
    assert KINDS["shuffle-grid"].make(4.0, options).text == "shuffle-grid 4 deranged"
    assert KINDS["jpeg"].make(30.0, options) == Jpeg(30.0)


# Noise


def test_noise_is_one_field_times_the_magnitude():
    black = np.zeros((24, 32, 3), np.float32)
    one, four = (Noise(c, is_clipped=False).image(black, DRAW) for c in (1, 4))
    assert_array_equal(four, 4 * one)  # a power of two: exactly
    assert one.min() >= 0 and one.max() < 1


def test_noise_brightens_by_half_of_it_and_spreads_by_an_uniform_deviation():
    grey = np.full((200, 200, 3), 100, np.float32)
    for c in (1, 10, 100):
        found = Noise(c).image(grey, DRAW).astype(np.float64) - 100
        assert_allclose(found.mean(), c / 2, rtol=0.01)
        assert_allclose(found.std(), c / np.sqrt(12), rtol=0.01)
    assert abs(Noise(100, is_centred=True).image(grey, DRAW).mean() - 100) < 1


def test_noise_is_clipped_but_not_rounded_and_may_be_grey():
    white = np.full((30, 30, 3), 250, np.float32)
    assert Noise(10).image(white, DRAW).max() == 255
    loose = Noise(10, is_clipped=False).image(white, DRAW)
    assert loose.max() > 255 and not np.array_equal(loose, np.rint(loose))
    assert not np.array_equal(loose[..., 0], loose[..., 1])
    grey = Noise(10, is_grey=True).image(white, DRAW)
    assert_array_equal(grey[..., 0], grey[..., 2])


def test_draws_differ_by_seed_trial_name_and_kind_alone():
    def first(seed=0, trial=0, name="a", kind="noise", is_same=False):
        return Draw(seed, trial, name).generator(kind, is_same).random()

    numbers = [first(), first(seed=1), first(trial=1), first(name="b"), first(kind="shuffle-grid"), first(is_same=True)]
    assert len(set(numbers)) == len(numbers) and first() == numbers[0]
    assert first(name="a", is_same=True) == first(name="b", is_same=True)


# Rotation


@given(n=st.integers(1, 9), quarters=st.integers(-4, 7))
def test_quarter_turns_of_squares_are_transpositions(n, quarters):
    image = picture((n, n))
    assert_array_equal(Rotation(90.0 * quarters).image(image, DRAW), np.rot90(image, quarters))
    pixels = RotationWarp((n, n), 90.0 * quarters).pixels((2 * n, 2 * n))
    assert_array_equal(pixels, np.rot90(np.arange(4 * n * n).reshape(2 * n, 2 * n), quarters))


def test_four_quarter_turns_are_none():
    image = picture((17, 17))
    turned = image
    for _ in range(4):
        turned = Rotation(90).image(turned, DRAW)
    assert_array_equal(turned, image)


def test_half_a_turn_of_any_size_is_exact():
    image = picture((5, 8))
    assert_array_equal(Rotation(180).image(image, DRAW), image[::-1, ::-1])


def by_hand(image, degrees, fill):
    """Bilinear rotation, pixel by pixel."""
    n, m = image.shape[:2]
    angle, turned = np.radians(degrees), np.empty(image.shape)
    for i in range(n):
        for j in range(m):
            down, right = i - (n - 1) / 2, j - (m - 1) / 2
            y = np.sin(angle) * right + np.cos(angle) * down + (n - 1) / 2
            x = np.cos(angle) * right - np.sin(angle) * down + (m - 1) / 2
            if not (-0.5 <= y < n - 0.5 and -0.5 <= x < m - 0.5):
                turned[i, j] = fill
                continue
            y, x = np.clip(y, 0, n - 1), np.clip(x, 0, m - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, n - 1), min(b + 1, m - 1)
            q, r = y - a, x - b
            upper = (1 - r) * image[a, b] + r * image[a, d]
            turned[i, j] = (1 - q) * upper + q * ((1 - r) * image[c, b] + r * image[c, d])
    return turned


@pytest.mark.parametrize("degrees", [10, 45, -20, 90, 200])
def test_rotation_is_bilinear_about_the_centre(degrees):
    image = picture((11, 14))
    assert_allclose(Rotation(degrees).image(image, DRAW), by_hand(image, degrees, (10, 20, 30)), atol=1e-3)
    assert_allclose(Rotation(degrees, "black").image(image, DRAW), by_hand(image, degrees, 0), atol=1e-3)


def test_a_reflected_rim_is_the_image_again():
    image = np.tile(np.float32([[0, 255]]), (8, 4))[..., None].repeat(3, 2)
    found = Rotation(45, "reflect").image(image, DRAW)
    black = Rotation(45, "black").image(image, DRAW)
    outside = (RotationWarp((8, 8), 45).pixels((8, 8)) < 0)[..., None].repeat(3, 2)
    assert (black[outside] == 0).all() and found[outside].max() > 0
    assert_array_equal(found[~outside], black[~outside])


@pytest.mark.parametrize("degrees, share", [(10, 0.9266), (45, 0.8284), (90, 1)])
def test_the_judged_share_of_a_rotated_square(degrees, share):
    valid = RotationWarp((400, 400), degrees).pixels((400, 400)) >= 0
    assert abs(valid.mean() - share) < 0.002


def test_the_label_grid_turns_as_the_image_does():
    image = np.zeros((60, 80, 3), np.float32)
    image[10:30, 40:70] = 255
    labels = np.zeros((30, 40), np.uint16)
    labels[5:15, 20:35] = 4
    turned = Rotation(25, "black").image(image, DRAW)[..., 0].reshape(30, 2, 40, 2).mean((1, 3)) > 127
    moved = RotationWarp((60, 80), 25).on_pixels((30, 40)).labels(labels) == 4
    assert (turned != moved).sum() < 0.1 * moved.sum() and moved.sum() > 100


# Tiles


def tile_oracle(n, g, target):
    """The pixel of tile target[t] at the place of each pixel of an axis, in rationals."""
    found = []
    for j in range(n):
        at = Fraction(2 * j + 1, 2 * n)
        tile = floor(g * at)
        found.append(floor(n * (at + Fraction(target[tile] - tile, g))))
    return np.array(found)


@given(n=st.integers(1, 60), g=st.integers(1, 12), data=st.data())
def test_a_row_of_tiles_by_the_formula(n, g, data):
    order = np.array(data.draw(st.permutations(range(g))))
    warp = TileWarp(Tiles(120, 0, 120, g), Tiles(7, 0, 7, 1), order)
    assert_array_equal(warp.pixels((n, 1))[:, 0], tile_oracle(n, g, order))


@given(g=st.integers(1, 6), k=st.integers(1, 5), m=st.integers(1, 5), trial=st.integers(0, 9))
def test_where_tiles_divide_the_grid_pixels_are_permuted(g, k, m, trial):
    size = (g * k * 2, g * m * 2)
    shuffle, draw = ShuffleGrid(g), Draw(0, trial, "a")
    warp = shuffle.warp(size, draw)
    image = np.arange(size[0] * size[1] * 3, dtype=np.float32).reshape(*size, 3)
    found = shuffle.image(image, draw)
    assert_array_equal(np.sort(found, axis=None), image.ravel())
    for shape in (size, (g * k, g * m)):
        assert PixelWarp(shape, warp.pixels(shape)).is_permutation
    labels = np.arange(g * k * g * m, dtype=np.uint16).reshape(g * k, g * m)
    moved = warp.on_pixels(labels.shape).labels(labels)
    whole = labels.repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2).astype(np.float32)
    assert_array_equal(shuffle.image(whole, draw)[::2, ::2, 0], moved)


def test_where_they_do_not_a_few_lines_repeat():
    shape = (113, 113)
    lost = []
    for trial in range(60):
        pixels = ShuffleGrid(4).warp(shape, Draw(0, trial, "a")).pixels(shape)
        lost.append(shape[0] * shape[1] - len(np.unique(pixels)))
        assert 0 < lost[-1] < 3 * 113 and pixels.min() >= 0
    assert abs(np.mean(lost) - 141) < 25
    assert_array_equal(
        TileWarp(Tiles(113, 0, 113, 4), Tiles(113, 0, 113, 4), np.arange(16)).pixels(shape).ravel(), np.arange(113**2)
    )


def test_orders_are_uniform_and_depend_on_the_image():
    orders = [tuple(ShuffleGrid(2).warp((4, 4), Draw(0, t, "a")).order.tolist()) for t in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 60 and counts.max() < 145
    first, second = (ShuffleGrid(4).warp((8, 8), Draw(0, 0, name)).order for name in "ab")
    assert not np.array_equal(first, second)
    first, second = (ShuffleGrid(4, is_same=True).warp((8, 8), Draw(0, 0, name)).order for name in "ab")
    assert_array_equal(first, second)


def test_no_tile_stays_where_none_may():
    stays = [(ShuffleGrid(3, deranged).warp((9, 9), Draw(0, t, "a")).order == np.arange(9)).any()
             for deranged in (True, False) for t in range(60)]  # fmt: skip
    assert not any(stays[:60]) and any(stays[60:])
    with pytest.raises(sd.BadInput, match=r"--derange.*single tile"):
        ShuffleGrid(1, True).check((8, 8))


def test_patches_must_divide_the_image_or_leave_a_margin():
    ShufflePatch(8).check((24, 32))
    with pytest.raises(sd.BadInput, match=r"--shuffle-patch.*10.*24 rows.*--crop"):
        ShufflePatch(10).check((24, 32))
    image, cropped = picture(), ShufflePatch(10, is_cropped=True)
    cropped.check((24, 32))
    found = cropped.image(image, DRAW)
    pixels = cropped.warp((24, 32), DRAW).pixels((24, 32))
    assert_array_equal(pixels[2:22, 1:31] >= 0, True)
    assert (pixels >= 0).sum() == 20 * 30
    assert_array_equal(found[pixels < 0], image[pixels < 0])
    assert_array_equal(np.sort(found[pixels >= 0], axis=0), np.sort(image[pixels >= 0], axis=0))
    for wrong in (ShuffleGrid(2.5), ShuffleGrid(0), ShuffleGrid(25), ShufflePatch(0)):
        with pytest.raises(sd.BadInput, match="whole number"):
            wrong.check((24, 32))


# The others


def test_blur_is_a_gaussian():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1000
    found = Blur(2).image(point, DRAW)[..., 0]
    at = np.arange(41) - 20
    share = np.exp(-(at**2) / 8)
    assert_allclose(found, 1000 * np.outer(share, share) / share.sum() ** 2, atol=0.02)
    assert_allclose(Blur(3).image(np.full((9, 9, 3), 77, np.float32), DRAW), 77, rtol=1e-5)


def test_brightness_and_steps_are_clipped():
    image = np.float32([[[0, 100, 200]]])
    assert_array_equal(Brightness(2).image(image, DRAW), [[[0, 200, 255]]])
    up = Draw(0, 0, "a", ascent=np.float32([[[-1, 1, 1]]]))
    assert_array_equal(Fgsm(60).image(image, up), [[[0, 160, 255]]])


def test_jpeg_is_what_pillow_makes():
    image = picture()
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, format="JPEG", quality=40)
    assert_array_equal(Jpeg(40).image(image, DRAW), np.asarray(Image.open(buffer)))
    with pytest.raises(sd.BadInput, match=r"--jpeg.*1 to 100"):
        Jpeg(101).check((8, 8))


# Masks, labels and cells under a warp


@given(h=st.integers(1, 9), w=st.integers(1, 150), n=st.integers(0, 4), seed=st.integers(0, 99), whole=st.booleans())
def test_masks_move_as_their_pixels_do(h, w, n, seed, whole):
    rng = np.random.default_rng(seed)
    source = rng.permutation(h * w) if whole else rng.integers(-1, h * w, h * w)
    warp = PixelWarp((h, w), source.reshape(h, w).astype(np.int32))
    masks = rng.random((n, h, w)) < rng.choice([0.02, 0.5, 1.0])
    words = np.stack([pack(mask) for mask in masks]) if n else np.zeros((0, h * -(-w // 64)), np.uint64)
    found = warp.masks(words)
    expected = [np.where(source >= 0, mask.ravel()[source], False).reshape(h, w) for mask in masks]
    for each, mask in zip(found, expected, strict=True):
        assert_array_equal(unpack(each, (h, w)), mask)
    assert_array_equal(unpack(warp.valid_words, (h, w)), source.reshape(h, w) >= 0)
    labels = rng.integers(0, 9, (h, w)).astype(np.uint16)
    assert_array_equal(warp.labels(labels), np.where(source >= 0, labels.ravel()[source], 0).reshape(h, w))
    assert warp.is_permutation == (sorted(source) == list(range(h * w)))


@pytest.mark.parametrize("mode", ["rf", "half_pixel", "corners"])
def test_cells_lie_where_the_upsampling_places_them(mode):
    field = AxisField(-6, 19, 4)
    axis = CellAxis.of(mode, 16, 64, field)
    weights = axis_weights(mode, 16, 64, 64, field)
    expected = weights.first[:64] + weights.numerator[:64] / weights.denominator
    assert_allclose(axis.cells(centres(64)), expected, atol=1e-8)
    assert_allclose(axis.cells(axis.places()), np.arange(16), atol=1e-8)


def test_a_layer_of_one_cell():
    axis = CellAxis.of("corners", 1, 64, None)
    assert_array_equal(axis.cells(axis.places()), [0])


@pytest.mark.parametrize("mode", ["half_pixel", "corners"])
def test_the_clean_map_is_sampled_where_cells_come_from(mode):
    maps = np.random.default_rng(0).random((3, 8, 8))
    axis = CellAxis.of(mode, 8, 8, None)
    turned = RotationWarp((8, 8), 90).on_cells(axis, axis)
    assert_array_equal(turned.clean(maps.reshape(3, -1)), np.rot90(maps, 1, (1, 2)).reshape(3, -1))
    order = np.random.default_rng(1).permutation(16)
    tiles = TileWarp(Tiles(8, 0, 8, 4), Tiles(8, 0, 8, 4), order)
    moved = tiles.on_cells(axis, axis).clean(maps.reshape(3, -1))
    assert_array_equal(moved, maps.reshape(3, -1)[:, tiles.pixels((8, 8)).ravel()])


def test_cells_that_come_from_outside_or_lie_there_are_left_out():
    inside, beyond = CellAxis.of("half_pixel", 10, 40, None), CellAxis.of("rf", 10, 40, AxisField(15, 1, 4))
    assert len(RotationWarp((40, 40), 45).on_cells(inside, inside).chosen) < 100
    kept = RotationWarp((40, 40), 0).on_cells(inside, beyond).chosen
    assert kept.tolist() == [10 * i + j for i in range(10) for j in range(10) if 15 + 4 * j < 40]
