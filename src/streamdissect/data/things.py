"""The things that stand in the built-in scenes, each painted with its parts and patterns."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .canvas import (
    Canvas,
    Colour,
    Pattern,
    Shape,
    below,
    both,
    bricks,
    checks,
    dots,
    ellipse,
    gradient,
    polygon,
    rectangle,
    stripes,
    stroke,
    tiles,
    union,
)

WHITE: Colour = (246, 246, 242)
DARK: Colour = (34, 34, 40)
GLOW: Colour = (255, 222, 110)
BRIGHT: tuple[Colour, ...] = (
    (206, 44, 44),
    (240, 196, 40),
    (44, 92, 190),
    (236, 128, 34),
    (132, 62, 160),
    (236, 130, 172),
    (40, 140, 96),
)


def among(rng: Generator, colours: tuple[Colour, ...], spread: int = 10) -> Colour:
    """One of the colours, each channel moved by up to `spread`."""
    colour = np.array(colours[rng.integers(len(colours))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = np.clip(colour, 0, 255).tolist()
    return red, green, blue


def patterned(rng: Generator, period: float) -> tuple[Pattern, str]:
    """A gay cloth, white and a bright colour, and the name of its texture."""
    kind = ("striped", "dotted", "checked")[rng.integers(3)]
    colour = among(rng, BRIGHT)
    if kind == "striped":
        slope = ((1.0, 0.0), (0.0, 1.0), (0.6, 0.8))[rng.integers(3)]
        return stripes(colour, WHITE, period, slope), kind
    return (dots if kind == "dotted" else checks)(colour, WHITE, period), kind


def sky(canvas: Canvas, top: Colour, low: Colour, horizon: float) -> None:
    """The whole canvas, from the colour overhead to that at the horizon."""
    canvas.paint(rectangle(0, 0, 100, 100), gradient([(0, top), (horizon, low)]), "sky", glows=True)


def sun(canvas: Canvas, x: float, y: float, is_evening: bool) -> None:
    """A sun in a soft halo."""
    halo, disc = ((252, 196, 132), (252, 150, 60)) if is_evening else ((238, 238, 206), (255, 214, 64))
    canvas.paint(ellipse(x, y, 7.4, 7.4), halo, "sky", glows=True)
    canvas.paint(ellipse(x, y, 5.2, 5.2), disc, "sun", glows=True)


def moon(canvas: Canvas, rng: Generator, x: float, y: float) -> None:
    """A full moon or a crescent, among stars."""
    for _ in range(rng.integers(12, 24)):
        at = rng.uniform(0, 100), rng.uniform(0, 45)
        canvas.paint(stroke(rng.uniform(0.6, 1.1), at, at), (226, 228, 240), "sky", glows=True)
    disc = ellipse(x, y, 5, 5)
    if rng.random() < 0.6:
        bite = ellipse(x + 2.6, y - 1, 4.4, 4.4)
        disc = Shape(disc.box, lambda u, v: ellipse(x, y, 5, 5).inside(u, v) & ~bite.inside(u, v))
    canvas.paint(disc, (244, 240, 214), "moon", glows=True)


def cloud(canvas: Canvas, rng: Generator, x: float, y: float, size: float) -> None:
    """A heap of puffs on a flat base."""
    puffs = [ellipse(x, y - 0.25 * size, 0.5 * size, 0.42 * size)]
    puffs += [ellipse(x + side * 0.55 * size, y, 0.45 * size, rng.uniform(0.22, 0.34) * size) for side in (-1, 1)]
    heap = both(union(*puffs), rectangle(0, 0, 100, 100))
    flat = Shape((*heap.box[:3], y + 0.12 * size), heap.inside)
    canvas.paint(flat, gradient([(y - 0.6 * size, (252, 252, 252)), (y + 0.2 * size, (222, 228, 238))]), "cloud")


def mountain(canvas: Canvas, rng: Generator, x: float, foot: float, height: float, colour: Colour) -> None:
    """A peak; a high one wears a cap of snow."""
    half, peak = height * rng.uniform(0.8, 1.2), foot - height
    canvas.paint(polygon((x - half, foot), (x, peak), (x + half, foot)), colour, "mountain")
    canvas.paint(polygon((x, peak), (x + half, foot), (x + 0.2 * half, foot)), darker(colour), "mountain")
    if height > 16:
        low = peak + 0.3 * height
        zigzag = [(x + side * 0.3 * half, low + drop) for side, drop in ((1, 0), (0.5, 2), (0, -1), (-0.5, 2), (-1, 0))]
        canvas.paint(polygon((x, peak), *zigzag), WHITE, "mountain", part="snowcap")


def land(canvas: Canvas, rng: Generator, top: float, swell: float, colour: Colour | Pattern, thing: str) -> None:
    """Ground from a gently waving line down."""
    phase, length = rng.uniform(0, 6.3), rng.uniform(9, 16)
    edge = below(top - swell, lambda x: top + swell * np.sin(x / length + phase))
    canvas.paint(edge, colour, thing, texture="striped" if callable(colour) else "")


def tree(canvas: Canvas, rng: Generator, x: float, foot: float, height: float) -> None:
    """A broad-leaved tree, now and then a conifer."""
    if rng.random() < 0.3:
        conifer(canvas, rng, x, foot, height)
        return
    green = among(rng, ((52, 128, 56), (78, 148, 60), (40, 108, 62), (196, 128, 40)))
    thick, radius = 0.1 * height, 0.3 * height
    trunk = polygon((x - thick, foot), (x - 0.5 * thick, foot - 0.6 * height), (x + 0.5 * thick, foot - 0.6 * height),
                    (x + thick, foot))  # fmt: skip
    canvas.paint(trunk, (112, 74, 44), "tree", part="trunk")
    puffs = [ellipse(x + dx * radius, foot - height + (1 + dy) * radius, radius * size, radius * size)
             for dx, dy, size in ((0, 0.05, 1), (-0.55, 0.45, 0.75), (0.55, 0.5, 0.72))]  # fmt: skip
    canvas.paint(union(*puffs), green, "tree", part="crown")
    glint = ellipse(x - 0.3 * radius, foot - height + 0.75 * radius, 0.45 * radius, 0.4 * radius)
    canvas.paint(glint, lighter(green), "tree", part="crown")


def conifer(canvas: Canvas, rng: Generator, x: float, foot: float, height: float) -> None:
    """Three tiers of dark branches."""
    green = among(rng, ((28, 92, 68), (36, 104, 60)))
    trunk = rectangle(x - 0.05 * height, foot - 0.22 * height, x + 0.05 * height, foot)
    canvas.paint(trunk, (104, 70, 46), "tree", part="trunk")
    for tier in range(3):
        base, half = foot - (0.18 + 0.25 * tier) * height, (0.3 - 0.07 * tier) * height
        branches = polygon((x - half, base), (x, base - 0.42 * height), (x + half, base))
        canvas.paint(branches, lighter(green) if tier == 2 else green, "tree", part="crown")


def house(canvas: Canvas, rng: Generator, x: float, foot: float, width: float, is_lit: bool) -> None:
    """A cottage with a roof, a door, two windows and sometimes a chimney; `x` is its middle."""
    left, right, eaves = x - width / 2, x + width / 2, foot - 0.6 * width
    wall = among(rng, ((238, 226, 204), (232, 206, 160), (214, 222, 226)))
    roof = among(rng, ((190, 62, 44), (150, 78, 50), (84, 88, 104)))
    if rng.random() < 0.6:
        post = rectangle(x + 0.2 * width, eaves - 0.42 * width, x + 0.32 * width, eaves - 0.05 * width)
        canvas.paint(post, (150, 84, 66), "house", part="chimney")
    if rng.random() < 0.3:
        brick = bricks((180, 84, 62), (222, 204, 188), 2.4)
        canvas.paint(rectangle(left, eaves, right, foot), brick, "house", texture="bricked")
    else:
        canvas.paint(rectangle(left, eaves, right, foot), wall, "house")
    over = 0.1 * width
    gable = polygon((left - over, eaves), (x - 0.18 * width, eaves - 0.38 * width),
                    (x + 0.18 * width, eaves - 0.38 * width), (right + over, eaves))  # fmt: skip
    if rng.random() < 0.3:
        canvas.paint(gable, tiles(roof, darker(roof), 2.6), "house", part="roof", texture="tiled")
    else:
        canvas.paint(gable, roof, "house", part="roof")
    door = rectangle(x - 0.09 * width, foot - 0.36 * width, x + 0.09 * width, foot)
    canvas.paint(door, among(rng, ((120, 66, 36), (48, 96, 80), (60, 70, 130))), "house", part="door")
    for side in (-1, 1):
        middle = x + side * 0.3 * width
        pane(canvas, (middle, foot - 0.3 * width), 0.09 * width, is_lit, "house")


def pane(canvas: Canvas, middle: tuple[float, float], reach: float, is_lit: bool, thing: str) -> None:
    """A window in a white frame, lit or reflecting the sky."""
    x, y = middle
    canvas.paint(rectangle(x - reach - 0.5, y - reach - 0.5, x + reach + 0.5, y + reach + 0.5), WHITE, thing, "window")
    glass = GLOW if is_lit else (96, 142, 178)
    canvas.paint(rectangle(x - reach, y - reach, x + reach, y + reach), glass, thing, part="window", glows=is_lit)


def tower(canvas: Canvas, rng: Generator, left: float, right: float, top: float, foot: float, is_night: bool) -> None:
    """A block of flats with rows of windows, of brick or plain."""
    colour = among(rng, ((168, 176, 188), (204, 188, 164), (130, 142, 164), (186, 138, 120)))
    front = rectangle(left, top, right, foot)
    if rng.random() < 0.25:
        canvas.paint(front, bricks((172, 82, 64), (216, 196, 180), 2.4), "tower", texture="bricked")
    else:
        canvas.paint(front, colour, "tower")
    canvas.paint(rectangle(left - 0.6, top - 1.6, right + 0.6, top), darker(colour), "tower", part="roof")
    columns = max(2, int((right - left) // 6))
    step = (right - left) / columns
    for row in range(int((foot - top - 9) // 7)):
        for column in range(columns):
            middle = left + (column + 0.5) * step, top + 5 + 7 * row
            pane(canvas, middle, 1.3, is_night and rng.random() < 0.6, "tower")
    middle_x = (left + right) / 2
    canvas.paint(rectangle(middle_x - 2, foot - 6, middle_x + 2, foot), (92, 58, 42), "tower", part="door")


def lighthouse(canvas: Canvas, rng: Generator, x: float, foot: float, height: float, is_lit: bool) -> None:
    """A banded tower with a lantern."""
    wide, top = 0.13 * height, foot - 0.78 * height
    shaft = polygon((x - wide, foot), (x - 0.6 * wide, top), (x + 0.6 * wide, top), (x + wide, foot))
    canvas.paint(shaft, stripes((204, 48, 46), WHITE, 0.3 * height, (0.0, 1.0)), "lighthouse", texture="striped")
    lamp_room = rectangle(x - 0.5 * wide, top - 0.1 * height, x + 0.5 * wide, top)
    canvas.paint(lamp_room, GLOW, "lighthouse", part="lantern", glows=is_lit)
    cap = polygon((x - 0.8 * wide, top - 0.1 * height), (x, foot - height), (x + 0.8 * wide, top - 0.1 * height))
    canvas.paint(cap, (160, 40, 44), "lighthouse", part="roof")
    canvas.paint(rectangle(x - 0.25 * wide, foot - 0.13 * height, x + 0.25 * wide, foot), DARK, "lighthouse", "door")


def boat(canvas: Canvas, rng: Generator, x: float, water: float, size: float) -> None:
    """A sailing boat; some sails are of patterned cloth."""
    mast = stroke(0.7, (x, water), (x, water - 1.25 * size))
    canvas.paint(mast, (104, 74, 52), "boat")
    main = polygon((x + 0.06 * size, water - 1.2 * size), (x + 0.06 * size, water - 0.2 * size),
                   (x + 0.6 * size, water - 0.2 * size))  # fmt: skip
    jib = polygon((x - 0.07 * size, water - 1.05 * size), (x - 0.07 * size, water - 0.2 * size),
                  (x - 0.42 * size, water - 0.2 * size))  # fmt: skip
    if rng.random() < 0.3:
        cloth, texture = patterned(rng, max(3.6, 0.24 * size))
        canvas.paint(main, cloth, "boat", part="sail", texture=texture)
    else:
        canvas.paint(main, among(rng, (WHITE, WHITE, (214, 60, 50), (240, 190, 60)), 6), "boat", part="sail")
    canvas.paint(jib, WHITE, "boat", part="sail")
    hull = polygon((x - 0.6 * size, water - 0.14 * size), (x + 0.66 * size, water - 0.14 * size),
                   (x + 0.42 * size, water + 0.16 * size), (x - 0.42 * size, water + 0.16 * size))  # fmt: skip
    canvas.paint(hull, among(rng, ((150, 46, 40), (124, 78, 46), (38, 66, 120))), "boat", part="hull")


def car(canvas: Canvas, rng: Generator, x: float, road: float, size: float, is_night: bool) -> None:
    """A small car seen from the side, driving left or right; `road` is where its wheels stand."""
    way = 1 if rng.random() < 0.5 else -1
    paint = among(rng, BRIGHT)

    def at(across: float, up: float) -> tuple[float, float]:
        return x + way * across * size, road - up * size

    cabin = polygon(at(-0.34, 0.34), at(-0.22, 0.56), at(0.12, 0.56), at(0.3, 0.34))
    body = polygon(at(-0.5, 0.12), at(-0.5, 0.34), at(-0.4, 0.38), at(0.3, 0.38), at(0.5, 0.28), at(0.5, 0.12))
    canvas.paint(union(cabin, body), paint, "car")
    for first, second in ((-0.29, -0.19), (-0.02, 0.1)):
        glass = polygon(at(first, 0.37), at(second if first < -0.1 else first, 0.51), at(max(second, -0.05), 0.51),
                        at(-0.06 if first < -0.1 else 0.22, 0.37))  # fmt: skip
        canvas.paint(glass, (190, 218, 232), "car", part="window")
    canvas.paint(
        ellipse(*at(0.46, 0.24), 0.06 * size, 0.06 * size), (255, 236, 150), "car", "headlight", glows=is_night
    )
    for across in (-0.28, 0.28):
        canvas.paint(ellipse(*at(across, 0.12), 0.13 * size, 0.13 * size), DARK, "car", part="wheel")
        canvas.paint(ellipse(*at(across, 0.12), 0.05 * size, 0.05 * size), (190, 190, 194), "car", part="wheel")


def balloon(canvas: Canvas, rng: Generator, x: float, y: float, radius: float) -> None:
    """A hot-air balloon of patterned cloth with a basket."""
    for side in (-1, 1):
        ropes = stroke(0.5, (x + side * 0.6 * radius, y + 0.75 * radius), (x + side * 0.22 * radius, y + 1.7 * radius))
        canvas.paint(ropes, (96, 72, 56), "balloon")
    basket = rectangle(x - 0.28 * radius, y + 1.6 * radius, x + 0.28 * radius, y + 2 * radius)
    canvas.paint(basket, (140, 92, 50), "balloon", part="basket")
    cloth, texture = patterned(rng, max(3.6, 0.55 * radius))
    skirt = polygon((x - 0.8 * radius, y + 0.6 * radius), (x + 0.8 * radius, y + 0.6 * radius),
                    (x + 0.3 * radius, y + 1.3 * radius), (x - 0.3 * radius, y + 1.3 * radius))  # fmt: skip
    canvas.paint(union(ellipse(x, y, radius, radius), skirt), cloth, "balloon", texture=texture)


def parasol(canvas: Canvas, rng: Generator, x: float, foot: float, size: float) -> None:
    """A beach umbrella of patterned cloth."""
    canvas.paint(stroke(0.8, (x, foot), (x, foot - size)), (236, 232, 224), "parasol")
    cloth, texture = patterned(rng, 3.8)
    shade = Shape((x - 0.7 * size, foot - 1.2 * size, x + 0.7 * size, foot - 0.75 * size),
                  ellipse(x, foot - 0.75 * size, 0.7 * size, 0.45 * size).inside)  # fmt: skip
    canvas.paint(shade, cloth, "parasol", texture=texture)


def lamp(canvas: Canvas, x: float, foot: float, height: float, is_lit: bool) -> None:
    """A street lamp."""
    canvas.paint(stroke(1, (x, foot), (x, foot - height)), (56, 60, 70), "lamp")
    bulb = ellipse(x, foot - height - 1, 2, 2.2)
    canvas.paint(bulb, GLOW if is_lit else (236, 236, 224), "lamp", part="lantern", glows=is_lit)
    canvas.paint(polygon((x - 2.4, foot - height - 2), (x, foot - height - 4.4), (x + 2.4, foot - height - 2)),
                 (56, 60, 70), "lamp")  # fmt: skip


def flower(canvas: Canvas, rng: Generator, x: float, foot: float, size: float) -> None:
    """Five petals around a yellow middle, on a stem."""
    head = foot - 1.5 * size
    canvas.paint(stroke(0.8, (x, foot), (x, head)), (48, 116, 52), "flower", part="stem")
    colour = among(rng, ((214, 50, 60), (236, 130, 180), (146, 76, 176), WHITE, (236, 140, 40)), 6)
    turns = [(0.0, -1.0), (0.951, -0.309), (0.588, 0.809), (-0.588, 0.809), (-0.951, -0.309)]
    petals = [ellipse(x + 0.5 * size * dx, head + 0.5 * size * dy, 0.42 * size, 0.42 * size) for dx, dy in turns]
    canvas.paint(union(*petals), colour, "flower", part="blossom")
    canvas.paint(ellipse(x, head, 0.3 * size, 0.3 * size), (248, 206, 60), "flower", part="blossom")


def bird(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A dark bird, wings spread."""
    for side in (-1, 1):
        wing = (x, y), (x + side * 0.5 * size, y - 0.42 * size), (x + side * size, y - 0.1 * size)
        canvas.paint(stroke(0.34 * size, *wing), (44, 46, 58), "bird")
    canvas.paint(ellipse(x, y + 0.05 * size, 0.24 * size, 0.32 * size), (44, 46, 58), "bird")


def darker(colour: Colour) -> Colour:
    """The same colour in the shade."""
    return colour[0] * 4 // 5, colour[1] * 4 // 5, colour[2] * 4 // 5


def lighter(colour: Colour) -> Colour:
    """The same colour in the sun."""
    return (colour[0] + 60) * 5 // 6, (colour[1] + 60) * 5 // 6, (colour[2] + 60) * 5 // 6
