"""A second pass over float32 values: from the bin that holds the threshold to the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import kernel_backend
from .binned import BinnedTail
from .keys import FLOAT32, bits_of, keys_to_values

SLOT_BYTES = 4 * 65536
"""Memory of one unit under refinement."""


class Refinement:
    """Lower halves of the keys in the threshold's bin, for units `first_unit`..`first_unit + n_units - 1`.

    Parameters
    ----------
    tail : BinnedTail
        Of float32 values, complete.
    m : int64 (K,)
        Ranks, as for `tail_keys`.
    """

    def __init__(self, tail: BinnedTail, m: NDArray[np.int64], first_unit: int, n_units: int) -> None:
        if tail.dtype != FLOAT32:
            raise ValueError("float16 bins are exact already")
        units = slice(first_unit, first_unit + n_units)
        bins, n_above = tail.tail_keys(m)
        self.first_unit, self.n_units = first_unit, n_units
        self._kernels = kernel_backend()
        self._wanted = bins[units].astype(np.int32)
        self._m, self._n_above, self._n = m[units], n_above[units], tail.n[units]
        self._low = np.zeros((n_units, 65536), np.uint32)

    def update(self, block: NDArray[np.float32]) -> None:
        """Take in the values (B, K, ...) that the tail has seen, all units of them."""
        if block.size:
            self._kernels.refine(bits_of(block), self.first_unit, self._wanted, self._low)

    def thresholds(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """T of each unit, and how many values lie above it."""
        keys = np.zeros(self.n_units, np.int64)
        n_above = np.zeros(self.n_units, np.int64)
        for slot in np.flatnonzero(self._n > 0).tolist():  # a unit of NaN alone has no threshold
            counts = self._low[slot, ::-1].astype(np.int64)  # from the largest down
            reached = np.cumsum(counts)
            at = int(np.searchsorted(reached, self._m[slot] - self._n_above[slot], "right"))
            if at == 65536:
                raise ValueError("the second pass did not see the values of the first")
            keys[slot] = self._wanted[slot] * 65536 + (65535 - at)
            n_above[slot] = self._n_above[slot] + (reached[at - 1] if at else 0)
        return keys_to_values(keys, FLOAT32), n_above


def needs_refinement(streams: Any) -> bool:
    """Whether a stream's state gives the bin of a threshold only."""
    return isinstance(streams, BinnedTail) and streams.dtype == FLOAT32
