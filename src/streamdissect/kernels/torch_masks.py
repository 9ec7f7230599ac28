"""Masks in PyTorch: maps with a value above the threshold, enlarged in float32; which of their pixels that settles.

The definition knows no rounding (methods 2.5). A pixel is on where the enlarged value is above T + E, off where it is
at most T - E, and in doubt between: a map with a pixel in doubt, or one that E does not cover, is left to the host.

E is derived in docs/exactness.md, and holds here for the same reasons. It allows every subtraction, product and sum of
the two lerps a + w (b - a), first along the columns, then along the rows, a rounding of its own; an operation that is
fused only leaves one out. It allows numbers below 2**-126 to be read or written as zero, in any thread and on any
device. Nothing here is a matrix product, so reduced formats such as TF32 have no part in it. Whether a value passes is
asked of its bits, as integers in the order of the numbers, which no such mode touches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import host_backend
from .geometry import WORD, AxisWeights, words_of

host = host_backend()
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
FORMATS = {2: (torch.int16, torch.float16, 15, 0x7C00), 4: (torch.int32, torch.float32, 31, 0x7F800000)}
"""Bytes of a float -> integers of its width, its type, bits below the sign, key of +inf."""
GATHER = {"little": 0x0102040810204080, "big": 0x8040201008040201}[sys.byteorder]
"""Times a word of eight bytes of 0 and 1: its highest byte then holds the eight bits, the first one lowest."""


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


@dataclass(frozen=True)
class Source:
    """Maps (n, h, w) of float16 or float32 where they are: an array of the host, or a tensor on some device."""

    maps: NDArray[Any] | Tensor

    @property
    def is_half(self) -> bool:
        """Are they float16?"""
        return self.maps.dtype == (torch.float16 if isinstance(self.maps, Tensor) else np.float16)

    def __len__(self) -> int:
        return len(self.maps)

    def bits(self, begin: int, end: int, device: torch.device) -> Tensor:
        """int16 or int32 (end - begin, h, w) on the device: some of the maps, bit by bit. Not to be written to."""
        some = self.maps[begin:end]
        if isinstance(some, Tensor):
            return some.detach().view(torch.int16 if self.is_half else torch.int32).to(device)
        return upload(some.view(np.int16 if self.is_half else np.int32), device)

    def singles(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (m, h, w) on the host: the maps of these indices."""
        if isinstance(self.maps, Tensor):
            some = self.maps.detach()[torch.tensor(index, device=self.maps.device)].cpu().numpy()
        else:
            some = self.maps[index]
        return np.ascontiguousarray(some).astype(np.float32, copy=False)


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; the array may be read-only."""
    return torch.tensor(array, device=device)


def upload_words(words: NDArray[np.uint64], device: torch.device) -> Tensor:
    """int64 copy of mask words, whose bytes follow each other as the pixels do."""
    return upload(words.astype("<u8", copy=False).view(np.int64), device)


def ordered(bits: Tensor) -> Tensor:
    """Bits of floats -> integers in the order of the floats."""
    _, _, below_sign, _ = FORMATS[bits.element_size()]
    keys = bits >> below_sign  # 0, or -1 for a set sign
    keys &= (1 << below_sign) - 1
    keys ^= bits
    return keys


def passing(bits: Tensor, keys: Tensor) -> Tensor:
    """(n, h, w) maps as bits, (n,) keys -> (n, h, w) bool: numbers above the key. NaN are not."""
    found = ordered(bits)
    return (found > keys[:, None, None]) & (found <= FORMATS[bits.element_size()][3])


def as_float32(bits: Tensor) -> Tensor:
    """The numbers themselves. Every float16, also a subnormal one, is a normal float32."""
    return bits.view(FORMATS[bits.element_size()][1]).to(torch.float32)


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
    """Maps, with what decides their pixels."""

    values: Tensor
    """float32 (n, h, w)"""
    keys: Tensor
    """int32 (n,) that a passing value exceeds."""
    high: Tensor
    low: Tensor
    """(n, 1, 1) T + E and T - E."""

    @classmethod
    def of(cls, values: Tensor, thresholds: Tensor, keys: Tensor) -> tuple[Filter, Tensor]:
        """The filter of n maps, and (n,) bool: those that E covers. What it says of the others means nothing."""
        magnitudes = values.view(torch.int32) & 0x7FFFFFFF
        largest = torch.maximum(magnitudes.flatten(1).amax(1), thresholds.view(torch.int32) & 0x7FFFFFFF)
        margin = largest.view(torch.float32) * MARGIN + SMALLEST_MARGIN
        high, low = ((thresholds + side)[:, None, None] for side in (margin, -margin))
        return cls(values, keys, high, low), largest < COVERED_BITS

    @classmethod
    def of_covered(cls, values: Tensor, thresholds: Tensor, keys: Tensor) -> tuple[Filter, Tensor]:
        """The filter of the covered ones alone, and (n,) bool: which those are."""
        found, covered = cls.of(values, thresholds, keys)
        return (found if bool(covered.all()) else found.some(covered)), covered

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


def packed(on: Tensor) -> Tensor:
    """float32 (n, rows, W) of 0 and 1 -> uint8 (n, rows * words * 8): mask words, the lowest byte first."""
    n, rows, width = on.shape
    bits = torch.zeros((n, rows, WORD * words_of(width)), dtype=torch.uint8, device=on.device)
    bits[:, :, :width] = on
    eights = bits.flatten(1).view(torch.int64)
    eights *= GATHER
    eights >>= 56
    return eights.to(torch.uint8)  # of the copies of the sign, too, the lowest byte alone is left


def words_of_bytes(eighths: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(n, 8 m) bytes, the lowest of each word first -> (n, m) words, in place where they are read so anyway."""
    return eighths.view("<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True)
class Passed:
    """Maps with a value that passes, on the device."""

    index: NDArray[np.int64]
    """(m,) which they are, ascending."""
    bits: Tensor
    """int16 or int32 (m, h, w)"""
    thresholds: Tensor
    keys: Tensor
    """(m,) float32 and int32"""

    def __len__(self) -> int:
        return len(self.index)

    def some(self, part: slice) -> Passed:
        """A part of them."""
        return Passed(self.index[part], self.bits[part], self.thresholds[part], self.keys[part])

    def parts(self, size: int) -> Iterator[Passed]:
        """So many at a time."""
        for first in range(0, len(self), size):
            yield self.some(slice(first, first + size))


@dataclass(frozen=True)
class Group:
    """Maps that are enlarged together."""

    index: NDArray[np.int64]
    """Which they are, ascending."""
    filter: Filter
    """What decides them."""
    uncovered: NDArray[np.int64]
    """Maps among them that the filter does not cover."""

    def no_doubt(self) -> Tensor:
        """(n,) of nothing but False."""
        return torch.zeros(len(self.index), dtype=torch.bool, device=self.filter.keys.device)


@dataclass(frozen=True)
class Masks:
    """Maps (n, h, w) with their thresholds and keys (n,), on their way to masks."""

    source: Source
    thresholds: NDArray[np.float32]
    keys: NDArray[np.int32]
    own_keys: NDArray[Any]
    """Keys in the format of the maps."""
    or_equal: bool
    grid: Grid
    device: torch.device

    def passed(self) -> Iterator[Passed]:
        """The maps with a value that passes, of as many at a time as fit into the working memory."""
        step = fitting(self.device, MAP_BYTES * self.grid.rows.n_source * self.grid.columns.n_source)
        for begin in range(0, len(self.source), step):
            end = min(begin + step, len(self.source))
            bits = self.source.bits(begin, end, self.device)
            own, *bounds = (
                upload(array[begin:end], self.device) for array in (self.own_keys, self.thresholds, self.keys)
            )
            at = passing(bits, own).flatten(1).any(1).nonzero()[:, 0]
            thresholds, keys = (bound[at] for bound in bounds)
            yield Passed(begin + at.cpu().numpy(), bits[at], thresholds, keys)

    def groups(self) -> Iterator[Group]:
        """Those that the filter covers, as many at a time as may be enlarged together; and the others among them."""
        size = fitting(self.device, self.grid.map_bytes)
        for passed in self.passed():
            for part in passed.parts(size):
                found, covered = Filter.of_covered(as_float32(part.bits), part.thresholds, part.keys)
                known = covered.cpu().numpy()
                yield Group(part.index[known], found, part.index[~known])

    def exact(self, index: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(n, H * words) masks of some maps by the host's kernel, which settles every pixel."""
        height, width = self.grid.shape
        bits = np.zeros((len(index), height * words_of(width)), np.uint64)
        if len(index):
            bounds = self.thresholds[index], self.keys[index]
            values = self.source.singles(index)
            host.mask_maps(values, *bounds, self.or_equal, self.grid.rows, self.grid.columns, bits)
        return bits
