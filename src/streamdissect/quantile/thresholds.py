"""Thresholds T_k with what must be known to judge them (methods 1.1 - 1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .streams import Streams, share_of, tail_rank

DEAD, SPARSE, TIED, SHORT, NONFINITE = 1, 2, 4, 8, 16
FLAG_NAMES = {DEAD: "DEAD", SPARSE: "SPARSE", TIED: "TIED", SHORT: "SHORT", NONFINITE: "NONFINITE"}


@dataclass(frozen=True)
class Thresholds:
    """Per unit of one layer; arrays are (K,)."""

    threshold: NDArray[np.float32]
    """T, the (m+1)-th largest value: an element of the data."""
    n: NDArray[np.int64]
    """Values that are numbers."""
    m: NDArray[np.int64]
    """floor(p n)"""
    n_above: NDArray[np.int64]
    """Values above T; m or fewer, the fewer the more tie with T."""
    n_zero: NDArray[np.int64]
    n_nonfinite: NDArray[np.int64]
    """NaN and infinite values."""
    vmin: NDArray[np.float32]
    vmax: NDArray[np.float32]
    flags: NDArray[np.uint8]
    """DEAD 1: constant. SPARSE 2: T is the minimum. TIED 4: n_above < 0.9 m. SHORT 8: m is 0. NONFINITE 16."""

    def to_arrays(self) -> Arrays:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`."""
        try:
            found = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except KeyError as error:
            raise ValueError(f"saved thresholds are cut: {error}") from error
        if any(getattr(found, field.name).shape != found.n.shape for field in fields(cls)):
            raise ValueError("saved thresholds are of different numbers of units")
        return found


def find_thresholds(
    streams: Streams, tail: Fraction | float, refined: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
) -> Thresholds:
    """Thresholds of all units at one tail.

    Parameters
    ----------
    streams : Streams
        That have seen every value of the run.
    tail : Fraction or float
        p, 0 <= p < 1; a float stands for the shortest decimal number that gives it.
    refined : (float32 (K,), int64 (K,)), optional
        T and the values above it from a `Refinement`. Without it both are as good as the streams' `error_bound` says.

    Raises
    ------
    ValueError
        `tail` is none, or so many of the largest values were not kept.
    """
    tail = share_of(tail)
    if tail == 1:
        raise ValueError("tail 1: no value has all values above it")
    m = streams.ranks(tail)
    if refined is None:
        keys, n_above = streams.tail_keys(m)
        threshold = streams.values_of(keys.astype(np.int32))
    else:
        threshold, n_above = refined
    n, vmin, vmax = streams.n, streams.vmin(), streams.vmax()
    empty = n == 0
    threshold = np.where(empty, np.float32(np.nan), threshold)  # nothing but NaN: no mask
    n_nan, n_infinite, n_zero = streams.counts
    flags = np.zeros(len(n), np.uint8)
    flags |= DEAD * ((vmin == vmax) | empty).astype(np.uint8)
    flags |= SPARSE * (threshold == vmin).astype(np.uint8)
    flags |= TIED * (10 * n_above < 9 * m).astype(np.uint8)
    flags |= SHORT * (m == 0).astype(np.uint8)
    flags |= NONFINITE * ((n_nan + n_infinite) > 0).astype(np.uint8)
    return Thresholds(
        threshold=threshold.astype(np.float32),
        n=n,
        m=m,
        n_above=np.where(empty, 0, n_above),
        n_zero=n_zero.copy(),
        n_nonfinite=n_nan + n_infinite,
        vmin=vmin,
        vmax=vmax,
        flags=flags,
    )


def tail_threshold(values: NDArray[Any], tail: Fraction) -> np.generic:
    """The definition: the value that at most the share `tail` of a unit's activations exceeds.

    Parameters
    ----------
    values : float16 or float32 (n,)
        Activations of one unit over all images, as stored.
    tail : Fraction
        Share p, 0 < p < 1.

    Returns
    -------
    same dtype as `values`
        T, the (m+1)-th largest with m = floor(p n): an element of `values`, never interpolated.

    Raises
    ------
    ValueError
        `values` is empty or holds NaN.

    Notes
    -----
    Source: methods 1.1. Where values tie with T, fewer than m lie above it.

    >>> float(tail_threshold(np.array([3, 1, 2, 4], np.float32), Fraction(1, 4)))
    3.0
    """
    if values.size == 0 or np.isnan(values).any():
        raise ValueError("values must be numbers, at least one")
    rank = values.size - 1 - tail_rank(tail, values.size)
    found: np.generic = np.partition(values.ravel(), rank)[rank]
    return found
