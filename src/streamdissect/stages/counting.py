"""Counting the shards of a run that was opened for it, each by whoever claims it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from numpy.typing import NDArray

from ..atomic import describe_file
from ..measure.blocks import POOL_BYTES, BlockTally
from ..measure.counters import Counters
from ..measure.planes import ImagePlanes, LaidOut
from ..store.claims import Claims
from ..store.masks import MaskWriter, creating_masks
from ..store.partials import Ledger, save_arrays, with_prefix
from ..tally import Arrays
from .ahead import read_ahead
from .control import Control, Meter
from .masks import masks_path
from .recording import peak_bytes
from .scoring import Scoring
from .shards import await_fellows, iter_claimed, own_shards
from .thresholds import CHUNK_PART

PLANES_TOGETHER = 64
"""Images whose label planes are in memory together: some 2 MB at 112x112, 130 MB at 1024x1024."""


def count_shards(work: Scoring, control: Control) -> None:
    """Count every shard that is this worker's, unclaimed and not finished."""
    finish_shards(work, work.ledger, lambda shard, meter: count_and_save(work, shard, control, meter), "score", control)


def count_and_save(work: Scoring, shard: int, control: Control, meter: Meter) -> dict[str, Any]:
    """Count a shard and save its counters, and its masks where they are kept; gives what is committed."""
    path, layers = masks_path(work.run, work.options.name, shard), [layer.name for layer in work.layers]
    with creating_masks(path, layers) if work.options.keep_masks else nullcontext() as writer:
        arrays, seconds = count_shard(work, shard, control, meter, writer)
    kept = {"masks": describe_file(path)} if work.options.keep_masks else {}
    return {"file": save_arrays(work.ledger.data_path(shard), arrays), "seconds": seconds, **kept}


def finish_shards(
    work: Scoring, ledger: Ledger, count: Callable[[int, Meter], dict[str, Any]], what: str, control: Control
) -> None:
    """Have every shard counted that is this worker's, unclaimed and not finished; `count` gives what is committed."""
    run, worker = work.run, work.options.shard
    total = sum(len(run.rows(shard)) for shard in own_shards(run.n_shards, worker))
    with Claims(ledger.claims_folder) as claims, control.metering(what, total, "image") as meter:
        for shard, is_mine in iter_claimed(run.n_shards, worker, ledger.is_done, claims, control):
            advanced = 0
            if is_mine:
                content = count(shard, meter)
                advanced = len(run.rows(shard))
                ledger.commit(shard, content | {"peak_bytes": peak_bytes()})
                claims.forget(shard)
            meter.advance(len(run.rows(shard)) - advanced)
        await_fellows(run.n_shards, work.options, ledger.is_done, claims, control)


def count_shard(
    work: Scoring, shard: int, control: Control, meter: Meter, writer: MaskWriter | None = None
) -> tuple[Arrays, dict[str, float]]:
    """Counters of every layer over one shard, as arrays; and what labels and counting took."""
    sizes = [(layer.n_units, work.rules.n_concepts, work.rules.n_categories) for layer in work.layers]
    counters = [Counters(*size) for size in sizes]
    n_blocks = work.options.blocks
    room = min(POOL_BYTES, work.options.memory // CHUNK_PART // len(sizes))
    blocks = [BlockTally(n_blocks, *size, room) if n_blocks else None for size in sizes]
    seconds = {"labels": 0.0, "read": 0.0, "count": 0.0}
    groups = groups_of(work.run.rows(shard))
    images: Sequence[ImagePlanes] = ()
    at, clock = -1, Clock()
    for group, position, held, maps in read_ahead(iter_chunks(work, groups, control), work.options.threads):
        clock.stop(seconds, "read")
        if group > at:
            meter.advance(len(groups[at]) if at >= 0 else 0)
            rows, at = groups[group], group
            images = LaidOut(work.labels.of_part(shard, group, work.recorded.images[rows.start : rows.stop], control))
            clock.stop(seconds, "labels")
        these = images[held.start - groups[at].start : held.stop - groups[at].start]
        work.count(position, held, maps, these, counters[position], blocks[position], writer)
        clock.stop(seconds, "count")
    meter.advance(len(groups[at]))
    for what, took in (("labels", "labels"), ("waiting for activations", "read"), ("counting", "count")):
        control.took(what, seconds[took])
    arrays: Arrays = {}
    for position, (counted, tally) in enumerate(zip(counters, blocks, strict=True)):
        if tally is not None:
            counted.rows += tally.rows()
            arrays |= with_prefix(f"blocks-{position}", tally.to_arrays())
        arrays |= with_prefix(str(position), counted.to_arrays())
    return arrays, seconds


def iter_chunks(work: Scoring, groups: list[range], control: Control) -> Iterator[tuple[int, int, range, NDArray[Any]]]:
    """Chunks of maps: which group of rows, which layer, which rows, and the maps (B, K, h, w) of these."""
    for group, rows in enumerate(groups):
        for position in range(len(work.layers)):
            for held, maps in work.iter_maps(position, rows, control):
                yield group, position, held, maps


class Clock:
    """Where the time goes, from one stop to the next."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def stop(self, seconds: dict[str, float], what: str) -> None:
        """Add the time since the last stop."""
        now = time.perf_counter()
        seconds[what] += now - self._begin
        self._begin = now


def groups_of(rows: range) -> list[range]:
    """Rows whose label planes are in memory together."""
    return [rows[start : start + PLANES_TOGETHER] for start in range(0, len(rows), PLANES_TOGETHER)]
