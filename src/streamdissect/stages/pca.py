"""Is a concept carried by one unit? The leading direction of its samples, and what it looks like (methods 6)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alignmentoptions import PcaOptions
from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import BadInput
from ..measure.alignment import KEPT, AlignmentStatistics, Spectrum, absent, describe, exclusivity, standardised_moment
from ..measure.alignmentresult import VARIANTS, Alignment, LayerAlignment, Variant
from ..measure.betas import benjamini_hochberg
from ..measure.carriers import FIT, HELD
from ..measure.concept_moments import ConceptMoments
from ..measure.counters import Counters
from ..measure.directions import Directions
from ..options import RUN, with_options
from ..store.alignment import save_alignment
from ..store.partials import Ledger, load_arrays, save_arrays, under_prefix, with_prefix
from ..store.rundir import RunDir
from ..tally import Arrays
from .alignment_figures import draw_alignment
from .blocks import blocks_of
from .control import Control, Meter
from .pca_carriers import Fitted, find_carriers, pack_carriers, pseudo_units, unpack_carriers
from .pca_moments import (
    Drawn,
    Gathered,
    draw_subset,
    gather_moments,
    gather_subsets,
    left_out,
    moments_bytes,
    plan_memory,
)
from .scored_work import ScoredWork, finish_items, keep_experiment, open_scored_work

MOST_TOGETHER = 32
"""Concepts that share a read of the activations."""
LEADING = 3
"""Units of each concept whose top images are named."""

Item = tuple[int, tuple[int, ...]]
"""Position of a layer, and places of the concepts of one read."""


def pca(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    options: PcaOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Alignment | None:
    """Find each concept's leading direction in the space of a layer's units, and how near it lies to one of them.

    Parameters
    ----------
    run : RunDir or path
        Scored, its activations stored.
    data, labels
        The dataset and what labels it, where they are not where the run found them.
    options : PcaOptions, optional
    control : Control, optional
    **named
        Fields of `PcaOptions`, over those of `options`.

    Returns
    -------
    Alignment or None
        Directions, statistics and what carries each concept, also written into `RUN/pca/`; None while other workers
        have concepts to finish: the one that ends last writes it.

    Raises
    ------
    BadInput
        Something given cannot be used, or the run was looked at on other terms before.
    IncompleteRun
        The run is damaged.
    Stopped
        `control` asked for it; the same call resumes.

    Notes
    -----
    Source: methods 6. Sums are float64 and go by the store's chunks in order, one thread to a product: the same for any
    number of workers, threads, and concepts at once.
    """
    control = control or Control()
    options = with_options(options or PcaOptions(), named)
    work = open_scored_work(run, data, labels, options.name, options, "look at", control)
    if work.scoring.options.union == "mask-touch":
        got, remedy = "a scoring with --union mask-touch", "score with --union paper under another --name"
        raise BadInput("--name", got, "unions that do not depend on single units", remedy)
    experiment = Experiment(work, work.layers(options.layers), find_concepts(work, options.concepts), options)
    ledger = work.ledger("pca", 0)
    made = keep_experiment(ledger, work.folder("pca"), experiment.settings(), options)
    items = experiment.items(int(made["together"]))
    ledger = work.ledger("pca", len(items))
    if not look_at_items(experiment, items, ledger, control):
        return None
    result = gather(experiment, items, ledger, control)
    save_alignment(work.folder("pca"), result)
    draw_alignment(result, work.folder("pca") / "figures")
    return result


@dataclass
class Experiment:
    """What is looked at."""

    work: ScoredWork
    positions: list[int]
    columns: list[int]
    """Of the concepts, in the dataset."""
    options: PcaOptions

    def __post_init__(self) -> None:
        names = self.work.result.image_name
        self.half_of = blocks_of(names, 2, "name")
        """(N,) whether the image is fitted to, 0, or judges, 1."""
        self.plans = {each: plan_memory(self.work, each, self.options.threads) for each in self.positions}
        """Of each layer."""

    def settings(self) -> dict[str, Any]:
        """What the result depends on, and how the work is cut, ready for JSON."""
        options = self.options
        return {
            "layers": [self.work.scoring.layers[position].name for position in self.positions],
            "concepts": self.columns,
            **{name: getattr(options, name) for name in ("samples", "phi", "centred", "null", "min_images")},
            "seed": options.seed if options.null == "subsets" else None,
            "subsets": options.subsets if options.null == "subsets" else None,
            "scoring": self.work.scoring.settings,
            "together": min(MOST_TOGETHER, *(plan.together for plan in self.plans.values())),
        }

    def items(self, together: int) -> list[Item]:
        """Layer by layer, neighbouring concepts together."""
        places = tuple(range(len(self.columns)))
        return [
            (position, places[start : start + together])
            for position in self.positions
            for start in range(0, len(places), together)
        ]

    @property
    def chosen(self) -> str:
        """The variant of the verdict, the tables and the direction that is scored."""
        return VARIANTS[int(self.options.centred)]


def find_concepts(work: ScoredWork, names: Sequence[str]) -> list[int]:
    """Columns of concepts by name; all that the images have, for `all`."""
    concepts = work.scoring.data.concepts
    known = list(concepts.name)
    if tuple(names) == ("all",):
        occurs = next(iter(work.result.layers.values())).concept_area > 0
        return np.flatnonzero(occurs).tolist()
    found: list[int] = []
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else "tables/units.csv has some"
            raise BadInput("--concepts", repr(name), "names of concepts by commas, or all", remedy)
        found += [c for c, each in enumerate(known) if each == name and c not in found]
    return found


def look_at_items(experiment: Experiment, items: list[Item], ledger: Ledger, control: Control) -> bool:
    """Do every item that is this worker's, unclaimed and not finished; gives whether all are now."""

    def find(item: int, meter: Meter) -> Arrays:
        return look_at(experiment, *items[item], control, meter)

    costs = [len(experiment.half_of)] * len(items)
    return finish_items(ledger, costs, experiment.options, ("pca", "image"), find, control)


