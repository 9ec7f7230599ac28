"""Runs side by side, by groups: means and spreads of what was measured, differences, concepts gained and lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..richtext import html_table
from .alignment import VERDICTS
from .alignmentresult import Alignment
from .betas import student_quantile
from .composition import CLEAN, Robustness
from .dissection import Dissection
from .iou import areas_of, exceeds_ratio
from .rotationset import CONFIDENCE, HAAR, Rotations

MAIN = "unique_by_category"
"""The measure that a question is put to where there is to be one."""
COUNTED = ("detectors", "unique_top", "unique_by_category", "unique_any", "mean_best_iou")
"""Measures that every scored run has, of the numbers in a layer's summary."""
GAINED, LOST, SHARED, VARIES = "gained", "lost", "shared", "varies"
CHANGES = (GAINED, LOST, SHARED, VARIES)


@dataclass(frozen=True)
class Member:
    """One layer of one run in numbers; C concepts."""

    group: str
    run: str
    layer: str
    units: int
    measures: Mapping[str, float]
    """By name; those of experiments that the run lacks are missing."""
    detects: NDArray[np.bool_] = field(repr=False)
    """(C,) whether the IoU of some unit exceeds tau."""
    best_iou: NDArray[np.float64] = field(repr=False)
    """(C,) the largest of any unit."""


@dataclass(frozen=True)
class Spread:
    """Values of one measure over the runs of a group."""

    values: tuple[float, ...]
    """In the order of the runs; at least one."""

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / self.n

    @property
    def std(self) -> float:
        """Of the sample (n - 1); NaN for a single value."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else math.nan


@dataclass(frozen=True)
class Row:
    """One layer over the runs of one group."""

    group: str
    layer: str
    members: tuple[Member, ...]

    @property
    def units(self) -> str:
        """How many; `64-96` where runs differ."""
        found = sorted({member.units for member in self.members})
        return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"

    def spread(self, measure: str) -> Spread | None:
        """Over the runs that have the measure; None where none has."""
        found = tuple(member.measures[measure] for member in self.members if measure in member.measures)
        return Spread(found) if found else None


@dataclass(frozen=True)
class Difference:
    """Mean of a later group less that of the first, of one measure."""

    layer: str
    """Of the later group."""
    group: str
    base: str
    """The first group."""
    base_layer: str
    measure: str
    difference: float
    standard_error: float
    """sqrt(s^2 / n + s_0^2 / n_0); NaN where a group has a single value."""
    freedom: float
    """Welch's degrees of freedom; NaN where there are none."""
    low: float
    high: float
    """The interval of 95 % by Student's t, the degrees of freedom rounded down; NaN where there are none."""


@dataclass(frozen=True)
class ConceptChange:
    """One concept in the first group and in a later one; only runs are counted, each once."""

    layer: str
    group: str
    base: str
    base_layer: str
    concept: str
    category: str
    change: str
    """`gained`: detected in more than half of the later group's runs and in none of the first's; `lost`: the reverse;
    `shared`: in more than half of both; else `varies`."""
    base_runs: int
    base_detecting: int
    runs: int
    detecting: int
    base_best_iou: float
    """Mean over runs of the largest IoU of any unit."""
    best_iou: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `compare`."""

    rows: tuple[Row, ...]
    """By group, in the order given, and layer."""
    concept_name: tuple[str, ...]
    concept_category: tuple[str, ...]
    category_name: tuple[str, ...]
    measures: tuple[str, ...]
    """Names of all that was measured anywhere."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    about: dict[str, Any] = field(default_factory=dict)
    """The rule, the data, and the runs of each group."""

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.groups)}>"

    def _repr_html_(self) -> str:
        """For notebooks: counts by group and layer."""
        head = ("group", "layer", "runs", *COUNTED)
        rows = [
            (row.group, row.layer, len(row.members), *(spread_text(row.spread(name)) for name in COUNTED))
            for row in self.rows
        ]
        return html_table("Mean and standard deviation over runs", head, rows)

    @property
    def groups(self) -> tuple[str, ...]:
        """In the order given."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def of(self, group: str) -> list[Row]:
        """The layers of a group."""
        return [row for row in self.rows if row.group == group]

    def pairs(self) -> Iterator[tuple[Row, Row]]:
        """A row of the first group, and the row of a later one that is compared with it.

        Layers of the same name are compared; where both groups have a single layer, these two, whatever their names.
        """
        first, *later = self.groups
        bases = self.of(first)
        for group in later:
            rows = self.of(group)
            if len(bases) == len(rows) == 1:
                yield bases[0], rows[0]
                continue
            for base in bases:
                yield from ((base, row) for row in rows if row.layer == base.layer)

    def differences(self) -> list[Difference]:
        """Of every measure that both rows of a pair have."""
        found = []
        for base, row in self.pairs():
            for measure in self.measures:
                was, now = base.spread(measure), row.spread(measure)
                if was is not None and now is not None:
                    names: dict[str, Any] = {
                        "layer": row.layer,
                        "group": row.group,
                        "base": base.group,
                        "base_layer": base.layer,
                    }
                    found.append(Difference(**names, measure=measure, **welch(was, now)))
        return found

    def concepts(self) -> list[ConceptChange]:
        """A row for each concept that any run of a pair detects: gained, lost, then the rest, by the change in IoU."""
        found = []
        for base, row in self.pairs():
            changes = [change_of(self, base, row, c) for c in range(len(self.concept_name))]
            some = [each for each in changes if each.detecting or each.base_detecting]
            found += sorted(
                some, key=lambda each: (CHANGES.index(each.change), -abs(each.best_iou - each.base_best_iou))
            )
        return found


def welch(was: Spread, now: Spread) -> dict[str, Any]:
    """Difference of two means with its standard error and interval, variances not taken as equal.

    Returns
    -------
    dict
        Fields of `Difference` from `difference` on. Where neither group varies at all the error is 0 and there is no
        interval: so few whole numbers that happen to be equal tell nothing of how they would vary.
    """
    parts = [each.std**2 / each.n for each in (was, now)]
    variance = sum(parts)
    freedom = math.nan
    if variance > 0:  # not NaN
        freedom = variance**2 / sum(part**2 / (each.n - 1) for part, each in zip(parts, (was, now), strict=True))
    error = math.sqrt(variance)
    difference = now.mean - was.mean
    whole = max(1, math.floor(freedom + 1e-9)) if freedom == freedom else 0
    reach = student_quantile(CONFIDENCE, whole) * error if whole else math.nan
    return {
        "difference": difference,
        "standard_error": error,
        "freedom": freedom,
        "low": difference - reach,
        "high": difference + reach,
    }


def change_of(comparison: Comparison, base: Row, row: Row, c: int) -> ConceptChange:
    """What became of one concept."""
    was, now = ([bool(member.detects[c]) for member in each.members] for each in (base, row))
    most_was, most_now = (2 * sum(each) > len(each) for each in (was, now))
    change = VARIES
    if most_was and most_now:
        change = SHARED
    elif most_now and not any(was):
        change = GAINED
    elif most_was and not any(now):
        change = LOST
    return ConceptChange(
        layer=row.layer,
        group=row.group,
        base=base.group,
        base_layer=base.layer,
        concept=comparison.concept_name[c],
        category=comparison.concept_category[c],
        change=change,
        base_runs=len(was),
        base_detecting=sum(was),
        runs=len(now),
        detecting=sum(now),
        base_best_iou=float(np.mean([member.best_iou[c] for member in base.members])),
        best_iou=float(np.mean([member.best_iou[c] for member in row.members])),
    )


def measure_layer(result: Dissection, name: str) -> dict[str, float]:
    """Counts of one layer: those of COUNTED, the share of units that are detectors, unique ones in each category."""
    summary = result.layers[name].summary
    found = {key: float(summary[key]) for key in COUNTED}
    found["detector_share"] = found["detectors"] / summary["units"]
    by_category = summary["unique_by_each_category"]
    return found | {f"unique_{category}": float(by_category[category]) for category in result.category_name}


def detected_concepts(result: Dissection, name: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(C,) whether the IoU of some unit exceeds tau, decided in integers; (C,) the largest IoU."""
    layer = result.layers[name]
    area = areas_of(layer.unit_area, layer.unit_area_all, result.concept_category, str(layer.attributes["union"]))
    union = area + layer.concept_area[None] - layer.intersection
    exceeds = exceeds_ratio(layer.intersection, union, Fraction(layer.attributes["tau"]))
    detects = np.asarray(exceeds.any(axis=0), bool)
    best_iou: NDArray[np.float64] = layer.iou.max(axis=0, initial=0.0)
    return detects, best_iou


