"""Maps that may yet exceed their thresholds, kept while the thresholds are found: no product is made twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quantile import Streams


class Candidates:
    """The maps of a set of directions that reach a bound, which rises with what has been seen.

    A threshold is the `capacity`-th largest value of all: never less than that of the values so far. A map that stays
    below this has an empty mask.

    Parameters
    ----------
    n_directions : int
    grid : (h, w)
    capacity : int
    """

    def __init__(self, n_directions: int, grid: tuple[int, int], capacity: int) -> None:
        self._shape = n_directions, *grid
        self._capacity = capacity
        self._bound = np.full(n_directions, -(2**31), np.int64)
        self._n_added = 0
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        """(row, direction, map), by rows."""
        self._scratch = np.empty((0, *self._shape), np.float32)
        self._filled: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    @property
    def n_maps(self) -> int:
        """That are kept."""
        return sum(len(row) for row, _, _ in self._blocks)

    def add(self, rows: range, highest: NDArray[np.int32], maps: NDArray[Any], streams: Streams) -> None:
        """Take in maps (B, D, h, w) with the keys (B, D) of their largest values, which `streams` have seen."""
        self._n_added += 1
        is_due = self._n_added & (self._n_added - 1) == 0  # less and less often: the bound rises ever more slowly
        if is_due and len(streams.n) and streams.n.min() >= self._capacity:
            self._bound, _ = streams.tail_keys(np.full(self._shape[0], self._capacity - 1, np.int64))
        image, direction = np.nonzero(highest >= self._bound)
        if len(image):
            self._blocks.append((image + rows.start, direction, maps[image, direction]))

    def maps_of(self, rows: range) -> NDArray[np.float32]:
        """Maps (B, D, h, w) of some rows, those below the bound -inf; in memory that the next call takes again."""
        if len(self._scratch) < len(rows):
            self._scratch, self._filled = np.full((len(rows), *self._shape), -np.inf, np.float32), []
        for place in self._filled:
            self._scratch[place] = -np.inf
        self._filled = []
        for row, direction, maps in self._blocks:
            if row[0] < rows.stop and row[-1] >= rows.start:
                chosen = slice(*np.searchsorted(row, (rows.start, rows.stop)).tolist())
                place = row[chosen] - rows.start, direction[chosen]
                self._scratch[place] = maps[chosen]
                self._filled.append(place)
        return self._scratch[: len(rows)]
