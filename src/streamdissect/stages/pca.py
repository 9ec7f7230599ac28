"""Is a concept carried by one unit? The leading direction of its samples, and what it looks like (methods 6)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alignmentoptions import PcaOptions
from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import BadInput
from ..measure.alignment import Spectrum, standardised_moment
from ..measure.alignmentresult import VARIANTS, Alignment
from ..measure.concept_moments import ConceptMoments
from ..options import RUN, with_options
from ..store.alignment import save_alignment
from ..store.claims import Claims
from ..store.partials import Ledger, save_arrays, with_prefix
from ..store.rundir import RunDir
from ..tally import Arrays
from .alignment_figures import draw_alignment
from .control import Control, Meter
from .pca_experiment import Experiment, Item, find_concepts
from .pca_moments import Drawn, Gathered, draw_subset, gather_moments, gather_subsets, left_out, moments_bytes
from .pca_result import gather, judge, read_looks
from .scored_work import begun_settings, finish_items, keep_experiment, open_scored_work
from .shards import iter_until_whole


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
    experiment = open_experiment(run, data, labels, options, control)
    ledger, items = cut_into_items(experiment)
    if not look_at_items(experiment, items, ledger, control):
        return None
    return write_results(experiment, items, ledger, control)


def merge_alignment(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    common: PcaOptions,
    control: Control,
) -> Alignment:
    """Join what the workers of `pca` left in a run; `common` has the name, threads and memory.

    Raises
    ------
    BadInput
        The run was not looked at.
    IncompleteRun
        Not every item is finished; it names them.
    """
    made = begun_settings(run, "pca", common.name)
    terms = {key: made[key] for key in ("samples", "phi", "centred", "null", "min_images")}
    drawn = {key: made[key] for key in ("seed", "subsets") if made[key] is not None}
    options = replace(common, layers=tuple(made["layers"]), **terms, **drawn)
    experiment = open_experiment(run, data, None, options, control, made["concepts"])
    ledger, items = cut_into_items(experiment)
    ledger.require_complete()
    return write_results(experiment, items, ledger, control)


def open_experiment(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    labels: Labels | None,
    options: PcaOptions,
    control: Control,
    columns: list[int] | None = None,
) -> Experiment:
    """A scored run and what is looked at in it: the concepts of the options, or those that were looked at before."""
    work = open_scored_work(run, data, labels, options.name, options, "look at", control)
    if work.scoring.options.union == "mask-touch":
        got, remedy = "a scoring with --union mask-touch", "score with --union paper under another --name"
        raise BadInput("--name", got, "unions that do not depend on single units", remedy)
    chosen = find_concepts(work, options.concepts) if columns is None else columns
    return Experiment(work, work.layers(options.layers), chosen, options)


def cut_into_items(experiment: Experiment) -> tuple[Ledger, list[Item]]:
    """The commits, and what each of them is of; as whoever came first cut it."""
    work = experiment.work
    made = keep_experiment(work.ledger("pca", 0), work.folder("pca"), experiment.settings(), experiment.options)
    items = experiment.items(int(made["together"]))
    return work.ledger("pca", len(items)), items


def write_results(experiment: Experiment, items: list[Item], ledger: Ledger, control: Control) -> Alignment:
    """The pass that judges, a layer to whoever is free, as its commits follow those of the items; then everything."""
    work, n_layers = experiment.work, len(experiment.positions)
    whole = work.ledger("pca", len(items) + n_layers)
    with Claims(ledger.claims_folder) as claims:
        layers = range(len(items), whole.n_shards)
        for each in iter_until_whole(layers, whole.is_done, claims, control):
            looks = read_looks(experiment, items, ledger, experiment.positions[each - len(items)])
            whole.commit(each, {"file": save_arrays(whole.data_path(each), judge(experiment, looks, control))})
            claims.forget(each)
    result = gather(experiment, items, ledger)
    save_alignment(work.folder("pca"), result)
    draw_alignment(result, work.folder("pca") / "figures")
    return result


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
