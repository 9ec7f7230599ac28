"""What is known of every stream, whatever is kept of its upper tail."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels import kernel_backend
from ..tally import Arrays
from .keys import BITS, INFINITY_KEYS, NO_KEY, bits_of, keys_at_most, keys_to_values

VERSION = 1


def tail_rank(tail: Fraction, n: int) -> int:
    """m = floor(p n): at most so many values may lie above the threshold (methods 1.1)."""
    return n * tail.numerator // tail.denominator


def tail_ranks(tail: Fraction, n: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K,) `tail_rank` of numbers that are mostly the same."""
    numbers, which = np.unique(n, return_inverse=True)
    return np.array([tail_rank(tail, each) for each in numbers.tolist()], np.int64)[which]


def share_of(number: Fraction | float) -> Fraction:
    """A share, exactly: a float stands for the shortest decimal number that gives it. ValueError beyond 0 to 1."""
    try:
        share = number if isinstance(number, Fraction) else Fraction(str(number))
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise ValueError(f"{number}: a share is 0 to 1")
    return share


def as_whole(name: str, value: Any) -> int:
    """A whole number. ValueError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}: must be a whole number") from None


def check_block(block: NDArray[Any], dtype: np.dtype[Any], n_units: int) -> None:
    """ValueError for what is no block of values of these units."""
    if not isinstance(block, np.ndarray):
        raise ValueError(f"a block is a NumPy array, {dtype} (B, {n_units}, ...), not a {type(block).__name__}")
    if block.dtype != dtype or block.ndim < 2 or block.shape[1] != n_units:
        raise ValueError(f"a block is {dtype} (B, {n_units}, ...), not {block.dtype} {block.shape}")


class Streams(ABC):
    """K streams of equally many values: what one pass tells of each, whatever else a subclass keeps.

    Parameters
    ----------
    n_units : int
        K.
    dtype : float16 or float32
        Of the values.
    backend : str
        See `streamdissect.kernels.kernel_backend`.
    """

    kind: str
    """Tells states of different classes apart."""

    def __init__(self, n_units: int, dtype: Any, backend: str = "auto") -> None:
        self.n_units, self.dtype = as_whole("the number of units", n_units), np.dtype(dtype)
        if self.dtype not in BITS:
            raise ValueError(f"values are float16 or float32, not {self.dtype}")
        if n_units < 1:
            raise ValueError(f"{n_units} units: must be at least 1")
        self.kernels = kernel_backend(backend)
        self.n_seen = 0
        """Values of each unit, NaN included."""
        self.counts = np.zeros((3, n_units), np.int64)
        """(3, K) NaN, infinite and zero values."""
        self.extremes = np.tile(np.array([[2**31 - 1], [-(2**31)]], np.int32), n_units)
        """(2, K) keys of the smallest and the largest value."""

    @property
    @abstractmethod
    def settings(self) -> tuple[int, ...]:
        """What the constructor takes before the dtype: saved with the state, the same in streams that join."""

    def update(self, block: NDArray[Any]) -> NDArray[np.int32]:
        """Take in values.

        Parameters
        ----------
        block : (B, K, ...)
            Of the dtype declared.

        Returns
        -------
        int32 (B, K)
            Key of the largest value of each map, -2**31 where every value is NaN; see `values_of`.
        """
        check_block(block, self.dtype, self.n_units)
        highest = np.full(block.shape[:2], NO_KEY, np.int32)
        if block.size:
            bits = bits_of(block)
            self._update(bits, highest)
            self.n_seen += bits.shape[0] * bits.shape[2]
        return highest

    @abstractmethod
    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        """Take in (B, K, n) bits, n > 0."""

    def values_of(self, keys: NDArray[np.int32]) -> NDArray[np.float32]:
        """Keys -> values."""
        return keys_to_values(keys, self.dtype)

    @property
    def n(self) -> NDArray[np.int64]:
        """(K,) values that are numbers."""
        numbers: NDArray[np.int64] = self.n_seen - self.counts[0]
        return numbers

    def ranks(self, tail: Fraction) -> NDArray[np.int64]:
        """(K,) m = floor(p n)"""
        return tail_ranks(tail, self.n)

    @property
    def is_exact(self) -> bool:
        """Whether what is told of ranks is exact; else see `error_bound`, and `Refinement`."""
        return True

    def knows(self, tail: Fraction) -> bool:
        """Whether the threshold at a tail can be told at all."""
        return True

    def error_bound(self, tail: Fraction | float) -> float:
        """By how much a rank may be wrong, as a share of all values, where the share `tail` lies above; 0: exact.

        ValueError where `tail` is no share, or so many values were not kept.
        """
        self.ranks(share_of(tail))
        return 0.0

    def error_bounds(self, tails: Sequence[Fraction]) -> NDArray[np.float64]:
        """`error_bound` of several tails."""
        return np.array([self.error_bound(tail) for tail in tails], np.float64)

    def tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Key of the (m+1)-th largest value, and how many values lie above it; both as good as `error_bound` says.

        Parameters
        ----------
        m : int64 (K,) or (R, K)
            Ranks from above, 0 to n - 1.

        Returns
        -------
        int64, int64
            Of the shape of `m`; 0 where a unit has no number.

        Raises
        ------
        ValueError
            Ranks of another shape, beyond the values that came, or beyond those that were kept.
        """
        self._check_ranks(m)
        keys, n_above = self._tail_keys(m)
        empty = self.n == 0
        return np.where(empty, 0, keys), np.where(empty, 0, n_above)

    def tail_floor(self, m: int) -> NDArray[np.int32]:
        """(K,) keys that the (m+1)-th largest value reaches, whatever follows: its own key so far, or less.

        -2**31 where fewer numbers came. Certain unless a sketch tells it.
        """
        known = self.n > m
        keys, _ = self.tail_keys(np.where(known, m, 0))
        return np.where(known, keys, NO_KEY).astype(np.int32)

    def _check_ranks(self, m: NDArray[np.int64]) -> None:
        if m.ndim not in (1, 2) or m.shape[-1] != self.n_units:
            raise ValueError(f"ranks are (R, {self.n_units}) or ({self.n_units},), not {m.shape}")
        if np.any(m < 0) or np.any(m >= np.maximum(self.n, 1)):
            raise ValueError(f"a rank of {m.min()} to {m.max()}: they go from 0 to the number of values less one")

    @abstractmethod
    def _tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `tail_keys`; whatever where a unit has no number."""

    @abstractmethod
    def bracket(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Keys between which, both included, the (m+1)-th largest value lies, and about how many values do.

        Shapes as for `tail_keys`. Certain where it follows from counts, else as good as certain.
        """

    def tail_threshold(self, tail: Fraction | float) -> NDArray[np.float32]:
        """T of each unit: the (m+1)-th largest value with m = floor(p n); see `error_bound`.

        Parameters
        ----------
        tail : Fraction or float
            p, 0 to 1; a float stands for the shortest decimal number that gives it.

        Returns
        -------
        float32 (K,)
            NaN where a unit has no number.

        Raises
        ------
        ValueError
            `tail` is no share, or so many values were not kept.
        """
        m = Streams.ranks(self, share_of(tail))
        keys, _ = self.tail_keys(np.minimum(m, np.maximum(self.n - 1, 0)))
        return np.where(self.n > 0, self.values_of(keys.astype(np.int32)), np.float32(np.nan))

    def quantile(self, q: Fraction | float) -> NDArray[np.float32]:
        """The least value of each unit that the share `q` does not exceed: `tail_threshold` of 1 - q.

        Parameters
        ----------
        q : Fraction or float
            0 to 1.

        Returns
        -------
        float32 (K,)
            NaN where a unit has no number.

        Raises
        ------
        ValueError
            `q` is no share, or so many values were not kept.
        """
        return self.tail_threshold(1 - share_of(q))

    def rank(self, x: NDArray[Any] | float) -> NDArray[np.int64]:
        """How many values of each unit are at most `x`; see `error_bound`.

        Parameters
        ----------
        x : float, or (K,)
            For all units, or one for each; no NaN.

        Returns
        -------
        int64 (K,)
            0 .. n, exact at and beyond the ends.

        Raises
        ------
        ValueError
            `x` is NaN or of another shape, or values as small as `x` were not kept.
        """
        given = np.asarray(x, np.float64)
        if given.shape not in ((), (self.n_units,)):
            raise ValueError(f"ranks of one number, or of one for each of {self.n_units} units, not of {given.shape}")
        bounds = np.broadcast_to(given, (self.n_units,))
        if np.isnan(bounds).any():
            raise ValueError("the rank of NaN was asked for")
        keys = keys_at_most(bounds, self.dtype)
        lowest, highest = self.extremes
        is_between = (keys >= lowest) & (keys < highest)
        found = self.n - self._above(np.where(is_between, keys, highest))
        return np.where(is_between, np.clip(found, 0, self.n), np.where(keys < lowest, 0, self.n))

    @abstractmethod
    def _above(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K,) values with larger keys than these, which are no less than the lowest. ValueError where not kept."""

    def vmin(self) -> NDArray[np.float32]:
        """(K,) smallest value; NaN where there is none."""
        return np.where(self.n > 0, self.values_of(self.extremes[0]), np.float32(np.nan))

    def vmax(self) -> NDArray[np.float32]:
        """(K,) largest value; NaN where there is none."""
        return np.where(self.n > 0, self.values_of(self.extremes[1]), np.float32(np.nan))

    def merge(self, other: Self) -> None:
        """Take in what `other` has seen; ValueError if it keeps something else."""
        mine, theirs = ((type(s).__name__, *s.settings, str(s.dtype)) for s in (self, other))
        if mine != theirs:
            raise ValueError(f"streams {theirs} cannot join streams {mine}")
        self._merge(other)
        self.n_seen += other.n_seen
        self.counts += other.counts
        np.minimum(self.extremes[0], other.extremes[0], out=self.extremes[0])
        np.maximum(self.extremes[1], other.extremes[1], out=self.extremes[1])

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Join what else is kept."""

    @abstractmethod
    def _kept(self) -> Arrays:
        """What else is kept, in one form for one content."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of `_kept`."""

    def to_arrays(self) -> Arrays:
        """The state; equal for equal streams, whatever their order and division."""
        shape = [VERSION, *self.settings, self.n_seen]
        return {
            "kind": np.array(f"{self.kind} {self.dtype}"),
            "shape": np.array(shape, np.int64),
            "counts": self.counts.copy(),
            "extremes": self.extremes.copy(),
            **self._kept(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], backend: str = "auto") -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another kind or version."""
        try:
            kind, _, dtype = str(arrays["kind"]).partition(" ")
            version, *settings, n_seen = whole(arrays, "shape", (-1,)).tolist()
            if (kind, version) != (cls.kind, VERSION):
                raise ValueError(f"state {kind} of version {version}, expected {cls.kind} of {VERSION}")
            make: Callable[..., Self] = cls  # each class has its settings
            streams = make(*settings, dtype, backend)
            streams.n_seen = n_seen
            streams.counts[...] = whole(arrays, "counts", streams.counts.shape, 0, n_seen)
            streams.extremes[...] = whole(arrays, "extremes", streams.extremes.shape, NO_KEY, -NO_KEY - 1)
            streams._check_facts()
            streams._restore(arrays)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"saved streams are cut: {error}") from error
        return streams

    def _check_facts(self) -> None:
        """ValueError where counts and extremes cannot be those of so many values."""
        lowest, highest = self.extremes.astype(np.int64)
        infinity = INFINITY_KEYS[self.dtype]
        is_empty = (lowest == -NO_KEY - 1) & (highest == NO_KEY)
        is_range = (-infinity - 1 <= lowest) & (lowest <= highest) & (highest <= infinity)
        if not np.all(np.where(self.n > 0, is_range, is_empty)) or np.any(self.counts.sum(axis=0) > self.n_seen):
            raise ValueError("the counts and the ends of the saved streams do not fit together")


def whole(
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    shape: tuple[int, ...],
    low: int = -(2**63),
    high: int = 2**63 - 1,
) -> NDArray[np.int64]:
    """A saved array of whole numbers within bounds, -1: of any length. ValueError for another."""
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in "iu" or not fits:
        raise ValueError(f"saved {name} are {array.dtype} {array.shape}, expected whole numbers {shape}")
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise ValueError(f"saved {name} go from {array.min()} to {array.max()}, expected {low} to {high}")
    return array.astype(np.int64)


class UnitStreams(Streams):
    """Streams of which the `capacity` largest values stay known.

    Parameters
    ----------
    n_units, dtype, backend
        See `Streams`.
    capacity : int
        m + 1 for the largest tail that will be asked for. Ranks beyond it are refused.
    """

    def __init__(self, n_units: int, capacity: int, dtype: Any, backend: str = "auto") -> None:
        super().__init__(n_units, dtype, backend)
        self.capacity = capacity = as_whole("the capacity", capacity)
        if capacity < 1:
            raise ValueError(f"capacity {capacity}: must be at least 1")

    @property
    def settings(self) -> tuple[int, ...]:
        """K and the capacity."""
        return self.n_units, self.capacity

    def knows(self, tail: Fraction) -> bool:
        """Whether the capacity does for a tail."""
        return bool(super().ranks(tail).max() < self.capacity)

    def ranks(self, tail: Fraction) -> NDArray[np.int64]:
        """(K,) m = floor(p n); ValueError beyond the capacity."""
        m = super().ranks(tail)
        if m.max() >= self.capacity:
            raise ValueError(f"tail {tail} asks for rank {m.max()}, only {self.capacity} values were kept")
        return m

    def _check_ranks(self, m: NDArray[np.int64]) -> None:
        super()._check_ranks(m)
        if m.size and m.max() >= self.capacity:
            raise ValueError(f"rank {m.max()} was asked for, only the {self.capacity} largest values were kept")


def ragged(arrays: Mapping[str, NDArray[Any]], n_units: int, *names: str) -> NDArray[np.int64]:
    """(K + 1,) pointer of ragged rows, checked against the arrays it points into."""
    pointer = whole(arrays, "pointer", (n_units + 1,), 0)
    ends_right = pointer[0] == 0 and bool(np.all(np.diff(pointer) >= 0))
    if not ends_right or any(np.shape(arrays[name]) != (pointer[-1],) for name in names):
        raise ValueError("the rows of the saved streams do not fit together")
    return pointer