def look_at(experiment: Experiment, position: int, places: tuple[int, ...], control: Control, meter: Meter) -> Arrays:
    """Directions of some concepts of a layer: one pass, and those of the subsets where they are asked for."""
    work, options = experiment.work, experiment.options
    columns = [experiment.columns[place] for place in places]
    is_first = 0 in places  # the units need counting once
    halves = experiment.half_of
    plan, n_units = experiment.plans[position], work.scoring.layers[position].n_units
    needed = plan.working_bytes + len(places) * moments_bytes(n_units)
    work.require_memory(needed, f"{len(places)} concepts to a read, as it was begun")
    found = gather_moments(
        work, position, columns, halves, options, plan.threads, control, meter, counts_units=is_first
    )
    mean, std = found.units.read()
    excluded = left_out(work, position)
    std[excluded] = mean[excluded] = 0.0
    inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)

    def analyse(i: int) -> Arrays:
        fit, held = found.moments[i]
        whole = fit.copy()
        whole.merge(held)
        counts = np.array([whole.n_samples, whole.n_images], np.int64)
        arrays: Arrays = {"counts": counts, "shift": (whole.mean - mean) * inverse * (whole.weight > 0)}
        arrays["fit_shift"] = (fit.mean - mean) * inverse * (fit.weight > 0)
        if whole.n_images < options.min_images:
            return arrays
        for is_centred, name in enumerate(VARIANTS):
            spectrum = Spectrum.of(standardised_moment(whole, mean, inverse, is_centred=bool(is_centred)))
            for key in ("values", "vectors", "diagonal"):
                arrays[f"{name}/{key}"] = getattr(spectrum, key)
            arrays[f"{name}/trace"] = np.array(spectrum.trace)
        if fit.n_images and held.n_images:
            moment = standardised_moment(fit, mean, inverse, is_centred=options.centred)
            arrays["fit"] = Spectrum.of(moment, 1).vectors[:, 0]
        return arrays

    with ThreadPoolExecutor(plan.threads, thread_name_prefix="directions") as pool:
        rows = list(pool.map(analyse, range(len(places))))
    found.moments.clear()  # the subsets need the room
    if options.null == "subsets":
        draw_subsets(experiment, position, columns, found, (mean, inverse), rows, control)
    arrays: Arrays = {"mean": mean, "std": std}
    for place, row in zip(places, rows, strict=True):
        arrays |= {f"{place}/{name}": array for name, array in row.items()}
    for half, counters in enumerate(found.counters):
        arrays |= with_prefix(f"units/{half}", counters.to_arrays())
    return arrays


