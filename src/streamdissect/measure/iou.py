"""From counters to IoU, best concepts and detectors (methods 3.4, 3.5). Decisions are made in integers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counters import Counters


@dataclass(frozen=True)
class Scores:
    """IoU of every unit with every concept, and what follows from it."""

    iou: NDArray[np.float64]
    """(K, C), 0 where the union is empty."""
    union: NDArray[np.int64]
    """(K, C) U = A + G - I."""
    best_concept: NDArray[np.int32]
    """(K,) concept of the largest IoU, ties to the smallest; -1 where every IoU is 0."""
    best_concept_by_category: NDArray[np.int32]
    """(K, G) the same within each category."""
    is_detector: NDArray[np.bool_]
    """(K,) best IoU > tau, decided in integers."""
    is_detector_by_category: NDArray[np.bool_]
    """(K, G)"""
    exceeds: NDArray[np.bool_]
    """(K, C) IoU > tau."""

    @property
    def best_iou(self) -> NDArray[np.float64]:
        """(K,) 0 where there is no best concept."""
        best: NDArray[np.float64] = self.iou.max(axis=1, initial=0.0)
        return best

    def best_iou_by_category(self) -> NDArray[np.float64]:
        """(K, G) 0 where there is none."""
        columns = np.maximum(self.best_concept_by_category, 0)
        if self.iou.shape[1] == 0:
            return np.zeros(columns.shape)
        return np.where(self.best_concept_by_category >= 0, np.take_along_axis(self.iou, columns, axis=1), 0.0)

    def unique_top(self) -> int:
        """Distinct best concepts of detectors: the paper's words."""
        return len(np.unique(self.best_concept[self.is_detector]))

    def unique_by_category(self) -> NDArray[np.int64]:
        """(G,) distinct best concepts within each category above tau; their sum is the released statistics' count."""
        return np.array(
            [
                len(np.unique(best[passed]))
                for best, passed in zip(self.best_concept_by_category.T, self.is_detector_by_category.T, strict=True)
            ],
            np.int64,
        )

    def unique_any(self) -> int:
        """Concepts that any unit detects."""
        return int(self.exceeds.any(axis=0).sum())


def exceeds_ratio(intersection: NDArray[np.int64], union: NDArray[np.int64], tau: Fraction) -> NDArray[np.bool_]:
    """intersection / union > tau in integers: I * denominator > U * numerator."""
    largest = int(union.max(initial=1)) * tau.numerator, int(intersection.max(initial=1)) * tau.denominator
    if max(largest) < 2**63:
        return intersection * tau.denominator > union * tau.numerator
    return np.asarray(intersection.astype(object) * tau.denominator > union.astype(object) * tau.numerator, bool)


def best_of(intersection: NDArray[np.int64], union: NDArray[np.int64]) -> NDArray[np.int32]:
    """(K,) column of the largest I / U, smallest column first among equals; -1 where every I is 0.

    Rounded quotients could tie or swap ratios closer than 2**-53, so the candidates within rounding of the largest are
    compared by cross-multiplication.
    """
    n_units, n_concepts = intersection.shape
    best = np.full(n_units, -1, np.int32)
    if n_concepts == 0:
        return best
    ratio = ratios(intersection, union)
    top = ratio.max(axis=1)
    close = (ratio >= (top * (1 - 2**-50))[:, None]) & (intersection > 0)
    for k in np.flatnonzero(top > 0).tolist():
        columns = np.flatnonzero(close[k]).tolist()
        best[k] = max(columns, key=lambda c: (Fraction(int(intersection[k, c]), int(union[k, c])), -c))
    return best


def score_counters(counters: Counters, category: NDArray[np.int32], tau: Fraction, union_rule: str) -> Scores:
    """IoU under a union rule (methods 3.3, 3.8).

    Parameters
    ----------
    category : int32 (C,)
        Primary category of each concept.
    union_rule : str
        `paper` and `mask-touch`: the unit's pixels counted for the concept's category; `all-images`: all its pixels.
    """
    intersection = counters.intersection
    area = areas_of(counters.unit_area, counters.unit_area_all, category, union_rule)
    union = area + counters.concept_area[None, :] - intersection
    return score_table(intersection, union, category, counters.n_categories, tau)


def areas_of(
    unit_area: NDArray[Any], unit_area_all: NDArray[Any], category: NDArray[np.int32], union_rule: str
) -> NDArray[Any]:
    """(K, C) pixels of each unit that count against each concept, from (K, G) and (K,)."""
    if union_rule == "all-images":
        return np.broadcast_to(unit_area_all[:, None], (len(unit_area), len(category)))
    return unit_area[:, category]


def ratios(intersection: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    """I / U, 0 where U is."""
    quotients: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros(intersection.shape), where=union > 0)
    return quotients


def score_table(
    intersection: NDArray[np.int64],
    union: NDArray[np.int64],
    category: NDArray[np.int32],
    n_categories: int,
    tau: Fraction,
) -> Scores:
    """As `score_counters`, from the counts themselves: (K, C) intersection and union."""
    iou = ratios(intersection, union)
    exceeds = exceeds_ratio(intersection, union, tau)
    by_category = np.full((len(intersection), n_categories), -1, np.int32)
    for g in range(n_categories):
        columns = np.flatnonzero(category == g)
        best = best_of(intersection[:, columns], union[:, columns])
        by_category[:, g] = np.where(best >= 0, columns[best] if len(columns) else -1, -1)
    best = best_of(intersection, union)

    def passed(column: NDArray[np.int32]) -> NDArray[np.bool_]:
        if exceeds.shape[1] == 0:
            return np.zeros(column.shape, bool)
        return (column >= 0) & np.take_along_axis(exceeds, np.maximum(column, 0), axis=1)

    return Scores(
        iou=iou,
        union=union,
        best_concept=best,
        best_concept_by_category=by_category,
        is_detector=passed(best[:, None])[:, 0],
        is_detector_by_category=passed(by_category),
        exceeds=exceeds,
    )


def detectable_share(tau: Fraction, mask_share: float) -> tuple[float, float]:
    """Least and largest share of its category's pixels that a concept may cover to be detectable (methods 3.4)."""
    return float(tau) * mask_share, min(1.0, mask_share / float(tau)) if tau else 1.0
