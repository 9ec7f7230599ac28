"""The largest values of many units' streams: the loops of csrc/tail.h, with the same state."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from .numba_jit import jit, key32

PAGE = 256
NO_BOUND = -32769
NO_KEY = -(2**31)
INFINITY_KEY32 = 0x7F800000


@jit
def scan(values, sign_mask, infinity, unit, counts, extremes):
    """Counts and extremes of a map of float bits, signed; returns its largest key and how many numbers it holds."""
    low, high, zeros = np.int32(infinity), np.int32(-infinity - 1), 0
    n = len(values)
    for i in range(n):
        bits = np.int32(values[i])
        key = np.int32(bits ^ ((bits >> 31) & sign_mask))
        low = min(low, key)
        high = max(high, key)
        zeros += key == 0
    n_numbers = n
    if high >= infinity or low <= -infinity - 1:
        low, high = np.int32(infinity), np.int32(-infinity - 1)
        n_numbers = 0
        for i in range(n):
            bits = np.int32(values[i])
            key = np.int32(bits ^ ((bits >> 31) & sign_mask))
            if key > infinity or key < -infinity - 1:
                continue
            n_numbers += 1
            counts[1, unit] += key == infinity or key == -infinity - 1
            low = min(low, key)
            high = max(high, key)
        counts[0, unit] += n - n_numbers
    counts[2, unit] += zeros
    if n_numbers:
        extremes[0, unit] = min(extremes[0, unit], low)
        extremes[1, unit] = max(extremes[1, unit], high)
    return high, n_numbers


@jit
def raise_bound(unit, capacity, page_of, pages, vacant, n_vacant, above, bound):
    """As far as it goes; returns the number of vacant pages."""
    at, left = bound[unit], above[unit]
    while left >= capacity:
        at += 1
        group, place = (at + 32768) >> 8, (at + 32768) & 255
        page = page_of[unit, group]
        if page >= 0:
            left -= pages[page, place]
            pages[page, place] = 0
            if place == 255:
                page_of[unit, group] = -1
                vacant[n_vacant] = page
                n_vacant += 1
        else:
            at |= 255
    bound[unit], above[unit] = at, left
    return n_vacant


@jit
def update_bins(
    values, sign_mask, infinity, shift, unit, capacity, counts, extremes, page_of, pages, vacant, n_vacant, above,
    bound, highest,
):  # fmt: skip
    """values (B, K, n): float bits, signed; a bin is a key without its `shift` lower bits."""
    n_images, n_units, n = values.shape
    while unit < n_units and n_vacant >= PAGE:
        for image in range(n_images):
            high, n_numbers = scan(values[image, unit], sign_mask, infinity, unit, counts, extremes)
            highest[image, unit] = high if n_numbers else NO_KEY
            floor = bound[unit]
            if n_numbers == 0 or (high >> shift) <= floor:
                continue
            for i in range(n):
                bits = np.int32(values[image, unit, i])
                key = np.int32(bits ^ ((bits >> 31) & sign_mask))
                found = key >> shift
                if found > floor and key <= infinity and key >= -infinity - 1:
                    above[unit] += 1
                    group, place = (found + 32768) >> 8, (found + 32768) & 255
                    page = page_of[unit, group]
                    if page < 0:
                        n_vacant -= 1
                        page = vacant[n_vacant]
                        page_of[unit, group] = page
                    pages[page, place] += np.uint32(1)
            if above[unit] >= capacity + 64:
                n_vacant = raise_bound(unit, capacity, page_of, pages, vacant, n_vacant, above, bound)
        unit += 1
    return unit, n_vacant


@jit
def keep_largest(values, n, kept):
    """Move the `kept` largest of n to the front, in no order (Hoare's selection, median of three)."""
    low, high = 0, n - 1
    while low < high:
        a, b, c = values[low], values[low + (high - low) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if kept - 1 <= j:
            high = j
        elif kept - 1 >= i:
            low = i
        else:
            break


@jit
def update_buffer(single, capacity, counts, extremes, values, filled, bound, highest):
    """single (B, K, n): float32 bits, signed."""
    n_images, n_units, n = single.shape
    for unit in range(n_units):
        for image in range(n_images):
            high, n_numbers = scan(single[image, unit], 0x7FFFFFFF, INFINITY_KEY32, unit, counts, extremes)
            highest[image, unit] = high if n_numbers else NO_KEY
            if n_numbers == 0 or high <= bound[unit]:
                continue
            for begin in range(0, n, 64):
                if filled[unit] + 64 > values.shape[1]:
                    keep_largest(values[unit], filled[unit], capacity)
                    filled[unit] = capacity
                    bound[unit] = values[unit, :capacity].min()
                floor = max(bound[unit], -INFINITY_KEY32 - 2)
                at = filled[unit]
                for i in range(begin, min(begin + 64, n)):
                    key = key32(single[image, unit, i])
                    if key > floor and key <= INFINITY_KEY32:
                        values[unit, at] = key
                        at += 1
                filled[unit] = at


@jit
def refine(single, first_unit, wanted, low):
    """low[slot] += values whose upper 16 key bits equal wanted[slot], by their lower 16."""
    for slot in range(len(wanted)):
        for image in range(single.shape[0]):
            for i in range(single.shape[2]):
                key = key32(single[image, first_unit + slot, i])
                if key >> 16 == wanted[slot] and key <= INFINITY_KEY32 and key >= -INFINITY_KEY32 - 1:
                    low[slot, key & 0xFFFF] += np.uint32(1)
