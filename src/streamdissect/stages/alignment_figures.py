"""The charts of `rotate` and `pca` as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..atomic import write_bytes
from ..figures.alignment import dots_chart
from ..figures.svg import Series, bar_chart
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
