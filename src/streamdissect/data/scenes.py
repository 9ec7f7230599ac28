"""Where the things stand: the built-in scenes, one function for each kind of place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import things
from .canvas import Canvas, Colour, polygon, rectangle, stripes, stroke
from .things import among

SCENES = {"seaside": 68, "countryside": 69, "street": 70, "mountains": 71, "night": 72}
CHANCE = (0.3, 0.3, 0.22, 0.1, 0.08)
"""Share of each scene; the last two are rare enough to be detected as a whole (methods 3.4)."""

DAY: tuple[Colour, Colour] = (88, 158, 228), (206, 230, 244)
EVENING: tuple[Colour, Colour] = (96, 104, 172), (250, 184, 132)
NIGHT: tuple[Colour, Colour] = (12, 16, 46), (46, 56, 104)
MEADOW: tuple[Colour, ...] = (124, 178, 84), (146, 190, 92), (104, 164, 88)

Standing = list[tuple[float, Callable[[], None]]]
"""Where things stand and how they are painted; those further down are nearer."""


def draw_scene(canvas: Canvas, rng: Generator) -> tuple[str, bool]:
    """Paint a scene; its name, and whether snow falls."""
    scene = list(SCENES)[rng.choice(len(SCENES), p=CHANCE)]
    is_evening = scene != "night" and rng.random() < 0.25
    horizon = rng.uniform(38, 50)
    overhead(canvas, rng, scene, is_evening, horizon)
    if scene == "night":
        draw = (draw_seaside, draw_street)[rng.integers(2)]
        draw(canvas, rng, horizon, True)
    else:
        {"seaside": draw_seaside, "countryside": draw_countryside, "street": draw_street, "mountains": draw_mountains}[
            scene
        ](canvas, rng, horizon, False)
    return scene, scene == "mountains" and not is_evening and rng.random() < 0.5


def overhead(canvas: Canvas, rng: Generator, scene: str, is_evening: bool, horizon: float) -> None:
    """The sky and what is in it; sets the light."""
    if scene == "night":
        things.sky(canvas, *NIGHT, horizon)
        things.moon(canvas, rng, rng.uniform(12, 88), rng.uniform(9, 20))
        canvas.shade = (0.4, 0.44, 0.62)
        return
    things.sky(canvas, *(EVENING if is_evening else DAY), horizon)
    canvas.shade = (1.0, 0.87, 0.82) if is_evening else (1.0, 1.0, 1.0)
    if is_evening:
        things.sun(canvas, rng.uniform(10, 90), horizon - rng.uniform(5, 16), True)
    elif rng.random() < 0.5:
        things.sun(canvas, rng.uniform(10, 90), rng.uniform(9, 18), False)
    for _ in range(rng.integers(0, 4)):
        things.cloud(canvas, rng, rng.uniform(5, 95), rng.uniform(8, 26), rng.uniform(9, 17))
    if scene != "street" and rng.random() < 0.3:
        things.balloon(canvas, rng, rng.uniform(12, 88), rng.uniform(10, 18), rng.uniform(5, 8))
    if rng.random() < 0.45:
        x, y = rng.uniform(12, 80), rng.uniform(8, 26)
        for _ in range(rng.integers(1, 4)):
            things.bird(canvas, x + rng.uniform(-10, 18), y + rng.uniform(-6, 8), rng.uniform(2.6, 4))


def paint_all(standing: Standing) -> None:
    """Paint from the far to the near."""
    for _, paint in sorted(standing, key=lambda one: one[0]):
        paint()


def draw_seaside(canvas: Canvas, rng: Generator, horizon: float, is_night: bool) -> None:
    """Water with boats, a beach with parasols, perhaps a lighthouse on a headland."""
    if rng.random() < 0.4:
        things.mountain(canvas, rng, rng.uniform(10, 90), horizon + 1, rng.uniform(6, 12), (122, 140, 160))
    beach = rng.uniform(76, 88)
    blue = among(rng, ((38, 116, 176), (44, 138, 178), (52, 104, 168)))
    canvas.paint(rectangle(0, horizon, 100, 100), blue, "water")
    for _ in range(14):
        x, y = rng.uniform(0, 100), rng.uniform(horizon + 2, beach)
        reach = rng.uniform(2, 5)
        canvas.paint(stroke(0.6, (x - reach, y), (x + reach, y)), things.lighter(blue), "water")
    if rng.random() < 0.4:
        side = int(rng.integers(2)) * 100
        canvas.paint(polygon((side, horizon - 4), (side, horizon + 9), (abs(side - 34), horizon + 7),
                             (abs(side - 26), horizon - 2)), (112, 136, 92), "meadow")  # fmt: skip
        things.lighthouse(canvas, rng, abs(side - rng.uniform(8, 22)), horizon, rng.uniform(22, 32), is_night)
    for water in sorted(rng.uniform(horizon + 4, beach - 7, rng.integers(1, 4))):
        things.boat(canvas, rng, rng.uniform(12, 88), water, 5 + (water - horizon) * rng.uniform(0.2, 0.32))
    things.land(canvas, rng, beach, 1.6, (234, 214, 164), "sand")
    for x in rng.uniform(10, 90, rng.integers(0, 3)):
        things.parasol(canvas, rng, x, rng.uniform(beach + 4, 96), rng.uniform(12, 17))


def draw_countryside(canvas: Canvas, rng: Generator, horizon: float, is_night: bool) -> None:
    """Hills, a ploughed field, cottages, trees, flowers; a road in some."""
    things.land(canvas, rng, horizon, rng.uniform(2, 5), among(rng, ((146, 182, 140), (128, 172, 128))), "meadow")
    if rng.random() < 0.35:
        furrows = stripes((168, 122, 74), (206, 164, 96), 4, (0.6, 0.8))
        things.land(canvas, rng, horizon + 6, 2, furrows, "meadow")
    front = horizon + rng.uniform(12, 16)
    things.land(canvas, rng, front, 2, among(rng, MEADOW), "meadow")
    standing: Standing = []
    if rng.random() < 0.5:
        lay_road(canvas, 74, 82)
        spot, length = rng.uniform(15, 85), rng.uniform(15, 21)
        standing.append((80, partial(things.car, canvas, rng, spot, 80, length, is_night)))
    slots = rng.permutation(4) * 24 + 14.0
    for slot, x in enumerate(slots + rng.uniform(-4, 4, 4)):
        foot = rng.uniform(front + 2, 72)
        near = 0.7 + (foot - front) / 40
        if slot < rng.integers(0, 3):
            width = 19 * near
            standing.append((foot, partial(things.house, canvas, rng, x, foot, width, False)))
        elif rng.random() < 0.75:
            height = rng.uniform(17, 25) * near
            standing.append((foot, partial(things.tree, canvas, rng, x, foot, height)))
    for x in rng.uniform(3, 97, rng.integers(0, 9)):
        foot = rng.uniform(88, 99)
        size = rng.uniform(3.6, 5.4)
        standing.append((foot, partial(things.flower, canvas, rng, x, foot, size)))
    paint_all(standing)


def draw_street(canvas: Canvas, rng: Generator, horizon: float, is_night: bool) -> None:
    """A row of buildings behind a road with cars, lamps and trees on the pavement."""
    kerb = rng.uniform(66, 70)
    left = rng.uniform(-8, 0)
    while left < 100:
        width = rng.uniform(16, 26)
        if rng.random() < 0.72:
            top = rng.uniform(16, 44)
            things.tower(canvas, rng, left, left + width, top, kerb, is_night)
        else:
            canvas.paint(rectangle(left - 1, kerb - 12, left + width + 3, kerb), (110, 150, 92), "meadow")
            things.house(canvas, rng, left + width / 2, kerb, 0.84 * width, is_night)
        left += width + rng.uniform(0.6, 3)
    canvas.paint(rectangle(0, kerb, 100, kerb + 7), (196, 192, 184), "pavement")
    for x in rng.uniform(8, 92, rng.integers(0, 3)):
        things.tree(canvas, rng, x, kerb + 5, rng.uniform(20, 27))
    for x in rng.uniform(6, 94, rng.integers(1, 3)):
        things.lamp(canvas, x, kerb + 6, rng.uniform(20, 24), is_night)
    lay_road(canvas, kerb + 7, 97)
    canvas.paint(rectangle(0, 97, 100, 100), (196, 192, 184), "pavement")
    for lane, x in zip((kerb + 14, 94), rng.uniform(14, 86, 2), strict=True):
        if rng.random() < 0.75:
            things.car(canvas, rng, x, lane, rng.uniform(19, 26), is_night)


def draw_mountains(canvas: Canvas, rng: Generator, horizon: float, is_night: bool) -> None:
    """Peaks over a lake, conifers on its shore, perhaps a cabin."""
    foot = horizon + 12
    for x in rng.permutation(np.array([10.0, 36.0, 62.0, 90.0])) + rng.uniform(-8, 8, 4):
        grey = among(rng, ((118, 124, 148), (134, 132, 146), (104, 118, 142)))
        things.mountain(canvas, rng, x, foot, rng.uniform(22, 40), grey)
    things.land(canvas, rng, foot, 1.5, among(rng, ((96, 148, 92), (112, 156, 92))), "meadow")
    shore = foot + rng.uniform(9, 14)
    canvas.paint(rectangle(0, shore - 5, 100, shore + 8), (66, 134, 172), "water")
    things.land(canvas, rng, shore + 7, 2, among(rng, MEADOW), "meadow")
    if rng.random() < 0.6:
        things.boat(canvas, rng, rng.uniform(20, 80), shore + 3, rng.uniform(8, 10))
    standing: Standing = []
    for x in rng.permutation(6)[: rng.integers(2, 6)] * 17 + rng.uniform(2, 14, 1):
        base = rng.uniform(shore + 12, 94)
        size = rng.uniform(22, 30)
        standing.append((base, partial(things.conifer, canvas, rng, x, base, size)))
    if rng.random() < 0.5:
        spot, width = rng.uniform(20, 80), rng.uniform(20, 26)
        standing.append((88, partial(things.house, canvas, rng, spot, 88, width, False)))
    paint_all(standing)


def lay_road(canvas: Canvas, top: float, bottom: float) -> None:
    """Asphalt from side to side with a broken white line."""
    canvas.paint(rectangle(0, top, 100, bottom), (98, 100, 108), "road")
    middle = (top + bottom) / 2
    for left in range(2, 100, 16):
        canvas.paint(rectangle(left, middle - 0.5, left + 8, middle + 0.5), (226, 224, 214), "road")


def let_it_snow(image: NDArray[np.uint8], rng: Generator) -> None:
    """Pale flakes of one or four pixels all over the image, in place."""
    side = image.shape[0]
    flakes = rng.integers(0, side - 1, (side * side // 90, 2))
    image[flakes[:, 0], flakes[:, 1]] = 240
    for down, right in ((0, 1), (1, 0), (1, 1)):
        image[flakes[::3, 0] + down, flakes[::3, 1] + right] = 240
