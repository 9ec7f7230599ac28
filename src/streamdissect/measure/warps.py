"""Where each place of a perturbed picture comes from: of images, of label and mask grids, of activation grids.

Places are in normalised coordinates: pixel j of n lies at (j + 1/2) / n, so one warp serves grids of any size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ..kernels import words_of
from ..kernels.geometry import WORD
from ..kernels.reference import pack
from .fieldmap import AxisField

Places = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rows and columns of places, of equal shape, 0..1 within the picture."""


class Warp(ABC):
    """How a perturbation moves things: where each place of the new picture comes from, and which places are judged."""

    @abstractmethod
    def places(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Places:
        """Whence the places (rows, columns) come; NaN where they come from outside and are not judged."""

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.int32]:
        """(H, W) row-major index of the pixel that each pixel of a grid comes from, by nearest neighbour; -1: none."""
        n, m = shape
        rows, columns = self.places(*np.broadcast_arrays(centres(n)[:, None], centres(m)[None, :]))
        with np.errstate(invalid="ignore"):
            index = np.floor(rows * n) * m + np.floor(columns * m)
        return np.where(np.isnan(index), -1, index).astype(np.int32)

    def on_pixels(self, shape: tuple[int, int]) -> PixelWarp:
        """The warp on a grid of pixels."""
        return PixelWarp(shape, self.pixels(shape))

    def on_cells(self, rows: CellAxis, columns: CellAxis) -> CellWarp:
        """The warp on the grid of a layer."""
        return CellWarp.of(self, rows, columns)


def centres(n: int) -> NDArray[np.float64]:
    """(n,) normalised coordinates of pixel centres."""
    return (np.arange(n) + 0.5) / n


