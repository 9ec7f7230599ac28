"""A canvas that is painted in colour and in labels at once; the shapes and patterns that go on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Colour = tuple[int, int, int]
Pattern = Callable[[Floats, Floats], Floats]
"""x (1, w) and y (h, 1) to colours (h, w, 3)."""

FINE = 3
"""Fine cells along each side of an image pixel; a label pixel is two image pixels wide."""

THING_NAMES = """sky cloud sun moon mountain meadow water sand road pavement house tower lighthouse tree flower boat car
balloon parasol lamp bird"""
PART_NAMES = """roof door window chimney wheel headlight trunk crown sail hull basket snowcap blossom stem lantern"""

THINGS = {name: number for number, name in enumerate(THING_NAMES.split(), start=1)}
GROUPS = {"building": 22, "vehicle": 23, "plant": 24, "animal": 25}
GROUP_OF = {
    **dict.fromkeys(("house", "tower", "lighthouse"), "building"),
    **dict.fromkeys(("boat", "car", "balloon"), "vehicle"),
    **dict.fromkeys(("tree", "flower"), "plant"),
    "bird": "animal",
}
PARTS = {name: number for number, name in enumerate(PART_NAMES.split(), start=30)}
TEXTURES = {"striped": 61, "dotted": 62, "checked": 63, "bricked": 64, "tiled": 65, "speckled": 66}


@dataclass(frozen=True)
class Shape:
    """A region of the canvas, in hundredths of its side, y downwards."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of a box that holds it."""
    inside: Callable[[Floats, Floats], Bools]
    """x (1, w) and y (h, 1) of cell centres to (h, w), whether they lie in it; called for cells of the box only."""


