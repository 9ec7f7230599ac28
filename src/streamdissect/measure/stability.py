"""How far best IoUs may still move: intervals from leaving out one shard after another (docs/monitor.md)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .betas import student_quantile
from .counters import Counters
from .iou import areas_of, best_of, ratios

LEAST_SHARDS = 5
"""Below it no interval is narrow: a deviation of four numbers says little."""
LEVEL = 0.95


class BestIntervals:
    """Intervals of the best IoUs of one layer's K units, over the shards counted so far.

    Parameters
    ----------
    n_units, n_concepts, n_categories : int
    category : int32 (C,)
        Primary category of each concept.
    union_rule : str
        See `score_counters`.
    """

    def __init__(
        self, n_units: int, n_concepts: int, n_categories: int, category: NDArray[np.int32], union_rule: str
    ) -> None:
        self._total = Counters(n_units, n_concepts, n_categories)
        self._category, self._union_rule = category, union_rule
        self._best = np.full(n_units, -1, np.int32)
        """(K,) concept of the largest IoU so far; -1: none."""
        self._shared: list[NDArray[np.int64]] = []
        """(K,) of each shard: the intersection with that concept."""
        self._union: list[NDArray[np.int64]] = []
        """(K,) of each shard: the union with it."""

    def add(self, counters: Counters, earlier: Callable[[int], Counters]) -> None:
        """Take in one more shard; `earlier` gives the counters of shard 0, 1, ... of those that were taken in.

        They are asked for once more where some unit's best concept is another than before.
        """
        self._total.merge(counters)
        best = best_of(self._total.intersection, self._union_of(self._total))
        changed = best != self._best
        self._best = best
        if changed.any():
            for shard in range(len(self._shared)):
                shared, union = self._pick(earlier(shard))
                self._shared[shard][changed], self._union[shard][changed] = shared[changed], union[changed]
        shared, union = self._pick(counters)
        self._shared.append(shared)
        self._union.append(union)

    def widths(self) -> NDArray[np.float64]:
        """(K,) widths of the 95 % intervals of the delete-one-shard jackknife, by Student's t.

        The concept of each unit is the one that is best so far. Infinite with fewer than LEAST_SHARDS shards, and where
        one shard has all pixels of a unit's union; 0 for a unit that shares no pixel with any concept.
        """
        n = len(self._shared)
        if n < LEAST_SHARDS:
            return np.full(len(self._best), np.inf)
        shared, union = np.stack(self._shared), np.stack(self._union)
        rest = union.sum(axis=0) - union
        without = ratios(shared.sum(axis=0) - shared, rest)
        deviation = np.sqrt(((without - without.mean(axis=0)) ** 2).sum(axis=0) * (n - 1) / n)
        widths = 2 * student_quantile((1 + LEVEL) / 2, n - 1) * deviation
        found: NDArray[np.float64] = np.where((rest == 0).any(axis=0), np.inf, widths)
        return np.where(self._best >= 0, found, 0.0)

    def _union_of(self, counters: Counters) -> NDArray[np.int64]:
        """(K, C) U = A + G - I."""
        area = areas_of(counters.unit_area, counters.unit_area_all, self._category, self._union_rule)
        union: NDArray[np.int64] = area + counters.concept_area[None, :] - counters.intersection
        return union

    def _pick(self, counters: Counters) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(K,) intersection and union of each unit with its concept; 0 for units without."""
        shared, union = np.zeros((2, len(self._best)), np.int64)
        units = np.flatnonzero(self._best >= 0)
        concepts = self._best[units]
        shared[units] = counters.intersection[units, concepts]
        area = counters.unit_area_all[units]
        if self._union_rule != "all-images":
            area = counters.unit_area[units, self._category[concepts]]
        union[units] = area + counters.concept_area[concepts] - shared[units]
        return shared, union
