"""The compiled kernels behind the one calling convention that all backends share."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from . import _counting, _planes, _sketch, _tail
from .geometry import AxisWeights, PlaneBatch

name = "cython"
compiler = _counting.compiler
has_clones = _counting.has_clones
level = _counting.level
levels = _counting.levels
use_level = _counting.use_level
label_planes = _planes.label_planes
update_bins = _tail.update_bins
update_buffer = _tail.update_buffer
update_histogram = _tail.update_histogram
collect = _tail.collect
update_sketch = _sketch.update_sketch

Prepared = tuple[_counting.Labels, int]

if asked := os.environ.get("STREAMDISSECT_SIMD"):
    if asked not in levels():
        raise BadInput(
            "STREAMDISSECT_SIMD", asked, f"one of {', '.join(levels())}", "unset it: the fastest of them is taken"
        )
    use_level(asked)


def _axis(axis: AxisWeights) -> _counting.Axis:
    return _counting.Axis(
        axis.n_source,
        axis.n_pixels,
        axis.first,
        axis.second,
        axis.weight,
        axis.numerator,
        axis.denominator,
        axis.start,
        axis.begin,
        axis.end,
    )


def _never_empty(array: NDArray[Any]) -> NDArray[Any]:
    """The kernels take addresses of first elements; an image may have no plane at all."""
    return array if array.size else np.zeros(1, array.dtype)


def prepare(planes: PlaneBatch) -> Prepared:
    """The kernels' view of a batch's labels, made once for all threads."""
    labels = _counting.Labels(
        _never_empty(planes.words),
        planes.word_ptr,
        planes.plane_ptr,
        _never_empty(planes.plane_row),
        _never_empty(planes.touch_row),
        planes.whole_ptr,
        _never_empty(planes.whole_row),
        planes.present_ptr,
        _never_empty(planes.present_row),
        _never_empty(planes.present_area),
    )
    return labels, planes.most_planes


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
    _counting.mask_maps(maps.reshape(len(maps), -1), thresholds, keys, or_equal, _axis(rows), _axis(columns), bits)


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
    flat = maps.reshape(*maps.shape[:2], -1)
    half = flat.view(np.uint16) if flat.dtype == np.float16 else None
    labels, most_planes = prepared
    _counting.count_maps(
        half,
        None if half is not None else flat,
        thresholds,
        keys,
        keys16,
        or_equal,
        _axis(rows),
        _axis(columns),
        labels,
        most_planes,
        unit_begin,
        unit_end,
        counters,
        chance,
        active,
    )


def count_masks(
    masks: NDArray[np.uint64], n_rows: int, prepared: Prepared, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    """See kernels.count_masks."""
    labels, most_planes = prepared
    _counting.count_masks(masks, n_rows, labels, most_planes, counters, chance)
