"""Maps -> masks -> counters, and label maps -> planes: the loops of csrc/count.h and csrc/_planes.pyx."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numba_bits import ahead, counts_of, load, pointer, popcount64, store
from .numba_jit import inlined, jit
from .numba_masks import (
    any_above,
    any_number_above,
    axis_pointers,
    find_active,
    load_half,
    load_single,
    mask_map,
    scratch_pointers,
)

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


class ImageLabels(NamedTuple):
    """The labels of one image, by pointers."""

    planes: Any
    """(H * words, n_planes)"""
    plane_row: Any
    touch_row: Any
    whole_row: Any
    present_row: Any
    present_area: Any
    n_planes: int
    n_whole: int
    n_present: int


@inlined
def labels_of(labels, image):
    """The labels of one image."""
    plane, whole, present = labels.plane_ptr[image], labels.whole_ptr[image], labels.present_ptr[image]
    return ImageLabels(
        ahead(pointer(labels.words), labels.word_ptr[image]),
        ahead(pointer(labels.plane_row), plane),
        ahead(pointer(labels.touch_row), plane),
        ahead(pointer(labels.whole_row), whole),
        ahead(pointer(labels.present_row), present),
        ahead(pointer(labels.present_area), present),
        labels.plane_ptr[image + 1] - plane,
        labels.whole_ptr[image + 1] - whole,
        labels.present_ptr[image + 1] - present,
    )


@inlined
def count_words(bits, words, extent, labels, count):
    """count[p] = pixels that the mask (H, words) shares with plane p of the image; returns the mask's area."""
    y_begin, y_end, word_begin, word_end = extent
    n_planes = labels.n_planes
    area = 0
    for p in range(n_planes):
        count[p] = 0
    for y in range(y_begin, y_end):
        for q in range(word_begin, word_end):
            at = y * words + q
            word = bits[at]
            if word == 0:
                continue
            area += popcount64(word)
            planes = ahead(labels.planes, at * n_planes)
            whole = n_planes & -8
            for p in range(0, whole, 8):
                store(ahead(count, p), load(ahead(count, p)) + counts_of(load(ahead(planes, p)) & word))
            for p in range(whole, n_planes):
                count[p] += popcount64(word & planes[p])
    return area


@inlined
def add_counts(labels, count, area, n_units, unit, counters, chance):
    """Counts of one mask into the rows that its image's labels feed."""
    touched = -1
    for p in range(labels.n_planes):
        if count[p] == 0:
            continue
        counters[labels.plane_row[p] * n_units + unit] += count[p]
        touch = labels.touch_row[p]
        if touch != touched and touch >= 0:  # planes of a category stand together
            touched = touch
            counters[touch * n_units + unit] += area
    for s in range(labels.n_whole):
        counters[labels.whole_row[s] * n_units + unit] += area
    for s in range(labels.n_present):
        chance[labels.present_row[s] * n_units + unit] += area * labels.present_area[s]


@inlined
def clear(bits, words, extent):
    """Zero where the mask may have bits."""
    y_begin, y_end, word_begin, word_end = extent
    for y in range(y_begin, y_end):
        for q in range(word_begin, word_end):
            bits[y * words + q] = 0


@inlined
def count_map(
    unit, n_units, bound_bits, bound, key, or_equal, rows, columns, labels, scratch, bits, count, counters, chance,
    active,
):  # fmt: skip
    """The map in the scratch; bits (H, words) of zeros, left as zeros."""
    largest = find_active(key, rows, columns, scratch)
    if largest > INFINITY_KEY and not any_number_above(key, rows, columns, scratch):
        return
    active[unit] += 1
    extent = mask_map(largest, bound_bits, bound, or_equal, rows, columns, scratch, bits)
    if extent[0] >= extent[1]:
        return
    words = (columns.n_pixels + 63) >> 6
    area = count_words(bits, words, extent, labels, count)
    if area:
        add_counts(labels, count, area, n_units, unit, counters, chance)
    clear(bits, words, extent)


@jit
def count_half(
    maps, bounds_bits, bounds, keys, keys16, or_equal, rows, columns, labels, begin, end, scratch, bits, count,
    counters, chance, active,
):  # fmt: skip
    """maps (B, K, h * w): float16 bits, signed."""
    n_images, n_units, n = maps.shape
    rows, columns, scratch = axis_pointers(rows), axis_pointers(columns), scratch_pointers(scratch)
    bounds_bits, bounds, keys, keys16 = pointer(bounds_bits), pointer(bounds), pointer(keys), pointer(keys16)
    bits, count, counters, chance = pointer(bits), pointer(count), pointer(counters), pointer(chance)
    active, maps, n_left = pointer(active), pointer(maps), maps.size
    for image in range(n_images):
        image_labels = labels_of(labels, image)
        for k in range(begin, end):
            at = (image * n_units + k) * n
            half = ahead(maps, at)
            if any_above(half, n, n_left - at, keys16[k], scratch.last_half):
                load_half(half, n_left - at, rows, columns, scratch)
                count_map(
                    k, n_units, bounds_bits[k], bounds[k], keys[k], or_equal, rows, columns, image_labels, scratch,
                    bits, count, counters, chance, active,
                )  # fmt: skip


@jit
def count_single(
    maps, bounds_bits, bounds, keys, or_equal, rows, columns, labels, begin, end, scratch, bits, count, counters,
    chance, active,
):  # fmt: skip
    """maps (B, K, h * w): float32 bits, signed."""
    n_images, n_units, n = maps.shape
    rows, columns, scratch = axis_pointers(rows), axis_pointers(columns), scratch_pointers(scratch)
    bounds_bits, bounds, keys = pointer(bounds_bits), pointer(bounds), pointer(keys)
    bits, count, counters, chance = pointer(bits), pointer(count), pointer(counters), pointer(chance)
    active, maps, n_left = pointer(active), pointer(maps), maps.size
    for image in range(n_images):
        image_labels = labels_of(labels, image)
        for k in range(begin, end):
            at = (image * n_units + k) * n
            single = ahead(maps, at)
            if any_above(single, n, n_left - at, keys[k], scratch.last_single):
                load_single(single, n_left - at, rows, columns, scratch)
                count_map(
                    k, n_units, bounds_bits[k], bounds[k], keys[k], or_equal, rows, columns, image_labels, scratch,
                    bits, count, counters, chance, active,
                )  # fmt: skip


@jit
def count_masks(masks, n_rows, labels, count, counters, chance):
    """masks (B, K, H * words)"""
    n_images, n_units, n_words = masks.shape
    words = n_words // n_rows
    extent = (0, n_rows, 0, words)
    masks, count, counters, chance = pointer(masks), pointer(count), pointer(counters), pointer(chance)
    for image in range(n_images):
        image_labels = labels_of(labels, image)
        for k in range(n_units):
            mask = ahead(masks, (image * n_units + k) * n_words)
            area = count_words(mask, words, extent, image_labels, count)
            if area:
                add_counts(image_labels, count, area, n_units, k, counters, chance)