def draw_subsets(
    experiment: Experiment,
    position: int,
    columns: list[int],
    found: Gathered,
    standard: tuple[NDArray[np.float64], NDArray[np.float64]],
    rows: list[Arrays],
    control: Control,
) -> None:
    """Leading loadings of random subsets of cells, as many for each concept as asked for, into its row."""
    work, options = experiment.work, experiment.options
    layer, numbers = work.scoring.layers[position], work.scoring.data.concepts.number
    wanted = [i for i, row in enumerate(rows) if f"{VARIANTS[0]}/values" in row]
    pairs = [(i, trial) for i in wanted for trial in range(options.subsets)]
    plan = experiment.plans[position]
    room = (work.memory - plan.working_bytes) // (8 * layer.n_units**2)
    for i in wanted:
        for name in VARIANTS:
            rows[i][f"{name}/subsets"] = np.zeros(options.subsets)
    for start in range(0, len(pairs), room):
        some = pairs[start : start + room]
        control.say(f"layer {layer.name}: subsets {start + 1} to {start + len(some)} of {len(pairs)}")
        subsets: list[tuple[int, int, dict[int, Drawn]]] = []
        for i, trial in some:
            number = int(numbers[columns[i]])
            images = draw_subset(options.seed, number, trial, len(experiment.half_of), found.drawn[i])
            subsets.append((number, trial, images))
        moments = gather_subsets(work, position, subsets, options, plan.threads, control)

        def leading(job: tuple[tuple[int, int], ConceptMoments]) -> None:
            (i, trial), each = job
            for is_centred, name in enumerate(VARIANTS):
                control.check()
                moment = standardised_moment(each, *standard, is_centred=bool(is_centred))
                loading = float(np.abs(Spectrum.of(moment, 1).vectors[:, 0]).max())
                rows[i][f"{name}/subsets"][trial] = loading

        with ThreadPoolExecutor(plan.threads, thread_name_prefix="subsets") as pool:
            list(pool.map(leading, zip(some, moments, strict=True)))


def gather(experiment: Experiment, items: list[Item], ledger: Ledger, control: Control) -> Alignment:
    """The result, from what was committed for every item."""
    work, concepts = experiment.work, experiment.work.scoring.data.concepts
    layers, top_units = {}, {}
    for position in experiment.positions:
        saved: Arrays = {}
        for item, (of, _) in enumerate(items):
            if of == position:
                saved |= load_arrays(ledger.data_path(item))
        name = work.scoring.layers[position].name
        layers[name] = layer_alignment(experiment, position, saved, ledger, control)
        concepts_here = range(len(experiment.columns))
        loadings = (layers[name].top_loadings(experiment.chosen, c)[:LEADING] for c in concepts_here)
        units = {unit for each in loadings for unit, _ in each}
        images = work.result.layers[name].top_image
        top_units[name] = {
            unit: [work.result.image_name[row] for row in images[unit].tolist() if row >= 0] for unit in sorted(units)
        }
    about = {key: value for key, value in experiment.settings().items() if key != "together"}
    return Alignment(
        tuple(concepts.name[c] for c in experiment.columns),
        tuple(concepts.category_name[concepts.category[c]] for c in experiment.columns),
        np.array(experiment.columns, np.int64),
        layers,
        top_units,
        experiment.chosen,
        about | {"run": os.path.abspath(work.run.path), "fit_images": int((experiment.half_of == 0).sum())},
    )


