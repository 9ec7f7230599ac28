"""A second pass over the values: from the bracket of a threshold to the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import kernel_backend
from .keys import FLOAT16, bits_of, keys_to_values
from .streams import Streams, check_block, share_of

POOL = 1 << 16
"""Values that are gathered before they are sorted; at least those of one map of each image of a block."""
KEY_BITS = 32


BYTES_EACH = 64
"""Of a value: its code and its count, twice while they are sorted in, and room for as many more."""


class MissedBracket(ValueError):
    """A threshold lies outside the bracket that a sketch gave: its error exceeded many standard errors."""


class Refinement:
    """Exact thresholds of some units, from streams that know about where they are, and one more pass.

    Parameters
    ----------
    streams : Streams
        That have seen every value.
    tails : sequence of Fraction or float
        p, 0 to 1, each.
    units : range
        Of the units to refine.

    Notes
    -----
    Counted are the values above each bracket and at its two ends; those between are gathered by key, equal ones
    together. What comes out is exact, whatever the streams' error, or it is refused.
    """

    def __init__(self, streams: Streams, tails: Sequence[Fraction | float], units: range) -> None:
        if units.step != 1 or not 0 <= units.start < units.stop <= streams.n_units:
            raise ValueError(f"units {units}: a range within the {streams.n_units}, of at least one")
        m = ranks_at(streams, tails)
        low, high, _ = streams.bracket(m)
        chosen = slice(units.start, units.stop)
        self._shape = len(tails), len(units)
        self._m, self._n = m[:, chosen], streams.n[chosen]
        # A unit's slots follow one another: its values are read once.
        self._unit = np.repeat(np.array(units, np.int32), len(tails))
        self._low, self._high = (np.ascontiguousarray(a[:, chosen].T, np.int32).ravel() for a in (low, high))
        self._counts = np.zeros((3, len(self._unit)), np.int64)
        self._dtype, self._kernels = streams.dtype, kernel_backend()
        self._pool, self._filled = np.zeros(POOL, np.int64), 0
        self._codes, self._many = np.zeros(0, np.int64), np.zeros(0, np.int64)
        """slot << 32 | key + 2**31 of the values between, ascending, and how often each came."""
        self._n_seen, self._n_expected, self._n_units = 0, streams.n_seen, streams.n_units

    @staticmethod
    def state_bytes(streams: Streams, tails: Sequence[Fraction | float]) -> NDArray[np.int64]:
        """(K,) about the memory that each unit's values between its brackets take, equal values but once."""
        low, high, inside = streams.bracket(ranks_at(streams, tails))
        distinct = np.minimum(inside, np.maximum(high - low - 1, 0))
        needed: NDArray[np.int64] = BYTES_EACH * distinct.sum(axis=0)
        return needed

    def update(self, block: NDArray[Any]) -> None:
        """Take in the values (B, K, ...) that the streams have seen, all units of them."""
        check_block(block, self._dtype, self._n_units)
        if not block.size:
            return
        bits = bits_of(block)
        self._n_seen += bits.shape[0] * bits.shape[2]
        if len(self._pool) - self._filled < bits.shape[0] * bits.shape[2]:
            self._empty_pool(bits.shape[0] * bits.shape[2])
        half, single = (bits, None) if self._dtype == FLOAT16 else (None, bits)
        slot = 0
        while slot < len(self._unit):
            slot, self._filled = self._kernels.collect(
                half, single, slot, self._unit, self._low, self._high, self._counts, self._pool, self._filled
            )
            if slot < len(self._unit):
                self._empty_pool(bits.shape[0] * bits.shape[2])

    def _empty_pool(self, least: int = 0) -> None:
        """Sort what was gathered in with the rest, equal values together, and have room for at least so many more.

        The room grows with what is held: all of it is sorted a few times only, however much is gathered.
        """
        codes, many = np.unique(self._pool[: self._filled], return_counts=True)
        self._filled = 0
        codes, where = np.unique(np.concatenate([self._codes, codes]), return_inverse=True)
        total = np.zeros(len(codes), np.int64)
        np.add.at(total, where, np.concatenate([self._many, many]))
        self._codes, self._many = codes, total
        if len(self._pool) < max(least, len(codes)):
            self._pool = np.zeros(max(least, len(codes)), np.int64)

    def thresholds(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """T and the values above it.

        Returns
        -------
        float32 (P, U), int64 (P, U)
            For each tail and each of the units; 0 where a unit has no number.

        Raises
        ------
        MissedBracket
            The streams were further off than a sketch ever should be.
        ValueError
            The second pass did not see the values of the first.
        """
        if self._n_seen != self._n_expected:
            raise ValueError("the second pass did not see the values of the first")
        self._empty_pool()
        n_tails, n_units = self._shape
        keys, n_above = np.zeros((n_units, n_tails), np.int64), np.zeros((n_units, n_tails), np.int64)
        pointer = np.searchsorted(self._codes, np.arange(n_units * n_tails + 1) << KEY_BITS)
        for slot, (begin, end) in enumerate(zip(pointer[:-1].tolist(), pointer[1:].tolist(), strict=True)):
            unit, tail = divmod(slot, n_tails)
            if self._n[unit] == 0:
                continue
            between = (self._codes[begin:end] & ((1 << KEY_BITS) - 1)) - 2**31
            falling = np.concatenate([[self._high[slot]], between[::-1], [self._low[slot]]])
            many = [self._counts[0, slot : slot + 1], self._counts[1, slot : slot + 1], self._many[begin:end][::-1],
                    self._counts[2, slot : slot + 1]]  # fmt: skip
            reached = np.cumsum(np.concatenate(many))
            at = int(np.searchsorted(reached, self._m[tail, unit], "right"))  # 0: above the bracket
            if not 0 < at < len(reached):
                raise MissedBracket("a threshold lies outside its bracket")
            keys[unit, tail], n_above[unit, tail] = falling[at - 1], reached[at - 1]
        return keys_to_values(keys.T, self._dtype), n_above.T.copy()


def ranks_at(streams: Streams, tails: Sequence[Fraction | float]) -> NDArray[np.int64]:
    """(P, K) ranks of each tail's thresholds. ValueError for no tails, or what are none."""
    if not tails:
        raise ValueError("no tails were given")
    m = np.stack([streams.ranks(share_of(tail)) for tail in tails])
    return np.clip(m, 0, np.maximum(streams.n - 1, 0))
