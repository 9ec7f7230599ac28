"""Are concepts aligned with single units? Their space is turned, and its axes are scored anew (methods 5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alignmentoptions import RotateOptions
from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import IncompleteRun
from ..measure.counters import Counters
from ..measure.directions import Directions
from ..measure.iou import score_counters
from ..measure.rotationset import (
    ARRAYS,
    LayerRotations,
    PowersOf,
    Rotation,
    Rotations,
    UnitMoments,
    plan_rotations,
)
from ..options import RUN, with_options
from ..quantile import Thresholds
from ..store.alignment import save_rotations
from ..store.partials import Ledger, load_arrays, under_prefix, with_prefix
from ..store.rundir import RunDir
from ..tally import Arrays
from .alignment_figures import draw_rotations
from .control import Control, Meter
from .directed import DirectedPasses, count_directed, for_masks
from .scored_work import (
    ScoredWork,
    begun_settings,
    finish_items,
    keep_experiment,
    open_scored_work,
    share_out,
    unit_moments,
)

MOST_TOGETHER = 8
"""Rotations that share a read of the activations: what a kill may cost."""
POWER_MATRICES = 16
"""Float64 matrices in memory while a rotation is taken apart into its planes."""
PARTS_OF_WORKER = 2
"""At least, where there are several: parts take equally long, and their number is seldom a multiple of the workers'."""
COUNTERS_PART = 8
"""Part of the memory that their counters may take."""

Item = tuple[int, tuple[Rotation, ...]]
"""Position of a layer, and the rotations of one read."""


