"""How many images are shown, and how large, so that a report stays below 60 MB where it can.

Measured on street scenes, masks of 180 x 240: a unit's page without its pictures takes 7 kB, its card 5 kB, a concept's
page 10 kB, a picture's outlines on a page 1.1 kB, a WebP pixel 0.13 bytes. A thousand concepts add 2.5 kB to a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 58_000_000
UNIT_BYTES, CONCEPT_BYTES, FIGURE_BYTES, PIXEL_BYTES = 14_500, 10_000, 1300, 0.16
LEAST_BYTES = 8_000_000
"""For pictures, whatever the rest takes."""
SIDES = (320, 256, 192, 144, 112)
"""Pixels to the longer side of a picture; the largest that fits is taken."""
LEAST_IMAGES = 3
"""Of a unit."""


@dataclass(frozen=True)
class Plan:
    """What is shown."""

    n_images: int
    """Top images of a unit."""
    rows: list[int]
    """Distinct rows among them, ascending."""
    side: int
    """Pixels to the longer side of a picture."""


def plan_pictures(tops: Sequence[NDArray[np.int64]], most: int, n_concepts: int) -> Plan:
    """As many images of each unit as fit when pictures are smallest, then the largest pictures that fit.

    Parameters
    ----------
    tops : sequence of int64 (K, T)
        Rows of the top images of each layer, -1 for none.
    most : int
        Images of a unit.
    n_concepts : int
    """
    n_units = sum(len(each) for each in tops)
    room = max(MOST_BYTES - UNIT_BYTES * n_units - CONCEPT_BYTES * n_concepts, LEAST_BYTES)

    def needed(n: int, side: int) -> float:
        n_figures = sum(int(np.count_nonzero(each[:, :n] >= 0)) for each in tops)
        return n_figures * FIGURE_BYTES + len(rows_of(tops, n)) * 0.75 * side**2 * PIXEL_BYTES

    least = min(LEAST_IMAGES, most)
    n_images = next((n for n in range(most, least, -1) if needed(n, SIDES[-1]) <= room), least)
    side = next((side for side in SIDES if needed(n_images, side) <= room), SIDES[-1])
    return Plan(n_images, rows_of(tops, n_images), side)


def rows_of(tops: Sequence[NDArray[np.int64]], n: int) -> list[int]:
    """Distinct rows among the first n top images of all units."""
    rows = np.unique(np.concatenate([each[:, :n].ravel() for each in tops]))
    return [row for row in rows.tolist() if row >= 0]
