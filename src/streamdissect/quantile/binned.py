"""The upper tail in bins of 16-bit keys: exact for float16, a bracket of 2**16 float32 values for float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .keys import FLOAT16
from .streams import UnitStreams, ragged

PAGE = 256
N_BINS = 65536
LARGEST_CAPACITY = 2**32 - 2**28
"""Bins hold at most the capacity and the values of one map more, in 32 bits."""
NO_BOUND = -32769
"""Bound of a stream that has forgotten nothing."""


class BinnedTail(UnitStreams):
    """Counts of the values above a bound that rises with the stream (see csrc/tail.h).

    Memory is about 1 KiB for each 256 neighbouring keys in use above the bound: some 20 KiB a unit for a tail of 0.005,
    at most 256 KiB. With a `capacity` beyond the number of values it is the whole histogram, and any rank may be asked.

    For float32 the bin is the upper half of the key: `tail_keys` gives the bin that holds the threshold, and a
    `Refinement` finds the lower half in a second pass.
    """

    kind = "binned"

    def __init__(self, n_units: int, capacity: int, dtype: Any, backend: str = "auto") -> None:
        super().__init__(n_units, capacity, dtype, backend)
        if capacity > LARGEST_CAPACITY:
            raise ValueError(f"a bin counts to 2**32 - 1: capacity {capacity} is more than {LARGEST_CAPACITY}")
        self._page_of = np.full((n_units, PAGE), -1, np.int32)
        self._pages = np.zeros((PAGE, PAGE), np.uint32)
        self._vacant = np.arange(PAGE, dtype=np.int32)
        self._n_vacant = PAGE
        self._above = np.zeros(n_units, np.int64)
        self._bound = np.full(n_units, NO_BOUND, np.int32)

    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        half, single = (bits, None) if self.dtype == FLOAT16 else (None, bits)
        unit = 0
        while unit < self.n_units:
            if self._n_vacant < PAGE:
                self._add_pages(max(PAGE, len(self._pages) // 2))
            unit, self._n_vacant = self.kernels.update_bins(
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
                self._above,
                self._bound,
                highest,
            )

    def _add_pages(self, n_pages: int) -> None:
        """More vacant pages."""
        old = len(self._pages)
        self._pages = np.concatenate([self._pages, np.zeros((n_pages, PAGE), np.uint32)])
        new = np.arange(old, old + n_pages, dtype=np.int32)
        free = np.concatenate([new, self._vacant[: self._n_vacant]])
        self._vacant = np.concatenate([free, np.zeros(len(self._pages) - len(free), np.int32)])
        self._n_vacant = len(free)

    def bins(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keys of the occupied bins above the bound, descending, and their counts."""
        groups = np.flatnonzero(self._page_of[unit] >= 0)
        counts = self._pages[self._page_of[unit, groups]].astype(np.int64).ravel()
        keys = (groups[:, None] * PAGE + np.arange(PAGE) - N_BINS // 2).ravel()
        kept = np.flatnonzero(counts)[::-1]
        return keys[kept], counts[kept]

    def tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bin of the (m+1)-th largest value of each unit, and how many values lie in bins above it."""
        found, n_above = np.zeros(self.n_units, np.int64), np.zeros(self.n_units, np.int64)
        for unit, rank in enumerate(m.tolist()):
            keys, counts = self.bins(unit)
            reached = np.cumsum(counts)
            at = int(np.searchsorted(reached, rank, "right"))  # the first bin with more than m values down to it
            found[unit] = keys[at] if at < len(keys) else self._bound[unit]
            n_above[unit] = reached[at - 1] if at else 0
        return found, n_above

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
            self._above[k] = down_to[forgotten] if forgotten < end - begin else 0
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
            "pointer": np.searchsorted(code, np.arange(self.n_units + 1) * N_BINS).astype(np.int64),
            "bin": (code % N_BINS).astype(np.uint16),
            "count": count.astype(np.uint32),
        }

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pointer = ragged(arrays, self.n_units, "bin", "count")
        if arrays["bound"].shape != (self.n_units,):
            raise ValueError("saved bounds are cut")
        code = np.repeat(np.arange(self.n_units) * N_BINS, np.diff(pointer)) + arrays["bin"].astype(np.int64)
        if np.any(np.diff(code) <= 0):
            raise ValueError("saved bins are out of order")
        self._fill(code, arrays["count"].astype(np.int64), arrays["bound"].astype(np.int32))
