"""Bins of 16-bit keys in pages: what the upper tail and the whole histogram are counted in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keys import FLOAT16
from .streams import Streams, ragged, share_of, whole

PAGE = 256
N_BINS = 65536
UNITS_AT_ONCE = 16
"""Units whose pages are copied together."""


class PagedBins(Streams):
    """Counts by key: of float16 each value has its own bin, of float32 65,536 neighbours share one.

    256 bins make a page, taken when a value first falls into it: units use a fifth to a half of all.
    """

    def __init__(self, n_units: int, dtype: Any, backend: str = "auto") -> None:
        super().__init__(n_units, dtype, backend)
        self._page_of = np.full((n_units, PAGE), -1, np.int32)
        self._pages = np.zeros((PAGE, PAGE), np.uint32)
        self._vacant = np.arange(PAGE, dtype=np.int32)
        self._n_vacant = PAGE

    @property
    def shift(self) -> int:
        """Bits of a key that its bin does not tell."""
        return 0 if self.dtype == FLOAT16 else 16

    @property
    def is_exact(self) -> bool:
        """Whether a bin is a value."""
        return self.shift == 0

    @property
    def nbytes(self) -> int:
        """Memory of the state, of all units."""
        return sum(a.nbytes for a in (self._page_of, self._pages, self._vacant, self.counts, self.extremes))

    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        half, single = (bits, None) if self.dtype == FLOAT16 else (None, bits)
        unit = 0
        while unit < self.n_units:
            if self._n_vacant < PAGE:
                self._add_pages(max(PAGE, len(self._pages) // 2))
            unit, self._n_vacant = self._count(half, single, unit, highest)

    @abstractmethod
    def _count(
        self, half: NDArray[Any] | None, single: NDArray[Any] | None, unit: int, highest: NDArray[np.int32]
    ) -> tuple[int, int]:
        """Run the kernel from a unit on: the next unit, and the vacant pages left."""

    def _add_pages(self, n_pages: int) -> None:
        """More vacant pages."""
        old = len(self._pages)
        pages = np.zeros((old + n_pages, PAGE), np.uint32)  # untouched pages of it cost nothing yet
        pages[:old] = self._pages
        self._pages = pages
        new = np.arange(old, old + n_pages, dtype=np.int32)
        free = np.concatenate([new, self._vacant[: self._n_vacant]])
        self._vacant = np.concatenate([free, np.zeros(len(self._pages) - len(free), np.int32)])
        self._n_vacant = len(free)

    def _page_counts(self, pages: NDArray[np.int32]) -> NDArray[np.int64]:
        """(n, 256) counts of some pages."""
        counts: NDArray[np.int64] = self._pages[pages].astype(np.int64)
        return counts

    def bins(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Occupied bins of a unit, from the highest down, and their counts.

        Parameters
        ----------
        unit : int

        Returns
        -------
        int64 (n,), int64 (n,)
            Bins are keys without their lower `shift` bits.
        """
        groups = np.flatnonzero(self._page_of[unit] >= 0)
        counts = self._page_counts(self._page_of[unit, groups]).ravel()
        keys = (groups[:, None] * PAGE + np.arange(PAGE) - N_BINS // 2).ravel()
        kept = np.flatnonzero(counts)[::-1]
        return keys[kept], counts[kept]

    @abstractmethod
    def _beyond(self, unit: int) -> int:
        """The bin of a rank beyond all that were kept."""

    def _iter_found(self, m: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], ...]]:
        """Of each unit, for its ranks (R,): the bins, the values above them, and the values in them."""
        for unit in range(self.n_units):
            keys, counts = self.bins(unit)
            reached = np.concatenate([[0], np.cumsum(counts)])
            at = np.searchsorted(reached[1:], m[..., unit].ravel(), "right")  # the first with more than m down to it
            yield (
                np.append(keys, self._beyond(unit))[at],
                reached[at],
                np.append(counts, self.n[unit] - reached[-1])[at],
            )

    def _tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For float32 the least key of the bin, and the values above the bin."""
        found, n_above = np.zeros(m.shape, np.int64), np.zeros(m.shape, np.int64)
        for unit, (bins, above, _) in enumerate(self._iter_found(m)):
            lowest, highest = self.extremes[:, unit].tolist()
            edge = np.maximum(bins << self.shift, lowest)
            edge = np.where(m[..., unit].ravel() == 0, highest, edge)  # both ends are known exactly
            found[..., unit], n_above[..., unit] = edge.reshape(m.shape[:-1]), above.reshape(m.shape[:-1])
        return found, n_above

    def bracket(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The ends of the bin of the (m+1)-th largest value, and how many values lie in it."""
        low, _ = self.tail_keys(m)
        high = np.where(m == 0, low, np.minimum(low | ((1 << self.shift) - 1), self.extremes[1]))
        inside = np.array([counts.reshape(m.shape[:-1]) for _, _, counts in self._iter_found(m)], np.int64)
        return low, np.maximum(low, high), np.moveaxis(inside, 0, -1)

    def error_bound(self, tail: Fraction | float) -> float:
        """The largest share of a unit's values in the bin that holds a threshold; 0 where a bin is one value."""
        return float(self.error_bounds([share_of(tail)])[0])

    def error_bounds(self, tails: Sequence[Fraction]) -> NDArray[np.float64]:
        """`error_bound` of several tails."""
        m = np.array([np.minimum(self.ranks(tail), np.maximum(self.n - 1, 0)) for tail in tails])
        if self.is_exact or not tails:
            return np.zeros(len(tails))
        inside = np.where((m == 0) | (m == self.n - 1), 0, self.bracket(m)[2])
        shares: NDArray[np.float64] = (inside / np.maximum(self.n, 1)).max(axis=1)
        return shares

    def _above(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        above = np.zeros(self.n_units, np.int64)
        for unit, bound in enumerate((keys >> self.shift).tolist()):
            bins, counts = self.bins(unit)
            above[unit] = counts[bins > bound].sum()
        return above

    def _take_pages(self, units: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pages of these groups of bins, each named once; taken where there were none."""
        missing = np.flatnonzero(self._page_of[units, groups] < 0)
        if self._n_vacant < len(missing):
            self._add_pages(max(len(missing) - self._n_vacant, PAGE))
        self._n_vacant -= len(missing)
        self._page_of[units[missing], groups[missing]] = self._vacant[self._n_vacant : self._n_vacant + len(missing)]
        pages: NDArray[np.int32] = self._page_of[units, groups]
        return pages


def saved_bins(
    arrays: Mapping[str, NDArray[Any]], n_units: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pointer (K + 1,), unit * N_BINS + bin and count (n,) of saved bins. ValueError where they are damaged."""
    pointer = ragged(arrays, n_units, "bin", "count")
    bins, count = whole(arrays, "bin", (-1,), 0, N_BINS - 1), whole(arrays, "count", (-1,), 1, most)
    code = np.repeat(np.arange(n_units) * N_BINS, np.diff(pointer)) + bins
    if np.any(np.diff(code) <= 0):
        raise ValueError("saved bins are out of order")
    return pointer, code, count
