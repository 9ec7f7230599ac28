"""What experiments say of single units, for the units' own pages."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..measure.alignmentresult import Alignment
from ..measure.composition import Robustness
from ..measure.dissection import Dissection
from ..stages.experiments import experiments_of, load_experiment
from ..store.rundir import RunDir

N_LOADINGS = 5
"""Concepts of a unit."""


@dataclass(frozen=True)
class UnitExperiments:
    """The experiments that a scoring has."""

    result: Dissection
    perturbed: Robustness | None
    aligned: Alignment | None
    _places: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Layer -> (C, K) place of each unit among all by its part in a concept's direction, from 1."""

    def robustness(self, layer: str, unit: int) -> list[dict[str, str]]:
        """A row for each perturbation; none where nothing was perturbed."""
        found = self.perturbed
        if found is None or layer not in found.outcomes:
            return []
        rows = []
        for position, setting in enumerate(found.settings):
            outcomes = found.of(layer, position)
            means = [np.mean([getattr(each, name)[unit] for each in outcomes]) for name in
                     ("iou", "iou_clean", "consistency")]  # fmt: skip
            top = int(outcomes[0].best_concept[unit])
            iou, clean, consistency = ("" if np.isnan(mean) else f"{mean:.4f}" for mean in means)
            name = self.result.concept_name[top] if top >= 0 else "none"
            rows.append({"setting": setting.text, "iou": iou, "clean": clean, "consistency": consistency, "top": name})
        return rows

    def loadings(self, layer: str, unit: int) -> list[dict[str, str]]:
        """A row for each of the few concepts in whose leading direction the unit has the largest part."""
        found = self.aligned
        if found is None or layer not in found.layers:
            return []
        leading = found.layers[layer].variants[found.chosen].leading
        if layer not in self._places:
            order = np.argsort(-np.abs(leading), axis=1, kind="stable")
            self._places[layer] = np.argsort(order, axis=1, kind="stable") + 1
        chosen = [c for c in np.argsort(-np.abs(leading[:, unit]), kind="stable").tolist() if leading[c, unit] != 0]
        return [
            {
                "concept": found.concept_name[c],
                "loading": f"{leading[c, unit]:.3f}",
                "place": str(self._places[layer][c, unit]),
            }
            for c in chosen[:N_LOADINGS]
        ]


def open_experiments(run: RunDir, name: str | None, result: Dissection) -> UnitExperiments:
    """Those of a scoring; what is not there, cannot be read or rests on another scoring is left out."""
    found: dict[str, Any] = {}
    for experiment in {"perturb", "pca"} & set(experiments_of(run, name)):
        with suppress(BadInput, IncompleteRun):
            found[experiment] = load_experiment(run, name, experiment, result)
    return UnitExperiments(result, found.get("perturb"), found.get("pca"))
