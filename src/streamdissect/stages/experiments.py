"""The results of `perturb`, `rotate` and `pca` in a run: which there are, and whether they are whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, IncompleteRun
from ..measure.audit import AuditRow
from ..measure.dissection import Dissection
from ..store.alignment import load_alignment, load_rotations
from ..store.results import load_dissection
from ..store.robustness import load_robustness
from ..store.rundir import RunDir
from .audit import load_audit
from .settings import AUDITED, SCORED, saved_settings, settings_in, stage_of_audit

BESIDE = ("blocks", "block_by", "block_table", "keep_masks")
"""Settings of a scoring that no experiment rests on."""


def load_perturbed(folder: Path) -> Any:
    """What `perturb` wrote beside the scoring that it rests on."""
    return load_robustness(folder, load_dissection(folder.parent / "dissection.h5"))


LOADERS: dict[str, Callable[[Path], Any]] = {"perturb": load_perturbed, "rotate": load_rotations, "pca": load_alignment}


def experiments_of(run: RunDir, name: str | None) -> list[str]:
    """Which experiments of a scoring have written their results."""
    results = run.results_path(name)
    return [each for each in LOADERS if (results / each / f"{each}.h5").exists()]


def verify_experiments(run: RunDir, name: str | None) -> tuple[int, list[str]]:
    """Result files of a scoring's experiments found whole, and what is wrong with the others."""
    n_whole, wrong = 0, []
    for each in experiments_of(run, name):
        try:
            LOADERS[each](run.results_path(name) / each)
            n_whole += 1
        except (IncompleteRun, BadInput) as error:
            wrong.append(str(error))
    return n_whole, wrong


def load_experiment(run: RunDir, name: str | None, experiment: str, result: Dissection) -> Any:
    """What an experiment of a scoring found.

    Parameters
    ----------
    experiment : str
        `perturb`, `rotate` or `pca`, and one that `experiments_of` gives.
    result : Dissection
        Of the scoring.

    Raises
    ------
    IncompleteRun
        It is damaged, or was made with a scoring that has been replaced by one of other rules since.
    """
    folder = run.results_path(name) / experiment
    found = load_robustness(folder, result) if experiment == "perturb" else LOADERS[experiment](folder)
    require_same_scoring(experiment, found.about, saved_settings(run, name) or {})
    return found


def load_audited(run: RunDir, name: str | None) -> list[AuditRow] | None:
    """The rows of a scoring's audit; None where there is none. IncompleteRun as `load_experiment`."""
    rows = load_audit(run.results_path(name) / "audit.json")
    made = settings_in(run.ledger(stage_of_audit(name))) or {}
    rested = {key: value for key, value in made.items() if key not in AUDITED}
    if rows is not None:
        require_same_scoring("score --audit", {"scoring": rested}, saved_settings(run, name) or {})
    return rows


def require_same_scoring(experiment: str, about: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """IncompleteRun where an experiment rests on a scoring of other rules than `settings`."""
    rested = dict(about.get("scoring", {}))
    rested |= {key.removeprefix(SCORED): value for key, value in about.items() if key.startswith(SCORED)}
    rested |= {"iou": about["tau"]} if "tau" in about else {}
    for key, value in rested.items():
        if key in settings and key not in BESIDE and settings[key] != value:
            raise IncompleteRun(
                f"{experiment} rests on a scoring that is no more, with another {key.replace('_', '-')}: "
                f"run {experiment} again with --overwrite"
            )
