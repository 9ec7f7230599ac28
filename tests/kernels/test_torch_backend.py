"""The PyTorch kernels: what the tests of all backends do not ask. Those compare its masks and counters already."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import (
    PlaneBatch,
    available_backends,
    count_maps,
    count_masks,
    host_backend,
    kernel_backend,
    mask_maps,
)
from streamdissect.kernels import torch_backend as backend
from streamdissect.kernels import torch_masks as masks
from streamdissect.kernels.reference import interpolation_matrix, pack, unpack
from streamdissect.measure.planes import LabelRules, image_planes, plane_batch

UNITS = 12
CPU = torch.device("cpu")
ODD = np.array([0, 1, -1, 1.5, 3e38, -3e38, 1e-45, -1e-45, 1e-39, 2e-38, np.inf, -np.inf, np.nan], np.float32)


# The cases


def labels_of(rng, shape, n_images, union):
    """Planes of images with up to five labels in two maps, some with a label as a whole."""
    numbers = np.array([3, 5, 8, 13, 21], np.int32)
    rules = LabelRules(numbers, np.array([0, 1, 0, 1, 1], np.int32), 2, np.zeros(2, np.int32), union)
    some = np.array([0, 0, *numbers], np.uint16)
    images = [
        image_planes(shape, [(g, rng.choice(some[: 2 + i % 6], shape)) for g in (0, 1)], [(0, 8)][: i % 2], rules)
        for i in range(n_images)
    ]
    return plane_batch(images), rules


def world(geometry, dtype=np.float32, n_images=4, union="paper", seed=5):
    """Maps of which a third hold odd numbers, thresholds that values attain, labels."""
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(-0.5, 1, (n_images, UNITS, *geometry.source)), 0).astype(np.float32)
    maps[:, 0] = rng.choice(ODD, maps[:, 0].shape)
    maps[:, 1] = np.round(rng.normal(0, 2, maps[:, 1].shape))
    maps[:, 2] *= np.float32(1e-39)
    maps[1::2, 3] = 0
    with np.errstate(over="ignore"):
        maps = maps.astype(dtype)
    thresholds = np.array([np.quantile(maps[:, k][np.isfinite(maps[:, k])], 0.8) for k in range(UNITS)], np.float32)
    thresholds[[1, 3, 4]] = [1, 0, 0.5]
    planes, rules = labels_of(rng, geometry.grid, n_images, union)
    return SimpleNamespace(geometry=geometry, maps=maps, thresholds=thresholds, planes=planes, rules=rules)


def zeros(world):
    n = world.rules.n_rows, world.rules.n_concepts
    return [np.zeros((rows, UNITS), np.int64) for rows in n] + [np.zeros(UNITS, np.int64)]


def counted(world, name="torch", **options):
    """Counters, chance, active."""
    found, geometry = zeros(world), world.geometry
    arrays = world.maps, world.thresholds, geometry.rows, geometry.columns, world.planes
    count_maps(*arrays, *found, backend=name, **options)
    return found


def masked(world, name="torch", **options):
    """(B, K, H * words)"""
    axes = world.geometry.rows, world.geometry.columns
    return np.array([mask_maps(image, world.thresholds, *axes, backend=name, **options) for image in world.maps])


def recounted(world, words, name="torch", **options):
    """Counters, chance, of masks."""
    found = zeros(world)[:2]
    count_masks(words, world.planes, *found, backend=name, **options)
    return found


def assert_as_the_reference(world, **options):
    """Masks, counters of maps and of masks."""
    for or_equal in (False, True):
        expected = masked(world, "reference", or_equal=or_equal)
        assert expected.any()
        assert_array_equal(masked(world, or_equal=or_equal, **options), expected)
        both = [counted(world, "reference", or_equal=or_equal), counted(world, or_equal=or_equal, **options)]
        both[0] += recounted(world, expected, "reference")
        both[1] += recounted(world, expected, **options)
        for name, one, other in zip(("counters", "chance", "active", "by masks", "chance"), *both, strict=True):
            assert_array_equal(other, one, err_msg=name)


@pytest.fixture
def exact(monkeypatch):
    """Numbers of the maps that were left to the host, call by call."""
    found = []
    settle = backend.Masks.exact
    monkeypatch.setattr(backend.Masks, "exact", lambda self, index: found.extend(index) or settle(self, index))
    return found


# What is left to the host


def test_what_has_no_pixels_of_units_is_the_hosts(monkeypatch):
    for function in ("label_planes", "update_bins", "update_buffer", "update_histogram", "collect"):
        assert getattr(backend, function) is getattr(host_backend(), function)
    monkeypatch.setenv("STREAMDISSECT_KERNELS", "torch")
    assert kernel_backend() is backend
    assert host_backend().name in ("cython", "numba")


MEAN_IS_ONE = np.array([[0.25, 1], [1, 1.75]], np.float32)


@pytest.mark.parametrize("or_equal", [False, True])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_a_pixel_at_the_threshold_is_settled_by_the_host(step, or_equal, make_geometry, exact):
    """The pixel in the middle is 1 exactly: float32 cannot tell it from the neighbours of 1, and does not try."""
    three = make_geometry("half_pixel", (2, 2), (3, 3))
    threshold = np.float32(1)
    for _ in range(abs(step)):
        threshold = np.nextafter(threshold, np.float32(np.copysign(2, step)))
    maps = np.array([MEAN_IS_ONE, MEAN_IS_ONE / 2])  # the second is plainly below
    bits = mask_maps(maps, np.full(2, threshold), three.rows, three.columns, or_equal=or_equal, backend="torch")
    middle = unpack(bits[0], (3, 3))[1, 1]
    assert middle == (threshold <= 1 if or_equal else threshold < 1)
    assert exact == [0]


def test_ordinary_maps_are_not_left_to_the_host(make_geometry, exact):
    geometry = make_geometry("half_pixel", (7, 7), (56, 56))
    rng = np.random.default_rng(1)
    maps = rng.uniform(0, 1, (40, 7, 7)).astype(np.float32)
    thresholds = np.linspace(0.45, 0.55, 40, dtype=np.float32)
    bits = mask_maps(maps, thresholds, geometry.rows, geometry.columns, backend="torch")
    expected = mask_maps(maps, thresholds, geometry.rows, geometry.columns, backend="reference")
    assert_array_equal(bits, expected)
    assert len(exact) <= 2  # a chance in 10**5 for each pixel: about one map


def test_zeros_at_the_threshold_zero_are_no_doubt(make_geometry, exact):
    """Sparse units have T = 0, and all the zeros of their maps lie within E of it."""
    geometry = make_geometry("half_pixel", (9, 9), (72, 72))
    maps = np.zeros((5, 9, 9), np.float32)
    for i in range(5):
        maps[i, i, 4] = 1 + i
    bits = mask_maps(maps, np.zeros(5, np.float32), geometry.rows, geometry.columns, backend="torch")
    assert [unpack(words, (72, 72)).sum() for words in bits] == [12 * 16, *[256] * 4]  # the first at the edge
    assert exact == []


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 2.0**120, -(2.0**120)])
def test_maps_beyond_the_bound_are_settled_by_the_host(value, make_geometry, exact):
    geometry = make_geometry("half_pixel", (3, 3), (5, 7))
    maps, thresholds = np.ones((3, 3, 3), np.float32), np.full(3, 0.5, np.float32)
    maps[0, 2, 2], maps[1, 2, 2] = value, np.nextafter(np.float32(2.0**120), np.float32(0))
    axes = geometry.rows, geometry.columns
    for or_equal in (False, True):
        bits = mask_maps(maps, thresholds, *axes, or_equal=or_equal, backend="torch")
        assert_array_equal(bits, mask_maps(maps, thresholds, *axes, or_equal=or_equal, backend="reference"))
    assert exact.count(0) == 2 and 2 not in exact


# The bound


@given(data=st.data())
def test_the_bound_holds_for_every_pixel(data, make_geometry):
    """|enlarged - exact| stays below E with room for the rounding of T +- E, subnormal numbers flushed or not."""
    sizes = data.draw(st.tuples(*[st.integers(1, 4)] * 2)), data.draw(st.tuples(*[st.integers(1, 12)] * 2))
    geometry = make_geometry(data.draw(st.sampled_from(["half_pixel", "corners"])), *sizes)
    number = st.floats(-(2.0**119), 2.0**119, width=32) | st.floats(-2, 2, width=32) | st.sampled_from([1, -1, 1e-39])
    n = sizes[0][0] * sizes[0][1]
    values = np.array(data.draw(st.lists(number, min_size=n, max_size=n)), np.float32).reshape(sizes[0])
    grid = masks.Grid.on(CPU, geometry.rows, geometry.columns)
    torch.set_flush_denormal(data.draw(st.booleans()))
    try:
        surface = grid.enlarge(torch.from_numpy(values[None]), 0, sizes[1][0])[0].tolist()
    finally:
        torch.set_flush_denormal(False)
    rows, columns = interpolation_matrix(geometry.rows), interpolation_matrix(geometry.columns)
    numbers = np.vectorize(Fraction, otypes=[object])(values.astype(float))
    truth = rows @ numbers @ columns.T / (geometry.rows.denominator * geometry.columns.denominator)
    margin = Fraction(1.2e-6) * max(map(abs, numbers.ravel())) + Fraction(2) ** -120
    for line, exact_line in zip(surface, truth, strict=True):
        assert all(abs(Fraction(one) - other) <= margin * 3 / 4 for one, other in zip(line, exact_line, strict=True))


@given(data=st.data(), flushed=st.booleans(), or_equal=st.booleans())
def test_any_four_corners(data, flushed, or_equal, make_geometry):
    """A 2 x 2 map: every float32 may meet every other."""
    number = st.floats(width=32) | st.sampled_from(ODD.tolist()) | st.floats(-2, 2, width=32)
    values = np.array(data.draw(st.lists(number, min_size=4, max_size=4)), np.float32).reshape(1, 2, 2)
    threshold = np.array([data.draw(st.sampled_from(values.ravel().tolist()) | number)], np.float32)
    two = make_geometry("corners", (2, 2), (8, 11))
    expected = mask_maps(values, threshold, two.rows, two.columns, or_equal=or_equal, backend="reference")
    torch.set_flush_denormal(flushed)
    try:
        found = mask_maps(values, threshold, two.rows, two.columns, or_equal=or_equal, backend="torch")
    finally:
        torch.set_flush_denormal(False)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("or_equal", [False, True])
def test_every_float16_under_flushing(or_equal, make_geometry):
    """A subnormal float16 is a normal float32, which no mode may turn into zero."""
    pixel = make_geometry("half_pixel", (1, 1), (1, 1))
    maps = np.arange(65536, dtype=np.uint16).view(np.float16)[:, None, None]
    values = maps[:, 0, 0].astype(float)
    planes, rules = labels_of(np.random.default_rng(0), (1, 1), 1, "paper")
    for threshold in (0, 6e-8, -6e-8, 1e-5, 1e-40):
        active, rows = np.zeros(65536, np.int64), np.zeros((rules.n_rows, 65536), np.int64)
        thresholds, chance = np.full(65536, threshold, np.float32), np.zeros((5, 65536), np.int64)
        torch.set_flush_denormal(True)
        try:
            axes = pixel.rows, pixel.columns
            count_maps(maps[None, :], thresholds, *axes, planes, rows, chance, active, or_equal=or_equal,
                       backend="torch")  # fmt: skip
        finally:
            torch.set_flush_denormal(False)
        bound = float(thresholds[0])
        assert_array_equal(rows[-1], values >= bound if or_equal else values > bound)
        assert_array_equal(active, rows[-1])


# Working memory, threads, devices, and what the caller has set


@pytest.mark.parametrize("working, band", [(1, 1), (1, 70), (3000, 1 << 20), (16 << 20, 1), (16 << 20, 200)])
@pytest.mark.parametrize("union", ["paper", "mask-touch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_working_memory(dtype, union, working, band, make_geometry, monkeypatch):
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)), dtype, union=union)
    monkeypatch.setattr(masks, "HOST_BYTES", working)
    monkeypatch.setattr(masks, "BAND_PIXELS", band)
    assert len(list(masks.iter_bands((17, 70)))) == {1: 17, 70: 17, 200: 9, 1 << 20: 1}[band]
    assert_as_the_reference(case)


def test_working_memory_divides_the_maps(make_geometry, monkeypatch):
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)))
    seen = []
    decide = masks.Filter.decide
    monkeypatch.setattr(
        masks.Filter, "decide", lambda self, grid, *rows: seen.append(len(self.keys)) or decide(self, grid, *rows)
    )
    counted(case)
    together = max(seen)
    monkeypatch.setattr(masks, "HOST_BYTES", 3 * 12 * 70 * (17 + 5))
    seen.clear()
    counted(case)
    assert max(seen) == 3 < together


def test_working_memory_stays_within_its_bound(make_geometry, monkeypatch):
    """Twelve bytes for each pixel, of masks and of label planes, which come together in the matrix products."""
    case = world(make_geometry("half_pixel", (13, 13), (100, 100)), n_images=8)
    monkeypatch.setattr(masks, "HOST_BYTES", 1 << 20)
    seen = []
    multiply = backend.pixels_in_both
    monkeypatch.setattr(
        backend, "pixels_in_both", lambda a, b: seen.extend(12 * x.numel() for x in (a, b)) or multiply(a, b)
    )
    recounted(case, masked(case))
    counted(case)
    assert (1 << 20) * 3 / 4 < max(seen) <= 1 << 20


def test_sums_beyond_what_float32_counts(monkeypatch):
    """4097 x 4097 pixels, all on: an odd number above 2**24."""
    shape = 4097, 4097
    monkeypatch.setattr(masks, "BAND_PIXELS", 1 << 30)
    words = pack(np.ones(shape, bool))
    one = np.zeros(2, np.int64)
    one[1] = 1
    row, none = np.zeros(1, np.int32), np.zeros(2, np.int64)
    planes = PlaneBatch(shape, words, one * len(words), one, row, row + 1, none, row[:0], none, row[:0], none[:0])
    counters, chance = np.zeros((2, 1), np.int64), np.zeros((1, 1), np.int64)
    count_masks(words[None, None], planes, counters, chance, backend="torch")
    assert counters.tolist() == [[4097**2], [4097**2]]


@pytest.mark.parametrize("most", [1, 99, 1189, 1190])
def test_sums_in_parts(most, make_geometry, monkeypatch):
    monkeypatch.setattr(backend, "LARGEST_SUM", most)
    assert_as_the_reference(world(make_geometry("half_pixel", (5, 4), (17, 70)), union="mask-touch"))


def test_the_callers_settings_have_no_say(make_geometry):
    """Reduced precision, default types and devices are for networks; 3500 pixels are no bfloat16."""
    case = world(make_geometry("half_pixel", (5, 4), (50, 70)))
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            assert_as_the_reference(case)
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)


def test_threads_are_as_before_afterwards(make_geometry, monkeypatch):
    case, before = world(make_geometry("half_pixel", (5, 4), (17, 70))), torch.get_num_threads()
    during = []
    settle = backend.Masks.exact

    def watch(self, index):
        during.append(torch.get_num_threads())
        return settle(self, index)

    monkeypatch.setattr(backend.Masks, "exact", watch)
    one = counted(case, threads=1)
    three = counted(case, threads=3)
    assert set(during) == {1, 3} and torch.get_num_threads() == before
    for found, other in zip(one, three, strict=True):
        assert_array_equal(found, other)
    monkeypatch.setattr(backend.Masks, "exact", lambda self, index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        counted(case, threads=before + 1)
    assert torch.get_num_threads() == before


def test_units_in_parts(make_geometry):
    """The calling convention of all backends: some units only, the others' counters left alone."""
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)))
    keys = case.thresholds.view(np.int32)  # positive numbers are their own keys
    found = zeros(case)
    for begin, end in ((3, 7), (7, 12)):
        arrays = case.maps, case.thresholds, keys, np.zeros(UNITS, np.int16), False
        prepared = backend.prepare(case.planes)
        backend.count_maps(*arrays, case.geometry.rows, case.geometry.columns, prepared, begin, end, *found)
    for some, expected in zip(found, counted(case, "reference"), strict=True):
        assert_array_equal(some[..., 3:], expected[..., 3:])
        assert not some[..., :3].any()


