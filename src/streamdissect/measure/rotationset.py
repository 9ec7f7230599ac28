"""Which rotations an experiment looks at, what they give, and what follows (methods 5.4, 5.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .betas import student_quantile
from .directions import Directions
from .rotations import (
    RotationPowers,
    givens,
    haar_rotation,
    near_identity,
    permutation,
    principal_axes,
    scaling,
    signed_permutation,
)

HAAR = "haar"
GIVENS_DEGREES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
NEAR_SIGMAS = (0.1, 0.3, 1.0)
COUNTS = ("detectors", "unique_top", "unique_by_category", "unique_any")
"""Columns of the counts, as `score` prints them."""
CONFIDENCE = 0.975
"""Of one side of an interval of 95 %."""


@dataclass(frozen=True)
class Rotation:
    """One matrix of an experiment, named by what it is reproduced from beside the number of units."""

    kind: str
    """`haar`, or a control."""
    value: float
    """alpha of `haar`; degrees of `givens`; sigma of `near-identity`; 1 otherwise."""
    seed: int

    @property
    def text(self) -> str:
        """In tables."""
        return f"{self.kind} {self.value:g} seed {self.seed}"

    @property
    def needs_moments(self) -> bool:
        """Whether the matrix depends on how the units vary over the dataset."""
        return self.kind in ("pca", "standardised")

    def directions(self, n_units: int, moments: UnitMoments | None, powers: PowersOf) -> Directions:
        """What the units are replaced by.

        Parameters
        ----------
        moments : UnitMoments
            Of the layer; None serves those that do not need them.
        powers : PowersOf
            Keeps the last uniform rotation taken apart.
        """
        make = {"permutation": permutation, "signed-permutation": signed_permutation, "scaling": scaling}
        if self.kind in make:
            return Directions(make[self.kind](n_units, self.seed).astype(np.float32))
        if self.kind == "givens":
            return Directions(givens(n_units, self.seed, self.value).astype(np.float32))
        if self.kind == "near-identity":
            return Directions(near_identity(n_units, self.seed, self.value).astype(np.float32))
        if self.needs_moments and moments is None:
            raise ValueError(f"{self.kind} needs the units' moments")
        if self.kind == "pca" and moments is not None:
            return Directions(principal_axes(moments.covariance).astype(np.float32))
        matrix = powers.power(n_units, self.seed, self.value)
        if self.kind == "standardised" and moments is not None:
            scaled = matrix * moments.inverse_std
            return Directions(scaled.astype(np.float32), (-scaled @ moments.mean).astype(np.float32))
        return Directions(matrix.astype(np.float32), relu=self.kind == "relu-after")


@dataclass(frozen=True)
class UnitMoments:
    """How the units of a layer vary over all positions of all images."""

    mean: NDArray[np.float64]
    """(K,)"""
    std: NDArray[np.float64]
    """(K,)"""
    covariance: NDArray[np.float64]
    """(K, K)"""

    @property
    def inverse_std(self) -> NDArray[np.float64]:
        """(K,) 1 / sigma; 0 for a unit that is constant."""
        return np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std > 0)


class PowersOf:
    """Powers of uniform rotations, the last one taken apart being kept."""

    def __init__(self) -> None:
        self._key = (0, -1)
        self._matrix = np.zeros((0, 0))
        self._powers: RotationPowers | None = None

    def power(self, n_units: int, seed: int, alpha: float) -> NDArray[np.float64]:
        """The rotation of a seed to a power, float64 (K, K)."""
        if alpha == 0:
            return np.eye(n_units)
        if self._key != (n_units, seed):
            self._key, self._matrix, self._powers = (n_units, seed), haar_rotation(n_units, seed), None
        if alpha == 1:
            return self._matrix
        if self._powers is None:
            self._powers = RotationPowers.of(self._matrix)
        return self._powers.power(alpha)


def plan_rotations(
    alphas: Sequence[float], seeds: int, seeds_between: int, controls: Sequence[str]
) -> tuple[Rotation, ...]:
    """The rotations of an experiment: none at all first, then by seed, then the controls."""
    found = [Rotation(HAAR, 0.0, 0)]
    for seed in range(max(seeds, seeds_between)):
        for alpha in alphas:
            if alpha > 0 and seed < (seeds if alpha == 1 else seeds_between):
                found.append(Rotation(HAAR, alpha, seed))
    for kind in controls:
        if kind == "pca":
            found.append(Rotation(kind, 1.0, 0))
        elif kind == "givens":
            found += [Rotation(kind, degrees, 0) for degrees in GIVENS_DEGREES]
        else:
            values = NEAR_SIGMAS if kind == "near-identity" else (1.0,)
            found += [Rotation(kind, value, seed) for value in values for seed in range(seeds_between)]
    return tuple(found)


@dataclass(frozen=True)
class RotationSummary:
    """All rotations of one kind and value."""

    layer: str
    kind: str
    value: float
    count: str
    """Which: see COUNTS; or `mean_best_iou`."""
    n: int
    baseline: float
    """Without rotation."""
    mean: float
    std: float
    """Of the sample (n - 1); NaN for a single one."""
    low: float
    high: float
    """The interval of 95 % of the mean, by Student's t."""
    drop: float
    """1 - mean / baseline."""
    p: float
    """(1 + rotations that give no fewer than none) / (n + 1)."""


