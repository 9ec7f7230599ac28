"""The whole distribution in bins of 16-bit keys: any quantile of streams of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .keys import INFINITY_KEYS
from .paged import N_BINS, PAGE, UNITS_AT_ONCE, PagedBins, saved_bins
from .streams import ragged

MOST_IN_PAGES = 2**32 - 1
"""A bin of a page counts so far; longer streams carry over."""
PAGES_AT_ONCE = 1 << 14
"""Filled together when a state is restored."""


class Histogram(PagedBins):
    """Counts of all values of K streams, by key; however many come, in one pass, in any order and division.

    float16: exact at every rank. float32: a bin holds the 65,536 values that share the upper half of their keys, at
    most 2**-7 apart in relation to their size; `tail_threshold` gives the least of them, `error_bound` how many it may
    be off, and a `Refinement` the exact value in a second pass.

    Memory is 1 KiB a unit and 1 KiB for each 256 neighbouring keys in use, half as many again and 256 held ready: 70 to
    180 KiB a unit for a network's float16 activations, 20 to 30 KiB for float32. Beyond 2**32 values a unit it trebles.

    Parameters
    ----------
    n_units : int
        K.
    dtype : float16 or float32
        Of the values.
    backend : str
        See `streamdissect.kernels.kernel_backend`.
    """

    kind = "histogram"

    def __init__(self, n_units: int, dtype: Any, backend: str = "auto") -> None:
        super().__init__(n_units, dtype, backend)
        self._carried: NDArray[np.int64] | None = None
        """(n_pages, 256) to be added to the pages, once a stream is so long that these might overflow."""
        self._n_in_pages = 0

    @staticmethod
    def state_bytes(n_units: int) -> int:
        """The most memory that the state can take, for streams of up to 2**32 values; a third may be vacant."""
        return n_units * 4 * PAGE + (PAGE * n_units * 3 // 2 + PAGE) * (4 * PAGE + 4)

    @property
    def settings(self) -> tuple[int, ...]:
        """K."""
        return (self.n_units,)

    @property
    def nbytes(self) -> int:
        """Memory of the state, of all units."""
        return super().nbytes + (0 if self._carried is None else self._carried.nbytes)

    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        n = bits.shape[0] * bits.shape[2]
        if self._n_in_pages + n > MOST_IN_PAGES:
            self._carry()
        self._n_in_pages += n
        super()._update(bits, highest)

    def _count(
        self, half: NDArray[Any] | None, single: NDArray[Any] | None, unit: int, highest: NDArray[np.int32]
    ) -> tuple[int, int]:
        unit, n_vacant = self.kernels.update_histogram(
            half,
            single,
            unit,
            self.counts,
            self.extremes,
            self._page_of,
            self._pages,
            self._vacant,
            self._n_vacant,
            highest,
        )
        return unit, n_vacant

    def _carry(self) -> None:
        """Empty the pages into wider counters."""
        carried = np.zeros(self._pages.shape, np.int64)
        if self._carried is not None:
            carried[: len(self._carried)] = self._carried
        carried += self._pages
        self._pages[...] = 0
        self._carried, self._n_in_pages = carried, 0

    def _page_counts(self, pages: NDArray[np.int32]) -> NDArray[np.int64]:
        counts = super()._page_counts(pages)
        if self._carried is not None:
            wide = pages < len(self._carried)
            counts[wide] += self._carried[pages[wide]]
        return counts

    def bins(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Occupied bins of a unit, from the highest down, and their counts; see `PagedBins.bins`."""
        keys, counts = super().bins(unit)
        n_zero = int(self.counts[2, unit])  # the kernel leaves zeros to the counts
        if n_zero == 0:
            return keys, counts
        at = int(np.searchsorted(-keys, 0))
        if at < len(keys) and keys[at] == 0:
            counts[at] += n_zero
            return keys, counts
        return np.insert(keys, at, 0), np.insert(counts, at, n_zero)

    def _beyond(self, unit: int) -> int:
        return int(self.extremes[0, unit]) >> self.shift

    def _merge(self, other: Self) -> None:
        if self._n_in_pages + other._n_in_pages > MOST_IN_PAGES or other._carried is not None:
            self._carry()
        else:
            self._n_in_pages += other._n_in_pages
        for begin in range(0, self.n_units, UNITS_AT_ONCE):
            units, groups = np.nonzero(other._page_of[begin : begin + UNITS_AT_ONCE] >= 0)
            units += begin
            self._add(self._take_pages(units, groups), other._page_counts(other._page_of[units, groups]))

    def _add(self, pages: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """Counts (n, 256) of some pages, each named once."""
        if self._carried is None:
            self._pages[pages] += counts.astype(np.uint32)
            return
        if len(self._carried) < len(self._pages):
            self._carried = np.concatenate(
                [self._carried, np.zeros((len(self._pages) - len(self._carried), PAGE), np.int64)]
            )
        self._carried[pages] += counts

    def _kept(self) -> Arrays:
        """Bins ascending, zeros aside."""
        lengths, bins, counts = [], [], []
        for begin in range(0, self.n_units, UNITS_AT_ONCE):
            page_of = self._page_of[begin : begin + UNITS_AT_ONCE]
            units, groups = np.nonzero(page_of >= 0)
            pages = page_of[units, groups]
            held = (self._pages[pages] if self._carried is None else self._page_counts(pages)).ravel()
            at = np.flatnonzero(held)
            row, column = np.divmod(at, PAGE)
            lengths.append(np.bincount(units[row], minlength=len(page_of)))
            bins.append((groups[row] * PAGE + column).astype(np.uint16))
            found = held[at]
            counts.append(found.astype(np.uint32 if found.max(initial=0) <= MOST_IN_PAGES else np.uint64))
        return {
            "pointer": np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
            "bin": np.concatenate(bins),
            "count": np.concatenate(counts),
        }

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._n_in_pages = self.n_seen
        if self.n_seen > MOST_IN_PAGES:
            self._carry()
        pointer = ragged(arrays, self.n_units, "bin", "count")
        self._reserve(arrays["bin"], pointer)
        for begin in range(0, self.n_units, UNITS_AT_ONCE):  # all at once they would take ten times what is saved
            units = slice(begin, min(begin + UNITS_AT_ONCE, self.n_units))
            ends = pointer[units.start : units.stop + 1]
            some = {name: arrays[name][ends[0] : ends[-1]] for name in ("bin", "count")}
            self._restore_units(units, some | {"pointer": ends - ends[0]})
        if np.any(self.extremes.astype(np.int64) >> self.shift != self._ends(pointer, arrays["bin"])):
            raise ValueError("saved bins do not hold the values that were counted")

    def _reserve(self, bins: NDArray[Any], pointer: NDArray[np.int64]) -> None:
        """Make room for the pages that saved bins will take: growing by and by copies them again and again."""
        if bins.dtype.kind not in "iu":
            return  # refused later
        page = (bins >> 8).astype(np.uint8)
        is_first = np.ones(len(bins), bool)
        is_first[1:] = page[1:] != page[:-1]
        is_first[pointer[:-1][np.diff(pointer) > 0]] = True
        n_pages = min(int(np.count_nonzero(is_first)), self.n_units * PAGE)
        if n_pages > self._n_vacant:
            self._add_pages(n_pages - self._n_vacant)

    def _restore_units(self, units: slice, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Bins of some units, checked against what was counted."""
        pointer, code, count = saved_bins(arrays, units.stop - units.start, 2**63 - 1)
        total = np.diff(np.concatenate([[0], np.cumsum(count)])[pointer])
        infinity = INFINITY_KEYS[self.dtype]
        ends = np.array([infinity, -infinity - 1]) >> self.shift
        infinite = np.where(np.isin(code % N_BINS - N_BINS // 2, ends), count, 0)
        n_infinite = np.diff(np.concatenate([[0], np.cumsum(infinite)])[pointer])
        if np.any(total + self.counts[2, units] != self.n[units]) or np.any(n_infinite != self.counts[1, units]):
            raise ValueError("saved bins do not hold the values that were counted")
        group, row = np.unique(code // PAGE, return_inverse=True)
        for begin in range(0, len(group), PAGES_AT_ONCE):
            some = slice(*np.searchsorted(row, [begin, begin + PAGES_AT_ONCE]))  # both ascend
            unit, page = np.divmod(group[begin : begin + PAGES_AT_ONCE], PAGE)
            counts = np.zeros((len(unit), PAGE), np.int64)
            counts[row[some] - begin, code[some] % PAGE] = count[some]
            self._add(self._take_pages(unit + units.start, page), counts)

    def _ends(self, pointer: NDArray[np.int64], bins: NDArray[Any]) -> NDArray[np.int64]:
        """(2, K) lowest and highest bin of those saved and the zeros; of a unit without numbers its extremes'."""
        ends = np.full((2, self.n_units), [[N_BINS], [-N_BINS]])
        is_filled = np.diff(pointer) > 0
        for end, at in zip(ends, (pointer[:-1], pointer[1:] - 1), strict=True):
            end[is_filled] = bins[at[is_filled]].astype(np.int64) - N_BINS // 2
        has_zeros = self.counts[2] > 0
        ends[0, has_zeros] = np.minimum(ends[0, has_zeros], 0)
        ends[1, has_zeros] = np.maximum(ends[1, has_zeros], 0)
        return np.where(self.n > 0, ends, self.extremes.astype(np.int64) >> self.shift)
