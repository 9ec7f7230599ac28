"""Masks against methods 2.1 and 2.5 in rational numbers, above all where a rounded interpolation goes wrong."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import AxisWeights, mask_maps
from streamdissect.kernels.reference import unpack

from .levels import CONTENDERS, contenders_here, skip_unless_here, taking

INF, NAN = np.float32(np.inf), np.float32(np.nan)
ODD = np.array([0, -0.0, 1, -1, 1.5, 3e38, -3e38, 1e-45, -1e-45, 1e-39, np.inf, -np.inf, np.nan], np.float32)


@pytest.fixture(params=CONTENDERS)
def backend(request):
    """Each backend, Cython at each of its levels."""
    skip_unless_here(request.param)
    with taking(request.param) as name:
        yield name


# The oracle


def corners_of(place):
    """[(cell, weight)] of an axis, weights that are not zero."""
    cell = place.numerator // place.denominator
    q = place - cell
    return [(cell, 1 - q), (cell + 1, q)] if q else [(cell, Fraction(1))]


def is_on(values, threshold, down, across, or_equal):
    """Whether the pixel that samples at (down, across) belongs to the mask."""
    terms = [(float(values[i, j]), p * q) for i, p in corners_of(down) for j, q in corners_of(across)]
    found = [v for v, _ in terms]
    threshold = float(threshold)
    if np.isnan(threshold) or np.isnan(found).any() or {np.inf, -np.inf} <= set(found):
        return False
    if np.inf in found or -np.inf in found:
        value = np.inf if np.inf in found else -np.inf
    else:
        value = sum(Fraction(v) * w for v, w in terms)
    return value >= threshold if or_equal else value > threshold


def oracle(values, threshold, places, or_equal=False):
    """(H, W)"""
    return np.array([[is_on(values, threshold, v, u, or_equal) for u in places[1]] for v in places[0]])


EXPECTED = {}
"""Masks worked out once for all backends."""


def expected_masks(maps, thresholds, geometry, or_equal):
    """(B, H, W) by the oracle."""
    case = maps.tobytes(), thresholds.tobytes(), str(geometry.places), or_equal
    if case not in EXPECTED:
        pairs = zip(maps, thresholds, strict=True)
        EXPECTED[case] = np.array([oracle(m, t, geometry.places, or_equal) for m, t in pairs])
    return EXPECTED[case]


def reference_masks(maps, thresholds, geometry, or_equal):
    """As `masks` of the reference."""
    case = "reference", maps.tobytes(), thresholds.tobytes(), str(geometry.places), or_equal
    if case not in EXPECTED:
        EXPECTED[case] = masks(maps, thresholds, geometry, "reference", or_equal)
    return EXPECTED[case]


def masks(maps, thresholds, geometry, backend, or_equal=False):
    """(B, H, W) masks as booleans; padding bits must be zero."""
    maps = np.asarray(maps)
    bits = mask_maps(
        maps, np.asarray(thresholds, np.float32), geometry.rows, geometry.columns, or_equal=or_equal, backend=backend
    )
    found = np.array([unpack(words, geometry.grid) for words in bits]).reshape(len(bits), *geometry.grid)
    assert np.bitwise_count(bits).sum() == found.sum(), "padding bits are set"
    return found


# The cases


def next_to(values, steps):
    """float32 neighbours, `steps` away."""
    values = np.array(values, np.float32)
    for _ in range(abs(steps)):
        values = np.nextafter(values, np.float32(np.copysign(np.inf, steps)))
    return values


def relu(rng, shape):
    maps = np.maximum(rng.normal(-0.5, 1, shape), 0).astype(np.float32)
    return maps, rng.choice(maps.ravel(), len(maps))


def constant(rng, shape):
    level = rng.choice(np.array([0.1, 1.7, -0.3, 0, 3e38, 1e-45, 6], np.float32), len(np.empty(shape)))
    maps = np.broadcast_to(level[:, None, None], shape).copy()
    thresholds = [next_to(v, rng.choice([0, 0, 0, 1, -1])) for v in level]
    return maps, np.array(thresholds, np.float32)


def plateaus(rng, shape):
    maps = rng.choice(np.array([0, 0.1, 0.1, 0.7, 1.7], np.float32), shape)
    return maps, rng.choice(np.array([0, 0.1, 0.4, 0.7, 1.7], np.float32), len(maps))


def relu6(rng, shape):
    maps = np.clip(rng.normal(4, 4, shape), 0, 6).astype(np.float32)
    return maps, rng.choice(np.array([6, next_to(6, -1), 3, 0], np.float32), len(maps))


def subnormal(rng, shape):
    maps = rng.integers(-40, 40, shape).astype(np.float32) * np.float32(1e-45)
    return maps, rng.integers(-9, 30, len(maps)).astype(np.float32) * np.float32(1e-45)


def barely_normal(rng, shape):
    maps = rng.integers(2**22, 2**24, shape).astype(np.uint32).view(np.float32) * rng.choice([1, -1], shape)
    return maps.astype(np.float32), rng.choice(maps.ravel(), len(maps)).astype(np.float32)


def huge(rng, shape):
    maps = rng.choice(np.array([3.4e38, -3.4e38, 3e38, 1, 0], np.float32), shape)
    return maps, rng.choice(np.array([3.4e38, 3e38, 0, -3.4e38, 1e38], np.float32), len(maps))


def ratios(rng, shape):
    maps = (10.0 ** rng.uniform(-44, 38, shape) * rng.choice([1, -1], shape)).astype(np.float32)
    return maps, rng.choice(maps.ravel(), len(maps)) * np.float32(0.5)


def odd(rng, shape):
    maps = np.where(rng.random(shape) < 0.5, rng.choice(ODD[:6], shape), rng.choice(ODD, shape))
    return maps, rng.choice(ODD, len(maps))


KINDS = [relu, constant, plateaus, relu6, subnormal, barely_normal, huge, ratios, odd]


def cancelling(rng, geometry, n_maps, ulps=3, share_of_ties=0.3):
    """Maps whose four corners add up to the threshold at one pixel, but for some ulps of one corner.

    Thresholds are small against the corners or not; where the sum can be met exactly it often is.
    """
    h, w = geometry.source
    maps = np.empty((n_maps, h, w), np.float32)
    thresholds = np.empty(n_maps, np.float32)
    for values, n in zip(maps, range(n_maps), strict=True):
        scale = 10.0 ** rng.integers(-6, 7)
        values[...] = rng.normal(0, scale, (h, w))
        threshold = np.float32(rng.normal(0, scale) * 10.0 ** -rng.integers(0, 9))
        if rng.random() < share_of_ties:  # few bits: the last corner often is a float32
            values[...] = np.round(values / scale * 8) * np.float32(scale)
            threshold = np.float32(np.round(threshold / scale * 8) * scale)
        terms = [
            (i, j, p * q)
            for i, p in corners_of(geometry.places[0][rng.integers(len(geometry.places[0]))])
            for j, q in corners_of(geometry.places[1][rng.integers(len(geometry.places[1]))])
        ]
        i, j, weight = terms.pop(rng.integers(len(terms)))
        rest = sum((Fraction(float(values[a, b])) * p for a, b, p in terms), Fraction(0))
        solved = float((Fraction(float(threshold)) - rest) / weight)
        values[i, j] = next_to(np.float32(np.clip(solved, -3e38, 3e38)), int(rng.integers(-ulps, ulps + 1)))
        thresholds[n] = threshold
    return maps, thresholds


# Against the oracle


@pytest.mark.parametrize("or_equal", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_masks_equal_rational_arithmetic(kind, or_equal, small, backend):
    maps, thresholds = kind(np.random.default_rng(7), (2, *small.source))
    expected = expected_masks(maps, thresholds, small, or_equal)
    assert_array_equal(masks(maps, thresholds, small, backend, or_equal), expected)


@pytest.mark.parametrize("or_equal", [False, True])
def test_corners_that_cancel_around_the_threshold(small, backend, or_equal):
    maps, thresholds = cancelling(np.random.default_rng(11), small, 12)
    expected = expected_masks(maps, thresholds, small, or_equal)
    assert_array_equal(masks(maps, thresholds, small, backend, or_equal), expected)


@pytest.mark.parametrize("or_equal", [False, True])
def test_large_grids_equal_the_reference_and_rational_arithmetic_at_some_pixels(large, backend, or_equal):
    rng = np.random.default_rng(13)
    parts = [kind(rng, (1, *large.source)) for kind in KINDS] + [cancelling(rng, large, 3)]
    maps, thresholds = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = masks(maps, thresholds, large, backend, or_equal)
    some = rng.choice(len(maps), 4, replace=False)
    assert_array_equal(found[some], reference_masks(maps[some], thresholds[some], large, or_equal))
    for n in range(len(maps)):
        for y, x in zip(rng.integers(0, large.grid[0], 40), rng.integers(0, large.grid[1], 40), strict=True):
            place = large.places[0][y], large.places[1][x]
            assert found[n, y, x] == is_on(maps[n], thresholds[n], *place, or_equal), (n, y, x)


def test_many_cancelling_corners_on_the_grids_of_real_layers(large, backend):
    """Only the pixels next to a solved corner are close calls, so the reference is asked for few maps at a time."""
    rng = np.random.default_rng(17)
    maps, thresholds = cancelling(rng, large, 16)
    found = masks(maps, thresholds, large, backend)
    for n, y, x, expected in close_calls(maps, thresholds, large):
        assert found[n, y, x] == expected, (n, y, x)


def close_calls(maps, thresholds, geometry):
    """(map, row, column, whether on) of some pixels near the threshold of each map, worked out once."""
    case = "close", maps.tobytes(), thresholds.tobytes(), str(geometry.places)
    if case not in EXPECTED:
        EXPECTED[case] = [
            (n, y, x, is_on(maps[n], thresholds[n], geometry.places[0][y], geometry.places[1][x], False))
            for n in range(len(maps))
            for y, x in np.argwhere(np.abs(lerped(maps[n], geometry) - thresholds[n]) <= 1e-6 * np.abs(maps[n]).max())[
                :12
            ]
        ]
    return EXPECTED[case]


def lerped(values, geometry):
    """float64 interpolation: good for finding close calls, not for settling them."""
    down, across = (
        np.array([[dict(corners_of(v)).get(i, 0) for i in range(n)] for v in places], float)
        for n, places in zip(geometry.source, geometry.places, strict=True)
    )
    return down @ values.astype(float) @ across.T


@settings(max_examples=60)
@given(data=st.data())
def test_any_four_corners(data):
    """A 2 x 2 map, the interior of one cell: every float32 may meet every other."""
    number = st.floats(width=32) | st.sampled_from(ODD.tolist()) | st.floats(-2, 2, width=32)
    values = np.array(data.draw(st.lists(number, min_size=4, max_size=4)), np.float32).reshape(1, 2, 2)
    threshold = data.draw(st.sampled_from(values.ravel().tolist()) | number)
    or_equal = data.draw(st.booleans())
    expected = oracle(values[0], threshold, TWO.places, or_equal)
    for contender in (*contenders_here(), "reference"):
        with taking(contender) as backend:
            found = masks(values, [threshold], TWO, backend, or_equal)
        assert_array_equal(found[0], expected, err_msg=contender)


@pytest.fixture(scope="module", autouse=True)
def _two(make_geometry):
    global TWO  # hypothesis calls a test many times with the same fixtures: one geometry serves
    TWO = make_geometry("corners", (2, 2), (8, 11))


def test_the_reference_equals_rational_arithmetic(small):
    rng = np.random.default_rng(19)
    parts = [kind(rng, (1, *small.source)) for kind in KINDS] + [cancelling(rng, small, 3)]
    maps, thresholds = (np.concatenate(part) for part in zip(*parts, strict=True))
    for or_equal in (False, True):
        expected = expected_masks(maps, thresholds, small, or_equal)
        assert_array_equal(masks(maps, thresholds, small, "reference", or_equal), expected)


# By hand (methods 2.1, 3.1, 3.7)


@pytest.mark.parametrize(
    "mode, samples", [("half_pixel", [0, 2.5, 7.5, 10]), ("corners", [0, Fraction(10, 3), Fraction(20, 3), 10])]
)
def test_where_pixels_sample_a_line(mode, samples, make_geometry, backend):
    line = make_geometry(mode, (1, 2), (1, 4))
    values = np.array([[[0, 10]]], np.float32)
    below = [next_to(float(s), -1) for s in samples]
    for threshold in [*map(float, samples), *below]:
        for or_equal in (False, True):
            expected = [s >= Fraction(float(np.float32(threshold))) if or_equal else
                        s > Fraction(float(np.float32(threshold))) for s in samples]  # fmt: skip
            assert_array_equal(masks(values, [threshold], line, backend, or_equal)[0, 0], expected)


SEED = np.array([[99, 100, 100, 70, 68], [99, 100, 101, 67, 65], [98, 102, 100, 98, 60],
                 [82, 97, 99, 97, 52], [75, 70, 72, 70, 45]], np.float32)  # fmt: skip


@pytest.mark.parametrize("threshold, or_equal, pixels", [(95, False, 13), (100, False, 2), (100, True, 6)])
def test_the_example_of_the_seed(threshold, or_equal, pixels, make_geometry, backend):
    same = make_geometry("half_pixel", (5, 5), (5, 5))
    mask = masks(SEED[None], [threshold], same, backend, or_equal)[0]
    assert mask.sum() == pixels
    if threshold == 95:
        rows = ["".join("01"[bit] for bit in line) for line in mask.astype(int)]
        assert rows == ["11100", "11100", "11110", "01110", "00000"]


@pytest.mark.parametrize("threshold, pixels", [(0, 256), (0.25, 104), (0.5, 40)])
def test_the_area_of_one_active_cell(threshold, pixels, make_geometry, backend):
    eight = make_geometry("half_pixel", (9, 9), (72, 72))
    values = np.zeros((1, 9, 9), np.float32)
    values[0, 4, 4] = 1
    mask = masks(values, [threshold], eight, backend)[0]
    assert mask.sum() == pixels
    assert mask[32:40, 32:40].sum() == min(pixels, 64)


@pytest.mark.parametrize("level", [0.1, 1.7, -0.3, 1e-40])
def test_a_constant_map_is_never_above_itself(level, large, backend):
    maps = np.full((1, *large.source), level, np.float32)
    assert not masks(maps, maps[:, 0, 0], large, backend).any()
    assert masks(maps, maps[:, 0, 0], large, backend, or_equal=True).all()
    assert masks(maps, next_to(maps[:, 0, 0], -1), large, backend).all()


# What must make no difference


def test_subnormals_flushed_to_zero_in_the_calling_thread(small, backend):
    rng = np.random.default_rng(23)
    maps, thresholds = (
        np.concatenate(part)
        for part in zip(*[kind(rng, (4, *small.source)) for kind in (subnormal, barely_normal, odd)], strict=True)
    )
    expected = [masks(maps, thresholds, small, backend, or_equal) for or_equal in (False, True)]
    assert torch.set_flush_denormal(True)
    try:
        found = [masks(maps, thresholds, small, backend, or_equal) for or_equal in (False, True)]
    finally:
        torch.set_flush_denormal(False)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_read_only_mapped_strided_and_unaligned_maps(dtype, make_geometry, backend, tmp_path):
    geometry = make_geometry("half_pixel", (5, 6), (24, 80))
    maps, thresholds = relu(np.random.default_rng(29), (4, 5, 6))
    maps, thresholds = maps.astype(dtype), thresholds.astype(np.float16).astype(np.float32)
    expected = masks(maps, thresholds, geometry, backend)
    maps.tofile(tmp_path / "maps")
    variants = {
        "memory-mapped": np.memmap(tmp_path / "maps", dtype, "r", shape=maps.shape),
        "unaligned": np.frombuffer(b"x" + maps.tobytes(), dtype, offset=1).reshape(maps.shape),
        "columns first": np.asfortranarray(maps),
        "every other": np.repeat(maps, 2, axis=0)[::2],
        "backwards twice": np.ascontiguousarray(maps[::-1])[::-1],
    }
    bound = np.frombuffer(b"xyz" + thresholds.tobytes(), np.float32, offset=3)  # read-only and unaligned too
    for name, variant in variants.items():
        assert_array_equal(masks(variant, bound, geometry, backend), expected, err_msg=name)


def test_no_maps(make_geometry, backend):
    geometry = make_geometry("half_pixel", (5, 6), (24, 80))
    assert masks(np.zeros((0, 5, 6), np.float32), [], geometry, backend).shape == (0, 24, 80)


# Refusals


def test_maps_that_do_not_fit_are_refused(make_geometry):
    geometry = make_geometry("half_pixel", (5, 6), (24, 80))
    for maps in (
        np.zeros((1, 6, 5), np.float32),
        np.zeros((1, 5, 6), np.float64),
        np.zeros((1, 5, 6), ">f4"),
        np.zeros((5, 6), np.float32),
        np.zeros((2, 5, 6), np.float32),
    ):
        with pytest.raises(ValueError, match=r"maps are|the weights are for"):
            mask_maps(maps, np.zeros(1, np.float32), geometry.rows, geometry.columns)


@pytest.mark.parametrize("change", [{"first": np.full(64, 10**8, np.int32)}, {"second": np.full(64, 7, np.int32)},
                                    {"first": np.zeros(63, np.int32)}, {"start": np.full(4, -1, np.int32)},
                                    {"numerator": np.full(64, 10**6)}, {"n_pixels": 0}])  # fmt: skip
def test_weights_that_point_elsewhere_are_refused(change):
    axis = AxisWeights.from_positions([Fraction(1, 2), Fraction(3, 2), Fraction(2)], 3)
    with pytest.raises(ValueError):
        replace(axis, **change)
    with pytest.raises(ValueError):
        AxisWeights.from_positions([], 3)
