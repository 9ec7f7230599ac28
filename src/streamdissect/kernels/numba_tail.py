"""The values of many units' streams, all or the largest: the loops of csrc/tail.h, with the same state."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from .numba_bits import (
    LANES,
    ahead,
    fetch,
    key32,
    keys_of,
    lane_numbers,
    least_of,
    load_vector,
    low_bits,
    lowest_bit,
    most_of,
    pack,
    pointer,
    popcount64,
    select,
)
from .numba_jit import inlined, jit

PAGE = 256
NO_BOUND = -32769
NO_KEY = -(2**31)
INFINITY_KEY32, SIGN_MASK32 = 0x7F800000, 0x7FFFFFFF


@inlined
def key_of(bits, sign_mask):
    """Float bits, signed, all but the sign in the mask -> an integer in the order of the floats."""
    value = np.int32(bits)
    return np.int32(value ^ ((value >> 31) & sign_mask))


@inlined
def scan(values, n, n_left, sign_mask, infinity, unit, n_units, counts, extremes, last):
    """Counts and extremes of a map of float bits, signed; returns its largest key and how many numbers it holds.

    `n_left` values lie there, of this map and others. NaN and infinities are looked for only where a key is that large.
    """
    keys = keys_of(load_vector(values, n_left, last))
    lows, highs, zeros = (keys & 0) + infinity, (keys & 0) - (infinity + 1), 0
    for i in range(0, n, LANES):
        keys = keys_of(load_vector(ahead(values, i), n_left - i, last))
        is_zero = pack(keys == 0)
        if n - i < LANES:
            ours = lane_numbers() < n - i
            is_zero &= pack(ours)
            keys = select(ours, keys, highs)  # not what lies beyond: a largest key is no larger than itself
            lows = select(ours & (keys < lows), keys, lows)
        else:
            lows = select(keys < lows, keys, lows)
        highs = select(keys > highs, keys, highs)
        zeros += popcount64(is_zero)
    low, high, n_numbers = np.int32(least_of(lows)), np.int32(most_of(highs)), n
    if high >= infinity or low <= -infinity - 1:
        low, high = np.int32(infinity), np.int32(-infinity - 1)
        n_numbers = 0
        for i in range(n):
            key = key_of(values[i], sign_mask)
            if key > infinity or key < -infinity - 1:
                continue
            n_numbers += 1
            counts[n_units + unit] += key == infinity or key == -infinity - 1
            low = min(low, key)
            high = max(high, key)
        counts[unit] += n - n_numbers
    counts[2 * n_units + unit] += zeros
    if n_numbers:
        extremes[unit] = min(extremes[unit], low)
        extremes[n_units + unit] = max(extremes[n_units + unit], high)
    return high, n_numbers


@inlined
def candidates(values, n, n_left, floor, infinity, last):
    """Which of up to 64 values have a key in floor + 1 .. infinity, as bits."""
    found = np.uint64(0)
    for i in range(0, n, LANES):
        keys = keys_of(load_vector(ahead(values, i), n_left - i, last))
        found |= pack((keys > floor) & (keys <= infinity)) << np.uint64(i)
    return found & low_bits(n) if n < 64 else found


@inlined
def raise_bound(unit, capacity, page_of, pages, vacant, n_vacant, above, bound):
    """As far as it goes; returns the number of vacant pages."""
    at, left = bound[unit], above[unit]
    while left >= capacity:
        at += 1
        group, place = (at + 32768) >> 8, (at + 32768) & 255
        page = page_of[unit * PAGE + group]
        if page >= 0:
            left -= pages[page * PAGE + place]
            pages[page * PAGE + place] = 0
            if place == 255:
                page_of[unit * PAGE + group] = -1
                vacant[n_vacant] = page
                n_vacant += 1
        else:
            at |= 255
    bound[unit], above[unit] = at, left
    return n_vacant


@jit
def update_bins(
    values, last, sign_mask, infinity, shift, unit, capacity, counts, extremes, page_of, pages, vacant, n_vacant,
    above, bound, highest,
):  # fmt: skip
    """values (B, K, n): float bits, signed; a bin is a key without its `shift` lower bits."""
    n_images, n_units, n = values.shape
    n_values, values, last, highest = values.size, pointer(values), pointer(last), pointer(highest)
    counts, extremes, above, bound = pointer(counts), pointer(extremes), pointer(above), pointer(bound)
    page_of, pages, vacant = pointer(page_of), pointer(pages), pointer(vacant)
    lower = (1 << shift) - 1
    while unit < n_units and n_vacant >= PAGE:
        for image in range(n_images):
            at = (image * n_units + unit) * n
            n_left = n_values - at
            high, n_numbers = scan(
                ahead(values, at), n, n_left, sign_mask, infinity, unit, n_units, counts, extremes, last
            )
            highest[image * n_units + unit] = high if n_numbers else NO_KEY
            if n_numbers == 0 or (high >> shift) <= bound[unit]:
                continue
            floor = max((np.int64(bound[unit]) << shift) | lower, -infinity - 2)  # no NaN of either sign
            for i in range(0, n, 64):
                found = candidates(ahead(values, at + i), min(n - i, 64), n_left - i, floor, infinity, last)
                above[unit] += popcount64(found)
                while found:
                    key = key_of(values[at + i + lowest_bit(found)], sign_mask)
                    found &= found - np.uint64(1)
                    group, place = ((key >> shift) + 32768) >> 8, ((key >> shift) + 32768) & 255
                    page = page_of[unit * PAGE + group]
                    if page < 0:
                        n_vacant -= 1
                        page = vacant[n_vacant]
                        page_of[unit * PAGE + group] = page
                    pages[page * PAGE + place] += np.uint32(1)
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


@inlined
def cut_buffer(values, unit, capacity, filled, bound):
    """Back to the `capacity` largest, if there are more."""
    if filled[unit] <= capacity:
        return
    keep_largest(values, filled[unit], capacity)
    least = values[0]
    for i in range(1, capacity):
        least = min(least, values[i])
    filled[unit] = capacity
    bound[unit] = least


@jit
def update_buffer(single, last, capacity, counts, extremes, values, filled, bound, highest):
    """single (B, K, n): float32 bits, signed."""
    n_images, n_units, n = single.shape
    n_values, room = single.size, values.shape[1]
    single, last, counts, extremes = pointer(single), pointer(last), pointer(counts), pointer(extremes)
    values, filled, bound, highest = pointer(values), pointer(filled), pointer(bound), pointer(highest)
    for unit in range(n_units):
        kept = ahead(values, unit * room)
        for image in range(n_images):
            at = (image * n_units + unit) * n
            n_left = n_values - at
            high, n_numbers = scan(
                ahead(single, at), n, n_left, SIGN_MASK32, INFINITY_KEY32, unit, n_units, counts, extremes, last
            )
            highest[image * n_units + unit] = high if n_numbers else NO_KEY
            if n_numbers == 0 or high <= bound[unit]:
                continue
            for i in range(0, n, 64):
                if filled[unit] + 64 > room:
                    cut_buffer(kept, unit, capacity, filled, bound)
                floor = max(bound[unit], -INFINITY_KEY32 - 2)
                found = candidates(ahead(single, at + i), min(n - i, 64), n_left - i, floor, INFINITY_KEY32, last)
                end = filled[unit]
                filled[unit] += popcount64(found)
                while found:
                    kept[end] = key32(single[at + i + lowest_bit(found)])
                    found &= found - np.uint64(1)
                    end += 1


@inlined
def nonzero(values, n, n_left, infinity, last):
    """Which of up to 64 values are numbers other than zero, as bits."""
    found = np.uint64(0)
    for i in range(0, n, LANES):
        keys = keys_of(load_vector(ahead(values, i), n_left - i, last))
        numbers = pack((keys <= infinity) & (keys >= -infinity - 1))
        found |= (numbers & ~pack(keys == 0)) << np.uint64(i)
    return found & low_bits(n) if n < 64 else found


@jit
def update_histogram(
    values, last, sign_mask, infinity, shift, unit, counts, extremes, page_of, pages, vacant, n_vacant, highest, places
):
    """values (B, K, n): float bits, signed; a bin is a key without its `shift` lower bits; places (64,): room."""
    n_images, n_units, n = values.shape
    n_values, values, last, highest = values.size, pointer(values), pointer(last), pointer(highest)
    counts, extremes = pointer(counts), pointer(extremes)
    page_of, pages, vacant, places = pointer(page_of), pointer(pages), pointer(vacant), pointer(places)
    while unit < n_units and n_vacant >= PAGE:
        for image in range(n_images):
            at = (image * n_units + unit) * n
            n_left, n_zero = n_values - at, counts[2 * n_units + unit]
            high, n_numbers = scan(
                ahead(values, at), n, n_left, sign_mask, infinity, unit, n_units, counts, extremes, last
            )
            highest[image * n_units + unit] = high if n_numbers else NO_KEY
            if counts[2 * n_units + unit] - n_zero == n:
                continue
            for i in range(0, n, 64):
                found = nonzero(ahead(values, at + i), min(n - i, 64), n_left - i, infinity, last)
                n_places = 0
                while found:
                    key = key_of(values[at + i + lowest_bit(found)], sign_mask)
                    found &= found - np.uint64(1)
                    group, place = ((key >> shift) + 32768) >> 8, ((key >> shift) + 32768) & 255
                    page = page_of[unit * PAGE + group]
                    if page < 0:
                        n_vacant -= 1
                        page = vacant[n_vacant]
                        page_of[unit * PAGE + group] = page
                    places[n_places] = page * PAGE + place
                    fetch(ahead(pages, places[n_places]))
                    n_places += 1
                for j in range(n_places):
                    pages[places[j]] += np.uint32(1)
        unit += 1
    return unit, n_vacant


@jit
def collect(values, last, sign_mask, infinity, slot, unit, low, high, counts, pool, filled):
    """values (B, K, n): float bits, signed; the bracket of each slot, until the pool might not do for the next one."""
    n_images, n_units, n = values.shape
    n_slots, room, n_values = len(unit), len(pool), values.size
    values, last, counts, pool = pointer(values), pointer(last), pointer(counts), pointer(pool)
    while slot < n_slots and filled + n_images * n <= room:
        least, most = low[slot], high[slot]
        for image in range(n_images):
            at = (image * n_units + unit[slot]) * n
            for i in range(0, n, 64):
                block, n_left = min(n - i, 64), n_values - at - i
                found = candidates(ahead(values, at + i), block, n_left, least - 1, infinity, last)
                if not found:
                    continue
                above = candidates(ahead(values, at + i), block, n_left, most, infinity, last)
                counts[slot] += popcount64(above)
                found &= ~above
                while found:
                    key = key_of(values[at + i + lowest_bit(found)], sign_mask)
                    found &= found - np.uint64(1)
                    if key == most:
                        counts[n_slots + slot] += 1
                    elif key == least:
                        counts[2 * n_slots + slot] += 1
                    else:
                        pool[filled] = (slot << 32) | (np.int64(key) + 2**31)
                        filled += 1
        slot += 1
    return slot, filled
