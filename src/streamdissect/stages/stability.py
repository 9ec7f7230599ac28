"""Scoring that ends once the best IoUs are known well enough: `score --until-stable` (docs/monitor.md)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from ..errors import BadInput, IncompleteRun
from ..measure.counters import Counters
from ..measure.dissection import Dissection
from ..measure.stability import LEVEL, BestIntervals
from ..store.claims import Claims
from .control import Control, Meter
from .counting import count_and_save
from .merge import combine, save_results
from .recording import peak_bytes
from .scoring import Scoring


def score_until_stable(work: Scoring, control: Control) -> Dissection:
    """Count shard by shard, in order, until the interval of every best IoU is narrow; write the result of these."""
    widest, n_shards = math.inf, 0
    limit = float(work.options.until_stable or 0)
    sizes = work.rules.n_concepts, work.rules.n_categories, work.rules.category, work.options.union
    intervals = [BestIntervals(layer.n_units, *sizes) for layer in work.layers]
    n_images = len(work.recorded.images)
    with Claims(work.ledger.claims_folder) as claims, control.metering("score", n_images, "image") as meter:
        while n_shards < work.run.n_shards and not widest < limit:
            control.check()
            finish_shard(work, n_shards, claims, control, meter)
            for position, each in enumerate(intervals):
                load = partial(load_counters, work, position=position)
                each.add(load(n_shards), load)
            widest = max(float(each.widths().max(initial=0.0)) for each in intervals)
            n_shards += 1
    result = join_shards(work, n_shards)
    note_stop(work, result, n_shards, widest)
    save_results(work.results, result)
    tell_stop(result, control)
    return result


def finish_shard(work: Scoring, shard: int, claims: Claims, control: Control, meter: Meter) -> None:
    """Have a shard counted and committed. BadInput where another process is at work on it."""
    if work.ledger.is_done(shard):
        meter.advance(len(work.run.rows(shard)))
        return
    if not claims.take(shard):
        got = f"shard {shard}, which {claims.describe(shard)} is at work on"
        raise BadInput("--until-stable", got, "one worker", "wait for that process or stop it first")
    work.ledger.commit(shard, count_and_save(work, shard, control, meter) | {"peak_bytes": peak_bytes()})
    claims.forget(shard)


def load_counters(work: Scoring, shard: int, position: int) -> Counters:
    """One layer's counters of a shard that is committed. IncompleteRun where they are damaged."""
    try:
        return Counters.from_arrays(work.ledger.load(shard, str(position)))
    except ValueError as error:
        name = work.layers[position].name
        raise IncompleteRun(f"layer {name}: {error}; score again with --overwrite") from error


def join_shards(work: Scoring, n_shards: int) -> Dissection:
    """The result of the first shards alone."""
    commits = [commit for shard in range(n_shards) if (commit := work.ledger.read(shard))]
    seconds: dict[str, float] = {}
    for commit in commits:
        for key, value in commit["seconds"].items():
            seconds[key] = seconds.get(key, 0.0) + float(value)
    peak = max(peak_bytes(), *(int(commit["peak_bytes"]) for commit in commits))
    return combine(work, lambda prefix: (work.ledger.load(s, prefix) for s in range(n_shards)), seconds, peak)


def note_stop(work: Scoring, result: Dissection, n_shards: int, widest: float) -> None:
    """Say in the result on which images it rests: in its summary and with each layer."""
    n_images = sum(len(work.run.rows(shard)) for shard in range(n_shards))
    result.summary["images"] = n_images
    result.summary["until_stable"] = {
        "width": str(work.options.until_stable),
        "level": LEVEL,
        "widest": widest if math.isfinite(widest) else None,
        "images": n_images,
        "of_images": len(work.recorded.images),
        "shards": n_shards,
        "of_shards": work.run.n_shards,
        "order": "arrival" if work.run.is_captured else "dataset",
    }
    for layer in result.layers.values():
        layer.attributes["until_stable"] = str(work.options.until_stable)
        layer.attributes["images"], layer.attributes["of_images"] = n_images, len(work.recorded.images)


def tell_stop(result: Dissection, control: Control) -> None:
    """Tell the user on which images a result rests that was counted until it was stable."""
    found: dict[str, Any] | None = result.summary.get("until_stable")
    if found is None:
        return
    widest = "unknown, as there are few shards" if found["widest"] is None else f"{found['widest']:.4f}"
    counted = f"the first {found['images']} of {found['of_images']} images, in the order of {found['order']}"
    if found["images"] == found["of_images"]:
        counted = f"all {found['images']} images"
    control.say(
        f"until stable: the results rest on {counted}; the widest interval of a best IoU is {widest}, "
        f"the bound {found['width']}"
    )
