"""One unit's map on one image -> its mask: the loops of csrc/mask.h; docs/exactness.md proves the bound."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import WORD, AxisWeights
from .numba_bits import (
    LANES,
    ahead,
    as_single,
    highest_bit,
    key32,
    keys_of,
    lane_numbers,
    load,
    load_vector,
    low_bits,
    lowest_bit,
    most_of,
    pack,
    pointer,
    select,
    store,
)
from .numba_exact import is_above
from .numba_jit import constant, inlined, jit

INFINITY_KEY = 0x7F800000
MARGIN, SMALLEST_MARGIN = np.float32(1.2e-6), np.float32(2.0**-120)
LARGEST_FILTERED = 0x7B800000
"""Bits of 2**120."""


class Axis(NamedTuple):
    """AxisWeights as the kernels take them."""

    n_source: int
    n_pixels: int
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    weight: NDArray[np.float32]
    numerator: NDArray[np.int64]
    denominator: int
    start: NDArray[np.int32]
    begin: NDArray[np.int32]
    end: NDArray[np.int32]


class Scratch(NamedTuple):
    """What one thread works in."""

    stride: int
    """The columns of the map, in whole groups of LANES."""
    bits: NDArray[np.int32]
    """(h, stride) the map as float32 bits, and as the floats they are; the surplus is 0."""
    floats: NDArray[np.float32]
    even: NDArray[np.float32]
    """(padded + 64,) a source row of even number interpolated along the columns, and one of odd number."""
    odd: NDArray[np.float32]
    left: NDArray[np.int32]
    """(h + 2,) first active column of rows -1..h, and the last; right < left: none."""
    right: NDArray[np.int32]
    last_half: NDArray[np.int16]
    """(LANES,) the last values of all maps, which a whole vector would read beyond."""
    last_single: NDArray[np.int32]
    terms: NDArray[np.float64]
    """Of an exact sum, and their expansion."""
    expansion: NDArray[np.float64]


def axis_of(axis: AxisWeights) -> Axis:
    """What the kernels take of an axis."""
    return Axis(
        axis.n_source,
        axis.n_pixels,
        constant(axis.first),
        constant(axis.second),
        constant(axis.weight),
        constant(axis.numerator),
        axis.denominator,
        constant(axis.start),
        constant(axis.begin),
        constant(axis.end),
    )


def scratch_for(rows: AxisWeights, columns: AxisWeights) -> Scratch:
    """Room for maps and masks of these axes."""
    stride = LANES * -(-columns.n_source // LANES)
    bits = np.zeros(rows.n_source * stride, np.int32)
    ends = np.zeros((2, rows.n_source + 2), np.int32)
    lines = np.zeros((2, len(columns.first) + WORD), np.float32)
    return Scratch(
        stride=stride,
        bits=bits,
        floats=bits.view(np.float32),
        even=lines[0],
        odd=lines[1],
        left=ends[0],
        right=ends[1],
        last_half=np.zeros(LANES, np.int16),
        last_single=np.zeros(LANES, np.int32),
        terms=np.zeros(15),
        expansion=np.zeros(16),
    )


@inlined
def axis_pointers(axis):
    """An axis of arrays -> the same of pointers."""
    return Axis(
        axis.n_source,
        axis.n_pixels,
        pointer(axis.first),
        pointer(axis.second),
        pointer(axis.weight),
        pointer(axis.numerator),
        axis.denominator,
        pointer(axis.start),
        pointer(axis.begin),
        pointer(axis.end),
    )


@inlined
def scratch_pointers(scratch):
    """A scratch of arrays -> the same of pointers; those to `left` and `right` are to the entries of row 0."""
    return Scratch(
        scratch.stride,
        pointer(scratch.bits),
        pointer(scratch.floats),
        pointer(scratch.even),
        pointer(scratch.odd),
        ahead(pointer(scratch.left), 1),
        ahead(pointer(scratch.right), 1),
        pointer(scratch.last_half),
        pointer(scratch.last_single),
        pointer(scratch.terms),
        pointer(scratch.expansion),
    )


@inlined
def any_above(values, n, n_left, key, last):
    """Does any of n values pass? Early out every 64. Values are float bits, signed; NaN may pass."""
    on = np.uint64(0)
    blocks = n & -64
    for begin in range(0, blocks, 64):
        for i in range(begin, begin + 64, LANES):
            on |= pack(keys_of(load(ahead(values, i))) > key)
        if on:
            return True
    for i in range(blocks, n, LANES):
        found = pack(keys_of(load_vector(ahead(values, i), n_left - i, last)) > key)
        on |= found & low_bits(min(n - i, LANES))
    return on != 0


@inlined
def store_columns(bits, n_columns, to):
    """One vector of a row of the map into the scratch; what lies beyond the row's n_columns is 0."""
    store(to, select(lane_numbers() < n_columns, bits, bits ^ bits))


