"""A labeller that names colours: every pixel has one of eleven names, whatever the image shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

NAMES = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
"""The basic colour terms of English; a name's number is its place, from 1."""
LEVELS = 32
"""Of each channel in the table of names."""
VERSION = "1"
"""Another rule, another number."""


class ColorNames:
    """Label maps of colour names at half the images' size, rounded up.

    Parameters
    ----------
    category : str
        What the category is called, where the dataset has one called `color` already.

    Notes
    -----
    A pixel of a label map is the mean of the four pixels of the image below it (at an odd edge of those there are), and
    has the name of its colour: its red, green and blue, in 32 levels each, looked up in a table that `name_colors`
    fills. The names are the basic terms of Berlin and Kay (Basic Color Terms, 1969), with the suffix `-c` as in Broden;
    that one table can name the pixels of photographs is van de Weijer, Schmid, Verbeek and Larlus (Learning color names
    for real-world applications, IEEE TIP 18, 2009), whose table was learned; this one follows a rule.

    >>> images = np.full((1, 4, 6, 3), (220, 30, 30), np.uint8)
    >>> ColorNames()(images)["color"].shape
    (1, 1, 2, 3)
    """

    batch = 8
    version = VERSION

    def __init__(self, category: str = "color") -> None:
        self.category = category
        self.concepts: Mapping[str, tuple[str, ...]] = {category: tuple(f"{name}-c" for name in NAMES)}

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.uint16]]:
        """{category: (B, 1, ceil(H / 2), ceil(W / 2)) uint16} of images (B, H, W, 3)."""
        mean = halve(images) >> 3
        cells = (mean[..., 0] * LEVELS + mean[..., 1]) * LEVELS + mean[..., 2]
        return {self.category: color_table()[cells][:, None]}


def halve(images: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(B, H, W, 3) -> (B, ceil(H / 2), ceil(W / 2), 3): means of 2 x 2 pixels, rounded down; odd edges are repeated."""
    odd = [(0, 0), (0, images.shape[1] % 2), (0, images.shape[2] % 2), (0, 0)]
    wide = np.pad(images, odd, mode="edge").astype(np.uint16)
    rows = wide[:, 0::2] + wide[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) >> np.uint16(2)


@cache
def color_table() -> NDArray[np.uint16]:
    """(LEVELS ** 3,) number of the name of each cell of red, green and blue, of its middle."""
    middle = (np.arange(LEVELS) + 0.5) * (256 / LEVELS) - 0.5
    red, green, blue = np.meshgrid(middle, middle, middle, indexing="ij")
    table = name_colors(*rgb_to_lch(np.stack([red, green, blue], axis=-1).reshape(-1, 3)))
    table.setflags(write=False)
    return table


def rgb_to_lch(rgb: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """sRGB (n, 3), 0 to 255 -> lightness 0 to 100, chroma, and hue in degrees, of CIE L*a*b* under D65."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear.T
    x = (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883
    fx, fy, fz = (np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116) for t in (x, y, z))
    a, b = 500 * (fx - fy), 200 * (fy - fz)
    return 116 * fy - 16, np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360


def name_colors(
    lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]
) -> NDArray[np.uint16]:
    """(n,) number of the name of each colour, by the first line that fits.

    First what has hardly any colour, then round the circle of hues. Brown is dark or dull orange, pink is light red;
    where yellow ends depends on how light it is, where blue ends on how strong.
    """
    is_cool, is_warm, is_light = (hue > 220) & (hue < 330), (hue > 20) & (hue < 125), lightness > 88
    grey_ends = np.where(is_warm, 12, np.where(is_cool, 18, np.clip(0.3 * lightness, 10, 16)))  # chroma
    white_ends = np.where(is_warm, 14, 12)
    black_ends = np.where(is_cool, 20, 14)
    is_strong_orange = (lightness + chroma > 114) & (chroma > 35)
    red_from = 38 + 0.8 * np.clip(lightness - 40, 0, None)  # chroma: below it, red is brown
    yellow_ends = 104 + 0.6 * np.clip(lightness - 75, 0, 20)
    yellow_from = 66 + 0.4 * np.clip(55 - chroma, 0, None)  # lightness: below it, yellow is brown
    blue_ends = 292 + 16 * np.clip(chroma / 65, 0, 1)
    purple_ends = 342 - np.clip(lightness - 42, 0, 18)
    rule = [
        ("black", (lightness + chroma / 4 < 16) | ((chroma < black_ends) & (lightness < 23))),
        ("white", (chroma < white_ends) & is_light),
        ("grey", (chroma < grey_ends) & ~is_light),
        ("pink", (hue < 14) & (lightness > 42) & (chroma > 45)),
        ("pink", (hue < 14) & (lightness > 50)),
        ("red", (hue < 14) & (chroma > 30)),
        ("brown", hue < 14),
        ("pink", (hue < 34) & (lightness > 59)),
        ("pink", (hue < 45) & (lightness > 59) & (chroma < 50)),
        ("orange", (hue < 45) & (hue >= 34) & (lightness > 59)),
        ("red", (hue < 45) & (chroma > red_from)),
        ("brown", hue < 45),
        ("pink", (hue < 58) & (lightness > 66) & (chroma < 38)),
        ("pink", (hue < 68) & (lightness > 78) & (chroma < 35)),
        ("orange", (hue < 78) & is_strong_orange),
        ("yellow", (hue >= 68) & (hue < yellow_ends) & (lightness > yellow_from)),
        ("brown", hue < np.minimum(yellow_ends, 104)),
        ("green", hue < 180),
        ("blue", hue < blue_ends),
        ("purple", hue < purple_ends),
        ("pink", lightness > 42),
        ("purple", hue < 352),
        ("red", chroma > 30),
        ("brown", np.ones(len(hue), bool)),
    ]
    numbers = [np.uint16(NAMES.index(name) + 1) for name, _ in rule]
    return np.select([holds for _, holds in rule], numbers).astype(np.uint16)
