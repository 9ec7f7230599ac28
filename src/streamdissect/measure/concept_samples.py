"""Which cells of an activation grid show a concept, and the samples they give (methods 6.2)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.reference import unpack
from .fieldmap import AxisField
from .planes import ImagePlanes
from .products import product

ROUNDING = 1e-9
"""What a share of a cell may fall short of another by rounding."""


def cell_overlap(
    mode: str, n_cells: int, n_pixels: int, n_input: int, field: AxisField | None = None
) -> NDArray[np.float64]:
    """How much of each cell lies on each pixel of the mask grid, along one axis.

    Parameters
    ----------
    mode : str
        How maps are brought to the mask grid: with `rf` cells lie about the centres of their receptive fields, one
        step wide; otherwise they tile the mask grid.
    n_cells, n_pixels, n_input : int
        Cells of the activation grid, pixels of the mask grid and of the network's input.
    field : AxisField
        Of the layer, for `rf`.

    Returns
    -------
    float64 (n_cells, n_pixels)
        Rows sum to 1; to 0 for cells beyond the picture. What padding puts outside the picture does not count.
    """
    scale = Fraction(n_pixels, n_input)
    if mode == "rf":
        if field is None:
            raise ValueError("mode rf needs the layer's field map")
        centres = [(field.centre + field.step * i + Fraction(1, 2)) * scale for i in range(n_cells)]
        half = field.step * scale / 2
        edges = [(centre - half, centre + half) for centre in centres]
    else:
        edges = [(Fraction(i * n_pixels, n_cells), Fraction((i + 1) * n_pixels, n_cells)) for i in range(n_cells)]
    found = np.zeros((n_cells, n_pixels))
    for cell, (low, high) in enumerate(edges):
        low, high = max(low, Fraction(0)), min(high, Fraction(n_pixels))
        if low < high:
            for pixel in range(int(low), min(n_pixels, -int(-high // 1))):
                found[cell, pixel] = float((min(high, Fraction(pixel + 1)) - max(low, Fraction(pixel))) / (high - low))
    return found


def concept_cover(
    image: ImagePlanes, concepts: Iterable[int], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> dict[int, NDArray[np.float64]]:
    """For each of some concepts that an image has: the share of every cell that it covers, float64 (h, w)."""
    wanted = set(concepts)
    found = {}
    for concept in sorted(wanted & set(image.whole_row.tolist())):
        found[concept] = np.outer(rows.sum(axis=1), columns.sum(axis=1))
    for i, concept in enumerate(image.plane_row.tolist()):
        if concept in wanted:
            pixels = unpack(np.ascontiguousarray(image.words[:, i]), image.shape)
            cover = product(product(rows, pixels.astype(np.float64)), np.ascontiguousarray(columns.T))
            found[concept] = np.minimum(found[concept] + cover, 1.0) if concept in found else cover
    return found


def draw_samples(
    maps: NDArray[Any], cover: NDArray[np.float64], samples: str, least_cover: float
) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """The samples of one image that has a concept.

    Parameters
    ----------
    maps : (K, cells)
    cover : float64 (cells,)
        Share of each cell that the concept covers.
    samples : str
        `pixel`: cells that it covers to `least_cover` at least (0: at all); `weighted`: all cells it covers, weighted
        by the share; `masked-mean`: their weighted mean; `image-max`, `image-mean`: one vector of the image.

    Returns
    -------
    (S, K), float64 (S,) or None
        Samples, none where no cell is covered so far; their weights, where they have any. Means are float64.
    """
    if samples == "pixel":
        least = least_cover - ROUNDING if least_cover > 0 else ROUNDING
        return maps[:, cover > least].T, None
    if samples == "image-max":
        return maps.max(axis=1)[None, :], None
    if samples == "image-mean":
        return maps.mean(axis=1, dtype=np.float64)[None, :], None
    covered = cover > ROUNDING
    if samples == "weighted":
        return maps[:, covered].T, cover[covered]
    if not covered.any():
        return np.zeros((0, len(maps))), None
    return ((maps * cover).sum(axis=1) / cover.sum())[None, :], None
