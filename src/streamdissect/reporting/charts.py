"""The charts of a dissection: what they show, as data, and as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..figures.svg import Series, bar_chart, histogram, line_chart
from ..measure.dissection import Dissection, LayerDissection

TAUS = tuple(Fraction(n, 100) for n in (*range(1, 11), *range(12, 31, 2)))
"""IoU cuts of the threshold curves."""
N_BINS = 25
BAR = 17
"""Pixels to a bar of a long chart."""


@dataclass(frozen=True)
class Chart:
    """Bars, lines or a histogram, for a page or for a paper."""

    name: str
    """Of its file, without an ending."""
    kind: str
    """`bars`, `lines` or `histogram`."""
    title: str
    about: str
    """For those who do not see it, and below it."""
    x_label: str
    y_label: str
    names: tuple[str, ...] = ()
    """Of the bars."""
    stacks: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """(name, its part of each bar)."""
    series: tuple[Series, ...] = ()
    """Of lines."""
    edges: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    """Of a histogram."""

    @property
    def is_long(self) -> bool:
        """Whether it has more bars than a column of a page is wide."""
        return len(self.names) > 24

    def svg(self) -> str:
        """The chart for a page."""
        if self.kind == "bars":
            width = {"bar_width": BAR} if self.is_long else {}
            return bar_chart(self.title, self.about, self.names, self.stacks, self.y_label, **width)
        if self.kind == "lines":
            return line_chart(self.title, self.about, self.series, self.x_label, self.y_label)
        return histogram(self.title, self.about, self.edges, self.counts, self.x_label, self.y_label)


def layer_charts(result: Dissection) -> list[Chart]:
    """Charts over all layers: unique detectors by category, threshold curves, best IoU."""
    return [by_category(result), *threshold_curves(result), best_iou(result)]


def by_category(result: Dissection) -> Chart:
    """Unique detectors of each layer, by category."""
    counts = [layer.summary["unique_by_each_category"] for layer in result.layers.values()]
    stacks = tuple((name, tuple(float(each[name]) for each in counts)) for name in result.category_name)
    about = "Distinct concepts that units detect, within each category, for each layer."
    return Chart("unique-by-category", "bars", "Unique detectors by category", about, "", "distinct concepts",
                 names=tuple(result.layers), stacks=stacks)  # fmt: skip


def threshold_curves(result: Dissection) -> list[Chart]:
    """Detectors and unique detectors of each layer, by the IoU above which a unit counts as one."""
    shares, uniques = [], []
    own = {Fraction(str(layer.attributes["tau"])) for layer in result.layers.values()}
    taus = [float(tau) for tau in sorted({*TAUS, *own})]
    for name, layer in result.layers.items():
        detects = layer.best_iou[None, :] > np.array(taus)[:, None]
        shares.append(Series(name, taus, detects.mean(axis=1).tolist()))
        uniques.append(Series(name, taus, [float(len(np.unique(layer.best_concept[row]))) for row in detects]))
    rule = ", ".join(sorted({str(layer.attributes["tau"]) for layer in result.layers.values()}))
    about = f"by the IoU above which a unit counts as a detector (this run: {rule})."
    return [
        Chart("detectors-by-iou", "lines", "Detectors by IoU threshold",
              f"Share of the units that are detectors, {about}", "IoU threshold", "share of units",
              series=tuple(shares)),
        Chart("unique-by-iou", "lines", "Unique detectors by IoU threshold",
              f"Distinct best concepts of detectors, {about}", "IoU threshold", "distinct concepts",
              series=tuple(uniques)),
    ]  # fmt: skip


def best_iou(result: Dissection) -> Chart:
    """How the best IoU of the units is distributed."""
    values = [layer.best_iou for layer in result.layers.values()]
    top = max((float(each.max()) for each in values if len(each)), default=0.0) or 1.0
    edges = np.linspace(0, top, N_BINS + 1)
    title, about = "Best IoU of the units", "How many units have a best IoU of that size"
    if len(values) == 1:
        counts, _ = np.histogram(values[0], edges)
        return Chart("best-iou", "histogram", title, f"{about}.", "best IoU", "units", edges=tuple(edges.tolist()),
                     counts=tuple(counts.astype(float).tolist()))  # fmt: skip
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    series = tuple(
        Series(name, middles, (np.histogram(each, edges)[0] / max(len(each), 1)).tolist())
        for name, each in zip(result.layers, values, strict=True)
    )
    return Chart("best-iou", "lines", title, f"{about}, as a share of each layer's.", "best IoU", "share of units",
                 series=series)  # fmt: skip


def by_concept(result: Dissection, name: str, stem: str) -> Chart:
    """The bar graph of the published figures: detectors of each concept in a layer, category by category."""
    counts = concept_counts(result, result.layers[name])
    order = [
        c
        for g in range(len(result.category_name))
        for c in np.argsort(-counts, kind="stable").tolist()
        if counts[c] and result.concept_category[c] == g
    ]
    stacks = []
    for g, category in enumerate(result.category_name):
        parts = tuple(float(counts[c]) if result.concept_category[c] == g else 0.0 for c in order)
        stacks.append((category, parts))
    about = f"Units of {name} that detect each concept, {len(order)} concepts in all."
    names = tuple(result.concept_name[c] for c in order)
    return Chart(f"concepts-{stem}", "bars", f"Detectors by concept, {name}", about, "", "detectors", names=names,
                 stacks=tuple(stacks))  # fmt: skip


def concept_counts(result: Dissection, layer: LayerDissection) -> NDArray[np.int64]:
    """(C,) detectors whose best concept it is."""
    counts: NDArray[np.int64] = np.bincount(layer.best_concept[layer.is_detector], minlength=len(result.concept_name))
    return counts
