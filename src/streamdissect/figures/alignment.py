"""Charts of the experiments on alignment: counts under rotation, loadings of units (methods 5.6, 6.7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .svg import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    Series,
    axes,
    band,
    colour,
    legend,
    marker,
    sheet,
)

NAMED = 10
"""Units of a stem chart that are named."""


def dots_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    dots: Sequence[Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
) -> str:
    """Lines of means with bands, and a dot for every single measurement behind them."""
    reach = [y for each in dots for _, y in each] + [
        y + (s if math.isfinite(s) else 0.0)
        for each in series
        for y, s in zip(each.y, each.spread or [0.0] * len(each.y), strict=True)
    ]
    every_x = [x for each in series for x in each.x]
    margin = 0.04 * ((max(every_x) - min(every_x)) or 1.0)
    frame = Frame((min(every_x) - margin, max(every_x) + margin), (0.0, 1.06 * max(*reach, 1.0)))
    parts = [axes(frame, x_label, y_label)]
    for i, each in enumerate(series):
        parts.append(band(frame, i, each) if each.spread else "")
        points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(each.x, each.y, strict=True))
        parts.append(f'<polyline class="line" points="{points}" stroke="{colour(i)}"/>')
        parts += [marker(i, frame.x(x), frame.y(y), 2.4, f"{each.name}: {y:g}") for x, y in dots[i]]
    parts.append(legend(frame, [each.name for each in series], is_line=True))
    return sheet(frame, title, description, parts)


def stem_chart(title: str, description: str, loadings: Sequence[float], critical: float, y_label: str) -> str:
    """A loading for each unit, the largest named; dashed, what a random axis reaches with a chance of 5 %."""
    reach = 1.12 * max(max(map(abs, loadings), default=0.0), critical)
    low = -reach if min(loadings) < -critical / 2 else 0.0
    frame = Frame((-1.0, float(len(loadings))), (low, reach))
    parts = [axes(frame, "unit", y_label)]
    for value in [critical, -critical] if low else [critical]:
        y = frame.y(value)
        parts.append(
            f'<line class="even" x1="{frame.x(-1):.1f}" x2="{frame.x(len(loadings)):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    base = frame.y(0)
    stems = (
        f"M{frame.x(k):.1f} {base:.1f}V{frame.y(value):.1f}" for k, value in enumerate(loadings) if abs(value) > 1e-3
    )
    parts.append(f'<path class="stem" d="{"".join(stems)}" stroke="{colour(0)}" stroke-width="1.4" fill="none"/>')
    largest = sorted(range(len(loadings)), key=lambda k: -abs(loadings[k]))[:NAMED]
    named = [k for k in largest if abs(loadings[k]) >= critical]
    for k in named:
        parts.append(marker(1, frame.x(k), frame.y(loadings[k]), 3.0, f"unit {k}: {loadings[k]:.3f}"))
    listed = [f"{k}: {loadings[k]:.2f}" for k in largest]
    left = frame.width - RIGHT + 16
    parts += [
        f'<text class="soft" x="{left}" y="{TOP + 12 + 17 * i}">{escape(text)}</text>'
        for i, text in enumerate(["largest loadings", *listed])
    ]
    return sheet(frame, title, description, parts)


def heat_map(
    title: str,
    description: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
) -> str:
    """A square for each value, 0 to 1, the darker the larger; named at its left and below."""
    size = max(9.0, min(22.0, 560 / max(len(columns), 1)))
    left, bottom = LEFT + 60, 56
    width, height = int(left + size * len(columns) + 40), int(TOP + size * len(rows) + bottom)
    frame = Frame((0.0, 1.0), (0.0, 1.0), max(width, 420), height)
    parts = []
    for i, name in enumerate(rows):
        y = TOP + size * i
        parts.append(f'<text x="{left - 6}" y="{y + size / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(values[i]):
            about = f"<title>{escape(f'{name}, unit {columns[j]}: {value:.2f}')}</title>"
            box = f'x="{left + size * j:.1f}" y="{y:.1f}" width="{size - 0.6:.1f}" height="{size - 0.6:.1f}"'
            parts.append(
                f'<rect {box} fill="{colour(0)}" fill-opacity="{max(0.04, min(1.0, value)):.2f}">{about}</rect>'
            )
    for j, name in enumerate(columns):
        turn = f'transform="translate({left + size * (j + 0.7):.1f} {TOP + size * len(rows) + 8:.1f}) rotate(-60)"'
        parts.append(f'<text class="soft" {turn} text-anchor="end">{escape(name)}</text>')
    return sheet(frame, title, description, parts)


def named_dots(title: str, description: str, names: Sequence[str], series: Sequence[Series], y_label: str) -> str:
    """A column of dots under each name, one for each series."""
    bottom = BOTTOM + int(0.72 * CHARACTER * max(map(len, names), default=0))
    top = max([y for each in series for y in each.y if math.isfinite(y)] or [1.0])
    frame = Frame((-0.6, max(len(names), 1) - 0.4), (0.0, 1.06 * top or 1.0), WIDTH, HEIGHT + bottom - BOTTOM, bottom)
    parts = [axes(frame, "", y_label, names)]
    for i, each in enumerate(series):
        parts += [
            marker(i, frame.x(x), frame.y(y), 3.4, f"{names[int(x)]}, {each.name}: {y:.3f}")
            for x, y in zip(each.x, each.y, strict=True)
            if math.isfinite(y)
        ]
    parts.append(legend(frame, [each.name for each in series]))
    return sheet(frame, title, description, parts)
