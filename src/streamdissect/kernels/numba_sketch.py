"""Quantile sketches of many units' streams: the loops of csrc/sketch.h, with the same state."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from .numba_bits import ahead, highest_bit, least_of, load, lowest_bit, most_of, pointer, select
from .numba_jit import inlined, jit
from .numba_tail import NO_KEY, key_of, scan

GULP = 1024
COUNTS = 4 * 256
"""Of the digits of a gulp's keys."""
LEVELS = 48
FEW = 40
LANES = 16


@inlined
def mix(x):
    """splitmix64: the state to its output."""
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inlined
def count_below(keys, n, bound):
    """Of n ascending keys."""
    low = 0
    while n > 0:
        half = n >> 1
        if keys[low + half] < bound:
            low += half + 1
            n -= half + 1
        else:
            n = half
    return low


@inlined
def copy(source, n, target):
    """n keys."""
    for i in range(n):
        target[i] = source[i]


@inlined
def merge(kept, n_kept, come, n_come, merged):
    """Two ascending runs to one. Where they do not overlap they are copied."""
    below, within = n_come, n_kept
    if n_kept and n_come:
        below = count_below(come, n_come, kept[0])
        within = count_below(kept, n_kept, come[n_come - 1])
    copy(come, below, merged)
    i, j, at = 0, below, below
    while i < within and j < n_come:
        a, b = kept[i], come[j]
        is_kept = a < b
        merged[at] = a if is_kept else b
        at += 1
        i += is_kept
        j += not is_kept
    copy(ahead(kept, i), within - i, ahead(merged, at))
    at += within - i
    copy(ahead(come, j), n_come - j, ahead(merged, at))
    at += n_come - j
    copy(ahead(kept, within), n_kept - within, ahead(merged, at))


@inlined
def sort_gulp(keys, result, spare, count):
    """Ascending: the least key is counted, the others sorted by their distance from the least of those."""
    lows = load(keys)
    highs = lows
    for i in range(LANES, GULP, LANES):
        some = load(ahead(keys, i))
        lows, highs = select(some < lows, some, lows), select(some > highs, some, highs)
    least, most = np.int32(least_of(lows)), np.int32(most_of(highs))
    n = 0
    for i in range(GULP):
        spare[n] = np.uint32(keys[i])
        n += keys[i] != least
    n_least = GULP - n
    for i in range(n_least):
        result[i] = least
    if n == 0:
        return
    following = most
    for i in range(n):
        following = min(following, np.int32(spare[i]))
    base = np.uint32(following)
    span = np.uint32(np.uint32(most) - base)
    for i in range(n):
        spare[i] = np.uint32(spare[i] - base)
    source, target = spare, ahead(spare, GULP)
    if n <= FEW:
        for i in range(1, n):
            key = source[i]
            j = i
            while j > 0 and source[j - 1] > key:
                source[j] = source[j - 1]
                j -= 1
            source[j] = key
    elif span:
        n_bits = highest_bit(np.uint64(span)) + 1
        n_digits = (n_bits + 7) // 8
        width = (n_bits + n_digits - 1) // n_digits
        size = 1 << width
        mask = np.uint32(size - 1)
        for i in range(n_digits * size):
            count[i] = 0
        for digit in range(n_digits):
            place, shift = ahead(count, digit * size), np.uint32(digit * width)
            for i in range(n):
                place[np.intp((source[i] >> shift) & mask)] += np.uint32(1)
        for digit in range(n_digits):
            place, shift, before = ahead(count, digit * size), np.uint32(digit * width), np.uint32(0)
            for i in range(size):
                here = place[i]
                place[i] = before
                before = np.uint32(before + here)
            for i in range(n):
                value = source[i]
                at = np.intp((value >> shift) & mask)
                target[place[at]] = value
                place[at] += np.uint32(1)
            source, target = target, source
    for i in range(n):
        result[n_least + i] = np.int32(np.uint32(source[i] + base))


