"""Pages of the experiments that a run holds: perturb, rotate, pca, audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..errors import BadInput, IncompleteRun
from ..figures.svg import Series, bar_chart, line_chart
from ..measure.alignment import VERDICTS
from ..measure.alignmentresult import Alignment
from ..measure.audit import AuditRow
from ..measure.composition import CLEAN, Robustness
from ..measure.composition import VERDICTS as COMPOSITION_VERDICTS
from ..measure.dissection import Dissection
from ..measure.rotationset import HAAR, Rotations, RotationSummary
from ..stages.alignment_figures import (
    SHOWN_CONCEPTS,
    carriers_chart,
    categories_chart,
    concept_stem,
    concepts_map,
    controls_chart,
    counts_chart,
    cumulative_chart,
    loading_chart,
    scree_chart,
)
from ..stages.experiments import experiments_of, load_audited, load_experiment
from ..stages.perturb_figures import AXIS, CURVES, clean_against_perturbed, unique_detectors
from ..store.rundir import RunDir
from .pages import Page
from .tables import Figure, Section, Table, figure, make_table, together, with_std

ROBUST = ("survival", "same_top", "retention", "consistency", "firing_ratio", "correlation", "spearman")
"""Columns of the first table of perturbations; the second has the counts."""
COUNTS = ("detectors", "unique_top", "unique_by_category", "unique_any")


def experiment_pages(run: RunDir, name: str | None, result: Dissection) -> tuple[list[Page], list[str]]:
    """A page for each experiment that was made with a scoring, and what there is to say of those without one.

    Parameters
    ----------
    run : RunDir
    name : str or None
        Of the scoring.
    result : Dissection
        Of that scoring.
    """
    pages, notices = [], []
    known: dict[str, tuple[str, Callable[[Any], dict[str, Any]], str]] = {
        "perturb": ("Robustness", perturb_values, "Which detectors survive when the images change."),
        "rotate": ("Rotation", rotate_values, "Are the units special among all directions?"),
        "pca": ("Directions", pca_values, "Is a concept carried by one unit?"),
    }
    for stem in experiments_of(run, name):
        title, values_of, about = known[stem]
        try:
            found = load_experiment(run, name, stem, result)
        except (BadInput, IncompleteRun) as error:
            notices.append(f"There is no page of {stem}: {error}.")
            continue
        pages.append(Page(f"{stem}.html", title, f"{stem}.html", partial(values_of, found), about))
    try:
        rows = load_audited(run, name)
    except IncompleteRun as error:
        rows = None
        notices.append(f"There is no page of the audit: {error}.")
    if rows is not None:
        about = "How much the counts owe to the rules."
        pages.append(Page("audit.html", "Audit", "audit.html", partial(audit_values, rows, result), about))
    return pages, notices


def perturb_values(found: Robustness) -> dict[str, Any]:
    """Robustness: a table for each layer, curves over magnitude, and what composition tells."""
    summary = found.summary()
    parts = []
    for layer in found.outcomes:
        of = [row for row in summary if row["layer"] == layer]
        n = int(found.result.layers[layer].is_detector.sum())
        tables = tuple(
            make_table(
                f"{layer}: {what}; means over trials, ± one standard deviation",
                ("setting", "trials", *(name.replace("_", " ") for name in names)),
                [
                    [together(row["setting"]), row["trials"], *(with_std(row[key], row[f"{key}_std"]) for key in names)]
                    for row in of
                ],
            )
            for what, names in ((f"the {n} detectors of the run", ROBUST), ("counts", COUNTS))
        )
        scatters = [
            figure(f"IoU under {kind}, {layer}", clean_against_perturbed(found, layer, kind, positions))
            for kind, positions in settings_by_kind(found).items()
        ]
        unique = figure(f"Unique detectors by category, {layer}", unique_detectors(found, layer))
        parts.append(Section(layer, "", tables, (unique,), tuple(scatters)))
    curves = [
        figure(f"{quantity.capitalize()} under {kind}", curve(found, summary, quantity, kind))
        for kind in settings_by_kind(found)
        for quantity in CURVES
    ]
    composition = found.composition()
    if composition:
        text = (
            "Shuffled tiles keep local statistics and break up parts. The index is the share of its IoU that a "
            "detector keeps, its median over detectors."
        )
        shuffles = [key for key in composition[0] if key in {each.text for each in found.settings}]
        keys = ("layer", "category", "detectors", "index", *shuffles, *COMPOSITION_VERDICTS, "verdict")
        table = make_table("By layer and category", keys, [[row[key] for key in keys] for row in composition])
        parts.append(Section("Statistics or parts?", text, (table,)))
    thresholds = "as they were" if found.about.get("thresholds_from") != "recompute" else "found anew"
    return {
        "n_images": len(found.image_name),
        "thresholds": thresholds,
        "parts": [Section("All layers", "", (), tuple(curves)), *parts],
    }


def settings_by_kind(found: Robustness) -> dict[str, list[int]]:
    """Positions of the settings of every kind of perturbation."""
    kinds: dict[str, list[int]] = {}
    for position, setting in enumerate(found.settings):
        if setting.kind != CLEAN:
            kinds.setdefault(setting.kind, []).append(position)
    return kinds


def curve(found: Robustness, summary: list[dict[str, Any]], quantity: str, kind: str) -> str:
    """A quantity against magnitude, a line for each layer."""
    texts = [CLEAN, *(found.settings[position].text for position in settings_by_kind(found)[kind])]
    series = []
    for layer in found.outcomes:
        of = {row["setting"]: row for row in summary if row["layer"] == layer}
        means, stds = ([float(of[text][key]) for text in texts] for key in (quantity, f"{quantity}_std"))
        series.append(Series(layer, list(range(len(texts))), means, stds))
    names = [text if text == CLEAN else text.partition(" ")[2] or text for text in texts]
    about = f"{CURVES[quantity]}, by layer: mean over trials and one standard deviation"
    title = f"{quantity.capitalize()} under {kind}"
    return line_chart(title, about, series, AXIS.get(kind, kind), quantity, x_names=names, y_range=(0.0, 1.02))


def rotate_values(found: Rotations) -> dict[str, Any]:
    """Rotation: counts against alpha, the same by category, controls; and the numbers."""
    summary = found.summary()
    parts = []
    for name, layer in found.layers.items():
        figures = [
            figure(f"{name}: detectors under rotation", counts_chart(name, layer)),
            figure(f"{name}: unique detectors by category", categories_chart(name, layer, found.category_name)),
        ]
        if any(each.kind != HAAR for each in layer.rotations):
            figures.append(figure(f"{name}: controls", controls_chart(name, layer)))
        table = rotation_table(name, [row for row in summary if row.layer == name])
        parts.append(Section(name, "", (table,), tuple(figures)))
    return {"parts": parts}


def rotation_table(layer: str, rows: list[RotationSummary]) -> Table:
    """A line for each kind and value of rotation."""
    lines = []
    for kind, value in dict.fromkeys((row.kind, row.value) for row in rows):
        of = {row.count: row for row in rows if (row.kind, row.value) == (kind, value)}
        judged = of["unique_by_category"]
        cells = [with_std(of[count].mean, of[count].std) for count in (*COUNTS, "mean_best_iou")]
        drop = "-" if judged.drop != judged.drop else f"{100 * judged.drop:.0f} %"
        lines.append([kind, f"{value:g}", judged.n, *cells, drop, judged.p])
    head = ("rotation", "alpha", "n", "detectors", "unique: top", "by category", "any", "mean best IoU", "drop", "p")
    return make_table(f"{layer}: means over rotations, ± one standard deviation", head, lines)


PCA_COLUMNS = {
    "concept": "concept",
    "category": "category",
    "images": "images",
    "verdict": "verdict",
    "unit": "first unit",
    "loading": "loading",
    "ratio": "over the next",
    "participation": "taking part",
    "explained": "explained",
    "gap": "gap",
    "adjusted_p": "adjusted p",
    "exclusive": "exclusive",
    "iou_rank": "rank by IoU",
    "unit_iou": "IoU: best unit",
    "united_iou": "up to four",
    "direction_iou": "direction",
    "carrier": "best",
}
"""Of pca.csv, those that the page shows, and what they are called there."""
SAMPLES = {
    "pixel": "cells of which the concept covers {phi} or more",
    "weighted": "all cells that the concept touches, by the share it covers",
    "masked-mean": "one for each image, the mean of all cells that the concept touches, by the share it covers",
    "image-max": "one for each image that shows the concept, the largest of each unit",
    "image-mean": "one for each image that shows the concept, the mean of each unit",
}
"""What the samples of a concept are."""


def pca_values(found: Alignment) -> dict[str, Any]:
    """Directions: verdicts, loadings, what carries each concept."""
    parts = []
    for name, layer in found.layers.items():
        statistics = layer.variants[found.chosen].statistics
        rows = [found.row(name, c) for c in range(len(found.concept_name))]
        known = [int(c) for c in np.argsort(-statistics.loading, kind="stable") if statistics.unit[c] >= 0]
        counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
        text = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n) + "."
        cells = [[rows[c][key] for key in PCA_COLUMNS] for c in known]
        table = make_table(f"{name}: concepts by the loading of their first unit", tuple(PCA_COLUMNS.values()), cells)
        figures, folded = pca_figures(found, name, known) if known else ((), ())
        parts.append(Section(name, text, (table,), figures, folded))
    share = "any part" if found.about["phi"] == "0+" else found.about["phi"]
    samples = SAMPLES[found.about["samples"]].format(phi=share)
    return {"variant": about_variant(found), "samples": samples, "parts": parts}


def about_variant(found: Alignment) -> str:
    """The variant of the verdicts, in words."""
    return "about the concept's own mean" if found.chosen == "centred" else "about the mean of all images"


def pca_figures(found: Alignment, name: str, known: list[int]) -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
    """The charts of one layer, and those to be unfolded."""
    shown = list(dict.fromkeys([*known[: SHOWN_CONCEPTS // 2], *known[-SHOWN_CONCEPTS // 2 :]]))
    figures = (
        figure(f"{name}: loading and participation", loading_chart(found, name, known)),
        figure(f"{name}: one unit, a few, or a direction", carriers_chart(found, name, known)),
    )
    folded = (
        figure(f"{name}: loadings of leading units", concepts_map(found, name, known)),
        figure(f"{name}: squared loadings, added up", cumulative_chart(found, name, shown)),
        figure(f"{name}: eigenvalues", scree_chart(found, name, shown)),
        *(
            figure(f"{found.concept_name[c]} in {name}", concept_stem(found, name, found.layers[name], c))
            for c in shown
        ),
    )
    return figures, folded


def audit_values(rows: list[AuditRow], result: Dissection) -> dict[str, Any]:
    """Audit: counts of each layer by every rule."""
    parts = []
    for layer in dict.fromkeys(row.layer for row in rows):
        of = [row for row in rows if row.layer == layer]
        cells = [
            [row.upsample, row.tail, row.union, row.detectors, row.unique_top, row.unique_by_category, row.unique_any,
             f"{row.mean_best_iou:.4f}", "as scored" if is_scored(row, result) else ""]
            for row in of
        ]  # fmt: skip
        head = ("upsampling", "tail", "union", "detectors", "unique: top", "by category", "any", "mean best IoU", "")
        names = [f"{row.upsample}, {row.tail}, {row.union}" for row in of]
        stacks = [("unique: by category", [float(row.unique_by_category) for row in of])]
        about = f"Unique detectors of layer {layer} by category, summed, by every set of rules"
        title = f"{layer}: unique detectors by rules"
        chart = figure(title, bar_chart(title, about, names, stacks, "unique detectors"))
        parts.append(Section(layer, "", (make_table(f"{layer}: {of[0].units} units", head, cells),), (chart,)))
    return {"parts": parts}


def is_scored(row: AuditRow, result: Dissection) -> bool:
    """Whether the scoring went by these rules."""
    attributes = result.layers[row.layer].attributes if row.layer in result.layers else {}
    return all(attributes.get(key) == getattr(row, key) for key in ("upsample", "tail", "union"))
