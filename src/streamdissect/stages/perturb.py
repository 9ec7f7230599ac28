"""How robust detectors are: images perturbed, the network run on them, its units scored anew (methods 4)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import BadInput, IncompleteRun
from ..measure.composition import CLEAN, Robustness, Setting
from ..measure.perturbations import Perturbation
from ..measure.robustness import RobustnessTally, find_outcome
from ..options import RUN, with_options
from ..perturboptions import DEFAULT_PERTURBATIONS, PERTURBATIONS, PerturbOptions
from ..store.claims import Claims
from ..store.partials import Ledger, name_shards, save_arrays, with_prefix
from ..store.robustness import COUNTERS, FILE, Part, load_robustness, save_outcomes, save_robustness_tables
from ..store.rundir import RunDir
from ..tally import Arrays
from .control import Control
from .forward import Network
from .perturb_counting import PartCounter
from .perturb_experiment import Experiment, Row
from .perturb_figures import draw_figures, draw_panel
from .perturb_thresholds import find_all_thresholds
from .perturb_work import chosen_perturbations, open_network, open_scored
from .scored_work import begun_settings
from .shards import await_fellows, iter_claimed, own_shards


def perturb(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    model: nn.Module | str | None = None,
    weights: str | None = None,
    trust_model: bool = False,
    perturbations: Sequence[Perturbation] = (),
    panel: str | os.PathLike[str] | None = None,
    units: Sequence[str] = (),
    options: PerturbOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Robustness | None:
    """Perturb the images of a scored run, and score its units on what comes out.

    Parameters
    ----------
    run : RunDir or path
        Extracted or captured, and scored.
    data, labels
        The dataset and what labels it, where they are not where the run found them.
    model, weights, trust_model
        As for `extract`; for a run whose network is not to be had where it was, as after `capture`.
    perturbations : sequence of Perturbation
        Beside those that the options name: a kind of one's own is a class.
    panel : str or path, optional
        An image, by its name in the dataset or as a file, to draw under every perturbation; see `units`.
    units : sequence of str
        `LAYER:UNIT` of the panel; by default the strongest detector of each layer.
    options : PerturbOptions, optional
        With no perturbation named at all: noise 1, 5, 10, 100, rotations by 10, 45, 90 degrees, shuffles of 4 x 4 and
        8 x 8 tiles.
    control : Control, optional
    **named
        Fields of `PerturbOptions`, over those of `options`.

    Returns
    -------
    Robustness or None
        Everything measured in this run so far, also written into `RUN/perturb/`; None while other workers have images
        to finish: the one that ends last writes it.

    Raises
    ------
    BadInput
        Something given cannot be used, or the run was perturbed on other images, layers or terms before.
    IncompleteRun
        The run is damaged.
    Stopped
        `control` asked for it; the same call resumes.

    Notes
    -----
    Source: methods 4. Random draws depend on seed, kind, trial and image name alone.
    """
    control = control or Control()
    options = with_options(options or PerturbOptions(), named)
    if not perturbations and not any(getattr(options, name) for name in PERTURBATIONS):
        options = replace(options, **DEFAULT_PERTURBATIONS)  # type: ignore[arg-type]
    scored = open_scored(run, data, labels, options.name, options)
    chosen = [*chosen_perturbations(options, scored.input_size), *perturbations]
    for each in perturbations:
        each.check(scored.input_size)

    def reopen(layers: Sequence[str]) -> Network:
        return open_network(scored, layers, model, weights, trust_model, options)

    work = Experiment(scored, scored.layers(options.layers), options, chosen, reopen)
    if options.overwrite or not work.is_begun:
        work.reopen_now()  # what is refused leaves no trace, and takes nothing away
    if units and panel is None:
        raise BadInput("--units", repr(",".join(units)), "--panel beside it, whose columns they are", "give both")
    if panel is not None:  # before anything is kept: what cannot be drawn is refused and leaves no trace
        drawn = draw_panel(scored, work.network, work.folder, panel, units, chosen, options)
        control.say(f"perturb: drew {drawn}")
    work.keep_settings()
    if panel is not None and options.overwrite:  # which took it away with the rest
        draw_panel(scored, work.network, work.folder, panel, units, chosen, options)
    if options.thresholds_from == "recompute":
        find_all_thresholds(work, control)
    count_parts(work, control)
    if any(ledger.missing() for ledger in work.ledgers.values()):
        return None
    return write_results(work)


def merge_robustness(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    common: PerturbOptions,
) -> Robustness:
    """Join what the workers of `perturb` left in a run; `common` has the name, threads and memory.

    Raises
    ------
    BadInput
        The run was not perturbed.
    IncompleteRun
        Not every part of the images is finished; it names them.
    """
    made = begun_settings(run, "perturb", common.name)
    limit = made["limit"]
    terms = {name: made[name] for name in ("layers", "seed", "thresholds_from", "labels_warp", "mean", "std")}
    first = int(limit.removeprefix("first:")) if isinstance(limit, str) else None
    options = replace(common, **terms, limit=limit if first is None else first, is_first=first is not None)
    scored = open_scored(run, data, None, options.name, options)

    def refuse(layers: Sequence[str]) -> Network:
        raise AssertionError(f"joining runs no network, and asked for {layers}")

    work = Experiment(scored, scored.layers(options.layers), options, [], refuse)
    work.keep_settings()
    for row, ledger in rows_begun(work):
        if missing := ledger.missing():
            which, of = name_shards(missing, len(work.parts)), f"{row['text']}, trial {row['trial']}"
            raise IncompleteRun(f"perturb: {which} not finished for {of}; run the same perturb again")
    return write_results(work)


def count_parts(work: Experiment, control: Control) -> None:
    """Count what is this worker's, unclaimed and not finished: every row of a part, then the next part."""
    rows, ledgers, shard = work.rows(), work.ledgers, work.options.shard

    def left_of(part: int) -> list[Row]:
        return [row for row in rows if not ledgers[row[2]].is_done(part)]

    sizes = [sum(map(len, batches)) for batches in work.parts]
    total = sum(sizes[part] * len(left_of(part)) for part in own_shards(len(work.parts), shard))
    is_told = False
    with Claims(work.partial / "claims") as claims, control.metering("perturb", total, "image") as meter:
        for part, is_mine in iter_claimed(len(work.parts), shard, lambda part: not left_of(part), claims, control):
            if not is_mine:
                continue
            counter = work.counter(part, control)
            if not is_told:
                tell_estimate(counter, total, control)
                is_told = True
            for perturbation, trial, name in left_of(part):
                begin = time.perf_counter()
                found = counter.count(perturbation, trial, work.thresholds.get(name), meter)
                arrays: Arrays = {}
                for position, layer in enumerate(work.layers):
                    arrays |= with_prefix(str(position), found[layer].to_arrays())
                file = save_arrays(ledgers[name].data_path(part), arrays)
                ledgers[name].commit(part, {"file": file, "seconds": time.perf_counter() - begin})
            claims.forget(part)
        await_fellows(len(work.parts), work.options, lambda part: not left_of(part), claims, control)


