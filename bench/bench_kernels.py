"""Every kernel on each compiled backend, those that count at each level: how well the twins keep up, one thread.

Here the kernels stand alone; what it takes to call them in earnest is part of bench_count.py and bench_tail.py. Each
gets prepared arrays and adds to what is there, as it does for all batches of a shard but the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.kernels import available_backends, kernel_backend, threshold_keys
from streamdissect.kernels.reference_tail import keys_of
from streamdissect.measure.planes import plane_batch
from streamdissect.quantile import BinnedTail, BufferedTail, tail_rank

from .cases import CASES, Case, activations, data_of
from .contenders import OURS, kernels_of

BACKENDS = ("cython", "numba")
TAIL = Fraction(1, 200)
N_IMAGES, N_UNITS, BATCH = 1024, 32, 64
"""Of the streams that thresholds come from."""
Work = tuple[Callable[[], list[np.ndarray]], int, str]
"""What is measured, which returns its results; how many pieces of work it does; of which kind."""


def layer_of(case: Case, small: bool) -> tuple[Any, ...]:
    """Maps, thresholds, their keys, and labels of a case; `small`: of two images and sixteen units."""
    data = data_of(case)
    n_images, n_units = (2, 16) if small else (case.n_images, case.n_units)
    maps = np.ascontiguousarray(data.maps[:n_images, :n_units])
    return maps, *threshold_keys(data.thresholds[:n_units], False), plane_batch(data.planes[:n_images])


def new_counters(case: Case, n_units: int) -> list[np.ndarray]:
    """Intersections, chance level, active maps."""
    rules = data_of(case).rules
    return [np.zeros(shape, np.int64) for shape in ((rules.n_rows, n_units), (rules.n_concepts, n_units), n_units)]


def counting(case: Case, dtype: type, contender: str, small: bool) -> Work:
    """Maps to counters."""
    (kernels, take_level), weights = kernels_of(contender), data_of(case).weights[case.mask]
    maps, thresholds, keys, keys16, planes = layer_of(case, small)
    maps, labels = maps.astype(dtype), kernels.prepare(planes)
    counters = new_counters(case, maps.shape[1])

    def count() -> list[np.ndarray]:
        take_level()
        kernels.count_maps(maps, thresholds, keys, keys16, False, *weights, labels, 0, maps.shape[1], *counters)
        return counters

    return count, maps.shape[0] * maps.shape[1], "map"


def masking(case: Case, contender: str, small: bool) -> Work:
    """Maps to masks. The second time they are written over themselves."""
    (kernels, take_level), (rows, columns) = kernels_of(contender), data_of(case).weights[case.mask]
    maps, thresholds, keys, _, _ = layer_of(case, small)
    thresholds, keys = np.tile(thresholds, len(maps)), np.tile(keys, len(maps))
    maps = maps.astype(np.float32).reshape(-1, *case.grid)
    bits = np.zeros((len(maps), rows.n_pixels * -(-columns.n_pixels // 64)), np.uint64)

    def mask() -> list[np.ndarray]:
        take_level()
        kernels.mask_maps(maps, thresholds, keys, False, rows, columns, bits)
        return [bits]

    return mask, len(maps), "map"


def counting_masks(case: Case, contender: str, small: bool) -> Work:
    """Masks that exist already to counters."""
    masks = masking(case, "numba", small)[0]()[0]
    (kernels, take_level), (maps, _, _, _, planes) = kernels_of(contender), layer_of(case, small)
    masks, labels = masks.reshape(*maps.shape[:2], -1), kernels.prepare(planes)
    counters = new_counters(case, maps.shape[1])[:2]

    def count() -> list[np.ndarray]:
        take_level()
        kernels.count_masks(masks, case.mask[0], labels, *counters)
        return counters

    return count, maps.shape[0] * maps.shape[1], "map"


@functools.cache
def stream(kind: str) -> np.ndarray:
    """float16 (N, K, 13, 13)"""
    return activations(kind, N_IMAGES, N_UNITS, 13, 13)


def batches(kind: str, dtype: type, small: bool) -> list[np.ndarray]:
    """(B, K, n) each"""
    n_images = 2 * BATCH if small else N_IMAGES
    values = stream(kind)[:n_images].astype(dtype).reshape(n_images, N_UNITS, -1)
    return np.split(values, n_images // BATCH)


def streaming(make: type, kind: str, dtype: type, backend: str, small: bool) -> Work:
    """The upper tail of a stream, from its beginning."""
    blocks = batches(kind, dtype, small)
    size = sum(block.size for block in blocks)
    capacity = tail_rank(TAIL, size // N_UNITS) + 1

    def update() -> list[np.ndarray]:
        tail = make(N_UNITS, capacity, dtype, backend)
        for block in blocks:
            tail.update(block)
        return [tail.counts, tail.extremes, *tail.tail_keys(np.full(N_UNITS, capacity - 1))]

    return update, size, "value"


def collecting(kind: str, backend: str, small: bool) -> Work:
    """Values within a bracket around each unit's threshold."""
    kernels, blocks = kernel_backend(backend), batches(kind, np.float32, small)
    keys = np.sort(keys_of(np.concatenate(blocks).view(np.uint32)).swapaxes(0, 1).reshape(N_UNITS, -1), axis=1)
    rank, reach = keys.shape[1] - 1 - tail_rank(TAIL, keys.shape[1]), keys.shape[1] // 1000
    low, high = (keys[:, rank + side].astype(np.int32) for side in (-reach, reach))
    pool = np.zeros(keys.size, np.int64)

    def collect() -> list[np.ndarray]:
        counts, filled = np.zeros((3, N_UNITS), np.int64), 0
        for block in blocks:
            slots = np.arange(N_UNITS, dtype=np.int32)
            slot, filled = kernels.collect(None, block.view(np.uint32), 0, slots, low, high, counts, pool, filled)
            assert slot == N_UNITS
        return [counts, np.sort(pool[:filled])]

    return collect, keys.size, "value"