def rotate(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    options: RotateOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Rotations | None:
    """Score a run's units after rotations of their space, from its stored activations.

    Parameters
    ----------
    run : RunDir or path
        Scored, its activations stored.
    data, labels
        The dataset and what labels it, where they are not where the run found them.
    options : RotateOptions, optional
    control : Control, optional
    **named
        Fields of `RotateOptions`, over those of `options`.

    Returns
    -------
    Rotations or None
        Thresholds, counters and counts of every rotation, also written into `RUN/rotate/`; None while other workers
        have rotations to finish: the one that ends last writes it.

    Raises
    ------
    BadInput
        Something given cannot be used, or the run was rotated on other terms before.
    IncompleteRun
        The run is damaged.
    Stopped
        `control` asked for it; the same call resumes.

    Notes
    -----
    Source: methods 5. A rotation depends on its seed and the number of units alone. Rotated maps are float32, one
    product for each image, the same for any number of workers and threads; their thresholds are found anew, exactly.
    """
    control = control or Control()
    options = with_options(options or RotateOptions(), named)
    work = open_scored_work(run, data, labels, options.name, options, "rotate", control)
    items, ledger, about = cut_into_items(work, options)
    if not count_items(work, items, ledger, options, control):
        return None
    return write_results(work, items, ledger, about)


def merge_rotations(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    common: RotateOptions,
    control: Control,
) -> Rotations:
    """Join what the workers of `rotate` left in a run; `common` has the name, threads and memory.

    Raises
    ------
    BadInput
        The run was not rotated.
    IncompleteRun
        Not every item is finished; it names them.
    """
    made = begun_settings(run, "rotate", common.name)
    terms = {key: made[key] for key in ("layers", "alphas", "seeds", "seeds_between")}
    options = replace(common, **terms, controls=made["control"])
    work = open_scored_work(run, data, None, options.name, options, "rotate", control)
    items, ledger, about = cut_into_items(work, options)
    ledger.require_complete()
    return write_results(work, items, ledger, about)


def cut_into_items(work: ScoredWork, options: RotateOptions) -> tuple[list[Item], Ledger, dict[str, Any]]:
    """What each commit is of, as whoever came first cut it, the commits, and the terms of the result."""
    positions = work.layers(options.layers)
    rotations = plan_rotations(options.alphas, options.seeds, options.seeds_between, options.controls)
    most = choose_together(work, positions)
    about = {
        "layers": [work.scoring.layers[position].name for position in positions],
        "alphas": list(options.alphas),
        "seeds": options.seeds,
        "seeds_between": options.seeds_between,
        "control": list(options.controls),
        "scoring": work.scoring.settings,
    }
    together = share_out(len(rotations), most, len(positions), options.shard, PARTS_OF_WORKER)
    settings = about | {"together": together}
    made = keep_experiment(work.ledger("rotate", 0), work.folder("rotate"), settings, options)
    items = plan_items(positions, rotations, int(made["together"]))
    return items, work.ledger("rotate", len(items)), about


def write_results(work: ScoredWork, items: list[Item], ledger: Ledger, about: dict[str, Any]) -> Rotations:
    """Join the items, and write everything."""
    result = gather(work, items, ledger, about | {"run": work.run.full_name})
    save_rotations(work.folder("rotate"), result)
    draw_rotations(result, work.folder("rotate") / "figures")
    return result


def choose_together(work: ScoredWork, positions: list[int]) -> int:
    """Rotations of one read, as far as their counters fit the memory; BadInput where not even one is to be had."""
    n_units = max(work.scoring.layers[position].n_units for position in positions)
    work.require_memory(POWER_MATRICES * 8 * n_units**2, f"a rotation of {n_units} units")
    n_rows = 2 * work.scoring.rules.n_rows
    each = 8 * n_units * n_rows + 8 * n_units**2
    return max(1, min(MOST_TOGETHER, work.memory // COUNTERS_PART // each))


def plan_items(positions: list[int], rotations: tuple[Rotation, ...], together: int) -> list[Item]:
    """Layer by layer, neighbouring rotations together: those of one seed stand side by side."""
    return [
        (position, rotations[start : start + together])
        for position in positions
        for start in range(0, len(rotations), together)
    ]


def count_items(work: ScoredWork, items: list[Item], ledger: Ledger, options: RotateOptions, control: Control) -> bool:
    """Do every item that is this worker's, unclaimed and not finished; gives whether all are now."""
    n_images = len(work.scoring.recorded.images)
    powers = PowersOf()

    @cache
    def moments(position: int) -> UnitMoments:
        return unit_moments(work, position, ledger, control)

    def find(item: int, meter: Meter) -> Arrays:
        position, rotations = items[item]
        needed = moments(position) if any(each.needs_moments for each in rotations) else None
        n_units = work.scoring.layers[position].n_units
        sets = [each.directions(n_units, needed, powers) for each in rotations]
        return look_along(work, position, sets, control, meter)

    costs = [2 * n_images * len(rotations) for _, rotations in items]
    return finish_items(ledger, costs, options, ("rotate", "map"), find, control)


def look_along(work: ScoredWork, position: int, sets: list[Directions], control: Control, meter: Meter) -> Arrays:
    """Thresholds and counters of each set of directions."""
    scoring, options = work.scoring, work.scoring.options
    layer, n_images = scoring.layers[position], len(scoring.recorded.images)
    passes = DirectedPasses(scoring.maps, layer, n_images, options.memory, options.threads, control)
    step, keep_maps = passes.share(sets)
    arrays: Arrays = {}
    for start in range(0, len(sets), step):
        some = sets[start : start + step]
        kept_sets = range(len(some) if keep_maps else 0)
        passed = passes.thresholds(some, [scoring.tail], meter=meter, keep_maps=kept_sets)
        found, kept = [each.thresholds[scoring.tail] for each in passed], [each.candidates for each in passed]
        cuts = [for_masks(each, options.mask_test) for each in found]
        counted = count_directed(scoring, position, some, cuts, control, meter, kept=kept)
        for i, (thresholds, (counters,)) in enumerate(zip(found, counted, strict=True), start):
            arrays |= with_prefix(f"{i}/thresholds", thresholds.to_arrays())
            arrays |= with_prefix(f"{i}/counters", counters.to_arrays())
    return arrays


def gather(work: ScoredWork, items: list[Item], ledger: Ledger, about: dict[str, Any]) -> Rotations:
    """The result, from what was committed for every item."""
    layers = {}
    for position in dict.fromkeys(position for position, _ in items):
        rows: dict[str, list[Any]] = {name: [] for name in ARRAYS}
        rotations: list[Rotation] = []
        for rotation, row in iter_rows(work, items, ledger, position):
            rotations.append(rotation)
            for name in ARRAYS:
                rows[name].append(row[name])
        spec = work.scoring.layers[position]
        attributes = {**work.result.layers[spec.name].attributes, "units": spec.n_units}
        layers[spec.name] = LayerRotations(
            tuple(rotations), **{name: np.stack(each) for name, each in rows.items()}, attributes=attributes
        )
    concepts = work.scoring.data.concepts
    return Rotations(layers, tuple(concepts.name), tuple(concepts.category_name), about)


def iter_rows(
    work: ScoredWork, items: list[Item], ledger: Ledger, position: int
) -> Iterator[tuple[Rotation, dict[str, NDArray[Any]]]]:
    """Each rotation of a layer, and its row of every array."""
    scoring = work.scoring
    for item, (of, rotations) in enumerate(items):
        if of != position:
            continue
        saved = load_arrays(ledger.data_path(item))
        for i, rotation in enumerate(rotations):
            try:
                counters = Counters.from_arrays(under_prefix(f"{i}/counters", saved))
                thresholds = Thresholds.from_arrays(under_prefix(f"{i}/thresholds", saved))
            except ValueError as error:
                path = ledger.data_path(item)
                raise IncompleteRun(f"{path}: damaged ({error}); rotate again with --overwrite") from error
            category = scoring.data.concepts.category
            scores = score_counters(counters, category, scoring.options.iou, scoring.options.union)
            by_category = scores.unique_by_category()
            counts = int(scores.is_detector.sum()), scores.unique_top(), int(by_category.sum()), scores.unique_any()
            yield (
                rotation,
                {
                    "threshold": thresholds.threshold,
                    "intersection": np.ascontiguousarray(counters.intersection),
                    "unit_area": np.ascontiguousarray(counters.unit_area),
                    "unit_area_all": counters.unit_area_all,
                    "best_concept": scores.best_concept,
                    "best_iou": scores.best_iou,
                    "is_detector": scores.is_detector,
                    "counts": np.array(counts, np.int64),
                    "by_category": by_category,
                    "mean_best_iou": np.array(scores.best_iou.mean()),
                },
            )


def rows_of(result: Rotations) -> list[dict[str, Any]]:
    """The summary, ready for JSON."""
    return [asdict(row) for row in result.summary()]