def layer_alignment(
    experiment: Experiment, position: int, saved: Arrays, ledger: Ledger, control: Control
) -> LayerAlignment:
    """Everything about one layer."""
    work, n_concepts = experiment.work, len(experiment.columns)
    mean, std = saved["mean"], saved["std"]
    scored = work.result.layers[work.scoring.layers[position].name]
    variants = {name: join_variant(name, saved, n_concepts, std) for name in VARIANTS}
    found = variants[experiment.chosen].statistics
    ranks, detects, is_best = np.zeros(n_concepts, np.int64), np.zeros(n_concepts, bool), np.zeros(n_concepts, bool)
    for place in np.flatnonzero(found.unit >= 0).tolist():
        unit, column = int(found.unit[place]), experiment.columns[place]
        iou = scored.iou[:, column]
        ranks[place] = 1 + int((iou > iou[unit]).sum())
        detects[place] = scored.best_concept[unit] == column
        is_best[place] = iou[unit] > 0 and unit == int(iou.argmax())
    inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    shift = np.stack([saved[f"{place}/shift"] for place in range(n_concepts)])
    present = [place for place in range(n_concepts) if found.unit[place] >= 0 and f"{place}/fit" in saved]
    fitted = fit_directions(experiment, saved, present, variants[experiment.chosen], shift, (mean, inverse))
    kept = ledger.folder / f"carriers-{position}.npz"
    if kept.exists():
        carriers, top = unpack_carriers(load_arrays(kept))
    else:
        units = [Counters.from_arrays(under_prefix(f"units/{half}", saved)) for half in (FIT, HELD)]
        carriers, top = find_carriers(work, position, n_concepts, fitted, units, experiment.half_of, control)
        save_arrays(kept, pack_carriers(carriers, top))
    counts = np.stack([saved[f"{place}/counts"] for place in range(n_concepts)])
    return LayerAlignment(
        samples=counts[:, 0],
        images=counts[:, 1],
        mean=mean,
        std=std,
        shift=shift,
        variants=variants,
        iou_rank=ranks,
        detects=detects,
        is_best_unit=is_best,
        carriers=carriers,
        top_images={"direction": top},
    )


def fit_directions(
    experiment: Experiment,
    saved: Arrays,
    present: list[int],
    variant: Variant,
    shift: NDArray[np.float64],
    standard: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Fitted:
    """The directions that are scored."""
    columns = [experiment.columns[place] for place in present]
    n_units = len(standard[0])
    if not present:
        nothing = Directions.identity(1)
        return Fitted([], [], nothing, nothing, np.zeros((0, n_units)))
    whole, _ = pseudo_units(variant.leading[present], shift[present], *standard)
    leading = np.stack([saved[f"{place}/fit"] for place in present])
    fit_shift = np.stack([saved[f"{place}/fit_shift"] for place in present])
    half, signed = pseudo_units(leading, fit_shift, *standard)
    return Fitted(present, columns, whole, half, signed)


def join_variant(name: str, saved: Arrays, n_concepts: int, std: NDArray[np.float64]) -> Variant:
    """One variant of all concepts."""
    n_units, n_varying = len(std), int((std > 0).sum())
    kept = min(KEPT, n_units)
    values, vectors = np.zeros((n_concepts, kept)), np.zeros((n_concepts, n_units, kept))
    diagonal, subsets_p = np.zeros((n_concepts, n_units)), np.full(n_concepts, np.nan)
    rows = []
    for place in range(n_concepts):
        prefix = f"{place}/{name}"
        if f"{prefix}/values" not in saved or not saved[f"{prefix}/values"][0] > 0:
            rows.append(absent())
            continue
        spectrum = Spectrum(
            saved[f"{prefix}/values"], saved[f"{prefix}/vectors"], saved[f"{prefix}/diagonal"],
            float(saved[f"{prefix}/trace"]),
        )  # fmt: skip
        rows.append(describe(spectrum, n_varying))
        values[place], vectors[place], diagonal[place] = spectrum.values, spectrum.vectors, spectrum.diagonal
        if (drawn := saved.get(f"{prefix}/subsets")) is not None:
            subsets_p[place] = (1 + int((drawn >= rows[-1]["loading"]).sum())) / (len(drawn) + 1)
    statistics = AlignmentStatistics.join(rows)
    adjusted = np.full(n_concepts, np.nan)
    known = np.flatnonzero(np.isfinite(statistics.p))
    adjusted[known] = benjamini_hochberg(statistics.p[known])
    return Variant(
        values, vectors, diagonal, statistics, exclusivity(vectors[:, :, 0], statistics), adjusted, subsets_p
    )
