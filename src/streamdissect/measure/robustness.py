"""How a unit's detections change when images do: counts of one perturbation, and what follows (methods 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels import PlaneBatch, count_masks
from ..tally import Arrays
from .counters import Counters, whole_numbers
from .dissection import LayerDissection
from .iou import areas_of, score_counters
from .planes import ImagePlanes

AREAS = ("shared", "clean_area", "perturbed_area")
SUMS = 5
"""Of x, y, x x, y y and x y, for the correlation of the clean map x and the perturbed map y."""
LEAST_SPREAD = 1e-12
"""Of a sum of squares: below it a map is constant but for rounding."""


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """The label planes of one image, their counter rows numbered anew: an image has few of all concepts."""

    planes: PlaneBatch
    rows: NDArray[np.int64]
    """Counter row of each row used."""

    @classmethod
    def of(cls, image: ImagePlanes) -> SparseLabels:
        """Of an image's planes."""
        touched = image.touch_row >= 0
        used, number = np.unique(
            np.concatenate([image.plane_row, image.touch_row[touched], image.whole_row]), return_inverse=True
        )
        plane, touch, whole = np.split(
            number.astype(np.int32), np.cumsum([len(image.plane_row), int(touched.sum())]).tolist()
        )
        touch_row = np.full(len(image.touch_row), -1, np.int32)
        touch_row[touched] = touch
        none = np.zeros(0, np.int64)

        def whole_image(n: int) -> NDArray[np.int64]:
            return np.array([0, n], np.int64)

        batch = PlaneBatch(
            shape=image.shape,
            words=image.words.ravel(),
            word_ptr=whole_image(image.words.size),
            plane_ptr=whole_image(len(plane)),
            plane_row=plane,
            touch_row=touch_row,
            whole_ptr=whole_image(len(whole)),
            whole_row=whole,
            present_ptr=whole_image(0),
            present_row=none.astype(np.int32),
            present_area=none,
        )
        return cls(batch, used.astype(np.int64))

    def count(self, masks: NDArray[np.uint64], backend: str = "auto") -> NDArray[np.int64]:
        """(rows, A) what masks (A, H * words) share with the labels."""
        counted = np.zeros((len(self.rows), len(masks)), np.int64)
        if counted.size:
            count_masks(masks[None], self.planes, counted, np.zeros((1, len(masks)), np.int64), backend=backend)
        return counted


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """What one image adds: of A units that are active on it, clean or perturbed."""

    units: NDArray[np.int64]
    """(A,)"""
    labels: SparseLabels
    counted: NDArray[np.int64]
    """(rows, A) of the perturbed masks."""
    matched_labels: SparseLabels
    matched: NDArray[np.int64]
    """(rows, A) of the clean masks, moved as their labels are."""
    areas: NDArray[np.int64]
    """(3, A) pixels in both masks, in the clean one moved along, in the perturbed one."""
    is_active: NDArray[np.bool_]
    """(A,) whether the perturbed map exceeds the threshold anywhere."""


