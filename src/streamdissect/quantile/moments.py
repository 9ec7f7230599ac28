"""Mean and standard deviation of many streams, the same for any order and division."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import isqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .keys import BITS
from .streams import check_block

VERSION = 1
LIMBS, LIMB_BITS = 24, 32
LOWEST = 384
"""A sum is an integer of `LIMBS` limbs times 2**-LOWEST: squares of float32 reach from 2**-298 to 2**256."""
CARRY_AFTER = 2**28
"""Additions to a limb, each below 2**33, before the limbs are brought below 2**32 again."""
VALUES_AT_ONCE = 2**20
"""Values that are squared together."""


class Moments:
    """Sums of the finite values of K streams and of their squares.

    A map's own sums are made in float64; from there on addition is exact, so that the state depends on no order and no
    division of the maps.

    Parameters
    ----------
    n_units : int
        K.
    """

    def __init__(self, n_units: int) -> None:
        self.n = np.zeros(n_units, np.int64)
        """(K,) finite values."""
        self._limbs = np.zeros((2, n_units, LIMBS), np.int64)
        self._n_added = 0

    def update(self, block: NDArray[Any]) -> None:
        """Take in values (B, K, ...), float16 or float32."""
        n_units = len(self.n)
        if getattr(block, "dtype", None) not in BITS:
            raise ValueError("moments are of blocks of float16 or float32")
        check_block(block, block.dtype, n_units)
        if not block.size:
            return
        maps = np.ascontiguousarray(block).reshape(*block.shape[:2], -1)  # a map's sum depends on its values' order
        at_once = max(1, VALUES_AT_ONCE // maps[0].size)
        for begin in range(0, len(maps), at_once):
            values = maps[begin : begin + at_once].reshape(-1, maps.shape[2]).astype(np.float64)
            is_finite = np.isfinite(values)
            if not is_finite.all():
                values[~is_finite] = 0
            self.n += is_finite.reshape(-1, n_units, maps.shape[2]).sum(axis=(0, 2))
            self._add(0, values.sum(axis=1).reshape(-1, n_units))
            self._add(1, np.square(values, out=values).sum(axis=1).reshape(-1, n_units))

    def _add(self, power: int, sums: NDArray[np.float64]) -> None:
        """Numbers (B, K) to the limbs: a mantissa of 53 bits, shifted, falls on three of them."""
        if self._n_added > CARRY_AFTER:
            self._limbs, self._n_added = carried(self._limbs), 0
        self._n_added += len(sums)
        mantissa, exponent = np.frexp(sums)
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        at, shift = np.divmod(exponent.astype(np.int64) - 53 + LOWEST, LIMB_BITS)
        at, shift = np.where(whole == 0, 0, at), np.where(whole == 0, 0, shift)
        lower = (whole & 0xFFFFFFFF).astype(np.uint64) << shift.astype(np.uint64)
        upper = (whole >> 32) << shift
        place = np.arange(sums.shape[1]) * LIMBS + at
        flat = self._limbs[power].ravel()
        np.add.at(flat, place, (lower & np.uint64(0xFFFFFFFF)).astype(np.int64))
        np.add.at(flat, place + 1, (lower >> np.uint64(32)).astype(np.int64) + (upper & 0xFFFFFFFF))
        np.add.at(flat, place + 2, upper >> 32)

    def read(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(K,) mean and standard deviation of the population of finite values; NaN where there is none."""
        found = np.full((2, len(self.n)), np.nan)
        limbs = carried(self._limbs)
        for unit, n in enumerate(self.n.tolist()):
            if n == 0:
                continue
            first, second = (sum(limb << (LIMB_BITS * i) for i, limb in enumerate(row[unit].tolist())) for row in limbs)
            spread = max(0, second * n * 2**LOWEST - first * first)  # n**2 times the variance, times 2**(2 LOWEST)
            found[0, unit] = Fraction(first, n * 2**LOWEST)
            found[1, unit] = Fraction(isqrt(spread << 128), n * 2 ** (LOWEST + 64))
        return found[0], found[1]

    def merge(self, other: Self) -> None:
        """Take in what `other` has seen; ValueError if it is of other units."""
        if len(self.n) != len(other.n):
            raise ValueError(f"moments of {len(other.n)} units cannot join those of {len(self.n)}")
        self.n += other.n
        self._limbs, self._n_added = carried(self._limbs) + carried(other._limbs), 1

    def to_arrays(self) -> Arrays:
        """The state; equal for equal streams, whatever their order and division."""
        return {"version": np.array(VERSION), "n": self.n.copy(), "limbs": carried(self._limbs)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another version."""
        try:
            if int(arrays["version"]) != VERSION or arrays["limbs"].shape != (2, *arrays["n"].shape, LIMBS):
                raise ValueError("moments of another version or shape")
            moments = cls(len(arrays["n"]))
            moments.n[...], moments._limbs[...] = arrays["n"], arrays["limbs"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"saved moments are cut: {error}") from error
        return moments


def carried(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same integers with limbs of 0 to 2**32 - 1, the last one aside, which has the sign."""
    limbs = limbs.copy()
    for i in range(LIMBS - 1):
        limbs[..., i + 1] += limbs[..., i] >> LIMB_BITS
        limbs[..., i] &= 2**LIMB_BITS - 1
    return limbs
