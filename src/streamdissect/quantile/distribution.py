"""What the values of each unit are like: equal shares, the far tail, moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .histogram import Histogram
from .moments import Moments
from .streams import Streams, tail_ranks

N_QUANTILES, N_TAIL_RANKS, N_BINS = 256, 64, 20
SHARES = tuple(Fraction(2 * i + 1, 2 * N_QUANTILES) for i in range(N_QUANTILES))
"""In the middles of 256 parts of equal mass."""
TAIL_SHARES = tuple(Fraction(f"{10 ** ((j - 75) / 15):.4g}") for j in reversed(range(N_TAIL_RANKS)))
"""From 0.1585 down to 1e-5, fifteen to a decade, rounded to four digits: 0.1, 0.01 and so on are among them."""


@dataclass(frozen=True)
class Distribution:
    """Of the K units of one layer."""

    quantile: NDArray[np.float32]
    """(K, 256) ascending: the value that the share (i + 1/2) / 256 does not exceed."""
    tail: NDArray[np.float64]
    """(64,) shares p from 0.1585 down to 1e-5, fifteen to a decade."""
    tail_value: NDArray[np.float32]
    """(K, 64) the (floor(p n) + 1)-th largest value at each."""
    vmin: NDArray[np.float32]
    vmax: NDArray[np.float32]
    """(K,)"""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """(K,) of the population of finite values; NaN where there is none."""
    zero_share: NDArray[np.float64]
    """(K,) of the values that are numbers."""
    quantile_error: NDArray[np.float64]
    """() by how much the share of a quantile may be off; 0: exact."""
    tail_error: NDArray[np.float64]
    """(64,) the same for each tail share."""

    def share_above(self, unit: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """About which shares of a unit's values lie above `x`, between the values known linearly."""
        value = np.concatenate([self.quantile[unit], self.tail_value[unit], [self.vmin[unit], self.vmax[unit]]])
        above = np.concatenate([[1 - float(share) for share in SHARES], self.tail, [1.0, 0.0]])
        order = np.lexsort((-above, value))  # of equal values the last counts: what lies above all of them
        value, above = value[order].astype(np.float64), np.minimum.accumulate(above[order])
        last = np.append(value[1:] > value[:-1], True)
        found: NDArray[np.float64] = np.interp(x, value[last], above[last], left=1.0, right=0.0)
        return found

    def bins(self, unit: int, n_bins: int = N_BINS) -> list[tuple[float, float, float]]:
        """About the share of a unit's values other than zero between equally spaced values: (from, to, share).

        Infinities count with the first and the last; none where all values known are the same.
        """
        known = np.concatenate([self.quantile[unit], self.tail_value[unit], [self.vmin[unit], self.vmax[unit]]])
        finite = known[np.isfinite(known)]
        if len(finite) == 0 or finite.min() == finite.max():
            return []
        low, high = float(finite.min()), float(finite.max())
        edges = np.linspace(low, high, n_bins + 1)
        above = self.share_above(unit, edges)
        above[0], above[-1] = 1.0, 0.0
        shares = above[:-1] - above[1:]
        at = max(0, int(np.searchsorted(edges, 0.0)) - 1)  # bins hold their upper edges, the first one both
        if low <= 0 <= high:
            shares[at] = max(0.0, shares[at] - float(self.zero_share[unit]))
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True))

    def to_arrays(self) -> Arrays:
        """By name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`."""
        try:
            found = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except KeyError as error:
            raise ValueError(f"a saved distribution is cut: {error}") from error
        n_units = len(found.vmin) if found.vmin.ndim else -1
        shapes = {"quantile": (n_units, N_QUANTILES), "tail_value": (n_units, N_TAIL_RANKS), "tail": (N_TAIL_RANKS,),
                  "tail_error": (N_TAIL_RANKS,), "quantile_error": ()}  # fmt: skip
        if any(getattr(found, field.name).shape != shapes.get(field.name, (n_units,)) for field in fields(cls)):
            raise ValueError("a saved distribution is cut, or of other shares")
        return found


def find_distribution(streams: Streams, tails: Streams, moments: Moments | None = None) -> Distribution:
    """The distribution of each unit's values.

    Parameters
    ----------
    streams : Streams
        That know every rank: a `Histogram` or a sketch.
    tails : Streams
        Of the same values, asked for the far tail as far as they know it; may be the same.
    moments : Moments, optional
        Of the same values; without them `streams` is a histogram of float16.
    """
    n = np.maximum(streams.n, 1)
    mean, std = moments.read() if moments is not None else histogram_moments(streams)
    quantile_m = np.stack([tail_ranks(1 - share, n) for share in SHARES])
    tail_m = np.stack([tail_ranks(p, n) for p in TAIL_SHARES])
    from_tails = np.array([tails is not streams and tails.knows(p) for p in TAIL_SHARES])
    values = values_at(streams, np.concatenate([quantile_m, tail_m[~from_tails]]))  # the bins are gone through once
    tail_value, tail_error = np.zeros((len(TAIL_SHARES), streams.n_units), np.float32), np.zeros(len(TAIL_SHARES))
    tail_value[~from_tails] = values[len(SHARES) :]
    if from_tails.any():
        tail_value[from_tails] = values_at(tails, tail_m[from_tails])
    for source, rows in ((tails, from_tails), (streams, ~from_tails)):
        tail_error[rows] = source.error_bounds([p for p, is_row in zip(TAIL_SHARES, rows, strict=True) if is_row])
    return Distribution(
        quantile=np.ascontiguousarray(values[: len(SHARES)].T),
        tail=np.array([float(p) for p in TAIL_SHARES]),
        tail_value=np.ascontiguousarray(np.minimum.accumulate(tail_value[::-1])[::-1].T),
        vmin=streams.vmin(),
        vmax=streams.vmax(),
        mean=mean,
        std=std,
        zero_share=streams.counts[2] / n,
        quantile_error=np.array(streams.error_bounds([1 - share for share in SHARES]).max()),
        tail_error=tail_error,
    )


def values_at(streams: Streams, m: NDArray[np.int64]) -> NDArray[np.float32]:
    """The (m+1)-th largest values, m (R, K)."""
    keys, _ = streams.tail_keys(m)
    return np.where(streams.n > 0, streams.values_of(keys.astype(np.int32)), np.float32(np.nan))


def histogram_moments(streams: Streams) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K,) mean and standard deviation from a histogram of float16."""
    if not isinstance(streams, Histogram) or not streams.is_exact:
        raise ValueError("only a histogram of float16 knows its moments")
    found = np.full((2, streams.n_units), np.nan)
    for unit in range(streams.n_units):
        keys, counts = streams.bins(unit)
        values = streams.values_of(keys.astype(np.int32)).astype(np.float64)
        values, counts = values[np.isfinite(values)], counts[np.isfinite(values)]
        if n := int(counts.sum()):
            mean = float((values * counts).sum() / n)
            found[:, unit] = mean, float(np.sqrt((counts * (values - mean) ** 2).sum() / n))
    return found[0], found[1]
