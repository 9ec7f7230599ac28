"""Maps that may yet exceed their thresholds, kept while the thresholds are found: no product is made twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quantile import Streams

BLOCK = 4
"""Parts of the room that come together before all that is kept is looked at again."""


class Candidates:
    """The maps of a set of directions that reach a bound, which rises with what has been seen.

    A threshold is the `capacity`-th largest value of all: never less than that of the values so far. A map that stays
    below this has an empty mask.

    Parameters
    ----------
    n_directions : int
    grid : (h, w)
    capacity : int
    room : int
        Bytes that may be kept; where they do not suffice, nothing is, and `is_whole` turns false.
    """

    def __init__(self, n_directions: int, grid: tuple[int, int], capacity: int, room: int) -> None:
        self.n_directions, self.grid = n_directions, grid
        self._capacity, self._room = capacity, room
        self._bound = np.full(n_directions, -(2**31), np.int64)
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        """(row, direction, key of the largest value, map), by rows."""
        self._bytes, self._n_added = 0, 0
        self.is_whole = True
        self._scratch = np.empty((0, n_directions, *grid), np.float32)
        self._filled: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, rows: range, highest: NDArray[np.int32], maps: NDArray[Any], streams: Streams) -> None:
        """Take in maps (B, D, h, w) with the keys (B, D) of their largest values, which `streams` have seen."""
        if not self.is_whole:
            return
        self._n_added += 1
        if self._n_added & (self._n_added - 1) == 0:  # rarely, and less and less so: the bound rises ever more slowly
            self._raise(streams)
        image, direction = np.nonzero(highest >= self._bound)
        found = maps[image, direction]
        key = highest[image, direction].astype(np.int64)
        self._blocks.append((image + rows.start, direction, key, found))
        self._bytes += found.nbytes
        if self._bytes > self._room:
            self._raise(streams)
            self._prune()
            if self._bytes > self._room - self._room // BLOCK:
                self.is_whole, self._blocks, self._bytes = False, [], 0

    def _raise(self, streams: Streams) -> None:
        """The bound, as far as it has come."""
        if not len(streams.n) or streams.n.min() < self._capacity:
            return
        self._bound, _ = streams.tail_keys(np.full(self.n_directions, self._capacity - 1, np.int64))

    def _prune(self) -> None:
        """Let go of what is below the bound by now."""
        kept = []
        for row, direction, key, maps in self._blocks:
            chosen = key >= self._bound[direction]
            kept.append((row[chosen], direction[chosen], key[chosen], maps[chosen]))
        self._blocks, self._bytes = kept, sum(block[3].nbytes for block in kept)

    def maps_of(self, rows: range) -> NDArray[np.float32]:
        """Maps (B, D, h, w) of some rows, those below the bound -inf; in memory that the next call takes again."""
        if len(self._scratch) < len(rows):
            self._scratch = np.full((len(rows), self.n_directions, *self.grid), -np.inf, np.float32)
            self._filled = []
        for place in self._filled:
            self._scratch[place] = -np.inf
        self._filled = []
        for row, direction, _, maps in self._blocks:
            if not len(row) or row[0] >= rows.stop or row[-1] < rows.start:
                continue
            chosen = slice(*np.searchsorted(row, (rows.start, rows.stop)).tolist())
            place = row[chosen] - rows.start, direction[chosen]
            self._scratch[place] = maps[chosen]
            self._filled.append(place)
        return self._scratch[: len(rows)]