@pytest.mark.parametrize("function", [masked, counted, lambda *a, **k: recounted(a[0], masked(a[0]), *a[1:], **k)])
def test_devices_that_are_not_there(function, make_geometry):
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)))
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ValueError, match=f"device '{name}'"):
            function(case, "torch", device=name)
    for name in {"auto", *available_backends()} - {"torch"}:
        with pytest.raises(ValueError, match=r"counts on the CPU, torch elsewhere"):
            function(case, name, device="cuda")
    function(case, "reference", device="cpu")


def test_a_device_is_refused_before_there_is_anything_to_do(make_geometry):
    geometry = make_geometry("half_pixel", (2, 2), (4, 4))
    with pytest.raises(ValueError, match="torch elsewhere"):
        mask_maps(np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32), geometry.rows, geometry.columns,
                  backend="numba", device="cuda")  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_cuda_equals_the_reference(precision, large):
    torch.set_float32_matmul_precision(precision)
    try:
        for dtype, union in ((np.float16, "paper"), (np.float32, "mask-touch")):
            with torch.autocast("cuda"):
                assert_as_the_reference(world(large, dtype, n_images=2, union=union), device="cuda")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_host_on_many_maps(make_geometry):
    """Sums of tens of thousands of pixels, in as many orders as the device likes."""
    case = world(make_geometry("half_pixel", (14, 14), (336, 336)), np.float16, n_images=64)
    host = host_backend().name
    for one, other in zip(counted(case, device="cuda"), counted(case, host), strict=True):
        assert_array_equal(one, other)
    assert_array_equal(masked(case, device="cuda"), masked(case, host))