def measure_rotations(found: Rotations, name: str) -> dict[str, float]:
    """What is left at alpha 1, on average over rotations, and how much of what there was is lost.

    `rotated_unique`: unique detectors by category; `rotation_drop`: 1 less its ratio to that of no rotation, left out
    where there was none; `iou_drop`: the same of the mean best IoU. Empty where the layer was not rotated wholly.
    """
    rows = {row.count: row for row in found.summary() if (row.layer, row.kind, row.value) == (name, HAAR, 1.0)}
    if not rows:
        return {}
    unique, best = rows[MAIN], rows["mean_best_iou"]
    drops = {"rotation_drop": unique.drop, "iou_drop": best.drop}
    return {"rotated_unique": unique.mean} | {key: drop for key, drop in drops.items() if drop == drop}


def measure_alignment(found: Alignment, name: str) -> dict[str, float]:
    """Shares of the verdicts among the concepts that were looked at, and the mean of their largest loadings.

    Concepts that are absent, for they are on too few images, are not counted. Empty where there is no other.
    """
    if name not in found.layers:
        return {}
    statistics = found.layers[name].variants[found.chosen].statistics
    present = statistics.verdict != VERDICTS.index("absent")
    if not present.any():
        return {}
    shares = {
        f"{verdict}_share": float((statistics.verdict[present] == VERDICTS.index(verdict)).mean())
        for verdict in VERDICTS
        if verdict != "absent"
    }
    return shares | {"mean_loading": float(statistics.loading[present].mean())}


def measure_robustness(found: Robustness, name: str) -> dict[str, float]:
    """`survival SETTING`: the share of detectors that survive, mean over trials, of every perturbation."""
    rows = [row for row in found.summary() if row["layer"] == name and row["setting"] != CLEAN]
    return {f"survival {row['setting']}": row["survival"] for row in rows if row["survival"] == row["survival"]}


def rows_of(members: Sequence[Member]) -> tuple[Row, ...]:
    """Members of one group and layer together."""
    found: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        found.setdefault((member.group, member.layer), []).append(member)
    groups = list(dict.fromkeys(member.group for member in members))
    ordered = sorted(found.items(), key=lambda item: groups.index(item[0][0]))
    return tuple(Row(group, layer, tuple(of)) for (group, layer), of in ordered)


def join_measures(members: Sequence[Member]) -> tuple[str, ...]:
    """Names of all measures, in the order in which they first occur."""
    return tuple(dict.fromkeys(name for member in members for name in member.measures))


def spread_text(spread: Spread | None) -> str:
    """Mean, and deviation where there are several values."""
    if spread is None:
        return ""
    return f"{spread.mean:.4g}" if spread.n == 1 else f"{spread.mean:.4g} ± {spread.std:.2g}"
