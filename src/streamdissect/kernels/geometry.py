"""The arrays that kernels take: interpolation weights of an axis, label planes of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 64
"""Pixels in a mask word: bit x % 64 of word x // 64, each row of the mask grid starting a new word."""
LARGEST_DENOMINATOR = 2**31
"""Weights of both axes multiply to less than 2**62, which the exact test cuts into three pieces of 29 bits."""


def words_of(n_pixels: int) -> int:
    """Mask words in a row of `n_pixels`."""
    return -(-n_pixels // WORD)


@dataclass(frozen=True)
class AxisWeights:
    """Linear interpolation along one axis, exact: pixel j takes (1 - q) source[first] + q source[second].

    q = numerator / denominator, 0 <= q < 1; where q is 0, `second` equals `first` (methods 2.1).
    """

    n_source: int
    """Cells of the activation grid along this axis."""
    n_pixels: int
    """Pixels of the mask grid along this axis."""
    first: NDArray[np.int32]
    """(padded,) cell before the pixel; padded with 0 to a multiple of 64 pixels."""
    second: NDArray[np.int32]
    """(padded,) cell after the pixel, or `first` again."""
    numerator: NDArray[np.int64]
    """(padded,) of q."""
    denominator: int
    """Of every q on this axis."""
    weight: NDArray[np.float32] = field(repr=False)
    """(padded + 64,) q rounded, for the float32 filter."""
    start: NDArray[np.int32] = field(repr=False)
    """(n_source + 1,) first pixel whose `first` is the cell or a later one."""
    begin: NDArray[np.int32] = field(repr=False)
    """(n_source,) first pixel that a cell bears on."""
    end: NDArray[np.int32] = field(repr=False)
    """(n_source,) one past the last pixel that a cell bears on."""

    def __post_init__(self) -> None:
        """Raise ValueError unless the arrays fit together: kernels read them without looking."""
        padded = WORD * words_of(self.n_pixels)
        lengths = {"first": padded, "second": padded, "numerator": padded, "weight": padded + WORD,
                   "start": self.n_source + 1, "begin": self.n_source, "end": self.n_source}  # fmt: skip
        if self.n_source < 1 or self.n_pixels < 1 or self.denominator < 1:
            raise ValueError(f"{self.n_pixels} pixels of {self.n_source} cells: both are at least 1")
        for name, length in lengths.items():
            array = getattr(self, name)
            most = {"numerator": self.denominator, "weight": 2}.get(name, self.n_pixels + 1)
            most = self.n_source if name in ("first", "second") else most
            if array.shape != (length,) or not (array.min() >= 0 and array.max() < most):
                raise ValueError(f"{name} of an axis is ({length},), from 0 to less than {most}")

    @classmethod
    def from_positions(cls, positions: Sequence[Fraction], n_source: int) -> AxisWeights:
        """Weights for pixels at `positions`, in units of cells, ascending; clamped to the grid (edge replication)."""
        last = n_source - 1
        clamped = [min(max(Fraction(v), Fraction(0)), Fraction(last)) for v in positions]
        denominator = math.lcm(*(v.denominator for v in clamped))
        if denominator > LARGEST_DENOMINATOR:
            raise ValueError(f"interpolation weights need the denominator {denominator}, more than 2**31")
        if any(b < a for a, b in pairwise(clamped)):
            raise ValueError("pixel positions must ascend")
        n_pixels = len(clamped)
        padded = WORD * words_of(n_pixels)
        first = np.zeros(padded, np.int32)
        numerator = np.zeros(padded, np.int64)
        first[:n_pixels] = [math.floor(v) for v in clamped]
        numerator[:n_pixels] = [(v - math.floor(v)) * denominator for v in clamped]
        second = (first + (numerator > 0)).astype(np.int32)
        cells = np.arange(n_source)
        return cls(
            n_source=n_source,
            n_pixels=n_pixels,
            first=first,
            second=second,
            numerator=numerator,
            denominator=denominator,
            weight=np.pad(numerator / denominator, (0, WORD)).astype(np.float32),
            start=np.searchsorted(first[:n_pixels], np.arange(n_source + 1), "left").astype(np.int32),
            begin=np.searchsorted(second[:n_pixels], cells, "left").astype(np.int32),
            end=np.searchsorted(first[:n_pixels], cells, "right").astype(np.int32),
        )


@dataclass(frozen=True)
class PlaneBatch:
    """Label planes of B images of one mask grid, laid end to end, and the counter rows they feed.

    Counters have C + G + 1 rows: a concept's intersection, a category's unit area, the unit area over all images.
    """

    shape: tuple[int, int]
    """(H, W) of the mask grid."""
    words: NDArray[np.uint64]
    """Planes of image i from `word_ptr[i]`: (H * words, n_planes), labels side by side."""
    word_ptr: NDArray[np.int64]
    """(B + 1,)"""
    plane_ptr: NDArray[np.int64]
    """(B + 1,) into `plane_row` and `touch_row`."""
    plane_row: NDArray[np.int32]
    """Row that gains |mask & plane|."""
    touch_row: NDArray[np.int32]
    """Row that gains |mask| if the mask meets the plane, once per image; -1: none. Equal rows stand together."""
    whole_ptr: NDArray[np.int64]
    """(B + 1,) into `whole_row`."""
    whole_row: NDArray[np.int32]
    """Row that gains |mask|."""
    present_ptr: NDArray[np.int64]
    """(B + 1,) into `present_row` and `present_area`."""
    present_row: NDArray[np.int32]
    """Concept in the image."""
    present_area: NDArray[np.int64]
    """Its pixels."""

    def __len__(self) -> int:
        return len(self.word_ptr) - 1

    @property
    def most_planes(self) -> int:
        """Planes of the image that has most."""
        return int(np.diff(self.plane_ptr).max(initial=0))

    def check(self) -> None:
        """Raise ValueError unless the arrays fit together: kernels read them without looking."""
        n_words = self.shape[0] * words_of(self.shape[1])
        pointers = (
            ("word_ptr", self.word_ptr, self.words),
            ("plane_ptr", self.plane_ptr, self.plane_row),
            ("whole_ptr", self.whole_ptr, self.whole_row),
            ("present_ptr", self.present_ptr, self.present_row),
        )
        for name, pointer, array in pointers:
            fits = pointer.shape == self.word_ptr.shape and pointer[0] == 0 and pointer[-1] == len(array)
            if not fits or np.any(pointer[1:] < pointer[:-1]):
                raise ValueError(f"{name} does not divide its array among {len(self)} images")
        if np.any(np.diff(self.word_ptr) != n_words * np.diff(self.plane_ptr)):
            raise ValueError(f"label planes of this grid have {n_words} words each")
        if len(self.touch_row) != len(self.plane_row) or len(self.present_area) != len(self.present_row):
            raise ValueError("touch_row goes with plane_row, and present_area with present_row")

    def part(self, begin: int, end: int) -> PlaneBatch:
        """Images begin..end-1: views of the arrays, and pointers of their own."""
        cut: dict[str, NDArray[Any]] = {}
        for pointer, names in (
            ("word_ptr", ("words",)),
            ("plane_ptr", ("plane_row", "touch_row")),
            ("whole_ptr", ("whole_row",)),
            ("present_ptr", ("present_row", "present_area")),
        ):
            edges = getattr(self, pointer)[begin : end + 1]
            cut[pointer] = edges - edges[0]
            cut |= {name: getattr(self, name)[edges[0] : edges[-1]] for name in names}
        return PlaneBatch(self.shape, **cut)

    def planes(self, i: int) -> NDArray[np.uint64]:
        """(H * words, n_planes) planes of image i."""
        n_planes = int(self.plane_ptr[i + 1] - self.plane_ptr[i])
        n_words = self.shape[0] * words_of(self.shape[1])
        return self.words[self.word_ptr[i] : self.word_ptr[i + 1]].reshape(n_words, n_planes)
