"""Thresholds of every layer at the tails asked for, with another pass over the store where one is needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import numpy as np

from ..errors import BadInput, IncompleteRun
from ..quantile import (
    LARGEST_CAPACITY,
    BinnedTail,
    BufferedTail,
    Refinement,
    Thresholds,
    UnitStreams,
    find_thresholds,
    needs_refinement,
    tail_rank,
)
from ..quantile.refinement import SLOT_BYTES
from ..store.activations import LayerArray
from ..store.partials import load_arrays, save_arrays
from ..store.rundir import RunDir
from .control import Control
from .recording import layers_of, store_of

CHUNK_PART = 16
"""Part of the memory that maps being read may take."""


def all_thresholds(
    run: RunDir, streams: Sequence[UnitStreams], tail: Fraction, memory: int, control: Control
) -> list[dict[Fraction, Thresholds]]:
    """For each layer the thresholds at the tails extracted, in their order, and at `tail`."""
    tails = [Fraction(text) for text in run.manifest["identity"]["tails"]]
    wanted = tails if tail in tails else [*tails, tail]
    return [
        {p: layer_thresholds(run, j, layer, streams[j], p, memory, control) for p in wanted}
        for j, layer in enumerate(layers_of(run))
    ]


def layer_thresholds(
    run: RunDir, position: int, layer: LayerArray, streams: UnitStreams, tail: Fraction, memory: int, control: Control
) -> Thresholds:
    """Thresholds of one layer at one tail; what took a pass over the store is kept in the run."""
    m = tail_rank(tail, int(streams.n.max(initial=0)))
    if m < streams.capacity and not needs_refinement(streams):
        return find_thresholds(streams, tail)
    path = run.ledger("extract").folder / f"thresholds-{position}-{tail.numerator}-{tail.denominator}.npz"
    if path.exists():
        return Thresholds.from_arrays(load_arrays(path))
    if m >= streams.capacity:
        control.say(f"layer {layer.name}: tail {tail} is larger than those extracted; one more pass over the store")
        streams = recount(run, layer, m + 1, memory, control)
    refined = None
    if isinstance(streams, BinnedTail) and needs_refinement(streams):
        refined = refine(run, layer, streams, tail, memory, control)
    found = find_thresholds(streams, tail, refined)
    with suppress(OSError):  # a run that cannot be written to is read again the next time
        save_arrays(path, found.to_arrays())
    return found


def recount(run: RunDir, layer: LayerArray, capacity: int, memory: int, control: Control) -> UnitStreams:
    """Streams of a larger capacity from the stored activations."""
    if capacity > LARGEST_CAPACITY:
        raise BadInput(
            "--tail", f"{capacity - 1} activations of a unit above it", "fewer than 2**32", "take a smaller tail"
        )
    buffered = layer.dtype == "float32" and BufferedTail.state_bytes(layer.n_units, capacity) <= memory // 2
    streams: UnitStreams = (BufferedTail if buffered else BinnedTail)(layer.n_units, capacity, layer.dtype)
    n_images = int(run.manifest["plan"]["n_images"])
    for _, maps in store_of(run).iter_chunks(layer.name, range(n_images), memory // CHUNK_PART):
        control.check()
        streams.update(maps)
    return streams


def refine(
    run: RunDir, layer: LayerArray, streams: BinnedTail, tail: Fraction, memory: int, control: Control
) -> tuple[np.ndarray, np.ndarray]:
    """Exact float32 thresholds: as many units at once as the memory holds, a pass for each group of them."""
    m, n_images = streams.ranks(tail), int(run.manifest["plan"]["n_images"])
    group = max(1, min(layer.n_units, memory // 4 // SLOT_BYTES))
    parts = []
    for first in range(0, layer.n_units, group):
        refinement = Refinement(streams, m, first, min(group, layer.n_units - first))
        for _, maps in store_of(run).iter_chunks(layer.name, range(n_images), memory // CHUNK_PART):
            control.check()
            refinement.update(maps)
        try:
            parts.append(refinement.thresholds())
        except ValueError as error:
            raise IncompleteRun(f"layer {layer.name}: {error}; extract again with --overwrite") from error
    thresholds, n_above = (np.concatenate(each) for each in zip(*parts, strict=True))
    return thresholds, n_above
