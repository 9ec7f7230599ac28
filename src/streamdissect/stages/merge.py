"""Joining the parts of many workers into the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_json
from ..data.dataset import Dataset
from ..data.labellers import open_labellers
from ..data.labelling import labellers_of
from ..errors import BadInput, IncompleteRun
from ..kernels import kernel_backend
from ..measure.blocks import sum_blocks
from ..measure.counters import Counters
from ..measure.dissection import Dissection, LayerDissection, dissect_layer
from ..objects import place
from ..options import ScoreOptions
from ..store.partials import name_shards, under_prefix
from ..store.results import save_dissection
from ..store.rundir import RunDir
from ..store.tables import save_tables
from ..tally import Arrays
from .blocks import SUM_PART
from .control import Control
from .gathering import StreamPlan
from .recording import peak_bytes
from .scoring import Partial, Scoring, attach_masks, open_scoring
from .settings import saved_settings, settings_to_options

SCHEMA_VERSION = 1

Parts = Callable[[str], Iterator[Arrays]]
"""Prefix of a layer -> that layer's arrays of every shard; read layer by layer, as one set of counters is large."""


def merge(
    parts: Iterable[Partial] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    data: Dataset | str | os.PathLike[str] | None = None,
    options: ScoreOptions | None = None,
    control: Control | None = None,
) -> Dissection:
    """Join partial results; idempotent.

    Parameters
    ----------
    parts : iterable of Partial, or path
        What `score_partial` gave, in any order; or a run, whose partial files are joined.
    out : path, optional
        Where to write the result, for partials; without it nothing is written.
    data : Dataset, str or path, optional
        For a run: the dataset, where it is not where `extract` found it.
    options : ScoreOptions, optional
        For a run: as it was scored (`name`, `memory`).

    Returns
    -------
    Dissection

    Raises
    ------
    BadInput
        The parts belong to different runs or settings, or hold a shard twice.
    IncompleteRun
        Shards are missing; the message names them.
    """
    if isinstance(parts, (str, os.PathLike)):
        if out is not None:
            raise BadInput("out", repr(os.fspath(out)), "nothing where a run is merged", "its results go into the run")
        return merge_workers(parts, data, options or ScoreOptions(), control or Control())
    parts = list(parts)
    if not parts or not all(isinstance(part, Partial) for part in parts):
        raise BadInput("parts", f"{len(parts)} objects", "what score_partial gave", "pass at least one")
    if data is not None or options is not None:
        raise BadInput("data, options", "both partials and these", "partials alone", "they carry their own")
    first = parts[0]
    held: dict[int, Arrays] = {}
    seconds: dict[str, float] = {}
    for part in parts:
        if (part.run, part.settings) != (first.run, first.settings):
            raise BadInput(
                "parts", f"a part of {part.run} {part.settings}", f"{first.run} {first.settings}", "sort them"
            )
        if twice := sorted(held.keys() & part.shards.keys()):
            raise BadInput("parts", f"shard {twice[0]} twice", "each shard once", "leave one of the parts out")
        held |= part.shards
        for key, value in part.seconds.items():
            seconds[key] = seconds.get(key, 0.0) + value
    work = open_scoring(first.run, first.data, labellers_of(first.data), first.options, Control(), is_new=False)
    missing = [shard for shard in range(work.run.n_shards) if shard not in held]
    if missing:
        raise IncompleteRun(f"merge: {name_shards(missing, work.run.n_shards)} missing; pass their parts too")
    result = combine(work, lambda prefix: (under_prefix(prefix, held[s]) for s in sorted(held)), seconds, peak_bytes())
    if out is not None:
        save_results(place(out), result)
    return attach_masks(result, lambda: work)


def merge_workers(
    path: str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    options: ScoreOptions,
    control: Control,
) -> Dissection:
    """Join what the workers of `score` left in a run."""
    run = RunDir(path)
    settings = saved_settings(run, options.name)
    if settings is None:
        run.ledger("extract").require_complete()
        name = f" --name {options.name}" if options.name else ""
        raise IncompleteRun(f"{path}: extracted, but no shard is scored yet; run: streamdissect score {path}{name}")
    given = labellers_of(data) if isinstance(data, Dataset) else ()
    labellers = given or open_labellers([spec for spec, _ in settings["labels"]])
    work = open_scoring(run, data, labellers, settings_to_options(settings, options), control)
    return attach_masks(merge_run(work), lambda: work)


def merge_run(work: Scoring) -> Dissection:
    """Join the committed shards of a scoring and write the results."""
    commits = list(work.ledger.commits())
    seconds: dict[str, float] = {}
    for commit in commits:
        for key, value in commit["seconds"].items():
            seconds[key] = seconds.get(key, 0.0) + float(value)
    peak = max(peak_bytes(), *(int(commit["peak_bytes"]) for commit in commits))
    result = combine(work, lambda prefix: saved_parts(work, prefix), seconds, peak)
    save_results(work.results, result)
    return result


