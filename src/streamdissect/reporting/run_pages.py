"""The pages of a dissection: units, concepts, charts, and what the run was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..stages.control import Control
from ..store.rundir import RunDir
from .charts import Chart, by_concept, layer_charts
from .gathering import LISTED, ON_CARD, SECOND, ConceptView, Shown, UnitView, view_concept
from .pages import Page, Site, environment, number, share, svg
from .repeating import commands
from .spreads import large_spread, small_spread
from .unit_experiments import UnitExperiments, open_experiments

CARDS = 24
"""On a page of the index."""
IOU_PARTS = 10_000
"""IoU of the concepts that a unit's page lists last are whole numbers of these: there are a thousand to a unit."""
OF_CONCEPT, OF_UNDETECTED = (3, 3), (1, 3)
"""Units on a concept's page with pictures, and pictures of each; where no unit detects it."""
OWN_SET = "a set of its own"
"""What a dataset without a name is called."""
LAYER_COLUMNS = ("layer", "units", "detectors", "share", "unique, top", "unique, by category", "unique, any",
                 "mean best IoU", "active maps", "detectable concepts")  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A number in large letters."""

    name: str
    value: str


def write_pages(
    folder: Path,
    run: RunDir,
    settings: Mapping[str, Any],
    name: str | None,
    shown: Shown,
    notices: Sequence[str],
    extras: Sequence[Page],
    control: Control,
) -> list[Chart]:
    """Write every page, style sheet and script; the charts of the index, for a paper."""
    result = shown.result
    concepts = [view_concept(shown, c) for c in np.flatnonzero(areas_of(shown)).tolist()]
    table = Page("units.html", "Table", "units.html", lambda: {"rows": unit_rows(shown)})
    listing = Page("concepts.html", "Concepts", "concepts.html", lambda: {"rows": concept_rows(concepts)})
    title = f"{run.path.resolve().name}{f' / {name}' if name else ''}"
    site = Site(folder, title, (table, listing, *extras))
    site.copy_assets()
    charts = layer_charts(result)
    by_layer = [by_concept(result, layer, stem) for layer, stem in shown.stems.items()]
    by_layer.sort(key=lambda chart: -len(chart.names))
    cards = write_cards(folder, shown, control)
    index = {
        "facts": describe_run(run, settings, name, shown),
        "notices": notices,
        "tiles": tiles(shown),
        "extras": extras,
        "categories": result.category_name,
        "layers": tuple(result.layers),
        "first_cards": cards[:CARDS],
        "n_units": f"{len(cards):,}",
        "layer_columns": LAYER_COLUMNS,
        "layer_rows": layer_rows(shown),
        "charts": [{"title": chart.title, "svg": svg(chart.svg())} for chart in charts],
        "concept_charts": [
            {
                "title": chart.title,
                "svg": svg(chart.svg().replace('class="chart"', 'class="chart long"', chart.is_long)),
            }
            for chart in by_layer
            if chart.names
        ],
    }
    site.write(Page("index.html", "Units", "index.html", lambda: index))
    experiments = open_experiments(run, name, result)
    units = list(shown.iter_units())
    with control.metering("pages", len(units), "unit") as meter:
        for place, (layer, unit) in enumerate(units):
            if place % 64 == 0:
                control.check()
            site.write(unit_page(shown, experiments, layer, unit))
            meter.advance(1)
    for concept in concepts:
        site.write(concept_page(shown, concept))
    for page in (table, listing, *extras):
        site.write(page)
    return [*charts, *by_layer]


def areas_of(shown: Shown) -> Any:
    """(C,) labelled pixels of each concept."""
    return next(iter(shown.result.layers.values())).concept_area


def write_cards(folder: Path, shown: Shown, control: Control) -> list[Markup]:
    """Write units.js, which holds the cards of all units for searching and sorting; the cards by IoU."""
    card = environment().get_template("macros.html").module.card  # type: ignore[attr-defined]
    entries, cards = [], []
    for place, (name, unit) in enumerate(shown.iter_units()):
        if place % 64 == 0:
            control.check()
        view = shown.unit(name, unit, ON_CARD)
        layer = shown.result.layers[name]
        spread = ""
        if layer.distribution is not None:
            spread = small_spread(layer.distribution, unit, view.threshold)
        html = card(replace(view, others=view.others[:SECOND]), "", svg(spread)).strip()
        concept, category = (view.best.name, view.best.category) if view.best else ("", "")
        iou = float(layer.best_iou[unit])
        entries.append([name, unit, concept, category, round(iou, 9), int(view.is_detector), str(html)])
        cards.append((-iou, place, html))
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    (folder / "units.js").write_text(f"streamdissect.showUnits({text});\n", encoding="utf-8")
    names = [
        [name, shown.result.category_name[g]]
        for name, g in zip(shown.result.concept_name, shown.result.concept_category.tolist(), strict=True)
    ]
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    (folder / "concepts.js").write_text(f"streamdissect.showConcepts({text});\n", encoding="utf-8")
    return [html for _, _, html in sorted(cards, key=lambda each: each[:2])]


def unit_page(shown: Shown, experiments: UnitExperiments, name: str, unit: int) -> Page:
    """All that is known of a unit."""
    view, layer = shown.unit(name, unit, shown.n_images), shown.result.layers[name]
    scores = [*([view.best] if view.best else []), *view.others]
    rest = [(each.column, round(each.iou * IOU_PARTS)) for each in scores[LISTED:]]
    tail = str(layer.attributes["tail"])
    spread = ""
    if layer.distribution is not None:
        spread = large_spread(layer.distribution, unit, view.threshold, view.title, tail)
    values = {
        "u": view,
        "before": shown.unit_path(name, unit - 1) if unit else "",
        "after": shown.unit_path(name, unit + 1) if unit + 1 < len(layer.n) else "",
        "spread": svg(spread),
        "facts": unit_facts(shown, view),
        "listed": scores[:LISTED],
        "rest": [number for pair in rest for number in pair],
        "n_rest": len(rest),
        "n_zero": len(shown.result.concept_name) - len(scores),
        "robustness": experiments.robustness(name, unit),
        "loadings": experiments.loadings(name, unit),
    }
    return Page(view.path, view.title, "unit.html", lambda: values)


def unit_facts(shown: Shown, view: UnitView) -> list[tuple[str, str]]:
    """Numbers of a unit by name."""
    layer, k = shown.result.layers[view.layer], view.unit
    n_images = len(shown.result.image_name)
    facts = [
        ("threshold", f"{view.threshold:.6g} at tail {layer.attributes['tail']}"),
        ("activations above it", f"{view.n_above:,} of {view.n:,}"),
        ("active images", f"{view.active_maps:,} of {n_images:,}"),
        ("mask pixels", f"{int(layer.unit_area_all[k]):,}"),
        ("range", f"{float(layer.vmin[k]):.5g} to {float(layer.vmax[k]):.5g}"),
        ("zero", f"{int(layer.n_zero[k]):,} values"),
    ]
    if (found := layer.distribution) is not None:
        facts.append(("mean, standard deviation", f"{float(found.mean[k]):.5g}, {float(found.std[k]):.5g}"))
    if int(layer.n_nonfinite[k]):
        facts.append(("no finite numbers", f"{int(layer.n_nonfinite[k]):,} values"))
    if len(layer.tails) > 1:
        pairs = zip(layer.tails.tolist(), layer.thresholds[:, k].tolist(), strict=True)
        facts.append(("thresholds at other tails", ", ".join(f"{tail:.4g}: {value:.6g}" for tail, value in pairs)))
    best = [
        f"{category} {shown.result.concept_name[c]} {float(layer.best_iou_by_category[k, g]):.4f}"
        for g, category in enumerate(shown.result.category_name)
        if (c := int(layer.best_concept_by_category[k, g])) >= 0
    ]
    return [*facts, ("best of each category", ", ".join(best) or "none")]


def concept_page(shown: Shown, concept: ConceptView) -> Page:
    """A concept, its units and its images."""
    result, figures, best = shown.result, [], []
    n_units, n_pictures = OF_CONCEPT if concept.n_detectors else OF_UNDETECTED
    for layer, unit, *_ in concept.units:
        column = int(result.layers[layer].best_concept[unit])
        best.append(result.concept_name[column] if column >= 0 else "none")
    for layer, unit, _, is_best, _ in concept.units[:n_units]:
        view = shown.unit(layer, unit, n_pictures)
        plain = [] if is_best else [replace(figure, label="") for figure in view.figures]
        figures += [replace(figure, caption=f"unit {view.title}, {figure.name}") for figure in (plain or view.figures)]
    values = {
        "c": concept,
        "paths": [shown.unit_path(layer, unit) for layer, unit, *_ in concept.units],
        "best": best,
        "units": figures,
    }
    return Page(concept.path, concept.name, "concept.html", lambda: values)


def concept_rows(concepts: Sequence[ConceptView]) -> list[tuple[ConceptView, float]]:
    """Concepts with the largest IoU that a unit has, those of the most detectors first."""
    rows = [(concept, max((row[2] for row in concept.units), default=0.0)) for concept in concepts]
    return sorted(rows, key=lambda row: (-row[0].n_detectors, -row[1], row[0].name))


def unit_rows(shown: Shown) -> list[dict[str, Any]]:
    """A row for every unit."""
    rows = []
    for row in shown.result.units().tolist():
        layer, unit, concept, category, iou, _, _, threshold, is_detector = row
        path = shown.unit_path(layer, unit)
        rows.append({"layer": layer, "unit": unit, "concept": concept, "category": category, "iou": iou,
                     "threshold": threshold, "is_detector": is_detector, "path": path})  # fmt: skip
    return rows


def tiles(shown: Shown) -> list[Tile]:
    """The run in a few numbers."""
    layers = list(shown.result.layers.values())
    n_units, n_detectors = sum(len(each.n) for each in layers), sum(int(each.is_detector.sum()) for each in layers)
    detected = np.unique(np.concatenate([each.best_concept[each.is_detector] for each in layers]))
    top = max((float(each.best_iou.max()) for each in layers if len(each.n)), default=0.0)
    mean = float(np.concatenate([each.best_iou for each in layers]).mean()) if n_units else float("nan")
    n_layers = f" in {len(layers)} layers" if len(layers) > 1 else ""
    return [
        Tile(f"units{n_layers}", f"{n_units:,}"),
        Tile("detectors", f"{n_detectors:,}"),
        Tile("of the units", share(n_detectors / n_units if n_units else float("nan"))),
        Tile("unique detectors", f"{len(detected):,}"),
        Tile("mean best IoU", number(mean, 3)),
        Tile("largest IoU", number(top, 3)),
        Tile("images", f"{len(shown.result.image_name):,}"),
        Tile("concepts", f"{len(shown.result.concept_name):,}"),
    ]


def layer_rows(shown: Shown) -> list[list[str]]:
    """A row for each layer, as LAYER_COLUMNS."""
    rows = []
    for name, layer in shown.result.layers.items():
        facts = layer.summary
        least, most = facts["detectable_share"]
        rows.append(
            [
                name,
                f"{facts['units']:,}",
                f"{facts['detectors']:,}",
                share(facts["detectors"] / facts["units"]) if facts["units"] else "none",
                str(facts["unique_top"]),
                str(facts["unique_by_category"]),
                str(facts["unique_any"]),
                number(float(facts["mean_best_iou"]), 3),
                share(facts["active_map_share"]),
                f"{100 * least:.2g} to {100 * most:.2g} % of pixels",
            ]
        )
    return rows


def describe_run(run: RunDir, settings: Mapping[str, Any], name: str | None, shown: Shown) -> dict[str, Any]:
    """What the run was, for the foot of the index."""
    manifest, found = run.manifest, run.manifest["identity"]
    model, data = manifest["model"], manifest["data"]
    layers = shown.result.layers
    upsampling = ", ".join(f"{key} {layer.attributes['upsample']}" for key, layer in layers.items())
    sees = " x ".join(map(str, manifest["plan"]["input_size"]))
    rows = [
        ("model", model["spec"]),
        ("weights", model["weights"] or "as the model comes"),
        ("images", f"{len(shown.result.image_name):,} of {data['spec'] or OWN_SET}"),
        ("labels", ", ".join(spec for spec, _ in settings["labels"]) or "of the data"),
        ("network sees", f"{sees} pixels"),
        ("layers", ", ".join(layers)),
        ("detector", f"best IoU above {settings['iou']}"),
        ("threshold", f"the largest {settings['tail']} of each unit's activations lie above it"),
        ("rules", f"union {settings['union']}, mask test {settings['mask_test']}, mask size {settings['mask_size']}, "
                  f"multiplicity {settings['multiplicity']}, unlabelled pixels {settings['unlabelled']}"),
        ("upsampling", upsampling),
        ("stored as", str(found.get("dtype", "float16"))),
        ("scoring", name or "the main one"),
        ("versions", ", ".join(f"{key} {value}" for key, value in manifest["versions"].items())),
    ]  # fmt: skip
    if directions := settings.get("directions"):
        rows.append(("directions", directions["file"]))
    n_units = sum(len(layer.n) for layer in layers.values())
    several = f"{len(layers)} layers" if len(layers) > 1 else f"layer {next(iter(layers))}"
    return {
        "model_name": str(model["spec"]) if run.is_recorded else model_name(str(model["spec"])),
        "lead": f"{n_units:,} units of {several} on {len(shown.result.image_name):,} images of "
        f"{Path(data['spec'] or OWN_SET).name}, against {len(shown.result.concept_name):,} concepts.",
        "rows": rows,
        "is_captured": run.is_captured,
        "is_recorded": run.is_recorded,
        "commands": commands(run, dict(settings), name),
    }


def model_name(spec: str) -> str:
    """What a model is called in a title.

    >>> model_name("models/mobile.py:mobilenet_v2?width=1"), model_name("shipped")
    ('mobilenet_v2', 'shipped')
    """
    return spec.partition("?")[0].rpartition(":")[2].rpartition("/")[2] or "a network"