@inlined
def load_half(half, n_left, rows, columns, scratch):
    """The map (h, w) of float16 bits, signed, into the scratch; `n_left` values lie there, of this map and others."""
    width = columns.n_source
    for i in range(rows.n_source):
        for j in range(0, width, LANES):  # a vector may reach into the next rows
            at = i * width + j
            found = as_single(load_vector(ahead(half, at), n_left - at, scratch.last_half))
            store_columns(found, width - j, ahead(scratch.bits, i * scratch.stride + j))


@inlined
def load_single(single, n_left, rows, columns, scratch):
    """The same of float32 bits."""
    width = columns.n_source
    for i in range(rows.n_source):
        for j in range(0, width, LANES):
            at = i * width + j
            found = load_vector(ahead(single, at), n_left - at, scratch.last_single)
            store_columns(found, width - j, ahead(scratch.bits, i * scratch.stride + j))


@inlined
def find_active(key, rows, columns, scratch):
    """Active columns of each row; the largest magnitude of the map as float32 bits."""
    h, w = rows.n_source, columns.n_source
    left, right = scratch.left, scratch.right
    largest = lane_numbers() & 0
    left[-1] = left[h] = w
    right[-1] = right[h] = -1
    for i in range(h):
        left[i] = w
        right[i] = -1
        for j in range(0, w, LANES):
            bits = load(ahead(scratch.bits, i * scratch.stride + j))
            magnitude = bits & 0x7FFFFFFF
            largest = select(magnitude > largest, magnitude, largest)
            on = pack(keys_of(bits) > key) & low_bits(min(w - j, LANES))
            if on:
                if right[i] < 0:
                    left[i] = j + lowest_bit(on)
                right[i] = j + highest_bit(on)
    return most_of(largest)


@jit
def any_number_above(key, rows, columns, scratch):
    """Whether a value passes that is a number: the keys of NaN may exceed all."""
    for i in range(rows.n_source):
        for j in range(columns.n_source):
            found = key32(scratch.bits[i * scratch.stride + j])
            if found > key and found <= INFINITY_KEY:
                return True
    return False


@inlined
def touched(columns, left, right, i, j):
    """Pixels begin..end-1, in whole groups of 16, that the active columns of source rows i..j bear on."""
    leftmost, rightmost = left[i], right[i]
    for row in range(i + 1, j + 1):
        leftmost = min(leftmost, left[row])
        rightmost = max(rightmost, right[row])
    if leftmost > rightmost:
        return 0, 0
    begin, end = columns.begin[leftmost], columns.end[rightmost]
    if begin >= end:
        return 0, 0
    return begin & ~15, (end + 15) & ~15


@inlined
def interpolate_row(row, columns, begin, end, out):
    """One source row interpolated along the columns, pixels begin..end-1, cell by cell.

    Pixels are done LANES at a time; the surplus is overwritten by the next cell or lies past the end.
    """
    last = columns.n_source - 1
    end = min(end, columns.n_pixels)
    cell = columns.first[begin]
    while begin < end:
        stop = min(columns.start[cell + 1], end)
        a = row[cell]
        step = row[min(cell + 1, last)] - a
        for x in range(begin, stop, LANES):
            store(ahead(out, x), a + load(ahead(columns.weight, x)) * step)
        begin = stop
        cell += 1


@inlined
def compare_row(above, below, weight, high, low, begin, end, line):
    """Pixels begin..end-1 (whole groups of 16): one above `high` is on; returns whether any lies between."""
    doubt = np.uint64(0)
    for x in range(begin, end, LANES):
        a, b = load(ahead(above, x)), load(ahead(below, x))
        value = a + weight * (b - a)
        sure = pack(value > high)
        doubt |= sure ^ pack(value > low)
        line[x >> 6] |= sure << np.uint64(x & 63)
    return doubt != 0