def saved_parts(work: Scoring, prefix: str) -> Iterator[Arrays]:
    """One layer's counters of every shard from their files."""
    for shard in range(work.run.n_shards):
        yield work.ledger.load(shard, prefix)


def combine(work: Scoring, parts: Parts, seconds: dict[str, float], peak: int) -> Dissection:
    """Sum the counters of all shards and work out what follows."""
    concepts = work.data.concepts
    layers: dict[str, LayerDissection] = {}
    images = pixels = np.zeros(work.rules.n_categories, np.int64)
    for position, spec in enumerate(work.layers):
        counters = Counters(spec.n_units, work.rules.n_concepts, work.rules.n_categories)
        for arrays in parts(str(position)):
            try:
                counters.merge(Counters.from_arrays(arrays))
            except ValueError as error:
                raise IncompleteRun(f"layer {spec.name}: {error}; score again with --overwrite") from error
        images, pixels = counters.category_images, counters.category_pixels
        layers[spec.name] = dissect_layer(
            work.thresholds[position],
            work.tail,
            counters,
            work.recorded.top[position],
            work.distributions[position],
            merge_blocks(work, position, parts),
            concepts.category,
            concepts.category_name,
            work.options.iou,
            work.options.union,
            describe_layer(work, position),
        )
    names = work.data.names
    result = Dissection(
        image_name=tuple(names[index] for index in work.recorded.images.tolist()),
        concept_number=concepts.number,
        concept_name=concepts.name,
        concept_category=concepts.category,
        category_name=concepts.category_name,
        category_images=images,
        category_pixels=pixels,
        layers=layers,
    )
    result.summary.update(describe_run(work, result, seconds, peak))
    return result


def merge_blocks(work: Scoring, position: int, parts: Parts) -> Arrays | None:
    """The sum of all shards' counters by block, where they were kept."""
    if work.options.blocks is None:
        return None
    spec = work.layers[position]
    sizes = work.options.blocks, spec.n_units, work.rules.n_concepts, work.rules.n_categories
    try:
        return sum_blocks(lambda: parts(f"blocks-{position}"), sizes, work.options.memory // SUM_PART)
    except ValueError as error:
        raise IncompleteRun(f"layer {spec.name}: {error}; score again with --overwrite") from error


def describe_layer(work: Scoring, position: int) -> dict[str, Any]:
    """What a layer's numbers rest on."""
    field = work.run.manifest["layers"][position]["field"]
    settings = work.settings
    return {
        "tail": settings["tail"],
        "threshold_source": threshold_source(work, position),
        "tau": settings["iou"],
        "union": settings["union"],
        "mask_test": settings["mask_test"],
        "multiplicity": settings["multiplicity"],
        "unlabelled": settings["unlabelled"],
        "upsample": work.upsampling(position),
        "field_map": field["text"] if field else "",
        "field_source": field["source"] if field else "",
        "mask_size": settings["mask_size"],
        "dtype": work.layers[position].dtype,
        **({"directions": settings["directions"]["digest"]} if settings.get("directions") else {}),
        **({"blocks": settings["blocks"], "block_by": settings["block_by"]} if settings["blocks"] else {}),
        "backend": kernel_backend(work.options.backend).name,
    }


def threshold_source(work: Scoring, position: int) -> str:
    """`exact`, or the sketch whose thresholds were left as they are."""
    if not work.options.approximate:
        return "exact"
    streams = StreamPlan.from_json(work.run.manifest["layers"][position]["streams"])
    return f"{streams.kind} sketch, k = {streams.settings[0]}"


def describe_run(work: Scoring, result: Dissection, seconds: dict[str, float], peak: int) -> dict[str, Any]:
    """Content of summary.json."""
    identity = work.run.manifest["identity"]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": work.run.full_name,
        "model": work.run.manifest["model"]["spec"],
        "weights": work.run.manifest["model"]["weights"],
        "data": work.data.spec,
        "images": len(result.image_name),
        "concepts": len(result.concept_name),
        "categories": list(result.category_name),
        "input_size": work.run.manifest["plan"]["input_size"],
        "dtype": identity.get("dtype", work.layers[0].dtype),
        "rule": work.settings,
        "layers": {name: layer.summary for name, layer in result.layers.items()},
        "seconds": {
            "extract": {key: round(value, 3) for key, value in work.recorded.seconds.items()},
            "score": {key: round(value, 3) for key, value in seconds.items()},
        },
        "peak_bytes": {"extract": work.recorded.peak_bytes, "score": peak},
    }


def save_results(folder: Path, result: Dissection) -> None:
    """Write every file of a result, summary.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tables(folder / "tables", result)
    save_dissection(folder / "dissection.h5", result)
    write_json(folder / "summary.json", result.summary)
