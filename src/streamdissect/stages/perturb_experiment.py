"""What is perturbed in one run: its images in parts, its rows, what they have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import create_json, remove_tree
from ..errors import BadInput
from ..measure.composition import CLEAN
from ..measure.perturbations import Perturbation
from ..options import BATCH
from ..perturboptions import PerturbOptions
from ..store.partials import Ledger
from .control import Control
from .forward import Network
from .perturb_counting import PartCounter, Thresholds
from .perturb_work import Scored
from .selection import spread
from .settings import SCORED, SETTINGS_FILE, settings_in
from .shards import require_alone

MOST_TOGETHER = 256
"""Images whose clean maps are in memory together, unless one batch is more."""

SCORING = (
    "labels",
    "data",
    "tail",
    "iou",
    "upsample",
    "mask_size",
    "approximate",
    "union",
    "mask_test",
    "multiplicity",
    "unlabelled",
)
"""Settings of the scoring that bear on the outcomes."""

Row = tuple[Perturbation | None, int, str]
"""Perturbation, trial, name of its partials; no perturbation: the clean images."""


@dataclass
class Experiment:
    """A scored run whose images are to be perturbed."""

    scored: Scored
    layers: list[str]
    options: PerturbOptions
    perturbations: list[Perturbation]
    reopen: Callable[[Sequence[str]], Network] = field(repr=False)
    thresholds: dict[str, Thresholds] = field(default_factory=dict)
    """By row, where they are not the run's."""

    @cached_property
    def network(self) -> Network:
        """The run's, opened when first needed: nothing may be left to do."""
        return self.reopen(self.layers)

    def reopen_now(self) -> None:
        """Open the network."""
        _ = self.network

    @property
    def is_begun(self) -> bool:
        """Whether anything was perturbed before."""
        return (self.partial / SETTINGS_FILE).exists()

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.scored.run.results_path(self.options.name) / "perturb"

    @property
    def partial(self) -> Path:
        """Where commits lie."""
        name = self.options.name
        return self.scored.run.path / "partial" / ("perturb" if name is None else f"perturb-{name}")

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """The dataset's indices of the images used."""
        names = self.scored.result.image_name
        rows = list(range(len(names)))
        limit = self.options.limit
        if limit is not None and limit < len(rows):
            seed = self.options.seed
            ordered = rows if self.options.is_first else sorted(rows, key=lambda row: spread(seed, names[row]))
            rows = sorted(ordered[:limit])
        at = {name: index for index, name in enumerate(self.scored.data.names)}
        return np.array([at[names[row]] for row in rows], np.int64)

    @cached_property
    def parts(self) -> list[list[list[int]]]:
        """Parts of the images, each of batches, which never cross a shard of the run where all of its images are used.

        So the network sees the batches that `extract` made, and the clean maps are those that it stored.
        """
        run, size = self.scored.run, int(self.scored.run.manifest["identity"].get("batch_size", BATCH))
        images = self.images.tolist()
        is_whole = len(images) == len(self.scored.result.image_name)
        shards = [list(run.rows(shard)) for shard in range(run.n_shards)] if is_whole else [list(range(len(images)))]
        most = max(1, MOST_TOGETHER // size) if is_whole else 1
        parts = []
        for rows in shards:
            batches = [[images[row] for row in rows[start : start + size]] for start in range(0, len(rows), size)]
            parts += [batches[start : start + most] for start in range(0, len(batches), most)]
        return parts

    def rows(self) -> list[Row]:
        """(perturbation, trial, name of its partials) of everything asked for, the clean images first."""
        found: list[Row] = [(None, 0, CLEAN)]
        for each in self.perturbations:
            for trial in range(self.options.trials if each.is_random else 1):
                found.append((each, trial, row_name(each.text, trial)))
        return found

    @cached_property
    def ledgers(self) -> dict[str, Ledger]:
        """Commits of each row."""
        return {name: Ledger(self.partial / "rows" / name, len(self.parts)) for _, _, name in self.rows()}

    def settings(self) -> dict[str, Any]:
        """What every row of the experiment has in common, ready for JSON."""
        digest = blake2b(digest_size=16)
        for index in self.images.tolist():
            digest.update(f"{self.scored.data.names[index]}\0".encode())
        options, is_captured = self.options, self.scored.run.is_captured
        return {
            "layers": self.layers,
            "limit": f"first:{options.limit}" if options.is_first else options.limit,
            "seed": options.seed,
            "thresholds_from": options.thresholds_from,
            "labels_warp": options.labels_warp,
            "mean": options.mean if is_captured else None,
            "std": options.std if is_captured else None,
            "images": digest.hexdigest(),
            **{f"{SCORED}{name}": self.scored.settings[name] for name in SCORING},
        }

    def keep_settings(self) -> None:
        """Write what the rows have in common, or check that it is the same; and what each row is."""
        if self.options.overwrite:
            require_alone([self.partial / "claims"], self.options.shard)
            remove_tree(self.folder)
            remove_tree(self.partial)
        shared = Ledger(self.partial, len(self.parts))
        shared.create()
        settings = self.settings()
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        if not create_json(self.partial / SETTINGS_FILE, plain):
            made = settings_in(shared) or {}
            for name, value in plain.items():
                if made.get(name) != value:
                    raise BadInput(
                        name_setting(name),
                        show(value),
                        f"{show(made.get(name))}, as this run was perturbed before",
                        "give that, or start anew with --overwrite",
                    )
        for perturbation, trial, name in self.rows():
            self.ledgers[name].create()
            create_json(self.ledgers[name].folder / "row.json", describe_row(perturbation, trial))

    def counter(self, part: int, control: Control) -> PartCounter:
        """A part of the images, opened."""
        return PartCounter(self.scored, self.network, self.layers, self.options, self.parts[part], control)


def name_setting(name: str) -> str:
    """A setting in a message: an option, or what the scoring or the data have changed."""
    if name == "images":
        return "images of the run (digest)"
    plain = name.removeprefix(SCORED).replace("_", "-")
    return f"--{plain}" if plain == name.replace("_", "-") else f"{plain} of the scoring"


def show(value: Any) -> str:
    """A setting in a message."""
    text = repr(value) if not isinstance(value, list) else ", ".join(map(str, value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def row_name(text: str, trial: int) -> str:
    """The folder of a row's partials."""
    plain = re.sub(r"[^\w.-]", "-", text)
    mark = "" if re.fullmatch(r"[\w. -]+", text) else "-" + blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{plain}{mark}.{trial}"


def describe_row(perturbation: Perturbation | None, trial: int) -> dict[str, Any]:
    """A row in JSON."""
    if perturbation is None:
        return {"text": CLEAN, "kind": CLEAN, "magnitude": 0.0, "label": "Original", "trial": 0}
    names = ("text", "kind", "magnitude", "label")
    return {name: getattr(perturbation, name) for name in names} | {"trial": trial}
