"""Where a run's activations come from a second time: its store, or the network once more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..errors import BadInput
from ..options import CommonOptions, ExtractOptions
from ..store.rundir import RunDir
from .control import Control, Meter
from .extract import IDENTITY_OPTIONS, Work, forward_shard, prepare
from .forward import torch_threads
from .planning import require_identity


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
    reopen : callable
        Opens the network, when first asked for.
    control : Control
    """

    def __init__(self, run: RunDir, images: NDArray[np.int64], reopen: Callable[[], Work], control: Control) -> None:
        self._run, self._images, self._reopen, self._control = run, images, reopen, control
        self._work: Work | None = None
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
            self._work = self._work or self._reopen()
            self._maps, self._shard = {}, -1  # not two shards at a time
            images = self._images[rows.start : rows.stop].tolist()
            with torch_threads(self._work.options.threads):
                self._maps, _ = forward_shard(self._run, self._work, images, self._control, Meter())
            self._shard = shard
            self.seconds += time.perf_counter() - begin
        return rows


def reopen_network(
    run: RunDir, data: Dataset, model: nn.Module | str | None, weights: str | None, trust: bool, common: CommonOptions
) -> Work:
    """The network and the images of a run, as `extract` had them.

    Parameters
    ----------
    model, weights
        Where they are not where `extract` found them, or were given as objects.
    trust : bool
        Whether an exported program may be read.
    common : CommonOptions
        Gives the memory; whatever else the activations depend on is the run's.

    Raises
    ------
    BadInput
        The network is not to be had, or another one.
    """
    made, found = run.manifest["model"], run.manifest["identity"]
    if model is None and str(made["spec"]).startswith("python:"):
        remedy = "score(run, model=...) in Python, or --model with what builds it"
        raise BadInput("model", f"{made['spec']}, which was an object", "the network that was extracted", remedy)
    options = ExtractOptions(
        memory=common.memory,
        threads=int(found["torch_threads"]),
        input_size=tuple(found["input_size"]),
        device=str(found["device"]),
        trust_model=trust,
        **{name: found[name] for name in IDENTITY_OPTIONS},
    )
    chosen, files = (made["spec"], made["weights"]) if model is None else (model, weights)
    work = prepare(chosen, data, found["layers"], files, options)
    require_identity(run, work.identity | {"model": found["model"]})  # what it is counts, not how it is called
    return work