@jit
def settle_row(rows, columns, scratch, y, low, high, filtered, bound_bits, bound, or_equal, begin, end, line):
    """The pixels of one line again: those within the margin of the threshold, or all of a map that has no margin."""
    above = scratch.odd if rows.first[y] & 1 else scratch.even
    below = scratch.odd if rows.second[y] & 1 else scratch.even
    for x in range(begin, end):
        if filtered:
            value = above[x] + rows.weight[y] * (below[x] - above[x])
            if value < low - (high - low) or value > high + (high - low):
                continue
        bit = np.uint64(1) << np.uint64(x & 63)
        if is_above(scratch, rows, y, columns, x, bound_bits, bound, or_equal):
            line[x >> 6] |= bit
        else:
            line[x >> 6] &= ~bit


@jit
def mask_map(largest, bound_bits, bound, or_equal, rows, columns, scratch, bits):
    """Mask of the map in the scratch, whose active columns are known, into bits (H, words) of zeros.

    Returns the extent (y_begin, y_end, word_begin, word_end) within which bits are set.
    """
    words, rest = (columns.n_pixels + 63) >> 6, columns.n_pixels & 63
    last_word = low_bits(rest) if rest else ~np.uint64(0)
    magnitude = max(largest, np.int32(bound_bits & 0x7FFFFFFF))
    filtered = magnitude < LARGEST_FILTERED
    scale = np.int32(magnitude).view(np.float32)
    margin = scale * MARGIN + SMALLEST_MARGIN
    high, low = bound + margin, bound - margin
    y_begin, y_end, word_begin, word_end = rows.n_pixels, 0, words, 0
    left, right = scratch.left, scratch.right
    held_even = held_odd = -1
    top, bottom = 0, rows.n_source - 1
    while top <= bottom and right[top] < 0:
        top += 1
    while top < bottom and right[bottom] < 0:
        bottom -= 1
    if top > bottom:
        return y_begin, y_end, word_begin, word_end
    i = j = np.int32(-1)
    begin = end = 0
    for y in range(rows.begin[top], rows.end[bottom]):
        if rows.first[y] != i or rows.second[y] != j:  # some pixel rows share their source rows
            i, j = rows.first[y], rows.second[y]
            begin, end = touched(columns, left, right, i, j)
        if begin >= end:
            continue
        line = ahead(bits, y * words)
        unsettled = not filtered
        if filtered:
            for source in (i, j):
                if (held_odd if source & 1 else held_even) == source:
                    continue
                if source & 1:
                    held_odd = source
                else:
                    held_even = source
                out = scratch.odd if source & 1 else scratch.even
                wide_begin, wide_end = touched(columns, left, right, source - 1, source + 1)
                interpolate_row(ahead(scratch.floats, source * scratch.stride), columns, wide_begin, wide_end, out)
            above = scratch.odd if i & 1 else scratch.even
            below = scratch.odd if j & 1 else scratch.even
            unsettled = compare_row(above, below, rows.weight[y], high, low, begin, end, line)
        if unsettled:
            stop = min(end, columns.n_pixels)
            settle_row(rows, columns, scratch, y, low, high, filtered, bound_bits, bound, or_equal, begin, stop, line)
        line[words - 1] &= last_word
        y_begin = min(y_begin, y)
        y_end = y + 1
        word_begin = min(word_begin, begin >> 6)
        word_end = max(word_end, (end + 63) >> 6)
    return y_begin, y_end, word_begin, word_end


@jit
def mask_maps(maps, bounds_bits, bounds, keys, or_equal, rows, columns, scratch, bits):
    """bits (B, H, words) of zeros: the mask of each map (B, h * w), given as float32 bits."""
    n = maps.shape[1]
    rows, columns, scratch = axis_pointers(rows), axis_pointers(columns), scratch_pointers(scratch)
    for i in range(maps.shape[0]):
        single = ahead(pointer(maps), i * n)
        n_left = maps.size - i * n
        if any_above(single, n, n_left, keys[i], scratch.last_single):
            load_single(single, n_left, rows, columns, scratch)
            largest = find_active(keys[i], rows, columns, scratch)
            mask = ahead(pointer(bits), i * bits.shape[1])
            mask_map(largest, bounds_bits[i], bounds[i], or_equal, rows, columns, scratch, mask)
