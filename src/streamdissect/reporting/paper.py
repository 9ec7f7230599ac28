"""The charts of the report for a paper: PDF and PNG, by Matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..errors import BadInput
from ..figures.svg import PALETTE
from .charts import Chart

LINES = ("-", "--", ":", "-.")
MARKERS = "os^D"
HEIGHT = 3.4
"""Inches."""
DPI = 300


def require_matplotlib() -> None:
    """BadInput where Matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        remedy = "pip install 'streamdissect[plot]', or leave --figures out: the charts are in the report as SVG"
        raise BadInput("--figures", "an installation without Matplotlib", "Matplotlib", remedy)


def save_figures(charts: Sequence[Chart], folder: str | os.PathLike[str]) -> list[Path]:
    """Write NAME.pdf and NAME.png of every chart; the files written."""
    require_matplotlib()
    figure_of = import_module("matplotlib.figure").Figure
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        figure = draw(chart, figure_of)
        for ending in ("pdf", "png"):
            path = target / f"{chart.name}.{ending}"
            with replacing(path) as aside:
                figure.savefig(aside, format=ending, dpi=DPI, bbox_inches="tight")
            written.append(path)
    return written


def plain(text: str) -> str:
    """A text that Matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def draw(chart: Chart, figure_of: Any) -> Any:
    """A chart as a Matplotlib figure."""
    figure = figure_of(figsize=(max(5.2, 1.6 + 0.2 * len(chart.names)), HEIGHT))
    axes = figure.add_subplot()
    if chart.kind == "bars":
        places, base = range(len(chart.names)), [0.0] * len(chart.names)
        for i, (name, values) in enumerate(chart.stacks):
            axes.bar(places, values, bottom=base, color=PALETTE[i % len(PALETTE)], width=0.76, label=plain(name))
            base = [a + b for a, b in zip(base, values, strict=True)]
        is_dense = len(chart.names) > 8
        turn = {"rotation": 60, "ha": "right"} if is_dense else {}
        axes.set_xticks(list(places), [plain(name) for name in chart.names], **turn)
    elif chart.kind == "lines":
        for i, each in enumerate(chart.series):
            style = {"linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
            axes.plot(each.x, each.y, color=PALETTE[i % len(PALETTE)], label=plain(each.name), **style)
        axes.set_ylim(bottom=0)
    else:
        axes.stairs(chart.counts, chart.edges, fill=True, color=PALETTE[0])
    axes.set_title(plain(chart.title), fontsize="medium", loc="left")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if chart.stacks or chart.series:
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
