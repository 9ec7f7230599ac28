"""CSV tables: one tidy, one for each layer in the published tool's columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_bytes
from ..measure.audit import AuditRow
from ..measure.dissection import UNIT_DTYPE, Dissection, LayerDissection

AUDIT_TABLE = "audit.csv"
"""Stays where a scoring's tables are made anew."""


def save_audit(folder: Path, rows: Sequence[AuditRow]) -> None:
    """Write audit.csv: a line for each layer, upsampling, tail and union."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(AuditRow)]
    write_csv(folder / AUDIT_TABLE, [names, *([getattr(row, name) for name in names] for row in rows)])


def save_tables(folder: Path, result: Dissection) -> None:
    """Write units.csv, and LAYER-result.csv for each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "units.csv", unit_lines(result))
    taken: set[str] = set()
    for name, layer in result.layers.items():
        stem = file_name(name)
        while stem.casefold() in taken:  # `a:relu` and `a_relu` are two layers
            stem += "_"
        taken.add(stem.casefold())
        write_csv(folder / f"{stem}-result.csv", published_lines(result, layer))


def unit_lines(result: Dissection) -> Iterable[list[Any]]:
    """layer,unit,concept,category,iou,intersection,union,threshold,detector: every layer, units in order, from 0."""
    yield list(UNIT_DTYPE.names or ())
    for row in result.units().tolist():
        *cells, threshold, detector = row
        yield [*cells, repr(threshold), int(detector)]


def published_lines(result: Dissection, layer: LayerDissection) -> Iterable[list[Any]]:
    """unit,category,label,score, then label, truth, activation, intersect and iou of each category's best concept.

    Units count from 1 and are sorted by score, ties by unit, so that scripts written for the published tool's files
    work as they are; the categories stand in the dataset's order.
    """
    areas = layer.unit_area
    if layer.attributes.get("union") == "all-images":
        areas = np.broadcast_to(layer.unit_area_all[:, None], areas.shape)
    parts = ("label", "truth", "activation", "intersect", "iou")
    yield ["unit", "category", "label", "score", *(f"{g}-{part}" for g in result.category_name for part in parts)]
    for k in np.lexsort((np.arange(len(layer.best_iou)), -layer.best_iou)).tolist():
        c = int(layer.best_concept[k])
        best = (result.category_name[result.concept_category[c]], result.concept_name[c]) if c >= 0 else ("", "")
        line: list[Any] = [k + 1, *best, float(layer.best_iou[k])]
        for g in range(len(result.category_name)):
            c = int(layer.best_concept_by_category[k, g])
            area = int(areas[k, g])
            if c >= 0:
                truth, shared = int(layer.concept_area[c]), int(layer.intersection[k, c])
                line += [result.concept_name[c], truth, area, shared, float(layer.iou[k, c])]
            else:
                line += ["", 0, area, 0, 0.0]
        yield line


def file_name(layer: str) -> str:
    """A layer's name as a file name."""
    return re.sub(r"[^\w.#-]", "_", layer)


def write_csv(path: Path, lines: Iterable[list[Any]]) -> None:
    """Replace a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_bytes(path, text.getvalue().encode())