@inlined
def throw_coin(unit_seed, coins, level, turn, keys, n):
    """A coin for a compaction; of two in a row of one kind the second is the first turned over."""
    kind = lowest_bit(~np.uint64(turn))
    bit = np.uint32(kind & 31)
    if (turn >> (kind + 1)) & 1:
        return np.int64((~coins[level] >> bit) & np.uint32(1))
    total = np.uint32(0)
    for i in range(n):
        total = np.uint32(total + np.uint32(keys[i]))
    where = (np.uint64(level) << np.uint64(48)) | np.uint64(turn)
    coin = np.uint32(mix(mix(unit_seed ^ where) ^ np.uint64(total)) >> np.uint64(63))
    coins[level] = np.uint32((coins[level] & ~np.uint32(np.uint32(1) << bit)) | np.uint32(coin << bit))
    return np.int64(coin)


@inlined
def cascade(row, fill, turn, following, coins, unit_seed, amounts, n_levels, result, promoted, merged, rebuilt):
    """A sorted gulp goes up the levels of one unit; those that it does not reach stay where they are in the row."""
    n_come, origin, goal, n_reached = GULP, 0, 0, 0
    for level in range(n_levels):
        if n_come or amounts[level]:
            n_reached = level + 1
        following[level] = fill[level] + n_come - amounts[level]
        origin += fill[level]
        goal += following[level]
        n_come = amounts[level] // 2
    end, come, n_come = goal, result, GULP
    for level in range(n_reached):
        n = amounts[level]
        origin -= fill[level]
        goal -= following[level]
        merge(ahead(row, origin), fill[level], come, n_come, merged)
        copy(ahead(merged, n), following[level], ahead(rebuilt, goal))
        fill[level] = following[level]
        n_come = n // 2
        if n == 0:
            continue
        coin = throw_coin(unit_seed, coins, level, turn[level], merged, n)
        turn[level] += 1
        for i in range(n_come):
            promoted[i] = merged[2 * i + coin]
        come = promoted
    copy(ahead(rebuilt, goal), end - goal, ahead(row, goal))


@jit
def update_sketch(
    values, last, sign_mask, infinity, unit_begin, unit_end, seed, amounts, fill, turn, rows, pending, n_pending,
    coins, counts, extremes, highest, own, keys, spare,
):  # fmt: skip
    """values (B, K, n): float bits, signed.

    Scratch: own (3, levels), keys (4, a row and GULP more), spare (2 GULP and COUNTS more,).
    """
    n_images, n_units, n = values.shape
    n_values, n_levels, room, long_run = values.size, len(fill), rows.shape[1], keys.shape[1]
    values, last, highest, counts, extremes = (
        pointer(values), pointer(last), pointer(highest), pointer(counts), pointer(extremes)
    )  # fmt: skip
    amounts, fill, turn = pointer(amounts), pointer(fill), pointer(turn)
    rows, pending, coins = pointer(rows), pointer(pending), pointer(coins)
    own_fill, result, spare = pointer(own), pointer(keys), pointer(spare)
    own_turn, following = ahead(own_fill, n_levels), ahead(own_fill, 2 * n_levels)
    promoted, merged, rebuilt = ahead(result, long_run), ahead(result, 2 * long_run), ahead(result, 3 * long_run)
    count = ahead(spare, 2 * GULP)
    for unit in range(unit_begin, unit_end):
        waiting, row, coin = ahead(pending, unit * GULP), ahead(rows, unit * room), ahead(coins, unit * LEVELS)
        unit_seed = mix(mix(seed) ^ np.uint64(unit))
        filled, gulp = n_pending, 0
        for level in range(n_levels):
            own_fill[level], own_turn[level] = fill[level], turn[level]
        for image in range(n_images):
            at = (image * n_units + unit) * n
            a_map = ahead(values, at)
            high, n_numbers = scan(
                a_map, n, n_values - at, sign_mask, infinity, unit, n_units, counts, extremes, last
            )  # fmt: skip
            highest[image * n_units + unit] = high if n_numbers else NO_KEY
            done = 0
            while done < n:
                some = min(n - done, GULP - filled)
                for i in range(some):
                    key = key_of(a_map[done + i], sign_mask)
                    is_number = (key <= infinity) & (key >= -infinity - 1)
                    waiting[filled + i] = key if is_number else np.int32(NO_KEY)
                done += some
                filled += some
                if filled == GULP:
                    filled = 0
                    sort_gulp(waiting, result, spare, count)
                    cascade(
                        row, own_fill, own_turn, following, coin, unit_seed, ahead(amounts, gulp * n_levels), n_levels,
                        result, promoted, merged, rebuilt,
                    )  # fmt: skip
                    gulp += 1
