"""What carries a concept: one unit, a few units together, or a direction of them all? Judged by IoU (methods 6)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..kernels.reference import unpack
from .iou import ratios
from .planes import ImagePlanes

POOL = 8
"""Units among which those are sought that together carry a concept best: a byte has a bit for each."""
MOST_UNITED = 4
FIT, HELD = 0, 1
"""Halves of the images: one that is fitted to, one that judges."""


def candidates(iou: NDArray[np.float64], loading: NDArray[np.float64]) -> NDArray[np.int64]:
    """Units that may carry a concept together: half of the pool by IoU, the rest by loading.

    Parameters
    ----------
    iou, loading : float64 (K,)
        IoU of each unit with the concept on the half that fits; loading of each in the concept's direction.

    Returns
    -------
    int64 (POOL,)
        Fewer where there are fewer units.
    """
    by_iou = np.argsort(-iou, kind="stable")[: POOL // 2]
    rest = [k for k in np.argsort(-loading, kind="stable").tolist() if k not in by_iou]
    return np.concatenate([by_iou, np.array(rest[: POOL - len(by_iou)], np.int64)])


class UnionCounts:
    """Of each image half: how many pixels of a concept, and of all that are judged, each set of masks covers.

    Every pixel has a byte that says which of the pool's masks are on there; pixels are counted by byte, so that the
    counts of any union of masks follow.
    """

    def __init__(self) -> None:
        self.inside = np.zeros((2, 256), np.int64)
        self.judged = np.zeros((2, 256), np.int64)

    def add(self, masks: NDArray[np.uint64], image: ImagePlanes, concept: int, domain: int | None, half: int) -> None:
        """Take in the masks (POOL, H * words) of an image.

        Parameters
        ----------
        domain : int, optional
            The counters' row of the pixels that are judged, if the image has it; without one all pixels are.
        """
        on = [unpack(mask, image.shape) for mask in masks]
        code = np.zeros(image.shape, np.uint8)
        for bit, pixels in enumerate(on):
            code |= pixels.astype(np.uint8) << np.uint8(bit)
        for row, into in ((concept, self.inside), (domain, self.judged)):
            if row is None or row in image.whole_row:
                into[half] += np.bincount(code.ravel(), minlength=256)
            for i in np.flatnonzero(image.plane_row == row).tolist() if row is not None else ():
                plane = unpack(np.ascontiguousarray(image.words[:, i]), image.shape)
                into[half] += np.bincount(code[plane], minlength=256)

    def iou(self, chosen: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(2, n) IoU on each half of unions of masks, given as bits (n,)."""
        covered = (np.arange(256)[:, None] & chosen[None, :].astype(np.int64)) != 0
        intersection, area = self.inside @ covered, self.judged @ covered
        return ratios(intersection, area + self.inside.sum(axis=1, keepdims=True) - intersection)


@dataclass(frozen=True)
class Union:
    """The units whose masks together carry a concept best on the half that fits."""

    units: tuple[int, ...]
    fit_iou: float
    held_iou: float


def best_union(counts: UnionCounts, pool: NDArray[np.int64]) -> Union:
    """Of all unions of up to MOST_UNITED units of the pool, the best on the half that fits; smallest among equals."""
    sets = [s for q in range(1, MOST_UNITED + 1) for s in combinations(range(len(pool)), q)]
    bits = np.array([sum(1 << place for place in s) for s in sets], np.uint8)
    iou = counts.iou(bits)
    best = int(np.argmax(iou[FIT]))
    units = tuple(sorted(int(pool[place]) for place in sets[best]))
    return Union(units, float(iou[FIT, best]), float(iou[HELD, best]))
