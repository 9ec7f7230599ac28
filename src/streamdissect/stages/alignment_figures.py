"""The charts of `rotate` and `pca` as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..atomic import write_bytes
from ..figures.alignment import dots_chart, heat_map, named_dots, stem_chart
from ..figures.svg import Series, bar_chart, line_chart, scatter_chart
from ..measure.alignmentresult import Alignment, LayerAlignment
from ..measure.rotationset import COUNTS, HAAR, LayerRotations, Rotations
from ..store.tables import file_name

COUNT_NAMES = ("detectors", "unique: top concept", "unique: by category", "unique: any unit")


def save_chart(folder: Path, name: str, svg: str) -> None:
    """Replace a chart."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{file_name(name)}.svg", svg.encode())


def draw_rotations(result: Rotations, folder: Path) -> None:
    """Of each layer: counts against alpha, and unique detectors by category; controls where there are some."""
    for name, layer in result.layers.items():
        save_chart(folder, f"{name}-counts", counts_chart(name, layer))
        save_chart(folder, f"{name}-categories", categories_chart(name, layer, result.category_name))
        if any(each.kind != HAAR for each in layer.rotations):
            save_chart(folder, f"{name}-controls", controls_chart(name, layer))


def alphas_of(layer: LayerRotations) -> list[float]:
    """The powers of uniform rotations that were looked at."""
    return sorted({each.value for each in layer.rotations if each.kind == HAAR})


def counts_chart(name: str, layer: LayerRotations) -> str:
    """Counts against alpha: the mean, one standard deviation about it, a dot for each seed."""
    alphas = alphas_of(layer)
    series, dots = [], []
    for j, count in enumerate(COUNT_NAMES):
        found = [layer.counts[layer.of(HAAR, alpha), j] for alpha in alphas]
        spread = [float(each.std(ddof=1)) if len(each) > 1 else 0.0 for each in found]
        series.append(Series(count, alphas, [float(each.mean()) for each in found], spread))
        dots.append([(alpha, float(y)) for alpha, each in zip(alphas, found, strict=True) for y in each])
    about = (
        f"Counts of layer {name} after uniform rotations to the power alpha; bands are one standard deviation, "
        f"dots are single rotations"
    )
    return dots_chart(f"{name}: detectors under rotation", about, series, dots, "alpha", "count")


def categories_chart(name: str, layer: LayerRotations, categories: tuple[str, ...]) -> str:
    """Unique detectors by category at each alpha, on average, stacked."""
    alphas = alphas_of(layer)
    means = np.array([layer.by_category[layer.of(HAAR, alpha)].mean(axis=0) for alpha in alphas])
    stacks = [(category, means[:, g].tolist()) for g, category in enumerate(categories)]
    about = f"Unique detectors of layer {name} by category, the mean over rotations to each power alpha"
    names = [f"{alpha:g}" for alpha in alphas]
    return bar_chart(f"{name}: unique detectors by category", about, names, stacks, "unique detectors")


def controls_chart(name: str, layer: LayerRotations) -> str:
    """Detectors and unique detectors of every control, on average, beside none and a whole rotation."""
    kinds = sorted(
        {(each.kind, each.value) for each in layer.rotations if each.kind != HAAR or each.value in (0.0, 1.0)},
        key=lambda pair: (pair[0] != HAAR, pair),
    )
    names = [f"{kind} {value:g}" if kind in (HAAR, "givens", "near-identity") else kind for kind, value in kinds]
    unique = COUNTS.index("unique_by_category")
    means = [float(layer.counts[layer.of(kind, value), unique].mean()) for kind, value in kinds]
    about = f"Unique detectors of layer {name} by category, summed, under every control"
    return bar_chart(f"{name}: controls", about, names, [("unique: by category", means)], "unique detectors")


SHOWN_CONCEPTS = 6
"""Of each layer, with charts of their own: the most and the least aligned."""