@dataclass(frozen=True, repr=False)
class LayerRotations:
    """One layer under R rotations: K units, C concepts, G categories."""

    rotations: tuple[Rotation, ...]
    threshold: NDArray[np.float32]
    """(R, K)"""
    intersection: NDArray[np.int64]
    """(R, K, C)"""
    unit_area: NDArray[np.int64]
    """(R, K, G)"""
    unit_area_all: NDArray[np.int64]
    """(R, K)"""
    best_concept: NDArray[np.int32]
    """(R, K) column, or -1."""
    best_iou: NDArray[np.float64]
    """(R, K)"""
    is_detector: NDArray[np.bool_]
    """(R, K)"""
    counts: NDArray[np.int64]
    """(R, 4): see COUNTS."""
    by_category: NDArray[np.int64]
    """(R, G) unique detectors within each category."""
    mean_best_iou: NDArray[np.float64]
    """(R,)"""
    attributes: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<LayerRotations: {len(self.rotations)} rotations of {self.threshold.shape[1]} units>"

    def of(self, kind: str, value: float) -> NDArray[np.int64]:
        """Positions of the rotations of a kind and value."""
        chosen = [i for i, each in enumerate(self.rotations) if (each.kind, each.value) == (kind, value)]
        return np.array(chosen, np.int64)


ARRAYS = (
    "threshold",
    "intersection",
    "unit_area",
    "unit_area_all",
    "best_concept",
    "best_iou",
    "is_detector",
    "counts",
    "by_category",
    "mean_best_iou",
)
"""Arrays of `LayerRotations`."""


@dataclass(frozen=True, repr=False)
class Rotations:
    """The result of `rotate`."""

    layers: dict[str, LayerRotations]
    concept_name: tuple[str, ...]
    category_name: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    """What it was made from."""

    def __repr__(self) -> str:
        return f"<Rotations of {', '.join(self.layers)}>"

    def summary(self) -> list[RotationSummary]:
        """Every count of every kind and value of each layer."""
        return [row for name, layer in self.layers.items() for row in summarise_layer(name, layer)]


def summarise_layer(name: str, layer: LayerRotations) -> Iterator[RotationSummary]:
    """A row for each count, kind and value, in the order of the rotations."""
    kinds = dict.fromkeys((each.kind, each.value) for each in layer.rotations)
    measured = [(count, layer.counts[:, j].astype(np.float64)) for j, count in enumerate(COUNTS)]
    for count, values in (*measured, ("mean_best_iou", layer.mean_best_iou)):
        for kind, value in sorted(kinds, key=lambda pair: (pair[0] != HAAR, pair[0], pair[1])):
            yield summarise(name, kind, value, count, values[layer.of(kind, value)], float(values[0]))


def summarise(
    layer: str, kind: str, value: float, count: str, found: NDArray[np.float64], baseline: float
) -> RotationSummary:
    """The statistics of methods 5.6."""
    n, mean = len(found), float(found.mean())
    std = float(found.std(ddof=1)) if n > 1 else math.nan
    reach = student_quantile(CONFIDENCE, n - 1) * std / math.sqrt(n) if n > 1 else math.nan
    drop = 1 - mean / baseline if baseline else math.nan
    p = (1 + int((found >= baseline).sum())) / (n + 1)
    return RotationSummary(layer, kind, value, count, n, baseline, mean, std, mean - reach, mean + reach, drop, p)
