"""Counters against the reference: labels of every kind, float16 and float32 maps, any number of threads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import PlaneBatch, count_maps, count_masks, mask_maps, words_of
from streamdissect.kernels.reference import pack, unpack

from .levels import CONTENDERS, contenders_here, skip_unless_here, taking

N_CONCEPTS, N_CATEGORIES = 9, 3
N_ROWS = N_CONCEPTS + N_CATEGORIES + 1
SPECIAL = [0, -0.0, 0.1, 0.5, 1, 1.5, 6, -1, 6e-8, -6e-8, 65504, -65504, 3e38, 1e-45, np.inf, -np.inf, np.nan]
BELOW_SIX, BEYOND_HALF = np.nextafter(np.float32(6), np.float32(0)), 70000.0
BOUNDS = np.array([*SPECIAL, BELOW_SIX, BEYOND_HALF, -BEYOND_HALF, 1e-30, -1e-30, 0.10000001, -2e-8], np.float32)


NO_WORDS = np.zeros(0, np.uint64)


@pytest.fixture(params=CONTENDERS)
def backend(request):
    """Each backend, Cython at each of its levels."""
    skip_unless_here(request.param)
    with taking(request.param) as name:
        yield name


def batch_of(shape, labels):
    """PlaneBatch of images given as (planes, plane_row, touch_row, whole_row, present_row, present_area)."""
    planes, *rows = zip(*labels, strict=True)
    words = [np.stack([pack(p) for p in each], axis=1).ravel() if len(each) else NO_WORDS for each in planes]
    pointers = [np.cumsum([0, *map(len, part)]).astype(np.int64) for part in (words, rows[0], rows[2], rows[3])]
    plane_row, touch_row, whole_row, present_row = (np.concatenate(part).astype(np.int32) for part in rows[:4])
    return PlaneBatch(
        shape=shape,
        words=np.concatenate(words).astype(np.uint64),
        word_ptr=pointers[0],
        plane_ptr=pointers[1],
        plane_row=plane_row,
        touch_row=touch_row,
        whole_ptr=pointers[2],
        whole_row=whole_row,
        present_ptr=pointers[3],
        present_row=present_row,
        present_area=np.concatenate(rows[4]).astype(np.int64),
    )


def labels_of(rng, shape, n_planes):
    """Random labels of one image: blobs, speckles, full and single-pixel planes; several planes may feed one row."""
    planes = rng.random((n_planes, *shape)) < rng.choice([0.02, 0.3, 1], (n_planes, 1, 1))
    rows = rng.integers(0, N_ROWS, n_planes)
    touch = np.sort(rng.integers(-1, N_CATEGORIES, n_planes))  # equal rows stand together
    touch = np.where(touch < 0, -1, touch + N_CONCEPTS)
    whole = rng.choice(N_ROWS, rng.integers(0, 4), replace=False)
    present = rng.choice(N_CONCEPTS, rng.integers(0, N_CONCEPTS), replace=False)
    area = rng.integers(0, shape[0] * shape[1] + 1, len(present))
    return planes, rows, touch, whole, present, area


def random_batch(rng, shape, n_planes):
    return batch_of(shape, [labels_of(rng, shape, n) for n in n_planes])


def special_maps(rng, shape, dtype):
    """Half of the units hold ordinary numbers, half whatever float can hold."""
    with np.errstate(over="ignore"):
        maps = np.maximum(rng.normal(-0.5, 2, shape), 0).astype(dtype)
        odd = rng.choice(np.array(SPECIAL), shape).astype(dtype)
    return np.where((rng.random(shape) < 0.4) & (np.arange(shape[1]) % 2 == 1)[:, None, None], odd, maps)


def zeros(n_units):
    return np.zeros((N_ROWS, n_units), np.int64), np.zeros((N_CONCEPTS, n_units), np.int64), np.zeros(n_units, np.int64)


def counted(maps, thresholds, geometry, planes, backend, **options):
    counters = zeros(maps.shape[1])
    count_maps(maps, thresholds, geometry.rows, geometry.columns, planes, *counters, backend=backend, **options)
    return counters


EXPECTED = {}
"""Counters of the reference, worked out once for all backends."""


def expected_counts(maps, thresholds, geometry, planes, or_equal=False):
    """As `counted` by the reference. The labels are those of the case, drawn by the same seed."""
    case = maps.tobytes(), maps.dtype, thresholds.tobytes(), str(geometry.places), planes.words.tobytes(), or_equal
    if case not in EXPECTED:
        EXPECTED[case] = counted(maps, thresholds, geometry, planes, "reference", or_equal=or_equal)
    return EXPECTED[case]


def assert_same(found, expected):
    for name, a, b in zip(("counters", "chance", "active"), found, expected, strict=True):
        assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("or_equal", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_counts_equal_the_reference(small, dtype, or_equal, backend):
    rng = np.random.default_rng(31)
    planes = random_batch(rng, small.grid, [5, 0, 17])
    maps = special_maps(rng, (3, 14, *small.source), dtype)
    thresholds = rng.choice(BOUNDS, 14)
    found = counted(maps, thresholds, small, planes, backend, or_equal=or_equal)
    assert_same(found, expected_counts(maps, thresholds, small, planes, or_equal))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_counts_on_the_grids_of_real_layers(large, dtype, backend):
    rng = np.random.default_rng(37)
    planes = random_batch(rng, large.grid, [5, 70])
    maps = special_maps(rng, (2, 4, *large.source), dtype)
    thresholds = np.array([1.5, 0, np.quantile(maps[:, 2].astype(np.float32), 0.995), 0.5], np.float32)
    found = counted(maps, thresholds, large, planes, backend)
    assert_same(found, expected_counts(maps, thresholds, large, planes))


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), or_equal=st.booleans(), dtype=st.sampled_from(["f2", "f4"]))
def test_any_labels_and_shapes(data, seed, or_equal, dtype, make_geometry):
    rng = np.random.default_rng(seed)
    source, grid = (data.draw(st.tuples(st.integers(1, 6), st.integers(1, n))) for n in (20, 70))
    geometry = make_geometry(data.draw(st.sampled_from(["half_pixel", "corners"])), source, grid)
    planes = random_batch(rng, grid, data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3)))
    maps = special_maps(rng, (len(planes), data.draw(st.integers(1, 4)), *source), dtype)
    thresholds = rng.choice(BOUNDS, maps.shape[1])
    expected = counted(maps, thresholds, geometry, planes, "reference", or_equal=or_equal)
    for contender in contenders_here():
        with taking(contender) as backend:
            assert_same(counted(maps, thresholds, geometry, planes, backend, or_equal=or_equal, threads=2), expected)


def every_half():
    """All float16 numbers, as 1 x 1 maps of one image."""
    return np.arange(65536, dtype=np.uint16).view(np.float16)[None, :, None, None]


@pytest.mark.parametrize("or_equal", [False, True])
def test_every_float16_against_thresholds_that_may_lie_between_them(or_equal, make_geometry, backend):
    pixel = make_geometry("half_pixel", (1, 1), (1, 1))
    planes = batch_of((1, 1), [(np.ones((1, 1, 1), bool), [0], [-1], [N_ROWS - 1], [], [])])
    maps = every_half()
    values = maps[0, :, 0, 0].astype(np.float64)  # of float32 thresholds and float16 values: compared exactly
    for threshold in [*BOUNDS.tolist(), 1e-7, 65519.9, 65520, 2.0**-25, -(2.0**-25), 5.9e-8]:
        bound = np.float64(np.float32(threshold))
        passed = values >= bound if or_equal else values > bound
        thresholds = np.full(65536, threshold, np.float32)
        counters, _, active = counted(maps, thresholds, pixel, planes, backend, or_equal=or_equal)
        assert_array_equal(active, passed)
        assert_array_equal(counters[0], passed)
        assert_array_equal(counters[-1], passed)


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_any_number_of_threads(threads, make_geometry, backend):
    rng = np.random.default_rng(41)
    geometry = make_geometry("half_pixel", (7, 7), (30, 70))
    planes = random_batch(rng, geometry.grid, [4, 11, 3])
    maps = special_maps(rng, (3, 10, 7, 7), np.float32)
    thresholds = rng.choice(BOUNDS, 10)
    one = counted(maps, thresholds, geometry, planes, backend)
    assert one[0].any()
    assert_same(counted(maps, thresholds, geometry, planes, backend, threads=threads), one)


def test_counts_are_added_to_what_is_there(make_geometry, backend):
    rng = np.random.default_rng(43)
    geometry = make_geometry("half_pixel", (5, 5), (20, 20))
    planes = random_batch(rng, geometry.grid, [4])
    maps, thresholds = special_maps(rng, (1, 3, 5, 5), np.float32), np.array([0, 1, 0.5], np.float32)
    once, twice = zeros(3), zeros(3)
    for counters in (once, twice, twice):
        count_maps(maps, thresholds, geometry.rows, geometry.columns, planes, *counters, backend=backend)
    assert_same(twice, [2 * c for c in once])


@pytest.mark.parametrize("n_planes", [1, 64, 65, 150])
def test_masks_that_exist_already(n_planes, make_geometry, backend):
    rng = np.random.default_rng(47)
    shape = 9, 131
    planes = random_batch(rng, shape, [n_planes, 0, 3])
    masks = np.array([[pack(rng.random(shape) < share) for share in (0, 0.01, 1)] for _ in range(3)])
    masks.flags.writeable = False
    found, expected = zeros(3)[:2], zeros(3)[:2]
    count_masks(masks, planes, *found, backend=backend)
    count_masks(masks, planes, *expected, backend="reference")
    assert_same((*found, 0), (*expected, 0))


def test_maps_and_their_masks_count_the_same(make_geometry, backend):
    rng = np.random.default_rng(53)
    geometry = make_geometry("corners", (6, 5), (21, 90))
    planes = random_batch(rng, geometry.grid, [8, 2])
    maps, thresholds = special_maps(rng, (2, 4, 6, 5), np.float32), np.array([0, 0.1, 1, 2], np.float32)
    masks = [mask_maps(image, thresholds, geometry.rows, geometry.columns, backend=backend) for image in maps]
    found = zeros(4)[:2]
    count_masks(np.array(masks), planes, *found, backend=backend)
    assert_same((*found, 0), (*counted(maps, thresholds, geometry, planes, backend)[:2], 0))


def test_touched_rows_gain_the_area_once_per_image(make_geometry, backend):
    geometry = make_geometry("half_pixel", (1, 1), (1, 4))
    left, right = [[[True, True, False, False]], [[False, False, True, True]]]
    row = N_CONCEPTS
    image = (np.array([left, right, left]), [0, 1, 2], [row, row, row + 1], [], [], [])
    planes = batch_of((1, 4), [image, image])
    counters, _, active = counted(np.ones((2, 1, 1, 1), np.float32), np.zeros(1, np.float32), geometry, planes, backend)
    assert counters[:, 0].tolist() == [4, 4, 4, *[0] * 6, 8, 8, 0, 0]
    assert active.tolist() == [2]


def test_subnormals_flushed_to_zero_in_the_calling_thread(make_geometry, backend):
    rng = np.random.default_rng(59)
    geometry = make_geometry("half_pixel", (5, 5), (20, 20))
    planes = random_batch(rng, geometry.grid, [4])
    for dtype, unit in ((np.float16, 6e-8), (np.float32, 1e-45), (np.float32, 1e-39)):
        maps = (rng.integers(-9, 10, (1, 30, 5, 5)) * np.float32(unit)).astype(dtype)
        thresholds = (rng.integers(-9, 10, 30) * np.float32(unit) / rng.choice([1, 2], 30)).astype(np.float32)
        for or_equal in (False, True):
            expected = counted(maps, thresholds, geometry, planes, "reference", or_equal=or_equal)
            assert torch.set_flush_denormal(True)
            try:
                found = counted(maps, thresholds, geometry, planes, backend, or_equal=or_equal)
            finally:
                torch.set_flush_denormal(False)
            assert_same(found, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_read_only_mapped_strided_and_unaligned_maps(dtype, make_geometry, backend, tmp_path):
    rng = np.random.default_rng(61)
    geometry = make_geometry("half_pixel", (5, 6), (24, 80))
    planes = random_batch(rng, geometry.grid, [4, 3])
    maps, thresholds = special_maps(rng, (2, 3, 5, 6), dtype), np.array([0, 0.5, 1], np.float32)
    expected = counted(maps, thresholds, geometry, planes, backend)
    maps.tofile(tmp_path / "maps")
    for variant in (
        np.memmap(tmp_path / "maps", dtype, "r", shape=maps.shape),
        np.frombuffer(b"x" + maps.tobytes(), dtype, offset=1).reshape(maps.shape),
        np.asfortranarray(maps),
        np.repeat(maps, 2, axis=1)[:, ::2],
    ):
        assert_same(counted(variant, thresholds, geometry, planes, backend), expected)


def test_read_only_labels(make_geometry, backend):
    rng = np.random.default_rng(67)
    geometry = make_geometry("half_pixel", (5, 6), (24, 80))
    planes = random_batch(rng, geometry.grid, [4])
    expected = counted(np.ones((1, 1, 5, 6), np.float32), np.zeros(1, np.float32), geometry, planes, backend)
    for array in vars(planes).values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    found = counted(np.ones((1, 1, 5, 6), np.float32), np.zeros(1, np.float32), geometry, planes, backend)
    assert_same(found, expected)
    shape = planes.shape
    assert_array_equal(pack(unpack(planes.planes(0)[:, 0], shape)), planes.planes(0)[:, 0])
    assert len(planes.words) == 4 * shape[0] * words_of(shape[1])


@pytest.mark.parametrize("n_images, n_units", [(0, 3), (2, 0)])
def test_nothing_to_count(n_images, n_units, make_geometry, backend):
    geometry = make_geometry("half_pixel", (2, 2), (4, 4))
    planes = random_batch(np.random.default_rng(0), (4, 4), [1, 1])
    if n_images == 0:
        pointer, empty = np.zeros(1, np.int64), np.zeros(0, np.int32)
        arrays = dict.fromkeys(("word_ptr", "plane_ptr", "whole_ptr", "present_ptr"), pointer)
        arrays |= dict.fromkeys(("plane_row", "touch_row", "whole_row", "present_row"), empty)
        planes = replace(planes, words=np.zeros(0, np.uint64), present_area=np.zeros(0, np.int64), **arrays)
    maps = np.zeros((n_images, n_units, 2, 2), np.float32)
    found = counted(maps, np.zeros(n_units, np.float32), geometry, planes, backend)
    assert not any(array.any() for array in found)


# Refusals


def refused(make_geometry, match, *, planes=None, **changed):
    geometry = make_geometry("half_pixel", (2, 2), (4, 4))
    counters, chance, active = zeros(3)
    arguments = {
        "maps": np.zeros((1, 3, 2, 2), np.float32),
        "thresholds": np.zeros(3, np.float32),
        "rows": geometry.rows,
        "columns": geometry.columns,
        "planes": random_batch(np.random.default_rng(0), (4, 4), [2]),
        "counters": counters,
        "chance": chance,
        "active": active,
    }
    arguments["planes"] = replace(arguments["planes"], **(planes or {}))
    with pytest.raises(ValueError, match=match):
        count_maps(**(arguments | changed))


READ_ONLY = np.zeros(3, np.int64)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "match, changed",
    [
        ("maps are", {"maps": np.zeros((3, 2, 2), np.float32)}),
        ("the weights are for", {"maps": np.zeros((1, 3, 2, 3), np.float32)}),
        ("3 units, 2 thresholds", {"thresholds": np.zeros(2, np.float32)}),
        ("counters are", {"counters": np.zeros((N_ROWS, 3), np.int32)}),
        ("counters are", {"counters": np.zeros((3, N_ROWS), np.int64).T}),
        ("counters are", {"counters": np.zeros((N_ROWS, 4), np.int64)}),
        ("points outside", {"counters": np.zeros((1, 3), np.int64)}),
        ("chance are", {"chance": np.frombuffer(bytes(8 * 3 * N_CONCEPTS), np.int64).reshape(-1, 3)}),
        ("active is", {"active": np.zeros(2, np.int64)}),
        ("active is", {"active": READ_ONLY}),
        ("1 images of maps|2 images of maps", {"maps": np.zeros((2, 3, 2, 2), np.float32)}),
        ("plane_row points", {"planes": {"plane_row": np.array([0, N_ROWS], np.int32)}}),
        ("plane_row points", {"planes": {"plane_row": np.array([0, -1], np.int32)}}),
        ("touch_row points", {"planes": {"touch_row": np.array([0, -2], np.int32)}}),
        ("touch_row goes with", {"planes": {"touch_row": np.array([0], np.int32)}}),
        ("word_ptr", {"planes": {"words": np.zeros(7, np.uint64)}}),
        ("4 words each", {"planes": {"words": np.zeros(7, np.uint64), "word_ptr": np.array([0, 7])}}),
        ("whole_ptr", {"planes": {"whole_ptr": np.array([0, 90])}}),
        ("planes are", {"planes": {"shape": (4, 5)}}),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(match, changed, make_geometry):
    refused(make_geometry, match, **changed)


def test_masks_with_bits_beyond_the_grid_are_refused():
    """Cython and Numba would count them, the others not."""
    plane = np.zeros((4, 70), bool)
    plane[:, 60:] = True
    planes = batch_of((4, 70), [([plane], [0], [1], [2], [0], [40])])
    masks = np.zeros((1, 2, 8), np.uint64)
    masks[0, 1, 1] = 1 << 6
    with pytest.raises(ValueError, match="padding bits of the masks are 0"):
        count_masks(masks, planes, np.zeros((3, 2), np.int64), np.zeros((1, 2), np.int64))
    masks[0, 1, 1] = 1 << 5
    counters = np.zeros((3, 2), np.int64)
    count_masks(masks, planes, counters, np.zeros((1, 2), np.int64))
    assert counters[0].tolist() == [0, 1]