def draw_alignment(result: Alignment, folder: Path) -> None:
    """Of each layer: loading against participation, a heat map, and charts of the most and least aligned concepts."""
    for name, layer in result.layers.items():
        found = layer.variants[result.chosen].statistics
        known = [int(c) for c in np.argsort(-found.loading, kind="stable") if found.unit[c] >= 0]
        if not known:
            continue
        save_chart(folder, f"{name}-loading-participation", loading_chart(result, name, known))
        save_chart(folder, f"{name}-heat", concepts_map(result, name, known))
        save_chart(folder, f"{name}-carriers", carriers_chart(result, name, known))
        shown = list(dict.fromkeys([*known[: SHOWN_CONCEPTS // 2], *known[-SHOWN_CONCEPTS // 2 :]]))
        save_chart(folder, f"{name}-cumulative", cumulative_chart(result, name, shown))
        save_chart(folder, f"{name}-scree", scree_chart(result, name, shown))
        for c in shown:
            save_chart(folder, f"{name}-stem-{result.concept_name[c]}", concept_stem(result, name, layer, c))


def loading_chart(result: Alignment, name: str, known: list[int]) -> str:
    """The largest loading of each concept against how many units take part."""
    found = result.layers[name].variants[result.chosen].statistics
    groups = []
    for category in dict.fromkeys(result.concept_category):
        of = [c for c in known if result.concept_category[c] == category]
        x, y = ([float(values[c]) for c in of] for values in (found.participation, found.loading))
        if of:
            groups.append(Series(category, x, y))
    about = f"Each point is a concept in layer {name}; one unit alone has participation 1 and loading 1"
    title = f"{name}: loading of the first unit, and how many take part"
    return scatter_chart(title, about, groups, "participation ratio", "largest loading")


def concepts_map(result: Alignment, name: str, known: list[int]) -> str:
    """|u_1| of every concept in the units that lead one."""
    variant = result.layers[name].variants[result.chosen]
    units = list(dict.fromkeys(int(variant.statistics.unit[c]) for c in known))
    values = np.abs(variant.leading[known][:, units]).tolist()
    about = f"Loadings of the units of layer {name} that lead some concept, for every concept"
    rows = [result.concept_name[c] for c in known]
    return heat_map(f"{name}: loadings of leading units", about, rows, [str(unit) for unit in units], values)


def carriers_chart(result: Alignment, name: str, known: list[int]) -> str:
    """IoU on the images that were not fitted to: the best unit, the best few, the direction."""
    carriers = result.layers[name].carriers
    of = [c for c in known if np.isfinite(carriers.direction_iou[c])]
    names, places = [result.concept_name[c] for c in of], [float(i) for i in range(len(of))]
    series = [
        Series(label, places, [float(values[c]) for c in of])
        for label, values in (
            ("best unit", carriers.unit_iou),
            ("up to four units", carriers.united_iou),
            ("direction", carriers.direction_iou),
        )
    ]
    about = f"IoU of concepts in layer {name} with what carries them, chosen on one half of the images, on the other"
    return named_dots(f"{name}: one unit, a few, or a direction", about, names, series, "IoU, held-out images")


def cumulative_chart(result: Alignment, name: str, shown: list[int]) -> str:
    """How fast the squared loadings add up to 1."""
    leading = result.layers[name].variants[result.chosen].leading
    series = []
    for c in shown:
        share = np.cumsum(np.sort(np.square(leading[c]))[::-1])
        places = np.unique(np.geomspace(1, len(share), 40).astype(int))
        series.append(Series(result.concept_name[c], np.log10(places).tolist(), share[places - 1].tolist()))
    about = f"Share of the direction's squared length that the largest units of layer {name} hold"
    return line_chart(f"{name}: squared loadings, added up", about, series, "units, as a power of ten", "share")


def scree_chart(result: Alignment, name: str, shown: list[int]) -> str:
    """The largest eigenvalues."""
    values = result.layers[name].variants[result.chosen].values
    series = [
        Series(result.concept_name[c], [float(r + 1) for r in range(values.shape[1])], values[c].tolist())
        for c in shown
    ]
    about = f"Largest eigenvalues of the concepts' second moments in layer {name}"
    return line_chart(f"{name}: eigenvalues", about, series, "direction", "eigenvalue")


def concept_stem(result: Alignment, name: str, layer: LayerAlignment, c: int) -> str:
    """The loadings of all units."""
    variant = layer.variants[result.chosen]
    concept = result.concept_name[c]
    about = (
        f"Loading of every unit of layer {name} in the leading direction of {concept}; dashed: what a random direction "
        "reaches with a chance of one in twenty"
    )
    critical = float(variant.statistics.critical[c])
    return stem_chart(f"{concept} in {name}", about, variant.leading[c].tolist(), critical, "loading")
