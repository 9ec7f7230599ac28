"""What follows from counters by blocks of images: IoU under weights, bootstrap intervals (methods 3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .iou import areas_of, ratios


@dataclass(frozen=True, repr=False, eq=False)
class BlockCounters:
    """The counters of each block of images of a layer: B blocks, K units, C concepts, G categories.

    With weights w_b for the blocks, I = sum w_b I_b and so on, whence IoU.
    """

    arrays: Arrays
    """As `BlockTally.to_arrays` gives them and dissection.h5 holds them."""
    category: NDArray[np.int32]
    """(C,) primary category of each concept."""
    union_rule: str

    def __repr__(self) -> str:
        return f"<BlockCounters of {len(self.images)} blocks, {self.n_units} units: {len(self.arrays['unit'])} entries>"

    @property
    def n_units(self) -> int:
        return int(self.arrays["shape"][2])

    @property
    def images(self) -> NDArray[np.int64]:
        """(B,) images in each block."""
        return self.arrays["images"]

    @property
    def concept_area(self) -> NDArray[np.int64]:
        """(B, C) sum over the block's images of |L_c|."""
        return self.arrays["concept_area"]

    @property
    def category_images(self) -> NDArray[np.int64]:
        """(B, G) the block's images with a label of the category."""
        return self.arrays["category_images"]

    def _lines(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row, unit and count of a block's entries."""
        first, last = np.searchsorted(self.arrays["block"], [block, block + 1]).tolist()
        pointer = self.arrays["pointer"][first : last + 1]
        part = slice(int(pointer[0]), int(pointer[-1]))
        rows = np.repeat(self.arrays["row"][first:last].astype(np.int64), np.diff(pointer))
        return rows, self.arrays["unit"][part].astype(np.int64), self.arrays["count"][part].astype(np.int64)

    def counts(self, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(K, C) intersection and union under weights of the blocks; see `iou`."""
        weights = self._checked(weights)
        n_concepts, n_units = len(self.category), self.n_units
        n_rows = n_concepts + self.category_images.shape[1] + 1
        rows = np.zeros((n_rows, n_units), weights.dtype)
        for block in np.flatnonzero(weights).tolist():
            row, unit, count = self._lines(block)
            rows.reshape(-1)[row * n_units + unit] += weights[block] * count  # no entry stands twice in a block
        intersection = rows[:n_concepts].T
        area = areas_of(rows[n_concepts:-1].T, rows[-1], self.category, self.union_rule)
        return intersection, area + (weights @ self.concept_area)[None] - intersection

    def iou(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """IoU of every unit with every concept, images counted by the weights of their blocks.

        Parameters
        ----------
        weights : integers or floats (B,)
            At least 0. Ones give the IoU of the result, bit for bit.

        Returns
        -------
        float64 (K, C)
            0 where the union is empty.

        Raises
        ------
        ValueError
            Weights of another number, or negative ones.
        """
        return ratios(*self.counts(weights))

    def _checked(self, weights: NDArray[Any]) -> NDArray[Any]:
        weights = np.asarray(weights)
        is_whole = weights.dtype.kind in "iub"
        weights = weights.astype(np.int64 if is_whole else np.float64)
        if weights.shape != self.images.shape or not np.all(np.isfinite(weights)) or np.any(weights < 0):
            raise ValueError(f"weights are {len(self.images)} numbers of at least 0")
        return weights

    def bootstrap(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Weights of n replicates: as many blocks as have images, drawn from them with replacement.

        Parameters
        ----------
        n : int
        seed : int
            From 0 to 2**64 - 1.

        Returns
        -------
        int64 (n, B)
            How often each block was drawn. Replicate i depends on the seed and i alone, not on n.
        """
        filled = np.flatnonzero(self.images)
        weights = np.zeros((n, len(self.images)), np.int64)
        for i in range(n if len(filled) else 0):
            raw = np.random.Philox(key=seed, counter=[0, 0, 0, i]).random_raw(len(filled))
            drawn = (np.asarray(raw, np.uint64) >> np.uint64(32)) * np.uint64(len(filled)) >> np.uint64(32)
            weights[i] = np.bincount(filled[drawn.astype(np.int64)], minlength=len(self.images))
        return weights

    def intervals(
        self, concept: NDArray[np.int32], n: int = 1000, seed: int = 0, level: float = 0.95
    ) -> NDArray[np.float64]:
        """Bootstrap percentile intervals of the IoU of each unit with one concept, thresholds held fixed.

        Parameters
        ----------
        concept : int32 (K,)
            Column of each unit's concept, such as `best_concept`; -1: none.
        n, seed
            As for `bootstrap`.
        level : float
            Share of the replicates within, 0 < level < 1.

        Returns
        -------
        float64 (K, 2)
            Lower and upper end; 0 for units without a concept.

        Raises
        ------
        ValueError
            `concept` or `level` is out of range.
        """
        concept = np.asarray(concept)
        n_concepts, n_units = len(self.category), self.n_units
        if concept.shape != (n_units,) or np.any(concept < -1) or np.any(concept >= n_concepts):
            raise ValueError(f"concept is a column from 0 to {n_concepts - 1}, or -1, for each of {n_units} units")
        if not 0 < level < 1 or n < 1:
            raise ValueError("level lies between 0 and 1, and n is at least 1")
        known = np.flatnonzero(concept >= 0)
        found = np.zeros((n_units, 2))
        if not len(known):
            return found
        is_known = np.isin(np.arange(n_units), known)
        area_row = np.full(n_units, len(self.category) + self.category_images.shape[1])
        if self.union_rule != "all-images":
            area_row[known] = n_concepts + self.category[concept[known]]
        shared, area = (np.zeros((len(self.images), n_units)) for _ in range(2))  # whole numbers below 2**53
        for block in range(len(self.images)):
            row, unit, count = self._lines(block)
            for into, wanted in ((shared, concept), (area, area_row)):
                chosen = (row == wanted[unit]) & is_known[unit]
                into[block, unit[chosen]] = count[chosen]
        weights = self.bootstrap(n, seed).astype(np.float64)
        truth = self.concept_area[:, concept[known]].astype(np.float64)
        intersection = weights @ shared[:, known]
        replicates = ratios(intersection, weights @ (area[:, known] + truth) - intersection)
        found[known] = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0).T
        return found
