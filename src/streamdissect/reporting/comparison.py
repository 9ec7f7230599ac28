"""`compare`: scored runs side by side, as a page and tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..figures.alignment import named_dots
from ..figures.svg import Series, bar_chart
from ..measure.comparison import GAINED, LOST, MAIN, SHARED, VARIES, Comparison, Difference, Row, Spread, spread_text
from ..stages.compare import Groups, compare_runs
from ..stages.control import Control
from ..store.comparison import FILE, TABLES, save_comparison
from .folders import check_folder, replacing_folder
from .pages import Page, Site
from .tables import Figure, figure, together

LABELS = {
    "detectors": "detectors",
    "detector_share": "share of units that are detectors",
    "unique_top": "unique detectors: top concepts",
    MAIN: "unique detectors: by category",
    "unique_any": "unique detectors: of any unit",
    "mean_best_iou": "mean best IoU",
    "rotated_unique": "unique by category, space rotated",
    "rotation_drop": "rotation drop of unique detectors",
    "iou_drop": "rotation drop of mean best IoU",
    "axis-aligned_share": "concepts axis-aligned, share",
    "mixed_share": "concepts mixed, share",
    "distributed_share": "concepts distributed, share",
    "mean_loading": "mean largest loading",
}
"""What measures are called on the page; others by their names in the tables."""
CHARTS = ("unique_by_category", "detectors", "mean_best_iou", "rotation_drop", "axis-aligned_share", "mean_loading")
"""Measures that are drawn, where they are known."""
SHOWN_VALUES = 8
"""Single values that a cell lists."""


def compare(
    groups: Groups | Sequence[str],
    *,
    layers: Sequence[str] = (),
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    control: Control | None = None,
) -> Comparison:
    """Compare scored runs by groups: counts, rotation, alignment and robustness, concepts gained and lost.

    Parameters
    ----------
    groups : mapping or sequence of str
        Name of a group -> its runs, say the seeds of one kind of network; each a path, or `PATH@LAYER` for one of its
        layers. Or words as on the command line: `GROUP=RUN,RUN`, or `RUN`, which is a group of its own.
    layers : sequence of str
        Names or globs; by default all layers of the runs.
    name : str, optional
        Of the scoring, in every run.
    out : path, optional
        Where to write index.html, the tables and compare.json; a comparison there is replaced.
    control : Control, optional

    Returns
    -------
    Comparison
        Rows by group and layer; `differences()` between the first group and each later one, `concepts()` that were
        gained and lost.

    Raises
    ------
    BadInput
        A run is not scored, its rules, images, labels or concepts are not those of the first, or `out` holds something
        else.
    IncompleteRun
        A run is damaged.
    """
    place = None if out is None else check_folder(out, "compare", overwrite=False)
    found = compare_runs(groups, layers=layers, name=name, control=control)
    if place is not None:
        with replacing_folder(place, "compare") as folder:
            save_comparison(folder, found)
            write_page(folder, found)
    return found


def write_page(folder: Path, found: Comparison) -> None:
    """index.html and what it needs."""
    page = Page("index.html", "Comparison", "compare.html", lambda: page_values(found))
    site = Site(folder, " / ".join(found.groups), home="Comparison")
    site.copy_assets()
    site.write(page)


def page_values(found: Comparison) -> dict[str, Any]:
    """What the template is given."""
    return {
        "about": found.about,
        "rule": rule_text(found.about["rule"], str(found.about["upsample"])),
        "groups": found.groups,
        "notes": found.notes,
        "overview": [overview_row(row) for row in found.rows],
        "charts": charts(found),
        "pairs": pair_sections(found),
        "runs": run_rows(found),
        "tables": [*TABLES, FILE],
        "has_single": any(len(row.members) == 1 for row in found.rows),
    }


def rule_text(rule: Mapping[str, Any], upsample: str) -> str:
    """The rules that all runs share, in a line."""
    aside = ("labels", "data", "approximate", "tail", "iou")
    parts = [f"tail {rule['tail']}", f"IoU > {rule['iou']}"]
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in rule.items() if key not in aside]
    if rule.get("approximate"):
        parts.append("thresholds of sketches")
    if rule.get("labels"):
        parts.append(f"labels {', '.join(str(spec) for spec, _ in rule['labels'])}")
    return ", ".join([*parts, f"upsampling {upsample}"])


def overview_row(row: Row) -> dict[str, Any]:
    """A group and layer in the counts that every run has."""
    names = ("detectors", "detector_share", "unique_top", MAIN, "unique_any", "mean_best_iou")
    cells = [together(spread_text(row.spread(name))) for name in names]
    return {"group": row.group, "layer": row.layer, "runs": len(row.members), "units": row.units, "cells": cells}


def row_name(found: Comparison, row: Row) -> str:
    """A row on an axis: its group, and its layer where groups have several."""
    return row.group if len(found.rows) == len(found.groups) else f"{row.group} {row.layer}"


def charts(found: Comparison) -> list[Figure]:
    """A dot for every run, and the means; then unique detectors by category."""
    drawn = [figure(sentence(label_of(name)), dots(found, name)) for name in CHARTS if name in found.measures]
    names = [row_name(found, row) for row in found.rows]
    spreads = {category: [row.spread(f"unique_{category}") for row in found.rows] for category in found.category_name}
    stacks = [(category, [each.mean if each else 0.0 for each in of]) for category, of in spreads.items()]
    about = "Unique detectors by category, the mean over the runs of each group"
    title = "Unique detectors by category"
    return [*drawn, figure(title, bar_chart(title, about, names, stacks, "unique detectors"))]


def dots(found: Comparison, measure: str) -> str:
    """One measure: every run, and the mean of each group."""
    rows = [row for row in found.rows if row.spread(measure) is not None]
    names = [row_name(found, row) for row in rows]
    points = [(float(i), value) for i, row in enumerate(rows) for value in values_of(row.spread(measure))]
    singles = Series("one run", [x for x, _ in points], [y for _, y in points])
    middle = [(float(i), each.mean) for i, row in enumerate(rows) if (each := row.spread(measure)) and each.n > 1]
    means = Series("mean", [x for x, _ in middle], [y for _, y in middle])
    label = label_of(measure)
    about = f"{label}: a point for each run" + (", and the mean of each group" if middle else "")
    return named_dots(sentence(label), about, names, [singles, means] if middle else [singles], label)


def label_of(measure: str) -> str:
    """What a measure is called on the page."""
    return LABELS.get(measure, measure.replace("_", " "))


def sentence(label: str) -> str:
    """A label with a capital, as a title."""
    return label[:1].upper() + label[1:]


def values_of(spread: Spread | None) -> tuple[float, ...]:
    """Single values."""
    return spread.values if spread else ()


def pair_sections(found: Comparison) -> list[dict[str, Any]]:
    """For each layer of the first group and of a later one: differences, and concepts by what became of them."""
    differences, changes = found.differences(), found.concepts()
    sections = []
    for base, row in found.pairs():
        key = base.layer, row.group, row.layer
        concepts = [each for each in changes if (each.base_layer, each.group, each.layer) == key]
        sections.append(
            {
                "title": f"{row.group} against {base.group}",
                "layers": base.layer if base.layer == row.layer else f"{row.layer} against {base.layer}",
                "base": base.group,
                "group": row.group,
                "rows": [
                    difference_row(each, base.spread(each.measure), row.spread(each.measure))
                    for each in differences
                    if (each.base_layer, each.group, each.layer) == key
                ],
                "concepts": {
                    change: [each for each in concepts if each.change == change]
                    for change in (GAINED, LOST, SHARED, VARIES)
                },
            }
        )
    return sections


def difference_row(each: Difference, was: Spread | None, now: Spread | None) -> dict[str, Any]:
    """One measure in two groups."""
    has_error = each.standard_error == each.standard_error
    return {
        "label": label_of(each.measure),
        "was": together(spread_text(was)),
        "now": together(spread_text(now)),
        "was_values": listed(was),
        "now_values": listed(now),
        "difference": together(f"{each.difference:+.3g}" + (f" ± {each.standard_error:.2g}" if has_error else "")),
        "interval": together(f"{each.low:.3g} to {each.high:.3g}") if each.low == each.low else "",
    }


def listed(spread: Spread | None) -> str:
    """Single values, where there are several and they fit."""
    values = values_of(spread)
    if len(values) < 2:
        return ""
    texts = [f"{value:.4g}" for value in values[:SHOWN_VALUES]]
    return ", ".join([*texts, *(["..."] if len(values) > SHOWN_VALUES else [])])


def run_rows(found: Comparison) -> list[dict[str, Any]]:
    """Every run, and the network in it."""
    groups: Mapping[str, Sequence[Mapping[str, Any]]] = found.about["groups"]
    return [{"group": group, **each} for group, runs in groups.items() for each in runs]
