"""The results of `perturb`, `rotate` and `pca` in a run: which there are, and whether they are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BadInput, IncompleteRun
from ..store.alignment import load_alignment, load_rotations
from ..store.results import load_dissection
from ..store.robustness import load_robustness
from ..store.rundir import RunDir


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
