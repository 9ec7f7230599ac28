"""Files of a comparison: compare.csv, runs.csv, differences.csv, concepts.csv and compare.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..atomic import write_json
from ..measure.comparison import Comparison
from .robustness import save_rows

SCHEMA_VERSION = 1
FILE = "compare.json"
TABLES = ("compare.csv", "runs.csv", "differences.csv", "concepts.csv")


def save_comparison(folder: Path, found: Comparison) -> None:
    """Write the tables, and then compare.json, which holds all that is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in comparison_tables(found).items():
        save_rows(folder / f"{name}.csv", rows)
    write_json(folder / FILE, comparison_to_json(found))


def comparison_to_json(found: Comparison) -> dict[str, Any]:
    """Everything, ready for JSON: null for what is no number."""
    tables = {name: [nulls(row) for row in rows] for name, rows in comparison_tables(found).items()}
    return {"schema_version": SCHEMA_VERSION, "about": found.about, "notes": list(found.notes), **tables}


def comparison_tables(found: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their table."""
    return {
        "compare": [group_row(found, i) for i in range(len(found.rows))],
        "runs": [
            {"group": each.group, "run": each.run, "layer": each.layer, "units": each.units}
            | {name: each.measures.get(name, math.nan) for name in found.measures}
            for row in found.rows
            for each in row.members
        ],
        "differences": [asdict(each) for each in found.differences()],
        "concepts": [asdict(each) for each in found.concepts()],
    }


def group_row(found: Comparison, i: int) -> dict[str, Any]:
    """One group and layer: of every measure its mean, NAME_std, and NAME_n, the runs that have it."""
    row = found.rows[i]
    cells: dict[str, Any] = {"group": row.group, "layer": row.layer, "runs": len(row.members), "units": row.units}
    for name in found.measures:
        spread = row.spread(name)
        cells[name] = spread.mean if spread else math.nan
        cells[f"{name}_std"] = spread.std if spread else math.nan
        cells[f"{name}_n"] = spread.n if spread else 0
    return cells


def nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with null for every number that is none."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
