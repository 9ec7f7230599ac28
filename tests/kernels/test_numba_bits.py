"""Vectors of the Numba kernels against numpy, and maps that end where memory ends."""

import ctypes
import mmap
import sys
from dataclasses import replace

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal

from streamdissect.kernels import available_backends, count_maps, mask_maps
from streamdissect.kernels import numba_bits as bits
from streamdissect.measure.planes import ImagePlanes, plane_batch
from streamdissect.quantile import BinnedTail, BufferedTail

ODD = [0, -0.0, 1, -1, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan, -np.nan, 0.1, 2, 6, -6]
LEAST_INT = {np.int16: -(2**15), np.int32: -(2**31)}


def bits_set(flags):
    """Of 16 flags, the first lowest."""
    return int(np.packbits(flags, bitorder="little").view(np.uint16)[0])


@njit
def compared(a, b, number):
    left, right = bits.load(bits.pointer(a)), bits.load(bits.pointer(b))
    return (
        (bits.pack(left > right), bits.pack(left >= right), bits.pack(left < right), bits.pack(left <= right)),
        (bits.pack(left == right), bits.pack(left > number), bits.pack((left > right) & (left <= number))),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
@pytest.mark.parametrize("shift", range(16))
def test_comparisons(dtype, shift):
    """Never true of NaN; lane 0 is bit 0."""
    if dtype == np.float32:
        a = np.array(ODD, np.float32)
    else:
        edges = [LEAST_INT[dtype], LEAST_INT[dtype] + 1, -1, 0, 1, -LEAST_INT[dtype] - 2, -LEAST_INT[dtype] - 1]
        a = np.array([*edges, *edges, 7, -7], dtype)
    b, number = np.roll(a, shift), a[12]
    with np.errstate(invalid="ignore"):
        expected = (a > b, a >= b, a < b, a <= b), (a == b, a > number, (a > b) & (a <= number))
    assert compared(a, b, number) == tuple(tuple(map(bits_set, part)) for part in expected)


@njit
def calculated(a, b, number, out):
    left, right, to = bits.load(bits.pointer(a)), bits.load(bits.pointer(b)), bits.pointer(out)
    bits.store(to, left + number * (right - left))
    bits.store(bits.ahead(to, 16), bits.select(left > right, left, right))


def test_every_operation_rounds_for_itself():
    rng = np.random.default_rng(3)
    for _ in range(100):
        a, b = rng.normal(0, 1, (2, 16)).astype(np.float32)
        number, out = np.float32(rng.random()), np.zeros(32, np.float32)
        calculated(a, b, number, out)
        assert_array_equal(out, [*(a + number * (b - a)), *np.maximum(a, b)])


@njit
def reduced(values, out):
    keys = bits.keys_of(bits.load(bits.pointer(values)))
    bits.store(bits.pointer(out), keys)
    return bits.least_of(keys), bits.most_of(keys)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_keys_order_like_the_numbers(dtype):
    limits = np.finfo(dtype)
    tiny, largest = limits.smallest_subnormal, limits.max
    ascending = [-np.inf, -largest, -6, -1, -tiny, -0.0, 0, tiny, 2 * tiny, 0.1, 1, 2, 6, largest, np.inf, np.nan]
    signed = np.dtype(f"i{np.dtype(dtype).itemsize}")
    values, keys = np.array(ascending, dtype).view(signed), np.zeros(16, signed)
    order = np.random.default_rng(5).permutation(16)
    assert reduced(values[order], keys) == (keys.min(), keys.max())
    assert_array_equal(np.argsort(keys), np.argsort(order))
    assert keys[order == 6] == 0


@njit
def as_single(half, out):
    for i in range(0, len(half), 16):
        bits.store(bits.ahead(bits.pointer(out), i), bits.as_single(bits.load(bits.ahead(bits.pointer(half), i))))


def test_every_float16_as_float32():
    half, out = np.arange(65536, dtype=np.uint16), np.zeros(65536, np.int32)
    as_single(half.view(np.int16), out)
    values, found = half.view(np.float16), out.view(np.float32)
    is_number = ~np.isnan(values)
    assert_array_equal(found[is_number].view(np.int32), values[is_number].astype(np.float32).view(np.int32))
    assert np.isnan(found[~is_number]).all()
    assert_array_equal(np.signbit(found), np.signbit(values))


@njit
def counted(words, mask, out):
    bits.store(bits.pointer(out), bits.counts_of(bits.load(bits.pointer(words)) & mask))
    return [(bits.popcount64(w), bits.lowest_bit(w), bits.highest_bit(w)) for w in words]


def test_words():
    words = np.array([1, 2**63, 2**64 - 1, 0x0102040810204080, 3 << 40, 2**32, 6, 10], np.uint64)
    mask, out = np.uint64(0x8000_0302_0000_0003), np.zeros(8, np.int64)
    expected = [(w.bit_count(), (w & -w).bit_length() - 1, w.bit_length() - 1) for w in words.tolist()]
    assert counted(words, mask, out) == expected
    assert_array_equal(out, np.bitwise_count(words & mask))


# Where memory ends


def at_the_end_of_memory(array):
    """The same array, behind which nothing may be read."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + size), mmap.PAGESIZE, 0) == 0
    found = np.frombuffer(pages, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    found[...] = array
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux guards the pages")
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("source", [(1, 1), (3, 5), (4, 4), (7, 7), (2, 17), (5, 13), (9, 16)], ids=str)
def test_nothing_is_read_behind_the_maps(source, dtype, backend, make_geometry):
    """A read behind them ends the process."""
    if backend not in available_backends():
        pytest.skip(f"{backend} is not installed")
    geometry = make_geometry("half_pixel", source, (20, 70))
    rng = np.random.default_rng(7)
    maps = rng.normal(0, 1, (2, 3, *source)).astype(dtype)
    guarded = at_the_end_of_memory(maps)
    thresholds, n_planes = np.array([-9, 0, 2], np.float32), 5 + source[1]
    planes = rng.integers(0, 2**63, (40, n_planes)).astype(np.uint64)
    planes[1::2] &= np.uint64(63)
    batch = plane_batch([labels_of(planes), labels_of(planes)])
    batch = replace(batch, words=at_the_end_of_memory(batch.words))
    shapes = (n_planes, 3), (n_planes, 3), 3
    found, expected = ([np.zeros(shape, np.int64) for shape in shapes] for _ in range(2))
    count_maps(guarded, thresholds, geometry.rows, geometry.columns, batch, *found, backend=backend)
    count_maps(maps, thresholds, geometry.rows, geometry.columns, batch, *expected, backend="reference")
    for a, b in zip(found, expected, strict=True):
        assert_array_equal(a, b)
    masks = [
        mask_maps(m, thresholds, geometry.rows, geometry.columns, backend=b)
        for m, b in ((guarded[1], backend), (maps[1], "reference"))
    ]
    assert_array_equal(*masks)
    for make in (BinnedTail, BufferedTail) if dtype == np.float32 else (BinnedTail,):
        tails = [make(3, 4, dtype, name) for name in (backend, "reference")]
        tails[0].update(guarded)
        tails[1].update(maps)
        for name in ("counts", "extremes"):
            assert_array_equal(getattr(tails[0], name), getattr(tails[1], name))


def labels_of(planes):
    """A counter row for each plane."""
    n_planes = planes.shape[1]
    none, area = np.zeros(0, np.int32), np.zeros(0, np.int64)
    rows, touch = np.arange(n_planes, dtype=np.int32), np.full(n_planes, -1, np.int32)
    return ImagePlanes((20, 70), planes, rows, touch, none, none, area, area)
