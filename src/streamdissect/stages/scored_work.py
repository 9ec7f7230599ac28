"""A scored run opened to look at its activations once more, by the rules it was scored by."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import create_json, remove_tree
from ..data.dataset import Dataset
from ..data.labellers import Labels, open_labellers
from ..errors import BadInput
from ..measure.concept_moments import ConceptMoments
from ..measure.dissection import Dissection
from ..measure.rotationset import UnitMoments
from ..options import CommonOptions, ScoreOptions
from ..store.claims import Claims
from ..store.partials import Ledger, load_arrays, save_arrays
from ..store.results import load_dissection
from ..store.rundir import RunDir
from ..tally import Arrays
from .control import Control, Meter
from .scoring import Scoring, choose_labellers, open_scoring
from .settings import (
    SETTINGS_FILE,
    check_name,
    compare_settings,
    saved_settings,
    settings_in,
    settings_to_options,
)
from .shards import await_fellows, iter_claimed, own_shards, require_alone

LIBRARIES = 208 << 20
"""Bytes of an interpreter that has loaded NumPy, PyTorch, Zarr and HDF5 and opened a run, mapped files aside."""
HELD_BACK = Fraction(1, 3)
"""Part of the rest that is not planned with: what was freed goes back to the system late; up to 27 % measured."""


@dataclass
class ScoredWork:
    """A scored run."""

    scoring: Scoring
    """Opened for counting, as it was scored."""
    result: Dissection
    name: str | None
    """Of the scoring."""
    memory: int
    """Bytes to plan with: of what the libraries leave, what is not held back."""

    @property
    def run(self) -> RunDir:
        return self.scoring.run

    def layers(self, patterns: Sequence[str]) -> list[int]:
        """Positions of the layers that names and globs stand for; all where there are none."""
        names = [layer.name for layer in self.scoring.layers]
        for pattern in patterns:
            if not any(pattern == name or fnmatchcase(name, pattern) for name in names):
                raise BadInput("--layers", repr(pattern), f"layers of the run: {', '.join(names)}", "correct it")
        chosen = [any(name == p or fnmatchcase(name, p) for p in patterns) for name in names]
        return [i for i in range(len(names)) if not patterns or chosen[i]]

    def folder(self, stage: str) -> Path:
        """Where the results of an experiment go."""
        return self.run.results_path(self.name) / stage

    def require_memory(self, least: int, what: str) -> None:
        """BadInput where the memory does not do for `least` bytes beside the libraries."""
        if self.memory < least:
            got = f"{least - self.memory} bytes too few"
            needed = LIBRARIES + math.ceil(least / (1 - HELD_BACK))
            expected = f"at least {needed}: {LIBRARIES} of libraries, {needed - LIBRARIES} of {what}"
            raise BadInput("--memory", got, expected, "raise it, or give fewer --threads")

    def ledger(self, stage: str, n_items: int) -> Ledger:
        """Commits of an experiment's items."""
        return Ledger(self.run.path / "partial" / stage_name(stage, self.name), n_items)


