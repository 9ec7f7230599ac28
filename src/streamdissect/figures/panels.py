"""Pictures side by side, with the pixels of a mask lit (methods 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

DIMMED = 0.2
"""What is left of a pixel's brightness outside the mask."""
CELL = 240
"""Pixels to the longer side of a picture."""
GAP, LABEL = 6, 14
INK, PAPER, OUTLINE = (32, 32, 32), (255, 255, 255), (240, 228, 66)


def lit(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image (rows, columns, 3) of 0..255 dimmed outside the mask (H, W), with a line about it."""
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(image.shape[:2], mask.shape, strict=True))
    is_lit = mask[np.ix_(rows, columns)]
    light = np.where(is_lit, 1.0, DIMMED)[..., None]
    dimmed: NDArray[np.uint8] = np.clip(np.rint(image * light), 0, 255).astype(np.uint8)
    wide = np.pad(is_lit, 1)
    beside = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    dimmed[beside & ~is_lit] = OUTLINE
    return dimmed


@dataclass(frozen=True)
class PanelRow:
    """A row of a panel."""

    label: str
    pictures: Sequence[NDArray[np.uint8]]


def draw_grid(columns: Sequence[str], rows: Sequence[PanelRow]) -> Image.Image:
    """Rows of pictures under the names of their columns; a name may have several lines."""
    font = ImageFont.load_default(LABEL)
    largest = max(max(picture.shape[:2]) for row in rows for picture in row.pictures)
    scale = CELL / largest
    width = max(round(scale * picture.shape[1]) for row in rows for picture in row.pictures)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = GAP * 3 + round(max(measure.textlength(row.label, font=font) for row in rows))
    names = [fitted(measure, name, width, font) for name in columns]
    head = GAP * 2 + (LABEL + 4) * max(name.count("\n") + 1 for name in names)
    heights = [max(round(scale * picture.shape[0]) for picture in row.pictures) for row in rows]
    size = margin + len(columns) * (width + GAP), head + sum(heights) + GAP * len(rows)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(names):
        draw.multiline_text((margin + j * (width + GAP), GAP), name, INK, font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        draw.text((GAP, top + height / 2), row.label, INK, font, anchor="lm")
        for j, picture in enumerate(row.pictures):
            shape = round(scale * picture.shape[1]), round(scale * picture.shape[0])
            small = Image.fromarray(picture).resize(shape, Image.Resampling.LANCZOS)
            sheet.paste(small, (margin + j * (width + GAP), top))
        top += height + GAP
    return sheet


def fitted(measure: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """A text whose lines are cut at their beginning to a width."""
    lines = []
    for line in text.split("\n"):
        cut = line
        while len(cut) > 1 and measure.textlength(cut, font=font) > width:
            cut = "\N{HORIZONTAL ELLIPSIS}" + cut.lstrip("\N{HORIZONTAL ELLIPSIS}")[1:]
        lines.append(cut)
    return "\n".join(lines)
