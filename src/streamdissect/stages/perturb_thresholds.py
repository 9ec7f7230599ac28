"""Thresholds of perturbed maps themselves, in a pass of their own: is there still a unit for it (methods 4)?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..quantile import DEAD, SPARSE, BinnedTail, BufferedTail, Streams, find_thresholds, tail_rank
from ..store.claims import Claims
from ..store.partials import Ledger, save_arrays, with_prefix
from ..tally import Arrays
from .control import Control, Meter
from .perturb_counting import PartCounter
from .perturb_experiment import Experiment, Row
from .shards import iter_until_whole, own_first


def find_all_thresholds(work: Experiment, control: Control) -> None:
    """Thresholds of every row from its own maps, in a pass of its own, which is whole before anything is counted."""
    rows = [row for row in work.rows() if row[0] is not None]
    ledgers = {name: Ledger(work.partial / "thresholds" / name, len(work.parts)) for _, _, name in rows}
    for ledger in ledgers.values():
        ledger.create()

    def left_of(part: int) -> list[Row]:
        return [row for row in rows if not ledgers[row[2]].is_done(part)]

    claims_folder = work.partial / "thresholds" / "claims"
    claims_folder.mkdir(parents=True, exist_ok=True)
    parts = own_first(len(work.parts), work.options.shard)
    total = sum(sum(map(len, work.parts[part])) * len(left_of(part)) for part in parts)
    with Claims(claims_folder) as claims, control.metering("thresholds", total, "image") as meter:
        for part in iter_until_whole(parts, lambda part: not left_of(part), claims, control):
            counter = work.counter(part, control)
            for row in left_of(part):
                streams, ledger = gather_streams(work, counter, row, meter), ledgers[row[2]]
                ledger.commit(part, {"file": save_arrays(ledger.data_path(part), streams)})
            claims.forget(part)
    for _, _, name in rows:
        work.thresholds[name] = {layer: merged_threshold(work, ledgers[name], i) for i, layer in enumerate(work.layers)}


def empty_streams(work: Experiment, layer: str) -> Streams:
    """Exact ones of the largest values, as many as the tail has on all images."""
    h, w = work.scored.grid(layer)
    capacity = tail_rank(work.scored.tail, len(work.images) * h * w) + 1
    n_units, dtype = len(work.scored.layer(layer).n), np.dtype(work.network.options.dtype)
    kind = BinnedTail if dtype == np.float16 else BufferedTail
    return kind(n_units, capacity, dtype)


def gather_streams(work: Experiment, counter: PartCounter, row: Row, meter: Meter) -> Arrays:
    """The largest values of every layer over a part of the perturbed images."""
    streams = {layer: empty_streams(work, layer) for layer in work.layers}
    for rows, _, maps in counter.iter_perturbed(*row[:2]):
        for layer, each in streams.items():
            each.update(maps[layer])
        meter.advance(len(rows))
    arrays: Arrays = {}
    for position, layer in enumerate(work.layers):
        arrays |= with_prefix(str(position), streams[layer].to_arrays())
    return arrays


def merged_threshold(work: Experiment, ledger: Ledger, position: int) -> NDArray[np.float32]:
    """(K,) thresholds of a layer from all parts."""
    layer = work.layers[position]
    merged = empty_streams(work, layer)
    for part in range(len(work.parts)):
        merged.merge(type(merged).from_arrays(ledger.load(part, str(position))))
    found = find_thresholds(merged, work.scored.tail)
    if work.scored.options.mask_test == "gt":
        return found.threshold
    return np.where(found.flags & (DEAD | SPARSE), np.float32(np.nan), found.threshold)
