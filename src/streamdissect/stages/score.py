"""One pass over the shards with the thresholds fixed, then the tables (methods 3)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..data.dataset import Dataset
from ..data.labellers import Labeller, Labels
from ..data.labelling import base_of
from ..errors import BadInput
from ..measure.dissection import Dissection
from ..options import RUN, ScoreOptions, with_options
from ..store.claims import Claims
from ..store.results import load_dissection
from ..store.rundir import RunDir
from ..tally import Arrays
from .control import Control, Meter
from .counting import count_shard, count_shards
from .merge import merge_run
from .scoring import (
    Network,
    Partial,
    Scoring,
    asked_settings,
    attach_masks,
    choose_labellers,
    find_data,
    open_scoring,
    refuse_network,
)
from .settings import check_name, compare_settings, saved_settings, scored_tail
from .shards import WAIT_SECONDS
from .stability import score_until_stable, tell_stop

if TYPE_CHECKING:
    from torch import nn


def score(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    model: nn.Module | str | None = None,
    weights: str | None = None,
    trust_model: bool = False,
    options: ScoreOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Dissection | None:
    """Thresholds, IoU counters and tables from the activations that `extract` stored.

    Parameters
    ----------
    run : RunDir or path
    data : Dataset, str or path, optional
        The dataset, where it is not where `extract` found it.
    labels : str, callable or sequence of these, optional
        What labels the images beside their own labels, where it is not what `extract` was given; see `open_dataset`.
        `none`: nothing.
    model, weights, trust_model
        As for `extract`; for a run extracted with `spill="none"`, where the network it names is not to be had.
    options : ScoreOptions, optional
    control : Control, optional
    **named
        Fields of `ScoreOptions`, over those of `options`.

    Returns
    -------
    Dissection or None
        The result, also written into the run; None while other workers have shards to finish: the one that ends last,
        or `merge`, writes it.

    Raises
    ------
    BadInput
        Something given cannot be used, or the run was scored with other options.
    IncompleteRun
        Shards of `extract` are missing or damaged.
    Stopped
        `control` asked for it; the same call resumes.
    """
    control = control or Control()
    options = with_options(options or ScoreOptions(), named)
    opened = run if isinstance(run, RunDir) else RunDir(run)
    labellers = choose_labellers(opened, data, labels)
    network = Network(model, weights, trust_model)
    refuse_network(opened, network)
    finished = find_finished(opened, data, labellers, options, network)
    if finished is not None:
        tell_stop(finished, control)
        return finished
    work = open_scoring(opened, data, labellers, options, control, network)
    if options.until_stable is not None:
        return attach_masks(score_until_stable(work, control), lambda: work)
    count_shards(work, control)
    if work.ledger.missing():
        return None
    merged = merge_among_fellows(work, control) if options.has_fellows else merge_run(work)
    return attach_masks(merged, lambda: work)


def merge_among_fellows(work: Scoring, control: Control) -> Dissection:
    """Join the shards in one of the ranks that have them all at the same time; the others read what it wrote."""
    with Claims(work.ledger.claims_folder) as claims:
        while not (work.results / "summary.json").exists():
            control.check()
            if claims.take(work.run.n_shards):  # the number after the last shard's
                merged = None if (work.results / "summary.json").exists() else merge_run(work)
                claims.forget(work.run.n_shards)
                if merged is not None:
                    return merged
            else:
                time.sleep(WAIT_SECONDS)
    return load_dissection(work.results / "dissection.h5")


def find_finished(
    run: RunDir,
    data: Dataset | str | os.PathLike[str] | None,
    labellers: Sequence[Labeller],
    options: ScoreOptions,
    network: Network,
) -> Dissection | None:
    """The result of an equal scoring that is written already. BadInput where the scoring was begun otherwise."""
    check_name(options.name)
    made = None if options.overwrite else saved_settings(run, options.name)
    if made is None:
        return None
    asked = asked_settings(options, scored_tail(run, options), labellers)
    if data is not None:
        asked |= {"data": base_of(find_data(run, data, labellers)[0]).fingerprint()}
    compare_settings(made, asked)
    results = run.results_path(options.name)
    if not (results / "summary.json").exists():  # it is written last
        return None
    result = load_dissection(results / "dissection.h5")
    plain = replace(options, until_stable=None)  # masks are drawn of any image
    return attach_masks(result, lambda: open_scoring(run, data, labellers, plain, Control(), network, is_new=False))


def score_partial(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    shards: Iterable[int],
    labels: Labels | None = None,
    model: nn.Module | str | None = None,
    weights: str | None = None,
    trust_model: bool = False,
    options: ScoreOptions | None = None,
    **named: Any,
) -> Partial:
    """Count some shards and write nothing: for engines that carry results themselves.

    Parameters
    ----------
    run, data, labels, model, weights, trust_model, options, **named
        As for `score`.
    shards : iterable of int
        Each from 0 to n_shards - 1.

    Returns
    -------
    Partial
        Picklable; give those of all shards to `merge`.

    Raises
    ------
    BadInput
        Something given cannot be used, or there is no such shard.
    IncompleteRun
        Shards of `extract` are missing or damaged.
    """
    control = Control()
    opened = run if isinstance(run, RunDir) else RunDir(run)
    labellers = choose_labellers(opened, data, labels)
    network, options = Network(model, weights, trust_model), with_options(options or ScoreOptions(), named)
    if options.keep_masks:
        raise BadInput("keep_masks", "True", "False: nothing is written here", "use score, or mask() of the result")
    work = open_scoring(opened, data, labellers, options, control, network, is_new=False)
    found: dict[int, Arrays] = {}
    total: dict[str, float] = {}
    for shard in shards:
        if not 0 <= shard < work.run.n_shards:
            raise BadInput("shards", str(shard), f"0 to {work.run.n_shards - 1}", "see run.json")
        found[shard], seconds = count_shard(work, shard, control, Meter())
        for key, value in seconds.items():
            total[key] = total.get(key, 0.0) + value
    path = work.run.full_name
    return Partial(path, work.settings, work.options, work.data, found, total)
