"""Charts as SVG: lines with bands, scatters, stacked bars, histograms.

Colours follow the reader's light or dark scheme and can be told apart by people who see few (the palette of Okabe and
Ito); lines and points differ in dash and shape too. Every chart carries a title and a description for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6B6B6B")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 3", "6 2 1 2")
STYLE = """
.chart{--ink:#1f2328;--soft:#59636e;--grid:#d8dce1;--paper:#ffffff}
@media (prefers-color-scheme:dark){.chart{--ink:#e6edf3;--soft:#9aa4af;--grid:#30363d;--paper:#0d1117}}
.chart text{font:12px system-ui,sans-serif;fill:var(--ink)}.chart .head{font-size:15px;font-weight:600}
.chart .soft{fill:var(--soft)}.chart .paper{fill:var(--paper)}.chart .grid{stroke:var(--grid);stroke-width:1}
.chart .axis{stroke:var(--soft);stroke-width:1}.chart .line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.chart .band{opacity:.18}.chart .dot{stroke:var(--paper);stroke-width:.8}
.chart .even{stroke:var(--soft);stroke-dasharray:4 4}
"""
WIDTH, HEIGHT = 700, 400
TOP, RIGHT, BOTTOM, LEFT = 44, 200, 56, 62
N_TICKS, LONGEST_NAME = 5, 30
CHARACTER = 6.6
"""Pixels to a character, roughly, for what has to fit."""


@dataclass(frozen=True)
class Series:
    """Values under one name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """NaN: no value there."""
    spread: Sequence[float] | None = None
    """Half the height of the band about `y`; NaN: none there."""


@dataclass(frozen=True)
class Frame:
    """Where numbers lie on the sheet."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT
    bottom: int = BOTTOM

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - TOP - self.bottom)


def ticks(low: float, high: float, n: int = N_TICKS) -> list[float]:
    """Round numbers from `low` to `high`, about n of them.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / n
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def range_of(values: Iterable[float], floor: float | None = 0.0) -> tuple[float, float]:
    """From the least to the largest number, a little beyond; from `floor` where that is lower."""
    known = [value for value in values if math.isfinite(value)]
    low = min([*known, *([floor] if floor is not None else [])], default=0.0)
    high = max(known, default=1.0)
    return (low, high + 0.04 * (high - low)) if high > low else (low, low + 1.0)


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_names: Sequence[str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines with points, and bands where a spread is given.

    Parameters
    ----------
    x_names : sequence of str, optional
        The x are places 0, 1, ... of these names; without, numbers.
    y_range : (float, float), optional
        By default from 0, or the least value below it, to the largest.
    """
    every_x = [x for each in series for x in each.x]
    reach = [
        value
        for each in series
        for y, s in zip(each.y, each.spread or [0.0] * len(each.y), strict=True)
        for value in (y, y + s, y - s)
    ]
    last = len(x_names) - 1 if x_names else 0
    x_range = (-0.3, last + 0.3) if x_names else range_of(every_x)
    frame = Frame(x_range, y_range or range_of(reach))
    parts = [axes(frame, x_label, y_label, x_names)]
    for i, each in enumerate(series):
        points = [(x, y) for x, y in zip(each.x, each.y, strict=True) if math.isfinite(y)]
        if each.spread is not None:
            parts.append(band(frame, i, each))
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        dash = f' stroke-dasharray="{DASHES[i % len(DASHES)]}"' if DASHES[i % len(DASHES)] else ""
        parts.append(f'<polyline class="line" points="{path}" stroke="{colour(i)}"{dash}/>')
        parts += [marker(i, frame.x(x), frame.y(y), 3.6, f"{each.name}: {y:.3g}") for x, y in points]
    parts.append(legend(frame, [each.name for each in series], is_line=True))
    return sheet(frame, title, description, parts)


def band(frame: Frame, i: int, series: Series) -> str:
    """The area between a line less its spread and the line plus it."""
    assert series.spread is not None
    rows = [
        (x, y, s)
        for x, y, s in zip(series.x, series.y, series.spread, strict=True)
        if math.isfinite(y) and math.isfinite(s)
    ]
    low, high = frame.y_range
    upper = [f"{frame.x(x):.1f},{frame.y(min(y + s, high)):.1f}" for x, y, s in rows]
    lower = [f"{frame.x(x):.1f},{frame.y(max(y - s, low)):.1f}" for x, y, s in reversed(rows)]
    return f'<polygon class="band" points="{" ".join(upper + lower)}" fill="{colour(i)}"/>' if rows else ""


def scatter_chart(
    title: str, description: str, groups: Sequence[Series], x_label: str, y_label: str, *, is_square: bool = False
) -> str:
    """Points of several groups; `is_square`: both axes alike, with the line on which x and y are equal."""
    x_range = range_of(x for each in groups for x in each.x)
    y_range = range_of(y for each in groups for y in each.y)
    if is_square:
        x_range = y_range = (min(x_range[0], y_range[0]), max(x_range[1], y_range[1]))
    frame = Frame(x_range, y_range, WIDTH, HEIGHT + 40)
    parts = [axes(frame, x_label, y_label)]
    if is_square:
        (low, high) = x_range
        ends = f'x1="{frame.x(low):.1f}" y1="{frame.y(low):.1f}" x2="{frame.x(high):.1f}" y2="{frame.y(high):.1f}"'
        parts.append(f'<line class="even" {ends}/>')
    for i, each in enumerate(groups):
        known = [(x, y) for x, y in zip(each.x, each.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        dots = "".join(marker(i, frame.x(x), frame.y(y), 2.6) for x, y in known)
        parts.append(f'<g opacity=".75">{dots}</g>')
    parts.append(legend(frame, [each.name for each in groups]))
    return sheet(frame, title, description, parts)


def bar_chart(
    title: str,
    description: str,
    names: Sequence[str],
    stacks: Sequence[tuple[str, Sequence[float]]],
    y_label: str,
    *,
    bar_width: float | None = None,
) -> str:
    """Bars side by side, each a stack of parts.

    Parameters
    ----------
    stacks : sequence of (str, sequence of float)
        A name, and its part of each bar.
    bar_width : float, optional
        Pixels from a bar to the next, for charts that grow with their bars; by default all fit into one width.
    """
    heights = [sum(values[i] for _, values in stacks) for i in range(len(names))]
    width = WIDTH if bar_width is None else round(LEFT + RIGHT + bar_width * len(names))
    longest = max(map(len, map(shortened, names)), default=0)
    slanted = longest * CHARACTER > (width - LEFT - RIGHT) / max(len(names), 1)
    bottom = 60 + int(0.72 * CHARACTER * longest) if slanted else BOTTOM
    frame = Frame((-0.5, max(len(names), 1) - 0.5), range_of(heights), width, HEIGHT + bottom - BOTTOM, bottom)
    parts = [axes(frame, "", y_label, names)]
    box_width = frame.x(0.76) - frame.x(0)
    for i, name in enumerate(names):
        base = 0.0
        for j, (part, values) in enumerate(stacks):
            if not values[i]:
                continue
            top, low = frame.y(base + values[i]), frame.y(base)
            about = f"<title>{escape(f'{name}, {part}: {values[i]:g}')}</title>"
            box = f'x="{frame.x(i) - box_width / 2:.1f}" y="{top:.1f}" width="{box_width:.1f}" height="{low - top:.1f}"'
            parts.append(f'<rect {box} fill="{colour(j)}">{about}</rect>')
            base += values[i]
    parts.append(legend(frame, [name for name, _ in stacks]))
    return sheet(frame, title, description, parts)


def histogram(
    title: str, description: str, edges: Sequence[float], counts: Sequence[float], x_label: str, y_label: str
) -> str:
    """Counts between n + 1 ascending edges."""
    frame = Frame((edges[0], edges[-1]), range_of(counts))
    parts = [axes(frame, x_label, y_label)]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, top = frame.x(low), frame.y(count)
        box = f'x="{left:.1f}" y="{top:.1f}" width="{frame.x(high) - left - 0.6:.1f}" height="{frame.y(0) - top:.1f}"'
        parts.append(f'<rect {box} fill="{colour(0)}"><title>{low:g} to {high:g}: {count:g}</title></rect>')
    return sheet(frame, title, description, parts)


def colour(i: int) -> str:
    """Of the i-th series."""
    return PALETTE[i % len(PALETTE)]


def marker(i: int, x: float, y: float, size: float, about: str = "") -> str:
    """A point; circles, squares, triangles and diamonds in turn."""
    shape, fill = i % 4, f'class="dot" fill="{colour(i)}"'
    title = f"<title>{escape(about)}</title>" if about else ""
    if shape == 0:
        return f'<circle {fill} cx="{x:.1f}" cy="{y:.1f}" r="{size:g}">{title}</circle>'
    if shape == 1:
        box = f'x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:g}" height="{2 * size:g}"'
        return f"<rect {fill} {box}>{title}</rect>"
    s = 1.3 * size
    triangle, diamond = [(0, -s), (s, s), (-s, s)], [(0, -s), (s, 0), (0, s), (-s, 0)]
    points = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in (triangle if shape == 2 else diamond))
    return f'<polygon {fill} points="{points}">{title}</polygon>'


def axes(frame: Frame, x_label: str, y_label: str, x_names: Sequence[str] | None = None) -> str:
    """Lines, numbers or names, and what they mean."""
    right, base = frame.width - RIGHT, frame.height - frame.bottom
    parts = []
    for value in ticks(*frame.y_range):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{right}" y2="{base}"/>')
    places = list(enumerate(x_names)) if x_names else [(value, f"{value:g}") for value in ticks(*frame.x_range)]
    slanted = frame.bottom > BOTTOM
    for value, name in places:
        x = frame.x(value)
        if slanted:
            turn = f'transform="translate({x + 4:.1f} {base + 14}) rotate(-40)" text-anchor="end"'
        else:
            turn = f'x="{x:.1f}" y="{base + 18}" text-anchor="middle"'
        whole = f"<title>{escape(name)}</title>" if shortened(name) != name else ""
        parts.append(f'<text class="soft" {turn}>{escape(shortened(name))}{whole}</text>')
    middle = (LEFT + right) / 2
    if x_label:
        parts.append(f'<text x="{middle}" y="{frame.height - 12}" text-anchor="middle">{escape(x_label)}</text>')
    turn = f'transform="translate(17 {(TOP + base) / 2}) rotate(-90)"'
    parts.append(f'<text {turn} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def shortened(name: str) -> str:
    """A name on an axis, where one that is too long takes the chart's room."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def legend(frame: Frame, names: Sequence[str], is_line: bool = False) -> str:
    """The names beside their colours, right of the chart."""
    parts, left = [], frame.width - RIGHT + 16
    room = int((RIGHT - 40) / CHARACTER)
    for i, name in enumerate(names):
        y = TOP + 8 + 21 * i
        if is_line:
            dash = f' stroke-dasharray="{DASHES[i % len(DASHES)]}"' if DASHES[i % len(DASHES)] else ""
            ends = f'x1="{left - 6}" y1="{y}" x2="{left + 18}" y2="{y}"'
            parts.append(f'<line class="line" {ends} stroke="{colour(i)}"{dash}/>')
        parts.append(marker(i, left + 6, y, 4.2))
        shown = name if len(name) <= room else f"\N{HORIZONTAL ELLIPSIS}{name[len(name) - room + 1 :]}"
        parts.append(f'<text x="{left + 24}" y="{y + 4}">{escape(shown)}</text>')
    return "".join(parts)


def sheet(frame: Frame, title: str, description: str, parts: Iterable[str]) -> str:
    """The whole figure."""
    size = f'viewBox="0 0 {frame.width} {frame.height}" width="{frame.width}" height="{frame.height}"'
    about = f"<title>{escape(title)}</title><desc>{escape(description)}</desc><style>{STYLE}</style>"
    ground = f'<rect class="paper" width="{frame.width}" height="{frame.height}"/>'
    head = f'<text class="head" x="{LEFT}" y="26">{escape(title)}</text>'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" {size}>'
    return f"{opening}{about}{ground}{head}{''.join(parts)}</svg>\n"
