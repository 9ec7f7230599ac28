"""Outcomes of many perturbations together: means over trials, and whether a concept is statistics or parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..richtext import html_table
from .dissection import Dissection
from .robustness import NUMBERS, Outcome

STATISTICS, PARTS = 2 / 3, 1 / 3
"""A composition index from the one up says statistics, below the other parts."""
VERDICTS = ("statistics", "mixed", "parts")
SHUFFLES = ("shuffle-grid", "shuffle-patch")
CLEAN = "clean"


@dataclass(frozen=True)
class Setting:
    """A perturbation at a magnitude."""

    text: str
    """Its name: `noise 10`, `rotate 45`, `clean`."""
    kind: str
    magnitude: float
    label: str
    """Its short name beside a picture."""


@dataclass(frozen=True, eq=False)
class Robustness:
    """The result of `perturb`: outcomes of every layer in every setting and trial."""

    result: Dissection = field(repr=False)
    """Of the scoring that the outcomes are compared with."""
    settings: tuple[Setting, ...]
    """`clean` first: the same images, unchanged."""
    trials: tuple[tuple[int, int], ...]
    """(R) rows: (position of the setting, trial)."""
    outcomes: dict[str, tuple[Outcome, ...]]
    """By layer, (R) of them."""
    image_name: tuple[str, ...]
    """The images that were perturbed."""
    about: dict[str, Any] = field(default_factory=dict)
    """Seed, thresholds, tau and the like."""

    def __repr__(self) -> str:
        names = ", ".join(each.text for each in self.settings)
        return f"<Robustness of {len(self.outcomes)} layers on {len(self.image_name)} images: {names}>"

    def _repr_html_(self) -> str:
        """For notebooks: the table of means."""
        columns = ("layer", "setting", "trials", "survival", "survival_std", "same_top", "retention", "consistency")
        rows = [tuple(rounded(row[name]) for name in columns) for row in self.summary()]
        return html_table(f"Robustness on {len(self.image_name)} images", columns, rows)

    def of(self, layer: str, position: int) -> list[Outcome]:
        """A layer's outcomes in one setting, by trial."""
        pairs = zip(self.trials, self.outcomes[layer], strict=True)
        return [outcome for (setting, _), outcome in pairs if setting == position]

    def summary(self) -> list[dict[str, Any]]:
        """A row for each layer and setting: mean over trials of each of NUMBERS, and its sample deviation as NAME_std.

        The deviation is NaN for a single trial.
        """
        rows = []
        for layer in self.outcomes:
            for position, setting in enumerate(self.settings):
                found = [outcome.numbers for outcome in self.of(layer, position)]
                row: dict[str, Any] = {"layer": layer, "setting": setting.text, "kind": setting.kind}
                row |= {"magnitude": setting.magnitude, "trials": len(found)}
                for name in NUMBERS:
                    values = np.array([numbers[name] for numbers in found])
                    row[name] = float(values.mean())
                    row[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
                rows.append(row)
        return rows

    def composition_index(self, layer: str, position: int | None = None) -> NDArray[np.float64]:
        """(K,) how much of its IoU with c* a detector keeps while tiles change places: mean over trials.

        With no setting named, the mean over all shuffles. NaN for units that are no detectors, or without overlap in
        the images used.
        """
        chosen = range(len(self.settings)) if position is None else [position]
        kept = [p for p in chosen if self.settings[p].kind in SHUFFLES]
        clean = self.result.layers[layer]
        index = np.full(len(clean.best_concept), np.nan)
        if kept:
            means = [np.mean([outcome.retention for outcome in self.of(layer, p)], axis=0) for p in kept]
            index[clean.is_detector] = np.mean(means, axis=0)[clean.is_detector]
        return index

    def composition(self) -> list[dict[str, Any]]:
        """A row for each layer and category with detectors: median index, in each shuffle too, and the verdicts."""
        rows = []
        shuffles = [p for p, setting in enumerate(self.settings) if setting.kind in SHUFFLES]
        for layer, clean in self.result.layers.items():
            if layer not in self.outcomes or not shuffles:
                continue
            index = self.composition_index(layer)
            category = self.result.concept_category[np.maximum(clean.best_concept, 0)]
            for g, name in enumerate(self.result.category_name):
                among = (category == g) & ~np.isnan(index)
                if not among.any():
                    continue
                row: dict[str, Any] = {"layer": layer, "category": name, "detectors": int(among.sum())}
                row["index"] = float(np.median(index[among]))
                for p in shuffles:
                    row[self.settings[p].text] = float(np.median(self.composition_index(layer, p)[among]))
                row |= {verdict: int((verdicts(index[among]) == verdict).sum()) for verdict in VERDICTS}
                row["verdict"] = str(verdicts(np.array([row["index"]]))[0])
                rows.append(row)
        return rows

    def units(self, layer: str) -> Iterator[dict[str, Any]]:
        """A row for each setting, trial and unit of a layer."""
        clean, names = self.result.layers[layer], self.result
        for (position, trial), outcome in zip(self.trials, self.outcomes[layer], strict=True):
            for k, c in enumerate(clean.best_concept.tolist()):
                top = int(outcome.best_concept[k])
                yield {
                    "setting": self.settings[position].text,
                    "trial": trial,
                    "unit": k,
                    "concept": names.concept_name[c] if c >= 0 else "",
                    "category": names.category_name[names.concept_category[c]] if c >= 0 else "",
                    "detector": int(clean.is_detector[k]),
                    "intersection": int(outcome.intersection[k]),
                    "concept_area": int(outcome.concept_area[k]),
                    "unit_area": int(outcome.unit_area[k]),
                    "iou_pert": float(outcome.iou[k]),
                    "iou_clean_matched": float(outcome.iou_clean[k]),
                    "top_pert": names.concept_name[top] if top >= 0 else "",
                    "J": float(outcome.consistency[k]),
                    "firing_ratio": float(outcome.firing_ratio[k]),
                    "corr": float(outcome.correlation[k]),
                }


def verdicts(index: NDArray[np.float64]) -> NDArray[np.str_]:
    """`statistics`, `mixed` or `parts` for composition indices."""
    statistics, mixed, parts = VERDICTS
    return np.where(index >= STATISTICS, statistics, np.where(index < PARTS, parts, mixed))


def rounded(value: Any) -> Any:
    """A number for a table."""
    return f"{value:.3g}" if isinstance(value, float) else value
