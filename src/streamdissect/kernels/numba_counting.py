"""Maps -> masks -> counters, and label maps -> planes: the loops of csrc/count.h and csrc/_planes.pyx."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numba_jit import jit, popcount64
from .numba_masks import any_number_above, find_active, load_half, load_single, mask_map

ALL = np.uint64(2**64 - 1)
INFINITY_KEY = 0x7F800000


class Labels(NamedTuple):
    """PlaneBatch as the kernels take it."""

    words: NDArray[np.uint64]
    word_ptr: NDArray[np.int64]
    plane_ptr: NDArray[np.int64]
    plane_row: NDArray[np.int32]
    touch_row: NDArray[np.int32]
    whole_ptr: NDArray[np.int64]
    whole_row: NDArray[np.int32]
    present_ptr: NDArray[np.int64]
    present_row: NDArray[np.int32]
    present_area: NDArray[np.int64]


@jit
def any_above(values, key, sign_mask):
    """Whether a key exceeds `key`; values are float bits, signed. NaN may pass."""
    n = len(values)
    for begin in range(0, n, 64):
        found = False
        if key >= 0:  # negative floats are negative integers, whatever their order
            for i in range(begin, min(begin + 64, n)):
                found |= values[i] > key
        else:
            for i in range(begin, min(begin + 64, n)):
                bits = np.int32(values[i])
                found |= (bits ^ ((bits >> 31) & sign_mask)) > key
        if found:
            return True
    return False


@jit
def count_words(bits, extent, labels, image, count):
    """count[p] = pixels that the mask (H, words) shares with plane p of the image; returns the mask's area."""
    y_begin, y_end, word_begin, word_end = extent
    n_planes = labels.plane_ptr[image + 1] - labels.plane_ptr[image]
    count[:n_planes] = 0
    area = 0
    for y in range(y_begin, y_end):
        for q in range(word_begin, word_end):
            word = bits[y, q]
            if word == 0:
                continue
            area += popcount64(word)
            at = labels.word_ptr[image] + (y * bits.shape[1] + q) * n_planes
            planes = labels.words[at : at + n_planes]
            for p in range(len(planes)):
                count[p] += popcount64(word & planes[p])
    return area


@jit
def add_counts(labels, image, count, area, unit, counters, chance):
    """Counts of one mask into the rows that its image's labels feed."""
    first = labels.plane_ptr[image]
    touched = -1
    for p in range(labels.plane_ptr[image + 1] - first):
        if count[p] == 0:
            continue
        counters[labels.plane_row[first + p], unit] += count[p]
        touch = labels.touch_row[first + p]
        if touch != touched and touch >= 0:  # planes of a category stand together
            touched = touch
            counters[touch, unit] += area
    for s in range(labels.whole_ptr[image], labels.whole_ptr[image + 1]):
        counters[labels.whole_row[s], unit] += area
    for s in range(labels.present_ptr[image], labels.present_ptr[image + 1]):
        chance[labels.present_row[s], unit] += area * labels.present_area[s]


@jit
def count_map(
    unit, bound_bits, bound, key, or_equal, rows, columns, labels, image, scratch, bits, count, counters, chance, active
):
    """The map in the scratch; bits (H, words) of zeros, left as zeros."""
    largest = find_active(key, scratch)
    if largest > INFINITY_KEY and not any_number_above(key, scratch):
        return
    active[unit] += 1
    extent = mask_map(largest, bound_bits, bound, or_equal, rows, columns, scratch, bits)
    y_begin, y_end, word_begin, word_end = extent
    if y_begin >= y_end:
        return
    area = count_words(bits, extent, labels, image, count)
    if area:
        add_counts(labels, image, count, area, unit, counters, chance)
    for y in range(y_begin, y_end):
        for q in range(word_begin, word_end):
            bits[y, q] = 0


@jit
def count_half(
    maps, bounds_bits, bounds, keys, keys16, or_equal, rows, columns, labels, begin, end, scratch, bits, count,
    counters, chance, active,
):  # fmt: skip
    """maps (B, K, h * w): float16 bits, signed."""
    for image in range(maps.shape[0]):
        for k in range(begin, end):
            if any_above(maps[image, k], keys16[k], 0x7FFF):
                load_half(maps[image, k], scratch)
                count_map(
                    k, bounds_bits[k], bounds[k], keys[k], or_equal, rows, columns, labels, image, scratch, bits,
                    count, counters, chance, active,
                )  # fmt: skip


@jit
def count_single(
    maps, bounds_bits, bounds, keys, or_equal, rows, columns, labels, begin, end, scratch, bits, count, counters,
    chance, active,
):  # fmt: skip
    """maps (B, K, h * w): float32 bits, signed."""
    for image in range(maps.shape[0]):
        for k in range(begin, end):
            if any_above(maps[image, k], keys[k], 0x7FFFFFFF):
                load_single(maps[image, k], scratch)
                count_map(
                    k, bounds_bits[k], bounds[k], keys[k], or_equal, rows, columns, labels, image, scratch, bits,
                    count, counters, chance, active,
                )  # fmt: skip


@jit
def count_masks(masks, labels, count, counters, chance):
    """masks (B, K, H, words)."""
    extent = (0, masks.shape[2], 0, masks.shape[3])
    for image in range(masks.shape[0]):
        for k in range(masks.shape[1]):
            area = count_words(masks[image, k], extent, labels, image, count)
            if area:
                add_counts(labels, image, count, area, k, counters, chance)


@jit
def fill_planes(layer, plane_of, planes):
    """Bits of planes (H * words, n_planes) by runs of one label."""
    height, width = layer.shape
    words = (width + 63) // 64
    for y in range(height):
        x = 0
        while x < width:
            number = layer[y, x]
            end = x + 1
            while end < width and layer[y, end] == number:
                end += 1
            plane = plane_of[number]
            if plane >= 0:
                first, last = x >> 6, (end - 1) >> 6
                for q in range(first, last + 1):
                    word = ALL
                    if q == first:
                        word &= ALL << np.uint64(x & 63)
                    if q == last:
                        word &= ALL >> np.uint64(63 - ((end - 1) & 63))
                    planes[y * words + q, plane] |= word
            x = end


@jit
def count_numbers(layer, count):
    """count[number] += its pixels."""
    height, width = layer.shape
    for y in range(height):
        x = 0
        while x < width:
            number = layer[y, x]
            end = x + 1
            while end < width and layer[y, end] == number:
                end += 1
            count[number] += end - x
            x = end
