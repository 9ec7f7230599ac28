"""One unit's map on one image -> its mask: the loops of csrc/mask.h and csrc/exact.h, where the bounds are proved."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import WORD, AxisWeights
from .numba_jit import constant, jit, key32

INFINITY_KEY = 0x7F800000
PIECE_BITS = 29
PIECE = (1 << PIECE_BITS) - 1
LEAST = 2.0**-149
MARGIN, SMALLEST_MARGIN = np.float32(1.2e-6), np.float32(2.0**-120)
LARGEST_FILTERED = 0x7B800000
"""Bits of 2**120."""
SIGN = np.int32(-(2**31))
LEAST_HALF = np.float32(2.0**-24)
WIDER = 112 << 23
"""What the exponent's bias of float32 has more than that of float16."""
GATHER = np.uint64(0x0102040810204080)
"""Times eight bytes of 0 or 1: the uppermost byte has a bit for each, the first (on little-endian machines) lowest."""


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

    bits: NDArray[np.int32]
    """(h, w) the map as float32 bits, and as the floats they are."""
    floats: NDArray[np.float32]
    rows: NDArray[np.float32]
    """(2, padded + 64) two source rows interpolated along the columns."""
    left: NDArray[np.int32]
    """(h + 2,) first active column of rows -1..h, and the last; right < left: none."""
    right: NDArray[np.int32]
    flags: NDArray[np.uint8]
    """(padded + 64,) pixels of a line that are on, and the same bytes by eights."""
    octets: NDArray[np.uint64]
    terms: NDArray[np.float64]
    """Of an exact sum, and their expansion."""
    expansion: NDArray[np.float64]