def open_scored_work(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    labels: Labels | None,
    name: str | None,
    common: CommonOptions,
    what: str,
    control: Control,
) -> ScoredWork:
    """Open a run that was scored and kept its activations, with the settings of the scoring.

    Raises
    ------
    BadInput
        There is no such run, it is not scored, stored no activations, or its labels are others than were scored.
    IncompleteRun
        It is damaged.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(name)
    settings, results = saved_settings(opened, name), opened.results_path(name)
    if settings is None or not (results / "summary.json").exists():
        option = f" --name {name}" if name else ""
        got = f"{str(opened.path)!r}, not scored{' under that name' * bool(name)}"
        raise BadInput("run", got, "one that is", f"run: streamdissect score {opened.path}{option}")
    if settings.get("directions"):
        got = f"a scoring of directions, {name or 'the main one'}"
        raise BadInput("--name", got, f"one of the units, to {what}", "name another, or score the run plainly")
    if opened.spill != "full":
        got = f"{str(opened.path)!r}, extracted with --spill {opened.spill}"
        raise BadInput("run", got, "one that stored all its activations", "extract again with --spill full")
    room = math.floor((common.memory - LIBRARIES) * (1 - HELD_BACK))
    asked = ScoreOptions(name=name, threads=common.threads, memory=max(1, room))
    named = labels
    if labels is None and not isinstance(data, Dataset):
        named = [spec for spec, _ in settings["labels"]]
    labellers = open_labellers(named) if named is not None else choose_labellers(opened, data, None)
    options = settings_to_options(settings, asked)
    scoring = open_scoring(opened, data, labellers, options, control, is_new=False)
    compare_settings(settings, scoring.settings)
    return ScoredWork(scoring, load_dissection(results / "dissection.h5"), name, room)


def keep_experiment(ledger: Ledger, folder: Path, settings: dict[str, Any], options: CommonOptions) -> dict[str, Any]:
    """Write the settings of an experiment once, or check that they are the same; gives those that were written.

    What is called `together` only says how the work is cut, and stays as whoever came first cut it.
    """
    if options.overwrite:
        require_alone([ledger.claims_folder], options.shard)
        remove_tree(folder)
        remove_tree(ledger.folder)
    ledger.create()
    if create_json(ledger.folder / SETTINGS_FILE, settings):
        return settings
    made = settings_in(ledger) or {}
    for key, value in settings.items():
        if key != "together" and made.get(key) != value:
            got, before = shorten(value), shorten(made.get(key))
            remedy = "give that, or start anew with --overwrite"
            raise BadInput(f"--{key.replace('_', '-')}", got, f"{before}, as it was begun", remedy)
    return made


def share_out(n: int, most: int, n_layers: int, shard: tuple[int, int] | None, each: int = 1) -> int:
    """How many of the n things of a layer to take together: `most`, or fewer where workers want `each` parts or more.

    The parts of a layer are about equal, and no more than that takes, for each reads all activations.
    """
    n_parts = max(1, math.ceil(n / most))
    if shard is not None:
        n_parts = max(n_parts, math.ceil(each * shard[1] / n_layers))
    return max(1, math.ceil(n / n_parts))


def begun_settings(run: RunDir | str | os.PathLike[str], stage: str, name: str | None) -> dict[str, Any]:
    """The settings that an experiment was begun with; BadInput where it was not."""
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(name)
    made = settings_in(Ledger(opened.path / "partial" / stage_name(stage, name), 0))
    if made is None:
        option = f" --name {name}" if name else ""
        got = f"{str(opened.path)!r}, in which no {stage} was begun"
        raise BadInput("run", got, "one in which it was", f"run: streamdissect {stage} {opened.path}{option}")
    return made


def stage_name(stage: str, name: str | None) -> str:
    """Of an experiment on a scoring, under `partial`."""
    return stage if name is None else f"{stage}-{name}"


def finish_items(
    ledger: Ledger,
    costs: Sequence[int],
    options: CommonOptions,
    kind: tuple[str, str],
    find: Callable[[int, Meter], Arrays],
    control: Control,
) -> bool:
    """Have every item found that is this worker's, unclaimed and not finished; gives whether all items are now.

    Parameters
    ----------
    costs : sequence of int
        Of each item: how far `find` advances the meter.
    kind : (str, str)
        The experiment, and what its meter counts.
    find : callable
        An item and the meter -> what is kept of it.
    """
    n_items, shard = len(costs), options.shard
    total = sum(costs[item] for item in own_shards(n_items, shard))
    with Claims(ledger.claims_folder) as claims, control.metering(kind[0], total, kind[1]) as meter:
        for item, is_mine in iter_claimed(n_items, shard, ledger.is_done, claims, control):
            if not is_mine:
                meter.advance(costs[item])
                continue
            ledger.commit(item, {"file": save_arrays(ledger.data_path(item), find(item, meter))})
            claims.forget(item)
        await_fellows(n_items, options, ledger.is_done, claims, control)
    return not ledger.missing()


def shorten(value: Any) -> str:
    """A setting in a message."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unit_moments(work: ScoredWork, position: int, ledger: Ledger, control: Control) -> UnitMoments:
    """Mean, deviation and covariance of a layer's units over all positions, found once and kept."""
    path = ledger.folder / f"moments-{position}.npz"
    layer = work.scoring.layers[position]
    if path.exists():
        found = ConceptMoments.from_arrays(load_arrays(path))
    else:
        control.say(f"layer {layer.name}: one pass over the activations for the units' moments")
        found = ConceptMoments(layer.n_units)
        rows = range(len(work.scoring.recorded.images))
        for _, maps in work.scoring.maps.iter_chunks(layer.name, rows, 1):  # chunk by chunk: sums round by their parts
            control.check()
            found.add(maps.transpose(0, 2, 3, 1).reshape(-1, layer.n_units), n_images=len(maps))
        save_arrays(path, found.to_arrays())
    covariance = found.covariance
    return UnitMoments(found.mean, np.sqrt(np.diag(covariance)), covariance)
