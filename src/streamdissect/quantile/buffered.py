"""The upper tail of float32 streams as a buffer of the largest values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .keys import FLOAT32, NO_KEY
from .streams import UnitStreams, ragged, whole

SLACK = 64
"""Values the kernel appends at a time."""


class BufferedTail(UnitStreams):
    """The `capacity` largest values of each unit, exactly (see csrc/tail.h).

    Memory is 4 (2 capacity + 64) bytes a unit: what is appended is cut back when the buffer is full.
    """

    kind = "buffered"

    def __init__(self, n_units: int, capacity: int, dtype: Any = FLOAT32, backend: str = "auto") -> None:
        super().__init__(n_units, capacity, dtype, backend)
        if self.dtype != FLOAT32:
            raise ValueError("a buffer holds float32 values; for float16 bins take less")
        self._keys = np.zeros((n_units, room(capacity)), np.int32)
        self._filled = np.zeros(n_units, np.int64)
        self._bound = np.full(n_units, NO_KEY, np.int32)

    @staticmethod
    def state_bytes(n_units: int, capacity: int) -> int:
        """Memory of the buffers."""
        return 4 * n_units * room(capacity)

    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        self.kernels.update_buffer(
            bits, self.capacity, self.counts, self.extremes, self._keys, self._filled, self._bound, highest
        )

    def largest(self, unit: int) -> NDArray[np.int32]:
        """Keys of the `capacity` largest values, or of all there are, descending."""
        return np.sort(self._keys[unit, : self._filled[unit]])[::-1][: self.capacity]

    @property
    def nbytes(self) -> int:
        """Memory of the state, of all units."""
        return sum(a.nbytes for a in (self._keys, self._filled, self._bound, self.counts, self.extremes))

    def _tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found, n_above = np.zeros(m.shape, np.int64), np.zeros(m.shape, np.int64)
        for unit in np.flatnonzero(self.n > 0).tolist():
            keys = self.largest(unit)
            found[..., unit] = keys[m[..., unit]]
            n_above[..., unit] = np.searchsorted(-keys, -found[..., unit])
        return found, n_above

    def tail_floor(self, m: int) -> NDArray[np.int32]:
        """The bound below which nothing is kept: of the value whose rank is the capacity, or less."""
        if m >= self.capacity:
            raise ValueError(f"rank {m}, only the {self.capacity} largest values are kept")
        return self._bound.copy()

    def bracket(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The key itself."""
        keys, _ = self.tail_keys(m)
        return keys, keys, np.zeros_like(keys)

    def _above(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        above = np.zeros(self.n_units, np.int64)
        for unit, key in enumerate(keys.tolist()):
            kept = self.largest(unit)
            above[unit] = np.count_nonzero(kept > key)
            if above[unit] == self.capacity < self.n[unit]:
                raise ValueError(f"a rank beyond the {self.capacity} values that were kept")
        return above

    def _merge(self, other: Self) -> None:
        for unit in range(self.n_units):
            self._hold(unit, np.concatenate([self.largest(unit), other.largest(unit)]))

    def _hold(self, unit: int, keys: NDArray[np.int32]) -> None:
        """Keep the largest of these."""
        keys = np.sort(keys)[::-1][: self.capacity]
        self._keys[unit, : len(keys)] = keys
        self._filled[unit] = len(keys)
        self._bound[unit] = keys[-1] if len(keys) == self.capacity else NO_KEY

    def _kept(self) -> Arrays:
        rows = [self.largest(unit) for unit in range(self.n_units)]
        pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return {"pointer": pointer, "keys": np.concatenate(rows)}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pointer = ragged(arrays, self.n_units, "keys")
        if np.any(np.diff(pointer) != np.minimum(self.n, self.capacity)):
            raise ValueError("the saved streams do not hold their largest values, as many as their capacity")
        keys = whole(arrays, "keys", (-1,), NO_KEY, -NO_KEY - 1)
        for unit in range(self.n_units):
            row = keys[pointer[unit] : pointer[unit + 1]]
            lowest, highest = self.extremes[:, unit]
            if np.any(np.diff(row) > 0) or (len(row) and (row[0] != highest or row[-1] < lowest)):
                raise ValueError("saved keys are out of order")
            self._hold(unit, row.astype(np.int32))


def room(capacity: int) -> int:
    """Values a unit's buffer has place for."""
    return 2 * capacity + SLACK