class RobustnessTally:
    """Counts of one layer under one perturbation: integers, the same for any order, and sums for the correlation."""

    def __init__(self, n_units: int, n_concepts: int, n_categories: int) -> None:
        self.perturbed = Counters(n_units, n_concepts, n_categories)
        self.matched = Counters(n_units, n_concepts, n_categories)
        """Of the clean masks, moved as the labels are: what cropping alone does."""
        self.shared = np.zeros(n_units, np.int64)
        """(K,) pixels in both masks."""
        self.clean_area = np.zeros(n_units, np.int64)
        self.perturbed_area = np.zeros(n_units, np.int64)
        self.n_cells = 0
        self.sums = np.zeros((SUMS, n_units))

    def add(self, counts: ImageCounts) -> None:
        """Take in an image's masks."""
        add_rows(self.perturbed, counts.labels, counts.units, counts.counted)
        add_rows(self.matched, counts.matched_labels, counts.units, counts.matched)
        self.perturbed.active_maps[counts.units] += counts.is_active
        for name, area in zip(AREAS, counts.areas, strict=True):
            getattr(self, name)[counts.units] += area

    def add_sums(self, n_cells: int, sums: NDArray[np.float64]) -> None:
        """Take in an image's maps: cells compared, and `map_sums` of them."""
        self.n_cells += n_cells
        self.sums += sums

    def merge(self, other: Self) -> None:
        """Add another part's counts."""
        self.perturbed.merge(other.perturbed)
        self.matched.merge(other.matched)
        for name in AREAS:
            getattr(self, name)[...] += getattr(other, name)
        self.add_sums(other.n_cells, other.sums)

    def to_arrays(self) -> Arrays:
        """The state."""
        arrays: Arrays = {name: getattr(self, name) for name in AREAS}
        arrays |= {"n_cells": np.array([self.n_cells], np.int64), "sums": self.sums}
        for part in ("perturbed", "matched"):
            arrays |= {f"{part}.{name}": array for name, array in getattr(self, part).to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError where arrays are missing, damaged or of another version."""
        parts = {}
        for part in ("perturbed", "matched"):
            start = f"{part}."
            found = {name[len(start) :]: each for name, each in arrays.items() if name.startswith(start)}
            parts[part] = Counters.from_arrays(found)
        first = parts["perturbed"]
        tally = cls(first.n_units, first.n_concepts, first.n_categories)
        tally.perturbed, tally.matched = first, parts["matched"]
        try:
            for name in AREAS:
                getattr(tally, name)[...] = whole_numbers(arrays, name, (first.n_units,))
            (tally.n_cells,) = whole_numbers(arrays, "n_cells", (1,)).tolist()
            if arrays["sums"].shape != tally.sums.shape:
                raise ValueError(f"saved counts are damaged: sums are {arrays['sums'].shape}")
            tally.sums[...] = arrays["sums"]
        except KeyError as error:
            raise ValueError(f"saved counts are cut: no {error}") from error
        return tally


def add_rows(counters: Counters, labels: SparseLabels, units: NDArray[np.int64], counted: NDArray[np.int64]) -> None:
    """Add what some units' masks share with an image's labels."""
    counters.rows[np.ix_(labels.rows, units)] += counted


def bits_of(masks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(A,) pixels of masks (A, words)."""
    found: NDArray[np.int64] = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
    return found


def map_sums(clean: NDArray[np.float64], perturbed: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, K) sums over the cells of maps (K, n), see SUMS."""
    pairs = ((clean, clean), (perturbed, perturbed), (clean, perturbed))
    return np.stack([clean.sum(1), perturbed.sum(1), *(np.einsum("kn,kn->k", x, y) for x, y in pairs)])


def correlations(n: int, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,) Pearson correlation from the sums (5, K) over n cells; NaN where either map is constant."""
    x, y, xx, yy, xy = sums
    found = np.full(len(x), np.nan)
    with np.errstate(invalid="ignore"):
        spread_x, spread_y = n * xx - x * x, n * yy - y * y
        known = (spread_x > LEAST_SPREAD * n * xx) & (spread_y > LEAST_SPREAD * n * yy)
    shared = n * xy[known] - x[known] * y[known]
    found[known] = np.clip(shared / (np.sqrt(spread_x[known] * spread_y[known])), -1, 1)
    return found


def divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Quotients, NaN where the denominator is 0."""
    found = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=found, where=denominator != 0)
    return found


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing the mean of theirs."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    shared: NDArray[np.float64] = (last - (count - 1) / 2)[inverse]
    return shared


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Rank correlation; NaN where either is constant."""
    x, y = ranks(first), ranks(second)
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """One layer under one perturbation in one trial. c* is the unit's best concept in the scoring of the run."""

    intersection: NDArray[np.int64]
    """(K,) I' with c*"""
    concept_area: NDArray[np.int64]
    """(K,) G' of c*"""
    unit_area: NDArray[np.int64]
    """(K,) A' against c*"""
    iou: NDArray[np.float64]
    """(K,) IoU' with c*, 0 where there is none."""
    iou_clean: NDArray[np.float64]
    """(K,) the same of the clean mask, moved as the labels are: what cropping alone does."""
    retention: NDArray[np.float64]
    """(K,) their ratio, NaN where `iou_clean` is 0."""
    best_concept: NDArray[np.int32]
    """(K,) of the perturbed masks, -1 for none."""
    best_iou: NDArray[np.float64]
    best_iou_clean: NDArray[np.float64]
    is_detector: NDArray[np.bool_]
    """(K,) whether any IoU' exceeds tau."""
    is_surviving: NDArray[np.bool_]
    """(K,) whether a detector of the run has IoU' with c* above tau."""
    consistency: NDArray[np.float64]
    """(K,) J: pixels in both masks over pixels in either; NaN where both are empty."""
    firing_ratio: NDArray[np.float64]
    """(K,) pixels of the perturbed mask over those of the clean one moved along; NaN where that is empty."""
    correlation: NDArray[np.float64]
    """(K,) of the two maps over all cells and images; NaN where either is constant."""
    unique_by_category: NDArray[np.int64]
    """(G,) distinct best concepts above tau."""
    numbers: dict[str, float]
    """The layer in a few numbers; see NUMBERS."""

    @property
    def arrays(self) -> Arrays:
        """Every array by name."""
        return {name: getattr(self, name) for name in OUTCOME_ARRAYS}


OUTCOME_ARRAYS = tuple(f.name for f in fields(Outcome) if f.name != "numbers")
NUMBERS = {
    "survival": "share of the run's detectors whose IoU with c* is still above tau",
    "same_top": "share of them whose best concept is still c*",
    "detectors": "units with any IoU above tau",
    "lost": "detectors of the run that are none now",
    "new": "detectors that were none",
    "unique_top": "distinct best concepts of detectors",
    "unique_by_category": "the same within each category, summed",
    "unique_any": "concepts that any unit detects",
    "retention": "median over the run's detectors of IoU over that of the clean mask moved along",
    "retention_q1": "its lower quartile",
    "retention_q3": "its upper quartile",
    "spearman": "rank correlation over units of the best IoU, clean and perturbed",
    "consistency": "median over units of J, pixels in both masks over pixels in either",
    "firing_ratio": "median over units of the pixels of the perturbed masks over those of the clean ones",
    "correlation": "median over units of the correlation of the maps",
}


def find_outcome(
    tally: RobustnessTally, clean: LayerDissection, category: NDArray[np.int32], tau: Fraction, union: str
) -> Outcome:
    """What follows from the counts.

    Parameters
    ----------
    clean : LayerDissection
        The layer as the run was scored: its best concepts and detectors.
    category : int32 (C,)
        Primary category of each concept.
    """
    found = score_counters(tally.perturbed, category, tau, union)
    matched = score_counters(tally.matched, category, tau, union)
    best, was_detector = clean.best_concept, clean.is_detector
    unit, at = np.arange(len(best)), np.maximum(best, 0)

    def with_best(table: NDArray[Any]) -> NDArray[Any]:
        """(K,) a table's (K, C) entries at c*, 0 where there is none."""
        return np.where(best >= 0, table[unit, at], 0) if table.shape[1] else np.zeros(len(best), table.dtype)

    counters = tally.perturbed
    iou, iou_clean = with_best(found.iou), with_best(matched.iou)
    areas = areas_of(counters.unit_area, counters.unit_area_all, category, union)
    concept_area = np.broadcast_to(counters.concept_area, found.iou.shape)
    is_surviving = was_detector & with_best(found.exceeds).astype(bool)
    retention = divide(iou, iou_clean)
    consistency = divide(tally.shared, tally.clean_area + tally.perturbed_area - tally.shared)
    firing_ratio = divide(tally.perturbed_area, tally.clean_area)
    correlation = correlations(tally.n_cells, tally.sums)
    by_category = found.unique_by_category()
    kept = retention[was_detector]
    numbers = {
        "survival": mean_of(is_surviving[was_detector]),
        "same_top": mean_of((found.best_concept == best)[was_detector]),
        "detectors": float(found.is_detector.sum()),
        "lost": float((was_detector & ~found.is_detector).sum()),
        "new": float((~was_detector & found.is_detector).sum()),
        "unique_top": float(found.unique_top()),
        "unique_by_category": float(by_category.sum()),
        "unique_any": float(found.unique_any()),
        "retention": quantile_of(kept, 0.5),
        "retention_q1": quantile_of(kept, 0.25),
        "retention_q3": quantile_of(kept, 0.75),
        "spearman": spearman(matched.best_iou, found.best_iou),
        "consistency": quantile_of(consistency, 0.5),
        "firing_ratio": quantile_of(firing_ratio, 0.5),
        "correlation": quantile_of(correlation, 0.5),
    }
    return Outcome(
        intersection=with_best(counters.intersection),
        concept_area=with_best(concept_area),
        unit_area=with_best(areas),
        iou=iou,
        iou_clean=iou_clean,
        retention=retention,
        best_concept=found.best_concept,
        best_iou=found.best_iou,
        best_iou_clean=matched.best_iou,
        is_detector=found.is_detector,
        is_surviving=is_surviving,
        consistency=consistency,
        firing_ratio=firing_ratio,
        correlation=correlation,
        unique_by_category=by_category,
        numbers=numbers,
    )


def mean_of(values: NDArray[Any]) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def quantile_of(values: NDArray[np.float64], q: float) -> float:
    """A quantile of the numbers among the values; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, q)) if len(known) else float("nan")