def axis_of(axis: AxisWeights) -> Axis:
    """The kernels' view of an axis."""
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
    bits = np.zeros((rows.n_source, columns.n_source), np.int32)
    ends = np.zeros((2, rows.n_source + 2), np.int32)
    lines = np.zeros((2, len(columns.first) + WORD), np.float32)
    octets = np.zeros(lines.shape[1] // 8, np.uint64)
    return Scratch(
        bits=bits,
        floats=bits.view(np.float32),
        rows=lines,
        left=ends[0],
        right=ends[1],
        flags=octets.view(np.uint8),
        octets=octets,
        terms=np.zeros(15),
        expansion=np.zeros(16),
    )


@jit
def load_half(half, scratch):
    """float16 bits (h * w,), signed, into the scratch as float32."""
    bits = scratch.bits.reshape(-1)
    for i in range(len(bits)):
        value = np.int32(half[i])
        magnitude = np.int32(value & 0x7FFF)
        small = np.float32(np.float32(magnitude) * LEAST_HALF).view(np.int32)
        wider = np.int32(WIDER if magnitude < 0x7C00 else 2 * WIDER)
        normal = np.int32((magnitude << 13) + wider)
        bits[i] = (small if magnitude < 0x0400 else normal) | (value & SIGN)


@jit
def load_single(single, scratch):
    """float32 bits (h * w,), signed, into the scratch."""
    scratch.bits.reshape(-1)[:] = single


@jit
def find_active(key, scratch):
    """Active columns of each row; the largest magnitude of the map as float32 bits."""
    h, w = scratch.bits.shape
    left, right = scratch.left, scratch.right
    largest = np.int32(0)
    left[0] = left[h + 1] = w
    right[0] = right[h + 1] = -1
    for i in range(h):
        left[i + 1] = w
        right[i + 1] = -1
        for j in range(w):
            bits = scratch.bits[i, j]
            largest = max(largest, np.int32(bits & 0x7FFFFFFF))
            if key32(bits) > key:
                if right[i + 1] < 0:
                    left[i + 1] = j
                right[i + 1] = j
    return largest


@jit
def any_number_above(key, scratch):
    """Whether a value passes that is a number: the keys of NaN may exceed all."""
    for i in range(scratch.bits.shape[0]):
        for j in range(scratch.bits.shape[1]):
            found = key32(scratch.bits[i, j])
            if found > key and found <= INFINITY_KEY:
                return True
    return False


@jit
def touched(columns, left, right, i, j):
    """Pixels begin..end-1, in whole groups of 16, that the active columns of source rows i..j bear on."""
    leftmost, rightmost = left[i + 1], right[i + 1]
    for row in range(i + 1, j + 1):
        leftmost = min(leftmost, left[row + 1])
        rightmost = max(rightmost, right[row + 1])
    if leftmost > rightmost:
        return 0, 0
    begin, end = columns.begin[leftmost], columns.end[rightmost]
    if begin >= end:
        return 0, 0
    return begin & ~15, (end + 15) & ~15


@jit
def interpolate_row(row, first, start, weight, begin, end, out):
    """One source row interpolated along the columns, pixels begin..end-1, cell by cell.

    Whole arrays are handed over: a slice or a field of a tuple costs an atomic count of references each time.
    """
    last = len(row) - 1
    cell = first[begin]
    while begin < end:
        stop = min(start[cell + 1], end)
        a = row[cell]
        step = row[min(cell + 1, last)] - a
        for x in range(begin, stop):
            out[x] = a + weight[x] * step
        begin = stop
        cell += 1


@jit
def compare_row(above, below, weight, high, low, flags, octets, line, begin):
    """A pixel above `high` is on; returns whether any lies between.

    The first pixel is `begin`, a multiple of 16. Slices and indices from 0 let LLVM see that none is negative: it then
    compares many pixels at a time, into bytes, and a product gathers eight of them.
    """
    doubt = np.uint8(0)
    for x in range(len(above)):
        value = above[x] + weight * (below[x] - above[x])
        sure = np.uint8(value > high)
        flags[x] = sure
        doubt |= sure ^ np.uint8(value > low)
    for group in range(len(above) // 8):
        found = (octets[group] * GATHER) >> np.uint64(56)
        at = begin + 8 * group
        line[at >> 6] |= found << np.uint64(at & 63)
    return doubt != 0


@jit
def double_of(bits, value):
    """float32 -> float64, also where the FPU would read a subnormal as zero."""
    if bits & 0x7F800000:
        return np.float64(value)
    tiny = np.float64(bits & 0x7FFFFF) * LEAST
    return -tiny if bits < 0 else tiny


@jit
def sum_sign(terms, n_terms, expansion):
    """Sign of the exact sum of the terms, by a nonoverlapping expansion."""
    length = 0
    for t in range(n_terms):
        carry = terms[t]
        kept = 0
        for i in range(length):
            part = expansion[i]
            total = carry + part
            virtual_part = total - carry
            error = (carry - (total - virtual_part)) + (part - virtual_part)
            if error != 0:
                expansion[kept] = error
                kept += 1
            carry = total
        if carry != 0:
            expansion[kept] = carry
            kept += 1
        length = kept
    if length == 0:
        return 0
    return 1 if expansion[length - 1] > 0 else -1


@jit
def add_terms(terms, n_terms, value, weight):
    """value * weight as products without rounding."""
    for piece in range(3):
        part = (weight >> (PIECE_BITS * piece)) & PIECE
        if part != 0 and value != 0:
            terms[n_terms] = value * (np.float64(part) * np.float64(1 << (PIECE_BITS * piece)))
            n_terms += 1
    return n_terms


@jit
def is_above(scratch, rows, y, columns, x, bound_bits, bound, or_equal):
    """Is the bilinear value of pixel (y, x) above the threshold, in real arithmetic? The threshold is no -0.0."""
    bound_key = key32(bound_bits)
    if (bound_bits & 0x7FFFFFFF) > INFINITY_KEY:
        return False
    n_plus = n_minus = n_above = n_below = n_terms = 0
    for corner in range(4):
        weight = rows.numerator[y] if corner >= 2 else rows.denominator - rows.numerator[y]
        weight *= columns.numerator[x] if corner % 2 else columns.denominator - columns.numerator[x]
        if weight == 0:
            continue
        i = rows.second[y] if corner >= 2 else rows.first[y]
        j = columns.second[x] if corner % 2 else columns.first[x]
        bits = scratch.bits[i, j]
        magnitude = bits & 0x7FFFFFFF
        if magnitude > INFINITY_KEY:
            return False
        if magnitude == INFINITY_KEY:
            n_plus += bits > 0
            n_minus += bits < 0
        key = key32(bits) if magnitude else np.int32(0)
        n_above += key > bound_key
        n_below += key < bound_key
    if n_plus and n_minus:
        return False
    if n_plus:
        return or_equal or bound_key < INFINITY_KEY
    if n_minus:
        return or_equal and bound_key == -INFINITY_KEY - 1
    if (bound_bits & 0x7FFFFFFF) == INFINITY_KEY:
        return bound_bits < 0
    if n_below == 0:
        return or_equal or n_above > 0
    if n_above == 0:
        return False
    for corner in range(4):
        weight = rows.numerator[y] if corner >= 2 else rows.denominator - rows.numerator[y]
        weight *= columns.numerator[x] if corner % 2 else columns.denominator - columns.numerator[x]
        i = rows.second[y] if corner >= 2 else rows.first[y]
        j = columns.second[x] if corner % 2 else columns.first[x]
        value = double_of(scratch.bits[i, j], scratch.floats[i, j])
        n_terms = add_terms(scratch.terms, n_terms, value, weight)
    whole = rows.denominator * columns.denominator
    n_terms = add_terms(scratch.terms, n_terms, -double_of(bound_bits, bound), whole)
    sign = sum_sign(scratch.terms, n_terms, scratch.expansion)
    return sign > 0 or (or_equal and sign == 0)


@jit
def settle_row(rows, columns, scratch, y, low, high, filtered, bound_bits, bound, or_equal, begin, end, line):
    """The pixels of one line again: those within the margin of the threshold, or all of a map that has no margin."""
    above, below = scratch.rows[rows.first[y] & 1], scratch.rows[rows.second[y] & 1]
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
    words = bits.shape[1]
    rest = columns.n_pixels % 64
    last_word = (np.uint64(1) << np.uint64(rest)) - np.uint64(1) if rest else ~np.uint64(0)
    magnitude = max(largest, np.int32(bound_bits & 0x7FFFFFFF))
    filtered = magnitude < LARGEST_FILTERED
    scale = np.int32(magnitude).view(np.float32)
    margin = scale * MARGIN + SMALLEST_MARGIN
    high, low = bound + margin, bound - margin
    y_begin, y_end, word_begin, word_end = rows.n_pixels, 0, words, 0
    held_even = held_odd = -1
    top, bottom = 0, rows.n_source - 1
    while top <= bottom and scratch.right[top + 1] < 0:
        top += 1
    while top < bottom and scratch.right[bottom + 1] < 0:
        bottom -= 1
    if top > bottom:
        return y_begin, y_end, word_begin, word_end
    floats, lines, flags, octets = scratch.floats, scratch.rows, scratch.flags, scratch.octets
    first, start, weight = columns.first, columns.start, columns.weight
    i = j = np.int32(-1)
    begin = end = np.int32(0)
    for y in range(rows.begin[top], rows.end[bottom]):
        if rows.first[y] != i or rows.second[y] != j:  # some pixel rows share their source rows
            i, j = rows.first[y], rows.second[y]
            begin, end = touched(columns, scratch.left, scratch.right, i, j)
        if begin >= end:
            continue
        line = bits[y]
        unsettled = not filtered
        if filtered:
            for source in (i, j):
                held = held_odd if source & 1 else held_even
                if held == source:
                    continue
                if source & 1:
                    held_odd = source
                else:
                    held_even = source
                wide_begin, wide_end = touched(columns, scratch.left, scratch.right, source - 1, source + 1)
                interpolate_row(
                    floats[source], first, start, weight, wide_begin, min(wide_end, columns.n_pixels), lines[source & 1]
                )
            above, below = lines[i & 1, begin:end], lines[j & 1, begin:end]
            unsettled = compare_row(above, below, rows.weight[y], high, low, flags, octets, line, begin)
        if unsettled:
            stop = min(end, columns.n_pixels)
            settle_row(rows, columns, scratch, y, low, high, filtered, bound_bits, bound, or_equal, begin, stop, line)
        line[words - 1] &= last_word
        y_begin = min(y_begin, y)
        y_end = y + 1
        word_begin = min(word_begin, begin // 64)
        word_end = max(word_end, (end + 63) // 64)
    return y_begin, y_end, word_begin, word_end


@jit
def mask_maps(maps, bounds_bits, bounds, keys, or_equal, rows, columns, scratch, bits):
    """bits (B, H, words) of zeros: the mask of each map (B, h * w), given as float32 bits."""
    for i in range(maps.shape[0]):
        load_single(maps[i], scratch)
        largest = find_active(keys[i], scratch)
        mask_map(largest, bounds_bits[i], bounds[i], or_equal, rows, columns, scratch, bits[i])
