"""The upper tail in bins of 16-bit keys: exact for float16, a bracket of 2**16 float32 values for float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .keys import NO_KEY
from .paged import N_BINS, PAGE, PagedBins, saved_bins
from .streams import UnitStreams, whole

LARGEST_CAPACITY = 2**32 - 2**28
"""Bins hold at most the capacity and the values of one map more, in 32 bits."""
NO_BOUND = -32769
"""Bound of a stream that has forgotten nothing."""


class BinnedTail(UnitStreams, PagedBins):
    """Counts of the values above a bound that rises with the stream (see csrc/tail.h).

    Memory is about 1 KiB for each 256 neighbouring keys in use above the bound, and 256 KiB for all units together that
    are held ready: some 20 KiB a unit for a tail of 0.005, at most 256 KiB.

    For float32 the bin is the upper half of the key, and a `Refinement` finds the lower half in a second pass.
    """

    kind = "binned"

    def __init__(self, n_units: int, capacity: int, dtype: Any, backend: str = "auto") -> None:
        super().__init__(n_units, capacity, dtype, backend)
        if capacity > LARGEST_CAPACITY:
            raise ValueError(f"a bin counts to 2**32 - 1: capacity {capacity} is more than {LARGEST_CAPACITY}")
        self._n_above = np.zeros(n_units, np.int64)
        self._bound = np.full(n_units, NO_BOUND, np.int32)

    def _count(
        self, half: NDArray[Any] | None, single: NDArray[Any] | None, unit: int, highest: NDArray[np.int32]
    ) -> tuple[int, int]:
        unit, n_vacant = self.kernels.update_bins(
            half,
            single,
            unit,
            self.capacity,
            self.counts,
            self.extremes,
            self._page_of,
            self._pages,
            self._vacant,
            self._n_vacant,
            self._n_above,
            self._bound,
            highest,
        )
        return unit, n_vacant

    def _beyond(self, unit: int) -> int:
        return int(self._bound[unit])

    def tail_floor(self, m: int) -> NDArray[np.int32]:
        """The least key of the bin that the bound has reached: of the value whose rank is the capacity, or less."""
        if m >= self.capacity:
            raise ValueError(f"rank {m}, only the {self.capacity} largest values are kept")
        return np.where(self._bound == NO_BOUND, NO_KEY, self._bound << self.shift).astype(np.int32)

    def _above(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        if np.any((keys >> self.shift < self._bound) & (keys < self.extremes[1])):
            raise ValueError(f"a rank beyond the {self.capacity} values that were kept")
        return super()._above(keys)

    def _merge(self, other: Self) -> None:
        mine, theirs = self._sparse(), other._sparse()
        bound = np.maximum(self._bound, other._bound)
        code, count = (np.concatenate(pair) for pair in zip(mine, theirs, strict=True))
        code, where = np.unique(code, return_inverse=True)
        total = np.zeros(len(code), np.int64)
        np.add.at(total, where, count)
        self._fill(code, total, bound)

    def _sparse(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """unit * N_BINS + bin of the occupied bins, ascending, and their counts."""
        codes, counts = [], []
        for unit in range(self.n_units):
            keys, count = self.bins(unit)
            codes.append((keys + (N_BINS // 2 + unit * N_BINS))[::-1])
            counts.append(count[::-1])
        return np.concatenate(codes), np.concatenate(counts)

    def _fill(self, code: NDArray[np.int64], count: NDArray[np.int64], bound: NDArray[np.int32]) -> None:
        """Hold these bins above these bounds, and raise the bounds as far as they go."""
        unit, key = code // N_BINS, code % N_BINS - N_BINS // 2
        above = key > bound[unit]
        unit, key, count = unit[above], key[above], count[above]
        pointer = np.searchsorted(unit, np.arange(self.n_units + 1))
        kept = np.zeros(len(unit), bool)
        self._bound = bound.astype(np.int32).copy()
        for k in range(self.n_units):
            begin, end = int(pointer[k]), int(pointer[k + 1])
            down_to = np.cumsum(count[begin:end][::-1])[::-1]  # values in this bin and all higher ones
            forgotten = int(np.searchsorted(-down_to, -self.capacity, "right"))  # bins that still reach the capacity
            if forgotten:
                self._bound[k] = key[begin + forgotten - 1]
            kept[begin + forgotten : end] = True
            self._n_above[k] = down_to[forgotten] if forgotten < end - begin else 0
        unit, key, count = unit[kept], key[kept], count[kept]
        group = unit * PAGE + (key + N_BINS // 2) // PAGE
        used, page = np.unique(group, return_inverse=True)
        n_pages = len(used) + PAGE
        self._pages = np.zeros((n_pages, PAGE), np.uint32)
        self._pages[page, (key + N_BINS // 2) % PAGE] = count
        self._page_of = np.full((self.n_units, PAGE), -1, np.int32)
        self._page_of[used // PAGE, used % PAGE] = np.arange(len(used))
        self._vacant = np.zeros(n_pages, np.int32)
        self._vacant[:PAGE] = np.arange(len(used), n_pages)
        self._n_vacant = PAGE

    def _kept(self) -> Arrays:
        copy = type(self)(self.n_units, self.capacity, self.dtype)
        copy._fill(*self._sparse(), self._bound)
        code, count = copy._sparse()
        return {
            "bound": copy._bound,
            "above": copy._n_above,
            "pointer": np.searchsorted(code, np.arange(self.n_units + 1) * N_BINS).astype(np.int64),
            "bin": (code % N_BINS).astype(np.uint16),
            "count": count.astype(np.uint32),
        }

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pointer, code, count = saved_bins(arrays, self.n_units, 2**32 - 1)
        bound = whole(arrays, "bound", (self.n_units,), NO_BOUND, N_BINS // 2)
        n_above = whole(arrays, "above", (self.n_units,), 0, self.capacity)
        lowest, highest = self.extremes.astype(np.int64) >> self.shift
        total = np.diff(np.concatenate([[0], np.cumsum(count)])[pointer])
        top = np.where(np.diff(pointer) > 0, np.append(code, 0)[pointer[1:] - 1] % N_BINS - N_BINS // 2, bound)
        below = np.append(code, 0)[pointer[:-1]] % N_BINS - N_BINS // 2 <= bound
        is_whole = np.where(bound == NO_BOUND, total == self.n, (total < self.capacity) & (total < self.n))
        is_whole &= (total == n_above) & np.where(self.n > 0, top == highest, total == 0)
        is_whole &= (bound == NO_BOUND) | ((lowest <= bound) & (self.n >= self.capacity))
        if not is_whole.all() or np.any(below & (np.diff(pointer) > 0)):
            raise ValueError("the saved streams do not hold their largest values")
        self._fill(code, count, bound.astype(np.int32))
