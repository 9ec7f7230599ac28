"""What REQ and KLL sketches have in common: levels of keys that all units fill and compact at the same time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import count
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels.reference_sketch import FILLER, GULP, LEVELS, compact, first_coins, levels_of, unit_seeds
from ..tally import Arrays
from .keys import FLOAT16, FLOAT32, NO_KEY
from .streams import Streams, as_whole, share_of, whole

LEAST_K, LARGEST_K = 8, 2**16
ROOM = 128
"""Keys by which rows grow."""
BRACKET = 8
"""Standard errors to either side of a rank, between which its value as good as certainly lies."""
UNITS_AT_ONCE = 256
"""Units whose keys are looked through together when a rank is asked for."""


class Sketch(Streams):
    """Quantiles of K streams of unknown length, in one pass, bounded memory and bounded error; mergeable.

    A key of level h stands for 2**h values. Where a level has reached its limit its lowest keys are compacted: sorted,
    and every other one, by a coin, joins the next level. All units receive equally many values, so they share one
    schedule. Values are taken in by `GULP`; before that many have come the sketch is exact.

    The state is the same for any division of the stream into blocks, for any number of threads and on every backend.
    It depends on the order of the values and of merging; the bounds of the error do not.

    NaN are counted, and a key below every number keeps their place. Ranks are counted from above and do not feel it.

    Parameters
    ----------
    n_units : int
        K.
    k : int
        Accuracy, see the subclass; even, 8 to 65536.
    seed : int
        Of the coins, 0 .. 2**63 - 1.
    dtype : float16 or float32
        Of the values.
    backend : str
        See `streamdissect.kernels.kernel_backend`.
    threads : int
        Units are shared out among them.
    """

    def __init__(
        self, n_units: int, k: int, seed: int = 0, dtype: Any = FLOAT32, backend: str = "auto", threads: int = 1
    ) -> None:
        super().__init__(n_units, dtype, backend)
        k, seed, threads = as_whole("k", k), as_whole("the seed", seed), as_whole("threads", threads)
        if not LEAST_K <= k <= LARGEST_K or k % 2:
            raise ValueError(f"k is {k}: must be even, {LEAST_K} to {LARGEST_K}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"the seed is {seed}: must be 0 to 2**63 - 1")
        if threads < 1:
            raise ValueError(f"{threads} threads: must be at least 1")
        self.k, self.seed, self.threads = k, seed, threads
        self._fill, self._turn = [0], [0]
        """Of each level: keys, and compactions so far."""
        self._rows = np.zeros((n_units, ROOM), np.int32)
        """(K, room) ascending keys of each level, the highest level first."""
        self._pending = np.zeros((n_units, GULP), np.int32)
        self._n_pending = 0
        self._coins = first_coins(seed, n_units)

    @property
    def settings(self) -> tuple[int, ...]:
        """K, k and the seed."""
        return self.n_units, self.k, self.seed

    @abstractmethod
    def standard_error(self, tail: float) -> float:
        """Of a rank, as a share of all values, where the share `tail` lies above; see the subclass."""

    @property
    def is_exact(self) -> bool:
        """False."""
        return False

    def error_bound(self, tail: Fraction | float) -> float:
        """Four standard errors: one rank in 16,000 may be expected to lie beyond, were errors normal."""
        return 4 * self.standard_error(float(share_of(tail)))

    @property
    def nbytes(self) -> int:
        """Memory of the state, of all units."""
        return sum(array.nbytes for array in (self._rows, self._pending, self._coins, self.counts, self.extremes))

    # The schedule

    @abstractmethod
    def _limit(self, level: int) -> int:
        """Keys from which on a level may be compacted."""

    @abstractmethod
    def _protected(self, level: int) -> int:
        """How many of the highest keys the next compaction of a level leaves where they are."""

    def _capacity(self) -> int:
        """Keys of all levels up to which none is compacted."""
        return 0

    def _climb(self, come: int, joined: Sequence[int] = ()) -> list[int]:
        """Let `come` keys, and other levels' keys, into the levels; what each level, in this order, compacts."""
        amounts: list[int] = []
        retained, capacity = sum(self._fill) + come + sum(joined), self._capacity()
        for level in count():
            if level == len(self._fill):
                if come == 0:
                    break
                self._fill.append(0)
                self._turn.append(0)
                capacity = self._capacity()
            total = self._fill[level] + come + (joined[level] if level < len(joined) else 0)
            is_full = retained > capacity and total >= self._limit(level)
            amount = (total - self._protected(level)) & ~1 if is_full else 0
            self._fill[level] = total - amount
            self._turn[level] += amount > 0
            amounts.append(amount)
            come = amount // 2
            retained -= come
        return amounts

    def _make_room(self, n_keys: int) -> None:
        """Rows for at least so many keys."""
        if n_keys > self._rows.shape[1]:
            rows = np.zeros((self.n_units, -(-n_keys // ROOM) * ROOM), np.int32)
            rows[:, : self._rows.shape[1]] = self._rows
            self._rows = rows

    def _levels(self, units: slice = slice(None)) -> list[NDArray[np.int32]]:
        """Keys (units, fill) of each level."""
        return levels_of(self._rows[units], self._fill)

    # Streams

    def _update(self, bits: NDArray[Any], highest: NDArray[np.int32]) -> None:
        n_gulps, n_pending = divmod(self._n_pending + bits.shape[0] * bits.shape[2], GULP)
        fill, turn, climbs, peak = list(self._fill), list(self._turn), [], 0
        for _ in range(n_gulps):
            climbs.append(self._climb(GULP))
            peak = max(peak, sum(self._fill))
        self._make_room(peak)
        n_levels = len(self._fill)
        amounts = np.zeros((max(1, n_gulps), n_levels), np.int64)
        for row, climb in zip(amounts, climbs, strict=False):
            row[: len(climb)] = climb
        before = [np.array(many + [0] * (n_levels - len(many)), np.int64) for many in (fill, turn)]
        half, single = (bits, None) if self.dtype == FLOAT16 else (None, bits)

        def take(begin: int, end: int) -> None:
            self.kernels.update_sketch(
                half,
                single,
                begin,
                end,
                self.seed,
                amounts,
                *before,
                self._rows,
                self._pending,
                self._n_pending,
                self._coins,
                self.counts,
                self.extremes,
                highest,
            )

        edges = np.linspace(0, self.n_units, min(self.threads, self.n_units) + 1).astype(int).tolist()
        if len(edges) == 2:
            take(0, self.n_units)
        else:
            with ThreadPoolExecutor(len(edges) - 1) as pool:
                list(pool.map(take, edges[:-1], edges[1:]))
        self._n_pending = n_pending

    def _merge(self, other: Self) -> None:
        own, theirs, their_fill = self._levels(), other._levels(), list(other._fill)
        # Sorted, as they are saved: a sketch that was saved merges as one that was not.
        theirs_waiting = np.sort(other._pending[:, : other._n_pending], axis=1)
        waiting = np.concatenate([self._pending[:, : self._n_pending], theirs_waiting], axis=1)
        come = waiting[:, : waiting.shape[1] // GULP * GULP]
        n_levels = max(len(own), len(theirs))
        mine, others = (side._turn + [0] * (n_levels - len(side._turn)) for side in (self, other))
        turn = [a | b for a, b in zip(mine, others, strict=True)]  # what REQ's proof of merging asks for
        self._fill, self._turn = self._fill + [0] * (n_levels - len(own)), list(turn)
        amounts = self._climb(come.shape[1], their_fill)
        seeds, levels = unit_seeds(self.seed, 0, self.n_units), []
        for level, amount in enumerate(amounts):
            runs = [come, *(keys[level] for keys in (own, theirs) if level < len(keys))]
            before = turn[level] if level < n_levels else 0
            kept, come = compact(seeds, self._coins, level, before, runs, amount)
            levels.append(kept)
        self._make_room(sum(self._fill))
        self._rows[:, : sum(self._fill)] = np.concatenate(levels[::-1], axis=1)
        n_gulped = waiting.shape[1] // GULP * GULP
        self._n_pending = waiting.shape[1] - n_gulped
        self._pending[:, : self._n_pending] = waiting[:, n_gulped:]

    def _kept(self) -> Arrays:
        return {
            "fill": np.array(self._fill, np.int64),
            "turn": np.array(self._turn, np.int64),
            "coins": self._coins.copy(),
            "pending": np.sort(self._pending[:, : self._n_pending], axis=1),
            "keys": self._rows[:, : sum(self._fill)].copy(),
        }

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        fill, turn = whole(arrays, "fill", (-1,)), whole(arrays, "turn", (-1,), 0)
        pending, keys = (whole(arrays, name, (self.n_units, -1), NO_KEY) for name in ("pending", "keys"))
        fits = fill.shape == turn.shape and 1 <= len(fill) <= LEVELS and min(fill) >= 0 and keys.shape[1] == sum(fill)
        if not fits or pending.shape[1] >= GULP:
            raise ValueError("the levels of the saved sketch do not fit together")
        if pending.shape[1] + sum(n << level for level, n in enumerate(fill.tolist())) != self.n_seen:
            raise ValueError("the levels of the saved sketch do not fit together")
        highest = np.where(self.n > 0, self.extremes[1], FILLER)[:, None]
        lowest = np.where(self.n > 0, self.extremes[0], FILLER)[:, None]
        for some in (pending, keys):
            if np.any((some > highest) | ((some < lowest) & (some != FILLER))):
                raise ValueError("saved keys lie beyond the ends of their streams")
        self._fill, self._turn = fill.tolist(), turn.tolist()
        self._make_room(keys.shape[1])
        self._rows[:, : keys.shape[1]] = keys
        if any(bool(np.any(level[:, 1:] < level[:, :-1])) for level in self._levels()):
            raise ValueError("saved keys are out of order")
        self._n_pending = pending.shape[1]
        self._pending[:, : self._n_pending] = pending
        self._coins[...] = whole(arrays, "coins", self._coins.shape, 0, 2**32 - 1)

    # Ranks

    def _weighted(self) -> Iterator[tuple[slice, NDArray[np.int32], NDArray[np.int64]]]:
        """Of some units at a time: their keys (units, n) and how many values each stands for (n,)."""
        weights = np.repeat(1 << np.arange(len(self._fill)), self._fill)
        weights = np.concatenate([weights, np.ones(self._n_pending, np.int64)])
        for begin in range(0, self.n_units if len(weights) else 0, UNITS_AT_ONCE):
            units = slice(begin, min(begin + UNITS_AT_ONCE, self.n_units))
            runs = [*self._levels(units), self._pending[units, : self._n_pending]]
            yield units, np.concatenate(runs, axis=1), weights

    def _tail_keys(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shape, m = m.shape, m.reshape(-1, self.n_units)
        found, n_above = np.zeros(m.shape, np.int64), np.zeros(m.shape, np.int64)
        for units, keys, weights in self._weighted():
            ranks = m[:, units]
            order = np.argsort(keys, axis=1)[:, ::-1]
            falling, down_to = np.take_along_axis(keys, order, axis=1), np.cumsum(weights[order], axis=1)
            some = np.zeros_like(ranks)
            for unit in range(ranks.shape[1]):
                at = np.searchsorted(down_to[unit], ranks[:, unit], "right")
                some[:, unit] = falling[unit, np.minimum(at, falling.shape[1] - 1)]
            lowest, highest = self.extremes[:, units]
            some = np.clip(some, lowest, highest)  # both ends are known exactly
            some = np.where(ranks == 0, highest, np.where(ranks == self.n[units] - 1, lowest, some))
            found[:, units] = some
            for unit, descending in enumerate(-falling.astype(np.int64)):  # -(-2**31) is no int32
                at = np.searchsorted(descending, -some[:, unit])
                n_above[:, units.start + unit] = np.append(0, down_to[unit])[at]
        return found.reshape(shape), n_above.reshape(shape)

    def bracket(self, m: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Keys of the ranks `BRACKET` standard errors to either side, and how many values lie between."""
        n, n_seen = np.maximum(self.n, 1), max(self.n_seen, 1)  # NaN take part in the error
        off = [BRACKET * self.standard_error(rank / n_seen) * n_seen for rank in m.ravel().tolist()]
        reach = np.ceil(np.array(off)).astype(np.int64).reshape(m.shape)
        low, _ = self.tail_keys(np.minimum(m + reach, n - 1))
        high, _ = self.tail_keys(np.maximum(m - reach, 0))
        return low, high, 2 * reach

    def _above(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        above = np.zeros(self.n_units, np.int64)
        for units, kept, weights in self._weighted():
            above[units] = np.where(kept > keys[units, None], weights, 0).sum(axis=1)
        return above