COUNTING = ("count_maps", "mask_maps", "count_masks")
WORK: dict[str, Callable[[str, bool], Work]] = {}
for case in CASES:
    WORK[f"count_maps float16, {case}"] = functools.partial(counting, case, np.float16)
    WORK[f"count_maps float32, {case}"] = functools.partial(counting, case, np.float32)
    WORK[f"mask_maps, {case}"] = functools.partial(masking, case)
    WORK[f"count_masks, {case}"] = functools.partial(counting_masks, case)
for kind in ("relu", "signed"):
    WORK[f"update_bins float16, {kind}"] = functools.partial(streaming, BinnedTail, kind, np.float16)
    WORK[f"update_bins float32, {kind}"] = functools.partial(streaming, BinnedTail, kind, np.float32)
    WORK[f"update_buffer, {kind}"] = functools.partial(streaming, BufferedTail, kind, np.float32)
    WORK[f"collect, {kind}"] = functools.partial(collecting, kind)


@functools.cache
def results(name, backend, small):
    """Of the first time; copies, for counters go on."""
    return [array.copy() for array in WORK[name](backend, small)[0]()]


@pytest.mark.benchmark(min_rounds=5, max_time=0.2, warmup=False)
@pytest.mark.parametrize(
    "name, contender", [(name, each) for name in WORK for each in (OURS if name.startswith(COUNTING) else BACKENDS)]
)
def test_kernel(benchmark, name, contender):
    """A part equals the definition, and the whole is the same on all backends."""
    try:
        kernels_of(contender)
    except ImportError as error:
        pytest.skip(str(error))
    for small, other in ((True, "reference"), (False, available_backends()[0])):
        for found, expected in zip(results(name, contender, small), results(name, other, small), strict=True):
            assert_array_equal(found, expected)
        assert any(array.any() for array in results(name, other, small))
    work, n, unit = WORK[name](contender, False)
    benchmark.group = name
    benchmark(work)
    benchmark.extra_info.update(contender=contender, n=n, unit=unit, note="")