@dataclass(frozen=True)
class RotationWarp(Warp):
    """Counter-clockwise about the centre, canvas kept (methods 4)."""

    size: tuple[int, int]
    """(rows, columns) of the image: what is a right angle in its pixels is one on every grid."""
    degrees: float

    def places(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Places:
        """See `Warp`."""
        y, x = self.unbounded(rows, columns)
        is_inside = (y >= 0) & (y < 1) & (x >= 0) & (x < 1)
        return np.where(is_inside, y, np.nan), np.where(is_inside, x, np.nan)

    def unbounded(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Places:
        """The same, also where they come from outside."""
        n, m = self.size
        cosine, sine = cosine_sine(self.degrees)
        down, right = rows * n - n / 2, columns * m - m / 2
        y = (sine * right + cosine * down + n / 2) / n
        return y, (cosine * right - sine * down + m / 2) / m

    def on_pixels(self, shape: tuple[int, int]) -> PixelWarp:
        """See `Warp`; kept, as it is the same for every image."""
        return kept_pixels(self, shape)

    def on_cells(self, rows: CellAxis, columns: CellAxis) -> CellWarp:
        """See `Warp`; kept likewise."""
        return kept_cells(self, rows, columns)


@lru_cache(16)
def kept_pixels(warp: RotationWarp, shape: tuple[int, int]) -> PixelWarp:
    """A rotation on a grid of pixels."""
    return PixelWarp(shape, warp.pixels(shape))


@lru_cache(64)
def kept_cells(warp: RotationWarp, rows: CellAxis, columns: CellAxis) -> CellWarp:
    """A rotation on the grid of a layer."""
    return CellWarp.of(warp, rows, columns)


def cosine_sine(degrees: float) -> tuple[float, float]:
    """Exact for multiples of 90 degrees, which are then mere transpositions."""
    quarters, rest = divmod(degrees, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    angle = math.radians(degrees)
    return math.cos(angle), math.sin(angle)


@dataclass(frozen=True)
class Tiles:
    """One axis of a picture in tiles of equal size, perhaps with a margin on both sides that no tile takes."""

    n_input: int
    """Pixels of the image."""
    begin: int
    """First pixel of the first tile."""
    end: int
    """One past the last pixel of the last tile."""
    count: int

    def tile_and_shifts(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For pixels of a grid of n: their tiles (n,), -1 in a margin, and (n, count) pixels of each tile they match.

        In exact integers: pixel j lies at u = (2 j + 1) n_input / (2 n) of the image, tile t spans begin + p t to
        begin + p (t + 1) with p = (end - begin) / count, and its counterpart in tile b is u + p (b - t).
        """
        j, b = np.arange(n)[:, None], np.arange(self.count)[None, :]
        length = self.end - self.begin
        inside = (2 * j + 1) * self.n_input - 2 * n * self.begin  # 2 n (u - begin)
        tile = np.where((inside >= 0) & (inside < 2 * n * length), inside * self.count // (2 * n * length), -1)
        top = (2 * j + 1) * self.count * self.n_input + 2 * length * (b - tile) * n
        return tile[:, 0], top // (2 * self.count * self.n_input)

    def place(self, at: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
        """Tiles of normalised coordinates, -1 in a margin; and a tile's size in normalised coordinates."""
        size = (self.end - self.begin) / self.count / self.n_input
        tile = np.floor((at - self.begin / self.n_input) / size + 1e-9).astype(np.int64)
        return np.where((tile >= 0) & (tile < self.count), tile, -1), size


@dataclass(frozen=True, eq=False)
class TileWarp(Warp):
    """Tiles that change places (methods 4)."""

    rows: Tiles
    columns: Tiles
    order: NDArray[np.int64]
    """(tiles,) the tile that comes to each tile's place, row by row."""

    def places(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Places:
        """See `Warp`."""
        (down, height), (right, width) = self.rows.place(rows), self.columns.place(columns)
        is_inside = (down >= 0) & (right >= 0)
        source = self.order[np.where(is_inside, down * self.columns.count + right, 0)]
        y = rows + (source // self.columns.count - down) * height
        x = columns + (source % self.columns.count - right) * width
        return np.where(is_inside, y, np.nan), np.where(is_inside, x, np.nan)

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.int32]:
        """See `Warp`; in exact integers: where the tiles divide the grid this is a permutation of its pixels."""
        down, row_of = self.rows.tile_and_shifts(shape[0])
        right, column_of = self.columns.tile_and_shifts(shape[1])
        is_inside = (down >= 0)[:, None] & (right >= 0)[None, :]
        source = self.order[np.where(is_inside, down[:, None] * self.columns.count + right[None, :], 0)]
        y = np.take_along_axis(row_of, source // self.columns.count, axis=1)
        x = np.take_along_axis(column_of.T, source % self.columns.count, axis=0)
        return np.where(is_inside, y * shape[1] + x, -1).astype(np.int32)


@dataclass(frozen=True, eq=False)
class PixelWarp:
    """A warp on one grid of pixels, ready to move label maps and masks."""

    shape: tuple[int, int]
    source: NDArray[np.int32]
    """(H, W) as of `Warp.pixels`."""

    @cached_property
    def is_valid(self) -> NDArray[np.bool_]:
        """(H, W) pixels that are judged."""
        return self.source >= 0

    @cached_property
    def is_everywhere(self) -> bool:
        """Whether all are."""
        return bool(self.is_valid.all())

    @cached_property
    def valid_words(self) -> NDArray[np.uint64]:
        """(H * words,) the same as a mask."""
        return pack(self.is_valid)

    @cached_property
    def is_permutation(self) -> bool:
        """Whether every pixel goes to exactly one place: counts of what moves with its labels then stay as they are."""
        return self.is_everywhere and bool((np.bincount(self.source.ravel(), minlength=self.source.size) == 1).all())

    def labels(self, layer: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """A label map (H, W) moved along; 0 where nothing is judged."""
        moved = layer.ravel()[np.maximum(self.source, 0)]
        return moved if self.is_everywhere else np.where(self.is_valid, moved, np.uint16(0))

    @cached_property
    def targets(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(H W + 1,) and (n,): where each pixel goes, target[begin[s]:begin[s + 1]], as bits of mask words."""
        n = self.source.size
        width = WORD * words_of(self.shape[1])
        bit = (np.arange(self.shape[0])[:, None] * width + np.arange(self.shape[1])[None, :]).ravel().astype(np.int32)
        source = self.source.ravel()
        if self.is_permutation:
            target = np.empty(n, np.int32)
            target[source] = bit
            return np.arange(n + 1, dtype=np.int32), target
        order = np.argsort(source, kind="stable")
        begin = np.searchsorted(source[order], np.arange(n + 1)).astype(np.int32)
        return begin, bit[order]

    def masks(self, masks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Masks (A, H * words) moved along, nearest neighbour; nothing is on where nothing is judged."""
        from .maskwarp import scatter  # compiled when first needed

        moved = np.zeros_like(masks)
        begin, target = self.targets
        scatter(np.ascontiguousarray(masks), self.shape[1], words_of(self.shape[1]), begin, target, moved)
        return moved


@dataclass(frozen=True)
class CellAxis:
    """One axis of an activation grid: the normalised coordinate y lies at cell `scale` y + `offset` (methods 2.1)."""

    n: int
    """Cells."""
    scale: float
    offset: float

    @classmethod
    def of(cls, mode: str, n: int, n_input: int, field: AxisField | None) -> CellAxis:
        """The cells of a grid as the upsampling places them."""
        if mode == "rf":
            assert field is not None, "mode rf needs the layer's field map"
            return cls(n, float(n_input / field.step), float((-field.centre - 0.5) / field.step))
        if mode == "corners":
            scale = (n - 1) / max(n_input - 1, 1)
            return cls(n, n_input * scale, -0.5 * scale)
        return cls(n, float(n), -0.5)

    def places(self) -> NDArray[np.float64]:
        """(n,) normalised coordinates of the cells; padding may put some beyond the picture."""
        cells = np.arange(self.n, dtype=np.float64)
        return cells + 0.5 if self.scale == 0 else (cells - self.offset) / self.scale

    def cells(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cell coordinates of places, clamped to the grid; rounded, so that what should be a cell is one."""
        return np.asarray(np.clip(np.round(self.scale * places + self.offset, 9), 0, self.n - 1), np.float64)


@dataclass(frozen=True, eq=False)
class CellWarp:
    """A warp on the grid of a layer: the clean map, interpolated, where each cell comes from (methods 4)."""

    first: NDArray[np.int64]
    """(4, n) cells about each place, for the cells that are judged."""
    weight: NDArray[np.float64]
    """(4, n)"""
    chosen: NDArray[np.int64]
    """(n,) the cells that are judged."""

    @classmethod
    def of(cls, warp: Warp, rows: CellAxis, columns: CellAxis) -> CellWarp:
        """The warp of one picture on one layer's grid; cells centred beyond the picture are not judged."""
        down, right = rows.places(), columns.places()
        is_inside = ((down >= 0) & (down < 1))[:, None] & ((right >= 0) & (right < 1))[None, :]
        y, x = warp.places(*np.broadcast_arrays(np.clip(down, 0, 1)[:, None], np.clip(right, 0, 1)[None, :]))
        chosen = np.flatnonzero(is_inside & ~np.isnan(y))
        y, x = rows.cells(y.ravel()[chosen]), columns.cells(x.ravel()[chosen])
        top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        below, beside = np.minimum(top + 1, rows.n - 1), np.minimum(left + 1, columns.n - 1)
        q, r = y - top, x - left
        cells = [y * columns.n + x for y in (top, below) for x in (left, beside)]
        return cls(np.stack(cells), np.stack([(1 - q) * (1 - r), (1 - q) * r, q * (1 - r), q * r]), chosen)

    def clean(self, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, n) clean maps (K, h w) where the judged cells come from."""
        moved = np.zeros((len(maps), len(self.chosen)))
        for cells, weight in zip(self.first, self.weight, strict=True):
            if weight.any():
                moved += maps[:, cells] * weight
        return moved
