"""Which maps are stored with `--spill candidates`: those that may yet exceed a threshold.

A threshold is the (m+1)-th largest of all values of its unit, so it never lies below the (m+1)-th largest of those that
came so far. A map that stays below this floor has an empty mask, whatever follows. The floors that a shard was stored
by stand in its commit: by them its file is made again, byte for byte, should it be lost.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quantile import Streams, tail_rank
from ..quantile.keys import INFINITY_KEYS, NO_KEY
from ..store.activations import LayerArray
from ..store.rundir import RunDir
from .gathering import LayerPlan

LARGEST_KEY = 2**31 - 1
"""Above the keys of all numbers."""
FLOOR_AFTER = 1.1
"""The floors are looked up anew once so many times more values came: they rise ever more slowly."""


class Floors:
    """What a layer's maps must reach to be kept, from the values that this process has seen.

    Parameters
    ----------
    rank : int
        m of the largest tail, over all images of the run.
    n_units : int
    """

    def __init__(self, rank: int, n_units: int) -> None:
        self._rank = rank
        self._keys = np.full(n_units, NO_KEY, np.int32)
        self._looked_at = 0

    def rise(self, streams: Streams) -> NDArray[np.int32]:
        """Keys (K,), as high as `streams` allow; -2**31 while they have seen too few values."""
        if streams.n_seen > self._rank and streams.n_seen >= FLOOR_AFTER * self._looked_at:
            self._keys, self._looked_at = streams.tail_floor(self._rank), streams.n_seen
        return self._keys


def floors_of(run: RunDir, layers: list[LayerArray]) -> list[Floors]:
    """Of each layer, before the first shard; none where a run keeps all maps, or none."""
    if run.spill != "candidates":
        return []
    return [Floors(largest_rank(run, layer), layer.n_units) for layer in layers]


def largest_rank(run: RunDir, layer: LayerArray) -> int:
    """m of the largest tail that was extracted, if every value is a number."""
    n = int(run.manifest["plan"]["n_images"]) * layer.grid[0] * layer.grid[1]
    return max(tail_rank(tail, n) for tail in run.tails)


def reaching(highest: NDArray[np.int32], floors: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which maps (B, K) are kept, by the keys of their maxima; all that hold no number are, NaN as they come."""
    kept: NDArray[np.bool_] = (highest >= floors) | (highest == NO_KEY)
    return kept


def maxima(plan: LayerPlan, maps: NDArray[Any]) -> NDArray[np.int32]:
    """Keys (B, K) of the largest values of maps, as the layer's streams tell them."""
    return plan.streams.streams(plan.array).update(maps)


def describe_stored(highest: NDArray[np.int32], dtype: str) -> dict[str, Any]:
    """What `describe_kept` said of a file, by the maxima (B, K) of what is in it: with floors that keep the same maps.

    Maps that were left out are those of -inf.
    """
    kept = highest > -INFINITY_KEYS[np.dtype(dtype)] - 1
    floors = np.where(kept, highest, LARGEST_KEY).min(axis=0)
    return describe_kept(kept | (highest == NO_KEY), floors)


def describe_kept(kept: NDArray[np.bool_], floors: NDArray[np.int32]) -> dict[str, Any]:
    """What a commit says of a layer: how many maps its file holds, and the floors they reach."""
    return {"maps": int(kept.sum()), "floors": base64.b64encode(floors.astype("<i4").tobytes()).decode()}


def floors_in(described: dict[str, Any]) -> NDArray[np.int32]:
    """Inverse of `describe_kept`, as far as the floors go."""
    return np.frombuffer(base64.b64decode(described["floors"]), "<i4").astype(np.int32)
