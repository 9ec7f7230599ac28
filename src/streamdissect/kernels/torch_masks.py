"""Masks in PyTorch: maps with a value above the threshold, enlarged in float32; which of their pixels that settles.

The definition knows no rounding (methods 2.5). A pixel is on where the enlarged value is above T + E, off where it is
at most T - E, and in doubt between: a map with a pixel in doubt, or one that E does not cover, is left to the host.

E is derived in csrc/mask.h, and holds here for the same reasons. It allows every subtraction, product and sum of the
two lerps a + w (b - a), first along the columns, then along the rows, a rounding of its own; an operation that is fused
only leaves one out. It allows numbers below 2**-126 to be read or written as zero, in any thread and on any device.
Nothing here is a matrix product, so reduced formats such as TF32 have no part in it. Whether a value passes is asked of
its bits, as integers in the order of the numbers, which no such mode touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import WORD, AxisWeights, words_of

HOST_BYTES, DEVICE_BYTES = 16 << 20, 256 << 20
"""Working memory of one step on the CPU, to stay near its caches, and on other devices, to keep them busy. Maps as they
come, enlarged maps and unpacked label planes take up to this much each, so three times as much in all; or what a single
map takes, if that is more: 16 bytes a value, 12 bytes a pixel of a band and of its source rows."""
MAP_BYTES, PIXEL_BYTES = 16, 12
BAND_PIXELS = 1 << 20
"""Of a mask at a time, in whole rows, at least one."""
MARGIN, SMALLEST_MARGIN = 1.2e-6, 2.0**-120
"""E = 1.2e-6 M + 2**-120, M the largest magnitude of the map and its threshold."""
COVERED_BITS = 0x7B800000
"""Bits of 2**120: from there on, and for infinities and NaN, there is no E."""
FORMS = {2: (torch.int16, torch.float16, 15, 0x7C00), 4: (torch.int32, torch.float32, 31, 0x7F800000)}
"""Bytes of a float -> integers of its width, its type, bits below the sign, key of +inf."""


def working_bytes(device: torch.device) -> int:
    """See HOST_BYTES."""
    return HOST_BYTES if device.type == "cpu" else DEVICE_BYTES


def fitting(device: torch.device, each_bytes: int) -> int:
    """How many things of so many bytes fit into the working memory, at least one."""
    return max(1, working_bytes(device) // max(1, each_bytes))


def iter_bands(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(first row, one past the last) of bands of a mask."""
    step = band_rows(shape)
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def band_rows(shape: tuple[int, int]) -> int:
    """Rows of a band."""
    return min(shape[0], max(1, BAND_PIXELS // shape[1]))


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; the array may be read-only."""
    return torch.tensor(array, device=device)


def upload_words(words: NDArray[np.uint64], device: torch.device) -> Tensor:
    """int64 copy of mask words, whose bytes follow each other as the pixels do."""
    return upload(words.astype("<u8", copy=False).view(np.int64), device)


def ordered(bits: Tensor) -> Tensor:
    """Bits of floats -> integers in the order of the floats."""
    _, _, below_sign, _ = FORMS[bits.element_size()]
    keys = bits >> below_sign  # 0, or -1 for a set sign
    keys &= (1 << below_sign) - 1
    keys ^= bits
    return keys


def passing(bits: Tensor, keys: Tensor) -> Tensor:
    """(n, h, w) maps as bits, (n,) keys -> (n, h, w) bool: numbers above the key. NaN are not."""
    found = ordered(bits)
    return (found > keys[:, None, None]) & (found <= FORMS[bits.element_size()][3])


def as_float32(bits: Tensor) -> Tensor:
    """The numbers themselves. Every float16, also a subnormal one, is a normal float32."""
    return bits.view(FORMS[bits.element_size()][1]).to(torch.float32)


def lerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """a + weight (b - a), each operation rounded by itself, in the place of b. Never leaves a..b."""
    b -= a
    b *= weight
    b += a
    return b


@dataclass(frozen=True)
class Grid:
    """The interpolation from maps to masks, on a device."""

    rows: AxisWeights
    columns: AxisWeights
    above: Tensor
    below: Tensor
    down: Tensor
    """(H,) source rows of each pixel row, and the weight of the second."""
    left: Tensor
    right: Tensor
    across: Tensor
    """(W,) as much for the columns."""

    @classmethod
    def on(cls, device: torch.device, rows: AxisWeights, columns: AxisWeights) -> Grid:
        """Copies of the weights, without their padding."""
        parts = [
            upload(array[: axis.n_pixels], device)
            for axis in (rows, columns)
            for array in (axis.first, axis.second, axis.weight)
        ]
        return cls(rows, columns, *parts)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)"""
        return self.rows.n_pixels, self.columns.n_pixels

    @property
    def map_bytes(self) -> int:
        """Working memory for a band of one map."""
        return PIXEL_BYTES * self.columns.n_pixels * (band_rows(self.shape) + self.rows.n_source)

    def gather(self, cells: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor, int]:
        """Of (n, h, w) cells, those left and right of the pixels (n, some rows, W), and the first of those rows."""
        first, last = int(self.rows.first[begin]), int(self.rows.second[end - 1])
        needed = cells[:, first : last + 1]
        return needed.index_select(2, self.left), needed.index_select(2, self.right), first

    def enlarge(self, values: Tensor, begin: int, end: int) -> Tensor:
        """float32 (n, h, w) -> (n, end - begin, W): mask rows begin..end-1."""
        a, b, first = self.gather(values, begin, end)
        lines = lerp(a, b, self.across)
        a, b = (lines.index_select(1, side[begin:end] - first) for side in (self.above, self.below))
        return lerp(a, b, self.down[begin:end, None])

    def reached(self, cells: Tensor, begin: int, end: int) -> Tensor:
        """bool (n, h, w) -> (n, end - begin, W): pixels with a corner among the cells."""
        a, b, first = self.gather(cells, begin, end)
        lines = a | b
        above, below = (lines.index_select(1, side[begin:end] - first) for side in (self.above, self.below))
        return above | below


@dataclass(frozen=True)
class Filter:
    """Maps that E covers, with what decides their pixels."""

    values: Tensor
    """float32 (n, h, w)"""
    keys: Tensor
    """int32 (n,) that a passing value exceeds."""
    high: Tensor
    low: Tensor
    """(n, 1, 1) T + E and T - E."""

    @classmethod
    def of(cls, values: Tensor, thresholds: Tensor, keys: Tensor) -> tuple[Filter, Tensor]:
        """The filter of the covered ones among n maps, and (n,) bool: which those are."""
        magnitudes = values.view(torch.int32) & 0x7FFFFFFF
        largest = torch.maximum(magnitudes.flatten(1).amax(1), thresholds.view(torch.int32) & 0x7FFFFFFF)
        covered = largest < COVERED_BITS
        if not bool(covered.all()):
            values, thresholds, keys, largest = (part[covered] for part in (values, thresholds, keys, largest))
        margin = largest.view(torch.float32) * MARGIN + SMALLEST_MARGIN
        high, low = ((thresholds + side)[:, None, None] for side in (margin, -margin))
        return cls(values, keys, high, low), covered

    def decide(self, grid: Grid, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Mask rows begin..end-1: float32 (n, rows, W) of 1 where on, and of 1 where in doubt."""
        surface = grid.enlarge(self.values, begin, end)
        on = torch.empty_like(surface)
        torch.gt(surface, self.high, out=on)  # straight to 0 and 1: five times as fast as by way of booleans
        doubt = surface.gt_(self.low)
        doubt -= on
        return on, doubt

    def is_open(self, grid: Grid) -> Tensor:
        """(n,) bool: has the map a pixel in doubt, looked at closely?

        A pixel without a corner above the threshold is off, be it ever so near. Most doubts are of that kind, all over
        the zeros of maps whose threshold is 0.
        """
        cells = passing(self.values.view(torch.int32), self.keys)
        found = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
        for begin, end in iter_bands(grid.shape):
            _, doubt = self.decide(grid, begin, end)
            found |= ((doubt > 0) & grid.reached(cells, begin, end)).flatten(1).any(1)
        return found

    def some(self, index: Tensor) -> Filter:
        """The filter of some of the maps."""
        return Filter(self.values[index], self.keys[index], self.high[index], self.low[index])

    def undecided(self, grid: Grid, doubtful: Tensor) -> Tensor:
        """(n,) bool: which maps stay in doubt, of those of which a pixel was (n,)."""
        index = doubtful.nonzero()[:, 0]
        if len(index) == 0:
            return doubtful
        found = doubtful.clone()
        found[index] = self.some(index).is_open(grid)
        return found


def pixels_of(words: Tensor, width: int) -> Tensor:
    """int64 (n, rows, words) -> float32 (n, rows * width) of 0 and 1."""
    n, rows, n_words = words.shape
    eighths = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)  # such a view asks for plain strides
    bits = eighths[..., None] >> torch.arange(8, dtype=torch.uint8, device=words.device)
    bits &= 1
    return bits.view(n, rows, WORD * n_words)[:, :, :width].to(torch.float32).flatten(1)


def words_from(on: Tensor) -> NDArray[np.uint64]:
    """float32 (n, rows, W) of 0 and 1 -> (n, rows * words) mask words, on the host."""
    n, rows, width = on.shape
    n_words = words_of(width)
    bits = torch.zeros((n, rows, WORD * n_words), dtype=torch.uint8, device=on.device)
    bits[:, :, :width] = on
    bits = bits.view(n, rows * n_words * 8, 8) << torch.arange(8, dtype=torch.uint8, device=on.device)
    eighths = bits.sum(2, dtype=torch.uint8).cpu().numpy()
    return eighths.view("<u8").astype(np.uint64)
