"""kernels.reference behind the one calling convention that all backends share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import reference, reference_planes, reference_sketch, reference_tail
from .geometry import AxisWeights, PlaneBatch

name = "reference"
label_planes = reference_planes.label_planes
update_bins = reference_tail.update_bins
update_buffer = reference_tail.update_buffer
update_histogram = reference_tail.update_histogram
collect = reference_tail.collect
update_sketch = reference_sketch.update_sketch


def prepare(planes: PlaneBatch) -> PlaneBatch:
    """Nothing to prepare."""
    return planes


def mask_maps(
    maps: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    bits: NDArray[np.uint64],
) -> None:
    """See kernels.mask_maps; keys belong to the fast backends."""
    reference.mask_maps(maps, thresholds, rows, columns, or_equal, bits)


def count_maps(
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    keys16: NDArray[np.int16],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    prepared: PlaneBatch,
    unit_begin: int,
    unit_end: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
) -> None:
    """See kernels.count_maps; units unit_begin..unit_end-1."""
    units = slice(unit_begin, unit_end)
    n_words = prepared.shape[0] * -(-prepared.shape[1] // 64)
    masks = np.zeros((len(maps), unit_end - unit_begin, n_words), np.uint64)
    for image, bits in zip(maps, masks, strict=True):
        reference.mask_maps(image[units].astype(np.float32), thresholds[units], rows, columns, or_equal, bits)
    reference.count_masks(masks, prepared, counters[:, units], chance[:, units])
    bound = thresholds[units, None, None]
    passed = maps[:, units] >= bound if or_equal else maps[:, units] > bound
    active[units] += passed.any(axis=(2, 3)).sum(axis=0)


def count_masks(
    masks: NDArray[np.uint64], n_rows: int, prepared: PlaneBatch, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    """See kernels.count_masks."""
    reference.count_masks(masks, prepared, counters, chance)
