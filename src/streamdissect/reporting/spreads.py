"""What a unit's activations are like, small on its card, large on its page: bars by logarithm, the tail in colour."""

from __future__ import annotations

import math
from html import escape

from ..figures.svg import BOTTOM, LEFT, RIGHT, TOP, Frame, sheet, ticks
from ..quantile import Distribution

LEAST = 1e-6
"""Share that has no bar any more."""
N_BINS = 40
DECADES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)

Bar = tuple[float, float, float]
"""From, to, and height between 0 and 1."""


def bars_of(found: Distribution, unit: int, threshold: float) -> tuple[list[Bar], list[Bar]]:
    """Bars of a unit's values other than zero, below and above its threshold; the bin that holds it is cut there."""
    below, above = [], []
    for low, high, share in found.bins(unit, N_BINS):
        height = max(0.0, 1 - math.log(max(share, LEAST)) / math.log(LEAST))
        if height == 0:
            continue
        cut = min(max(threshold, low), high) if math.isfinite(threshold) else high
        below += [(low, cut, height)] if cut > low else []
        above += [(cut, high, height)] if high > cut else []
    return below, above


def small_spread(found: Distribution, unit: int, threshold: float) -> str:
    """For a card: no axes, a line at the threshold. Empty where all values known are the same."""
    below, above = bars_of(found, unit, threshold)
    every = [*below, *above]
    if not every:
        return ""
    low, high = min(bar[0] for bar in every), max(bar[1] for bar in every)
    scale = 200 / (high - low)

    def path(bars: list[Bar]) -> str:
        return "".join(f"M{scale * (a - low):.1f} 40v-{38 * h:.1f}H{scale * (b - low):.1f}V40z" for a, b, h in bars)

    cut = f'<path class="cut" d="M{scale * (threshold - low):.1f} 0v40"/>' if math.isfinite(threshold) else ""
    return (
        '<svg class="spread" viewBox="0 0 200 40" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="bin" d="{path(below)}"/><path class="above" d="{path(above)}"/>'
        f'<path class="base" d="M0 40h200"/>{cut}</svg>'
    )


def large_spread(found: Distribution, unit: int, threshold: float, name: str, tail: str) -> str:
    """For a page: axes and numbers. Empty where all values known are the same."""
    below, above = bars_of(found, unit, threshold)
    every = [*below, *above]
    if not every:
        return ""
    frame = Frame((min(bar[0] for bar in every), max(bar[1] for bar in every)), (0.0, 1.0), height=300)
    base, right = frame.height - BOTTOM, frame.width - RIGHT
    parts = []
    for share in DECADES:
        y = frame.y(1 - math.log(share) / math.log(LEAST))
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:g} %</text>')
    for bars, kind in ((below, "bin"), (above, "above")):
        steps = []
        for low, high, height in bars:
            left, end = frame.x(low), max(frame.x(high) - 0.4, frame.x(low))
            steps.append(f"M{left:.1f} {base}V{frame.y(height):.1f}H{end:.1f}V{base}z")
        parts.append(f'<path class="{kind}" d="{"".join(steps)}"/>')
    for value in ticks(*frame.x_range):
        at = f'x="{frame.x(value):.1f}" y="{base + 18}" text-anchor="middle"'
        parts.append(f'<text class="soft" {at}>{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{right}" y2="{base}"/>')
    if math.isfinite(threshold):
        x = frame.x(threshold)
        parts.append(f'<line class="even" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{base}"/>')
    parts.append(f'<text x="{right + 14}" y="{TOP + 14}">T = {threshold:.5g}</text>')
    parts.append(f'<text class="soft" x="{right + 14}" y="{TOP + 34}">above it: at most</text>')
    parts.append(f'<text class="soft" x="{right + 14}" y="{TOP + 51}">{escape(tail)} of all values</text>')
    if zero := float(found.zero_share[unit]):
        parts.append(f'<text class="soft" x="{right + 14}" y="{TOP + 80}">zero, not drawn:</text>')
        parts.append(f'<text class="soft" x="{right + 14}" y="{TOP + 97}">{100 * zero:.3g} %</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{frame.height - 12}" text-anchor="middle">activation</text>')
    about = "Shares of the activations by size, by logarithm; what lies above the threshold in another colour."
    return sheet(frame, f"Activations of {name}: shares by size", about, parts)
