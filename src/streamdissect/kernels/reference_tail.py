"""The values of many units' streams, all or the largest, in numpy and Python, with the state that csrc/tail.h keeps.

Bins end up equal array by array; a buffer holds the same keys, in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 256
NO_BOUND = -32769
NO_KEY = -(2**31)


def keys_of(bits: NDArray[Any]) -> NDArray[np.int64]:
    """float16 or float32 bits -> integers in the order of the floats."""
    wide = bits.astype(np.int64)
    sign = 1 << (8 * bits.dtype.itemsize - 1)
    return np.where(wide >= sign, sign - 1 - wide, wide)  # -0.0, `sign` alone, becomes -1


def infinity_key(bits: NDArray[Any]) -> int:
    """Key of +inf; that of -inf is one below its negative, and NaN lie outside."""
    return 0x7C00 if bits.dtype == np.uint16 else 0x7F800000


def _count_map(
    bits: NDArray[Any], unit: int, counts: NDArray[np.int64], extremes: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Counts and extremes of one map (n,); returns the keys of its numbers."""
    keys, infinity = keys_of(bits), infinity_key(bits)
    numbers = keys[(keys <= infinity) & (keys >= -infinity - 1)]
    counts[0, unit] += len(keys) - len(numbers)
    counts[1, unit] += np.count_nonzero((numbers == infinity) | (numbers == -infinity - 1))
    counts[2, unit] += np.count_nonzero(numbers == 0)
    if len(numbers):
        extremes[0, unit] = min(extremes[0, unit], numbers.min())
        extremes[1, unit] = max(extremes[1, unit], numbers.max())
    return numbers


def update_bins(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    above: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> tuple[int, int]:
    """Count values above each unit's bound in bins of 16-bit keys, from `unit` on while the pages suffice."""
    bits: Any = single if half is None else half
    shift = 16 if half is None else 0
    while unit < bits.shape[1] and n_vacant >= PAGE:
        for image in range(bits.shape[0]):
            numbers = _count_map(bits[image, unit], unit, counts, extremes)
            highest[image, unit] = numbers.max(initial=NO_KEY)
            bins = (numbers >> shift) + 32768
            bins = bins[bins > bound[unit] + 32768]
            above[unit] += len(bins)
            for bin_ in bins.tolist():
                n_vacant = _count_in_bin(unit, bin_, page_of, pages, vacant, n_vacant)
            if above[unit] >= capacity + 64:
                n_vacant = _raise_bound(unit, capacity, page_of, pages, vacant, n_vacant, above, bound)
        unit += 1
    return unit, n_vacant


def _count_in_bin(
    unit: int,
    bin_: int,
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
) -> int:
    """One more value in a bin, whose page is taken if need be; returns the vacant pages."""
    group, at = divmod(bin_, PAGE)
    if page_of[unit, group] < 0:
        n_vacant -= 1
        page_of[unit, group] = vacant[n_vacant]
    pages[page_of[unit, group], at] += 1
    return n_vacant


def _raise_bound(
    unit: int,
    capacity: int,
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    above: NDArray[np.int64],
    bound: NDArray[np.int32],
) -> int:
    """Forget bins while `capacity` values stay at or above the bound; returns the vacant pages."""
    while above[unit] >= capacity:
        bound[unit] += 1
        group, at = divmod(int(bound[unit]) + 32768, PAGE)
        page = page_of[unit, group]
        if page < 0:
            bound[unit] |= PAGE - 1
            continue
        above[unit] -= pages[page, at]
        pages[page, at] = 0
        if at == PAGE - 1:
            page_of[unit, group] = -1
            vacant[n_vacant] = page
            n_vacant += 1
    return n_vacant


def update_buffer(
    single: NDArray[np.uint32],
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    values: NDArray[np.int32],
    filled: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None:
    """Keep each unit's largest keys; a full buffer is cut back to `capacity` of them."""
    for unit in range(single.shape[1]):
        for image in range(single.shape[0]):
            numbers = _count_map(single[image, unit], unit, counts, extremes)
            highest[image, unit] = numbers.max(initial=NO_KEY)
            if highest[image, unit] <= bound[unit]:
                continue
            keys, infinity = keys_of(single[image, unit]), infinity_key(single)
            for begin in range(0, len(keys), 64):
                if filled[unit] + 64 > values.shape[1]:
                    values[unit, :capacity] = np.sort(values[unit, : filled[unit]])[::-1][:capacity]
                    filled[unit], bound[unit] = capacity, values[unit, capacity - 1]
                block = keys[begin : begin + 64]
                kept = block[(block > bound[unit]) & (block <= infinity) & (block >= -infinity - 1)]
                values[unit, filled[unit] : filled[unit] + len(kept)] = kept
                filled[unit] += len(kept)


def update_histogram(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    highest: NDArray[np.int32],
) -> tuple[int, int]:
    """Count all numbers but zeros in bins of 16-bit keys, from `unit` on while the pages suffice."""
    bits: Any = single if half is None else half
    shift = 16 if half is None else 0
    while unit < bits.shape[1] and n_vacant >= PAGE:
        for image in range(bits.shape[0]):
            numbers = _count_map(bits[image, unit], unit, counts, extremes)
            highest[image, unit] = numbers.max(initial=NO_KEY)
            for bin_ in ((numbers[numbers != 0] >> shift) + 32768).tolist():
                n_vacant = _count_in_bin(unit, bin_, page_of, pages, vacant, n_vacant)
        unit += 1
    return unit, n_vacant


def collect(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    slot: int,
    unit: NDArray[np.int32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    counts: NDArray[np.int64],
    pool: NDArray[np.int64],
    filled: int,
) -> tuple[int, int]:
    """For each slot, values above its bracket, at its ends, and, into the pool, between them; while the pool does."""
    bits: Any = single if half is None else half
    infinity = infinity_key(bits)
    while slot < len(unit) and filled + bits.shape[0] * bits.shape[2] <= len(pool):
        keys = keys_of(bits[:, unit[slot]]).ravel()
        numbers = keys[(keys <= infinity) & (keys >= -infinity - 1)]
        counts[0, slot] += np.count_nonzero(numbers > high[slot])
        counts[1, slot] += np.count_nonzero(numbers == high[slot])
        if low[slot] < high[slot]:
            counts[2, slot] += np.count_nonzero(numbers == low[slot])
        between = numbers[(numbers > low[slot]) & (numbers < high[slot])]
        pool[filled : filled + len(between)] = (slot << 32) | (between + 2**31)
        filled += len(between)
        slot += 1
    return slot, filled