def tell_estimate(counter: PartCounter, total: int, control: Control) -> None:
    """Say how long the work will take, from one batch."""
    seconds = counter.seconds_per_image() * total
    took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    control.say(f"perturb: {total} forward passes of an image, about {took}")


def write_results(work: Experiment) -> Robustness:
    """Join the parts of every row that is whole, those of earlier calls too, and write everything."""
    described = [(row, ledger) for row, ledger in rows_begun(work) if not ledger.missing()]
    texts = list(dict.fromkeys(row["text"] for row, _ in described))
    firsts = [next(row for row, _ in described if row["text"] == text) for text in texts]
    settings = tuple(Setting(row["text"], row["kind"], row["magnitude"], row["label"]) for row in firsts)
    trials = tuple((texts.index(row["text"]), int(row["trial"])) for row, _ in described)
    names = tuple(work.scored.data.names[index] for index in work.images.tolist())
    about = {**work.settings(), "tau": str(work.scored.tau), "run": work.scored.run.full_name}
    work.folder.mkdir(parents=True, exist_ok=True)
    parts = combine(work, [ledger for _, ledger in described])
    save_outcomes(work.folder / FILE, parts, settings, trials, names, about)
    found = load_robustness(work.folder, work.scored.result)
    save_robustness_tables(work.folder, found)
    draw_figures(found, work.folder / "figures")
    return found


def rows_begun(work: Experiment) -> list[tuple[dict[str, Any], Ledger]]:
    """Every row asked for so far, by kind, magnitude and trial, the clean images first."""
    found = [
        (json.loads(path.read_text(encoding="utf-8")), Ledger(path.parent, len(work.parts)))
        for path in (work.partial / "rows").glob("*/row.json")
    ]
    order = [CLEAN, *(name.replace("_", "-") for name in PERTURBATIONS)]

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        kind = row["kind"]
        return (order.index(kind) if kind in order else len(order), kind, row["magnitude"], row["text"], row["trial"])

    return sorted(found, key=lambda each: place(each[0]))


def combine(work: Experiment, ledgers: list[Ledger]) -> Iterator[Part]:
    """Each layer and row: its parts summed in order, what follows, and the counters."""
    concepts = work.scored.data.concepts
    for position, layer in enumerate(work.layers):
        clean = work.scored.layer(layer)
        for row, ledger in enumerate(ledgers):
            tally = RobustnessTally(len(clean.n), work.scored.rules.n_concepts, work.scored.rules.n_categories)
            for part in range(len(work.parts)):
                try:
                    tally.merge(RobustnessTally.from_arrays(ledger.load(part, str(position))))
                except ValueError as error:
                    raise IncompleteRun(f"{ledger.data_path(part)}: {error}; perturb again with --overwrite") from error
            outcome = find_outcome(tally, clean, concepts.category, work.scored.tau, work.scored.options.union)
            yield layer, row, outcome, {name: getattr(tally.perturbed, name) for name in COUNTERS}