class Canvas:
    """An image in fine cells, with four label maps that each stroke of paint keeps in step.

    Parameters
    ----------
    size : int
        Image pixels along each side.
    """

    def __init__(self, size: int) -> None:
        cells = size * FINE
        self.size = size
        self.shade = (1.0, 1.0, 1.0)
        """Light that falls on what is painted and does not glow."""
        self._middle: Floats = (np.arange(cells, dtype=np.float64) + 0.5) * (100 / cells)
        self._colour = np.zeros((cells, cells, 3), np.uint8)
        self._maps = np.zeros((4, cells, cells), np.uint8)  # things, groups, parts, textures

    def paint(
        self,
        shape: Shape,
        colour: Colour | Pattern,
        thing: str,
        part: str = "",
        texture: str = "",
        glows: bool = False,
    ) -> None:
        """Cover a shape with paint; what lay under it is gone from the image and from all label maps."""
        left, top, right, bottom = shape.box
        columns = slice(*np.searchsorted(self._middle, (left, right)))
        rows = slice(*np.searchsorted(self._middle, (top, bottom)))
        x, y = self._middle[None, columns], self._middle[rows, None]
        if x.size == 0 or y.size == 0:
            return
        inside = np.broadcast_to(shape.inside(x, y), (y.size, x.size))
        light = np.array((1.0, 1.0, 1.0) if glows else self.shade)
        if callable(colour):
            paint = (np.clip(colour(x, y) * light, 0, 255) + 0.5).astype(np.uint8)
            self._colour[rows, columns][inside] = np.broadcast_to(paint, (*inside.shape, 3))[inside]
        else:
            self._colour[rows, columns][inside] = (np.array(colour) * light + 0.5).astype(np.uint8)
        group = GROUPS[GROUP_OF[thing]] if thing in GROUP_OF else 0
        numbers = THINGS[thing], group, PARTS[part] if part else 0, TEXTURES[texture] if texture else 0
        for labels, number in zip(self._maps, numbers, strict=True):
            labels[rows, columns][inside] = number

    def image(self) -> NDArray[np.uint8]:
        """(size, size, 3) mean colours of the image pixels."""
        cells = self._colour.reshape(self.size, FINE, self.size, FINE, 3)
        total: NDArray[np.uint32] = cells.sum(axis=(1, 3), dtype=np.uint32)
        return ((total + FINE * FINE // 2) // (FINE * FINE)).astype(np.uint8)

    def maps(self) -> NDArray[np.uint16]:
        """(4, size/2, size/2) things, groups, parts and textures in the middle of each label pixel."""
        return self._maps[:, FINE :: 2 * FINE, FINE :: 2 * FINE].astype(np.uint16)


def rectangle(left: float, top: float, right: float, bottom: float) -> Shape:
    """All of a box."""
    return Shape((left, top, right, bottom), lambda x, y: np.ones((y.size, x.size), bool))


def ellipse(x: float, y: float, across: float, down: float) -> Shape:
    """An ellipse around (x, y) with half axes `across` and `down`."""
    box = (x - across, y - down, x + across, y + down)
    return Shape(box, lambda u, v: ((u - x) / across) ** 2 + ((v - y) / down) ** 2 <= 1)


def polygon(*corners: tuple[float, float]) -> Shape:
    """A polygon; where it crosses itself, inside and outside alternate."""
    across, down = zip(*corners, strict=True)

    def inside(x: Floats, y: Floats) -> Bools:
        odd = np.zeros((y.size, x.size), bool)
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if y0 != y1:
                odd ^= ((y < y0) != (y < y1)) & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
        return odd

    return Shape((min(across), min(down), max(across), max(down)), inside)


def stroke(width: float, *points: tuple[float, float]) -> Shape:
    """A line of the given width through the points, its ends round."""
    across, down = zip(*points, strict=True)
    reach = width / 2

    def inside(x: Floats, y: Floats) -> Bools:
        near = np.zeros((y.size, x.size), bool)
        for (x0, y0), (x1, y1) in pairwise(points):
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
            near |= (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2 <= reach**2
        return near

    return Shape((min(across) - reach, min(down) - reach, max(across) + reach, max(down) + reach), inside)


def below(top: float, edge: Callable[[Floats], Floats]) -> Shape:
    """Everything from the line y = edge(x) down; nowhere is that line higher than `top`."""
    return Shape((0, top, 100, 100), lambda x, y: y >= edge(x))


def union(*shapes: Shape) -> Shape:
    """What lies in any of the shapes."""
    left, top, right, bottom = zip(*(shape.box for shape in shapes), strict=True)

    def inside(x: Floats, y: Floats) -> Bools:
        within = np.zeros((y.size, x.size), bool)
        for shape in shapes:
            box = shape.box
            within |= (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3]) & shape.inside(x, y)
        return within

    return Shape((min(left), min(top), max(right), max(bottom)), inside)


def both(first: Shape, second: Shape) -> Shape:
    """What lies in `first`'s box and in both shapes."""
    return Shape(first.box, lambda x, y: first.inside(x, y) & second.inside(x, y))


def gradient(stops: Sequence[tuple[float, Colour]]) -> Pattern:
    """Colours that change with y, from stop to stop (y, colour), y ascending."""
    places = [place for place, _ in stops]
    channels = np.array([colour for _, colour in stops], float).T
    return lambda x, y: np.stack([np.interp(y, places, channel) for channel in channels], axis=-1)


def two_tone(first: Colour, second: Colour, is_second: Callable[[Floats, Floats], Bools]) -> Pattern:
    """One colour with another in it."""
    tones = np.array((first, second), float)
    return lambda x, y: tones[np.broadcast_to(is_second(x, y), (y.size, x.size)).astype(np.intp)]


def stripes(first: Colour, second: Colour, period: float, slope: tuple[float, float]) -> Pattern:
    """Stripes; `slope` is the unit vector across them."""
    return two_tone(first, second, lambda x, y: (x * slope[0] + y * slope[1]) % period < period / 2)


def dots(first: Colour, second: Colour, period: float) -> Pattern:
    """Round dots, every other row shifted by half a period."""

    def is_dot(x: Floats, y: Floats) -> Bools:
        row = y // period
        across = (x + (row % 2) * (period / 2)) % period - period / 2
        return across**2 + (y % period - period / 2) ** 2 <= (0.32 * period) ** 2

    return two_tone(first, second, is_dot)


def checks(first: Colour, second: Colour, period: float) -> Pattern:
    """A chessboard."""
    return two_tone(first, second, lambda x, y: (x // (period / 2) + y // (period / 2)) % 2 == 1)


def bricks(brick: Colour, mortar: Colour, height: float) -> Pattern:
    """Rows of bricks, every other row shifted by half a brick."""

    def is_mortar(x: Floats, y: Floats) -> Bools:
        shift = (y // height % 2) * height
        return (y % height < 0.28 * height) | ((x + shift) % (2 * height) < 0.28 * height)

    return two_tone(brick, mortar, is_mortar)


def tiles(tile: Colour, gap: Colour, height: float) -> Pattern:
    """Rows of round roof tiles."""

    def is_gap(x: Floats, y: Floats) -> Bools:
        shift = (y // height % 2) * height / 2
        across = ((x + shift) % height) / height - 0.5
        return (y % height) / height > 1.15 - 2.2 * across**2

    return two_tone(tile, gap, is_gap)
