"""Quantile sketches of many units in numpy, with the state that csrc/sketch.h keeps; and the joining of two sketches.

Merging is rare and all units merge alike: numpy does it for every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference_tail import NO_KEY, _count_map, infinity_key, keys_of

GULP = 1024
"""Values that are sorted at a time."""
LEVELS = 48
"""At most: a key of the highest stands for 2**47 values."""
FILLER = NO_KEY
"""In place of NaN: below every number."""


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: the state to its output."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit_seeds(seed: int, unit_begin: int, unit_end: int) -> NDArray[np.uint64]:
    """(units,) what the coins of each unit start from."""
    return mix(mix(np.full(unit_end - unit_begin, seed, np.uint64)) ^ np.arange(unit_begin, unit_end, dtype=np.uint64))


def first_coins(seed: int, n_units: int) -> NDArray[np.uint32]:
    """(K, LEVELS) coins to be turned over where none was thrown before: a merged sketch may want one."""
    levels = np.arange(LEVELS, dtype=np.uint64)
    return (mix(~unit_seeds(seed, 0, n_units)[:, None] ^ levels) >> np.uint64(32)).astype(np.uint32)


def throw_coins(
    seeds: NDArray[np.uint64], coins: NDArray[np.uint32], level: int, turn: int, keys: NDArray[np.int32]
) -> NDArray[np.int64]:
    """(units,) 0 or 1 for the compaction of keys (units, n).

    Turns that end in equally many ones are of one kind; every second coin of a kind is the one before, turned over.
    """
    kind = (turn ^ (turn + 1)).bit_length() - 1
    bit = np.uint32(kind % 32)
    last = (coins[:, level] >> bit) & np.uint32(1)
    if turn >> (kind + 1) & 1:
        return 1 - last.astype(np.int64)
    sums = (keys.astype(np.int64).sum(axis=1) & 0xFFFFFFFF).astype(np.uint64)
    thrown = (mix(mix(seeds ^ np.uint64((level << 48) | turn)) ^ sums) >> np.uint64(63)).astype(np.uint32)
    coins[:, level] ^= (last ^ thrown) << bit
    return thrown.astype(np.int64)


def compact(
    seeds: NDArray[np.uint64],
    coins: NDArray[np.uint32],
    level: int,
    turn: int,
    runs: Sequence[NDArray[np.int32]],
    amount: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Join runs (units, n) at a level and compact the lowest `amount` keys, an even number.

    Returns
    -------
    kept, promoted : int32 (units, total - amount), (units, amount // 2)
        What stays, and what joins the next level.
    """
    joined = np.sort(np.concatenate(runs, axis=1), axis=1)
    low = joined[:, :amount]
    if amount == 0:
        return joined, low
    coin = throw_coins(seeds, coins, level, turn, low)
    return joined[:, amount:], np.where(coin[:, None] == 1, low[:, 1::2], low[:, 0::2])


def levels_of(rows: NDArray[np.int32], fill: Sequence[int]) -> list[NDArray[np.int32]]:
    """Keys (units, fill) of each level; rows hold the highest level first."""
    ends = np.cumsum([0, *fill[::-1]])[::-1].tolist()
    return [rows[:, begin:end].copy() for end, begin in pairwise(ends)]


def update_sketch(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit_begin: int,
    unit_end: int,
    seed: int,
    amounts: NDArray[np.int64],
    fill: NDArray[np.int64],
    turn: NDArray[np.int64],
    rows: NDArray[np.int32],
    pending: NDArray[np.int32],
    n_pending: int,
    coins: NDArray[np.uint32],
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None:
    """Take in the values of units unit_begin..unit_end-1, gulp by gulp."""
    bits: Any = single if half is None else half
    for unit in range(unit_begin, unit_end):
        for image in range(len(bits)):
            numbers = _count_map(bits[image, unit], unit, counts, extremes)
            highest[image, unit] = numbers.max(initial=NO_KEY)
    units, infinity = slice(unit_begin, unit_end), infinity_key(bits)
    keys = keys_of(bits[:, units].swapaxes(0, 1)).reshape(unit_end - unit_begin, -1)
    keys = np.where((keys > infinity) | (keys < -infinity - 1), FILLER, keys).astype(np.int32)
    stream = np.concatenate([pending[units, :n_pending], keys], axis=1)
    seeds, turns, levels = unit_seeds(seed, unit_begin, unit_end), turn.tolist(), levels_of(rows[units], fill.tolist())
    n_gulps = stream.shape[1] // GULP
    for gulp in range(n_gulps):
        come = stream[:, gulp * GULP : (gulp + 1) * GULP]
        for level, amount in enumerate(amounts[gulp].tolist()):
            levels[level], come = compact(seeds, coins[units], level, turns[level], [levels[level], come], amount)
            turns[level] += amount > 0
    row = np.concatenate(levels[::-1], axis=1)
    rows[units, : row.shape[1]] = row
    rest = stream[:, n_gulps * GULP :]
    pending[units, : rest.shape[1]] = rest
