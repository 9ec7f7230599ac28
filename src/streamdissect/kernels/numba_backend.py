"""The kernels compiled by Numba, where no C compiler was found; same calling convention, same results."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import numba_counting, numba_label_rows, numba_masks, numba_planes, numba_sketch, numba_tail
from .geometry import AxisWeights, PlaneBatch, words_of
from .labels import N_NUMBERS, LabelIndex
from .numba_bits import LANES
from .numba_jit import constant

name = "numba"
Prepared = tuple[numba_counting.Labels, int]
HALF = (0x7FFF, 0x7C00, 0)
SINGLE = (0x7FFFFFFF, 0x7F800000, 16)
"""Bits below the sign, key of +inf, bits below a bin."""


def prepare(planes: PlaneBatch) -> Prepared:
    """The kernels' view of a batch's labels, made once for all threads."""
    fields = numba_counting.Labels._fields
    return numba_counting.Labels(**{name: constant(getattr(planes, name)) for name in fields}), planes.most_planes


def mask_maps(
    maps: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    bits: NDArray[np.uint64],
) -> None:
    """See kernels.mask_maps."""
    numba_masks.mask_maps(
        constant(maps.reshape(len(maps), -1).view(np.int32)),
        constant(thresholds.view(np.int32)),
        constant(thresholds),
        constant(keys),
        bool(or_equal),
        numba_masks.axis_of(rows),
        numba_masks.axis_of(columns),
        numba_masks.scratch_for(rows, columns),
        bits,
    )


def count_maps(
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    keys16: NDArray[np.int16],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    prepared: Prepared,
    unit_begin: int,
    unit_end: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
) -> None:
    """See kernels.count_maps; units unit_begin..unit_end-1."""
    labels, most_planes = prepared
    bounds = constant(thresholds.view(np.int32)), constant(thresholds), constant(keys)
    rest = (
        bool(or_equal),
        numba_masks.axis_of(rows),
        numba_masks.axis_of(columns),
        labels,
        unit_begin,
        unit_end,
        numba_masks.scratch_for(rows, columns),
        np.zeros(rows.n_pixels * words_of(columns.n_pixels), np.uint64),
        np.zeros(most_planes + 1, np.int64),
        counters,
        chance,
        active,
    )
    flat = maps.reshape(*maps.shape[:2], -1)
    if maps.dtype == np.float16:
        numba_counting.count_half(constant(flat.view(np.int16)), *bounds, constant(keys16), *rest)
    else:
        numba_counting.count_single(constant(flat.view(np.int32)), *bounds, *rest)


def count_masks(
    masks: NDArray[np.uint64], n_rows: int, prepared: Prepared, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    """See kernels.count_masks."""
    labels, most_planes = prepared
    count = np.zeros(most_planes + 1, np.int64)
    numba_counting.count_masks(constant(masks), n_rows, labels, count, counters, chance)


class Scratch(threading.local):
    """What an image is looked through with; a thread keeps its own from image to image."""

    def __init__(self) -> None:
        self.room = 64
        self.tables = np.full((2, N_NUMBERS), numba_planes.UNSEEN, np.int32)
        self.counts = np.zeros(numba_planes.N_COUNTS + 2 * numba_planes.PALETTE, np.int64)
        self.pixels = np.zeros(64 + numba_planes.PALETTE, np.uint16)
        self.planes = np.zeros((0, 0), np.uint64)
        self.lists = np.zeros((numba_planes.N_LISTS, 0), np.int32)
        self.long_lists = np.zeros((numba_planes.N_LONG_LISTS, 0), np.int64)

    def reserve(self, n_words: int, n_others: int) -> None:
        """Room for `room` planes, and for so many entries more in the lists."""
        stride = 8 * (-(-n_words // 8) | 1)  # even, planes one after the other would share sets of the cache
        if self.planes.shape != (self.room, stride):
            self.planes = np.empty((self.room, stride), np.uint64)
        if (most := self.room + n_others) > self.lists.shape[1]:
            self.lists = np.empty((len(self.lists), most), np.int32)
            self.long_lists = np.empty((len(self.long_lists), most), np.int64)


scratch = Scratch()


def label_planes(
    layers: list[NDArray[np.uint16]],
    whole: list[int],
    height: int,
    width: int,
    column_of: NDArray[np.int32],
    category: NDArray[np.int32],
    ignore: NDArray[np.int32],
    as_set: bool,
    touch: bool,
    labelled_only: bool,
) -> LabelIndex:
    """See kernels.label_planes."""
    n_words, category_pixels = height * words_of(width), np.zeros(len(ignore), np.int64)
    addresses, numbers = np.array(list(map(numba_planes.address_of, layers)), np.int64), np.array(whole, np.int32)
    rules = constant(column_of), constant(category), constant(ignore), bool(as_set), bool(touch), bool(labelled_only)
    while True:
        scratch.reserve(n_words, len(whole) + len(ignore) + 1)
        planes, lists, long_lists = scratch.planes, scratch.lists, scratch.long_lists
        state = planes, scratch.tables, long_lists, lists, scratch.counts, scratch.pixels, category_pixels
        if numba_label_rows.index_labels(addresses, numbers, *rules, height, width, *state):
            break
        scratch.room *= 2
    n_laid, n_whole, n_present = scratch.counts[numba_planes.N_LAID : numba_planes.N_COUNTS].tolist()
    words = np.empty((n_words, n_laid), np.uint64)
    numba_planes.lay_planes(planes, long_lists[numba_planes.ORDER], words)
    return (
        words,
        lists[numba_planes.PLANE_ROW, :n_laid].copy(),
        lists[numba_planes.TOUCH_ROW, :n_laid].copy(),
        lists[numba_planes.WHOLE_ROW, :n_whole].copy(),
        lists[numba_planes.PRESENT_ROW, :n_present].copy(),
        long_lists[numba_planes.PRESENT_AREA, :n_present].copy(),
        category_pixels,
    )


def update_bins(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    above: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> tuple[int, int]:
    """See csrc/_tail.pyx."""
    values, form = (half.view(np.int16), HALF) if half is not None else (_signed(single), SINGLE)
    state = counts, extremes, page_of, pages, vacant, n_vacant, above, bound, highest
    last = np.zeros(LANES, values.dtype)
    unit, n_vacant = numba_tail.update_bins(constant(values), last, *form, unit, capacity, *state)
    return unit, n_vacant


def update_buffer(
    single: NDArray[np.uint32],
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    values: NDArray[np.int32],
    filled: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None:
    """See csrc/_tail.pyx."""
    last = np.zeros(LANES, np.int32)
    numba_tail.update_buffer(_signed(single), last, capacity, counts, extremes, values, filled, bound, highest)


def update_histogram(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    highest: NDArray[np.int32],
) -> tuple[int, int]:
    """See csrc/_tail.pyx."""
    values, form = (half.view(np.int16), HALF) if half is not None else (_signed(single), SINGLE)
    state = counts, extremes, page_of, pages, vacant, n_vacant, highest, np.zeros(64, np.int64)
    last = np.zeros(LANES, values.dtype)
    unit, n_vacant = numba_tail.update_histogram(constant(values), last, *form, unit, *state)
    return unit, n_vacant


def collect(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    slot: int,
    unit: NDArray[np.int32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    counts: NDArray[np.int64],
    pool: NDArray[np.int64],
    filled: int,
) -> tuple[int, int]:
    """See csrc/_tail.pyx."""
    values, form = (half.view(np.int16), HALF) if half is not None else (_signed(single), SINGLE)
    last = np.zeros(LANES, values.dtype)
    slot, filled = numba_tail.collect(constant(values), last, *form[:2], slot, unit, low, high, counts, pool, filled)
    return slot, filled


def update_sketch(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit_begin: int,
    unit_end: int,
    seed: int,
    amounts: NDArray[np.int64],
    fill: NDArray[np.int64],
    turn: NDArray[np.int64],
    rows: NDArray[np.int32],
    pending: NDArray[np.int32],
    n_pending: int,
    coins: NDArray[np.uint32],
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None:
    """See csrc/_sketch.pyx."""
    values, form = (half.view(np.int16), HALF) if half is not None else (_signed(single), SINGLE)
    plan = constant(amounts), constant(fill), constant(turn)
    gulp = numba_sketch.GULP
    scratch = (
        np.zeros((3, len(fill)), np.int64),
        np.zeros((4, rows.shape[1] + gulp), np.int32),
        np.zeros(2 * gulp + numba_sketch.COUNTS, np.uint32),
    )
    state = rows, pending, n_pending, coins, counts, extremes, highest
    numba_sketch.update_sketch(
        constant(values), np.zeros(LANES, values.dtype), *form[:2], unit_begin, unit_end, np.uint64(seed), *plan,
        *state, *scratch,
    )  # fmt: skip


def _signed(single: NDArray[np.uint32] | None) -> NDArray[np.int32]:
    assert single is not None
    return constant(single.view(np.int32))
