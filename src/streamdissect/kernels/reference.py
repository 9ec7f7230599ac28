"""The definitions in numpy and Python integers, written for reading. Every other backend equals them bit for bit.

They use other means than the fast kernels (whole matrices of Python integers, booleans), so that one mistake cannot
hide in both.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .geometry import AxisWeights, PlaneBatch

FLOAT_SCALE = 2**149
"""Every finite float32 is an integer over this."""


def interpolation_matrix(axis: AxisWeights) -> NDArray[np.object_]:
    """(n_pixels, n_source) integer weights over `axis.denominator`."""
    matrix = np.zeros((axis.n_pixels, axis.n_source), object)
    for j in range(axis.n_pixels):
        q = int(axis.numerator[j])
        matrix[j, axis.first[j]] += axis.denominator - q
        if q:
            matrix[j, axis.second[j]] += q
    return matrix


def mask_map(
    values: NDArray[np.floating], threshold: float, rows: AxisWeights, columns: AxisWeights, or_equal: bool
) -> NDArray[np.bool_]:
    """(h, w) map -> (H, W) mask: is the exactly interpolated value above the threshold? (methods 2.5)"""
    top, left = interpolation_matrix(rows), interpolation_matrix(columns)
    if np.isnan(threshold):
        return np.zeros((rows.n_pixels, columns.n_pixels), bool)

    def reached(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pixels to which one of the cells contributes with a weight other than zero."""
        return np.asarray((top @ cells.astype(object) @ left.T) > 0, bool)

    finite = np.isfinite(values)
    scaled = np.vectorize(lambda v: int(Fraction(float(v)) * FLOAT_SCALE), otypes=[object])
    integers = scaled(np.where(finite, values, 0))
    numerator = top @ integers @ left.T
    if np.isinf(threshold):
        mask = np.full(numerator.shape, threshold < 0)
    else:
        bound = int(Fraction(float(threshold)) * FLOAT_SCALE) * rows.denominator * columns.denominator
        mask = np.asarray(numerator >= bound if or_equal else numerator > bound, bool)
    plus, minus, nan = reached(np.isposinf(values)), reached(np.isneginf(values)), reached(np.isnan(values))
    mask[plus] = threshold < np.inf or or_equal
    mask[minus] = or_equal and threshold == -np.inf
    mask[nan | (plus & minus)] = False
    return mask


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(H, W) booleans -> (H * words,) mask words."""
    padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % 64)))
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64).ravel()


def unpack(words: NDArray[np.uint64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Inverse of `pack`, for one mask or one plane."""
    lines = np.ascontiguousarray(words).astype("<u8").reshape(shape[0], -1)
    return np.unpackbits(lines.view(np.uint8), axis=1, bitorder="little")[:, : shape[1]].astype(bool)


def mask_maps(
    maps: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    rows: AxisWeights,
    columns: AxisWeights,
    or_equal: bool,
    bits: NDArray[np.uint64],
) -> None:
    """bits[i] = mask of maps[i], (h, w), at thresholds[i]."""
    for i, values in enumerate(maps):
        bits[i] = pack(mask_map(values, float(thresholds[i]), rows, columns, or_equal))


def count_masks(
    masks: NDArray[np.uint64], planes: PlaneBatch, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    """Add what the masks (B, K, H * words) share with the labels of their image (methods 3.4)."""
    for i, image in enumerate(masks):
        p, w, c = (slice(ptr[i], ptr[i + 1]) for ptr in (planes.plane_ptr, planes.whole_ptr, planes.present_ptr))
        label_maps = [unpack(plane, planes.shape) for plane in planes.planes(i).T]
        for k, words in enumerate(image):
            mask = unpack(words, planes.shape)
            area = int(mask.sum())
            touched = set()
            for row, touch, label_map in zip(planes.plane_row[p], planes.touch_row[p], label_maps, strict=True):
                shared = int((mask & label_map).sum())
                counters[row, k] += shared
                if shared and touch >= 0:
                    touched.add(int(touch))
            for row in [*touched, *planes.whole_row[w]]:
                counters[row, k] += area
            for row, present in zip(planes.present_row[c], planes.present_area[c], strict=True):
                chance[row, k] += area * int(present)
