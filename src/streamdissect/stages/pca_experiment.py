"""What `pca` looks at in a run: layers, concepts, on what terms, and in which parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..alignmentoptions import PcaOptions
from ..errors import BadInput
from ..measure.alignmentresult import VARIANTS
from .blocks import blocks_of
from .pca_moments import plan_memory
from .scored_work import ScoredWork, share_out

MOST_TOGETHER = 32
"""Concepts that share a read of the activations."""

Item = tuple[int, tuple[int, ...]]
"""Position of a layer, and places of the concepts of one read."""


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
        most = [MOST_TOGETHER, *(plan.together for plan in self.plans.values())]
        return {
            "layers": [self.work.scoring.layers[position].name for position in self.positions],
            "concepts": self.columns,
            **{name: getattr(options, name) for name in ("samples", "phi", "centred", "null", "min_images")},
            "seed": options.seed if options.null == "subsets" else None,
            "subsets": options.subsets if options.null == "subsets" else None,
            "scoring": self.work.scoring.settings,
            "together": share_out(len(self.columns), min(most), len(self.positions), options.shard),
        }

    def items(self, together: int) -> list[Item]:
        """Layer by layer, concepts that stand apart together: neighbours are of one category, and alike in cost."""
        places = tuple(range(len(self.columns)))
        n_parts = math.ceil(len(places) / together)
        return [(position, places[part::n_parts]) for position in self.positions for part in range(n_parts)]

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
