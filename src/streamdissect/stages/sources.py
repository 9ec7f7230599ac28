"""Where a run's activations come from a second time: its store, or the network once more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..store.rundir import RunDir


class Maps(Protocol):
    """The stored form of a run's activations."""

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """Rows and their maps (B, K, h, w), in order, as many at once as fit into `most_bytes`."""

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """Maps (B, K, h, w) of consecutive rows."""


class ForwardMaps:
    """Activations of a run that kept none: a shard at a time, by the forward passes that `extract` made.

    The maps of all layers of one shard are held, so whoever goes by shards, and within them by layers, has one pass.

    Parameters
    ----------
    run : RunDir
    images : int64 (N,)
        The dataset's index of each row.
    forward : callable
        A shard and its images (indices into the dataset) -> maps (B, K, h, w) of each layer, as they would be stored.
    """

    def __init__(
        self, run: RunDir, images: NDArray[np.int64], forward: Callable[[int, list[int]], dict[str, NDArray[Any]]]
    ) -> None:
        self._run, self._images, self._forward = run, images, forward
        self._shard = -1
        self._maps: dict[str, NDArray[Any]] = {}
        self.seconds = 0.0
        """Spent so far."""

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """See `Maps`; parts end with their shards."""
        start = rows.start
        while start < rows.stop:
            held = self._held(start)
            maps = self._maps[layer]
            step = max(1, most_bytes // max(1, maps[0].nbytes))
            part = range(start, min(start + step, rows.stop, held.stop))
            yield part, maps[part.start - held.start : part.stop - held.start]
            start = part.stop

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """See `Maps`."""
        return np.concatenate([maps for _, maps in self.iter_chunks(layer, rows, 1 << 62)])

    def _held(self, row: int) -> range:
        """The rows of the shard of a row, whose maps are now held."""
        shard = row // len(self._run.rows(0))
        rows = self._run.rows(shard)
        if shard != self._shard:
            begin = time.perf_counter()
            self._maps, self._shard = {}, -1  # not two shards at a time
            self._maps = self._forward(shard, self._images[rows.start : rows.stop].tolist())
            self._shard = shard
            self.seconds += time.perf_counter() - begin
        return rows
