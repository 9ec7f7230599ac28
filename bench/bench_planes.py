"""Label maps to planes: what an image costs before anything is counted on it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.kernels import available_backends
from streamdissect.kernels.reference import pack
from streamdissect.measure.planes import image_planes

from .cases import CASES, FIRST, data_of, draw_labels

N_IMAGES = 8
GRIDS = ((112, 112), (224, 224))
Labels = tuple[list[tuple[int, np.ndarray]], list[tuple[int, int]]]


@functools.cache
def six_maps(grid: tuple[int, int]) -> list[Labels]:
    """Images with all of six label maps."""
    drawn = (draw_labels(np.random.default_rng((7, seed)), *grid) for seed in itertools.count())
    return list(itertools.islice((labels for labels in drawn if len(labels[0]) == 6), N_IMAGES))


def thinned(labels: Labels, n_labels: int) -> Labels:
    """The labels of an image's maps but for some, so many of them."""
    layers, whole = labels
    found = np.unique([layer for _, layer in layers])[1:]
    kept = np.random.default_rng(0).permutation(found)[:n_labels]
    return [(category, np.where(np.isin(layer, kept), layer, 0)) for category, layer in layers], whole


def with_kernels(backend: str, grid: tuple[int, int], images: list[Labels]) -> Callable[[], list[np.ndarray]]:
    """Planes with everything that the counters need besides."""
    rules = data_of(CASES[0]).rules
    return lambda: [image_planes(grid, *labels, rules, backend=backend).words for labels in images]


def comparing(grid: tuple[int, int], images: list[Labels]) -> Callable[[], list[np.ndarray]]:
    """Planes alone, by numpy: each map is compared with each of its numbers."""

    def build() -> list[np.ndarray]:
        built = []
        for layers, whole in images:
            planes: dict[int, np.ndarray] = {}
            for _, layer in layers:
                for number in np.unique(layer).tolist():
                    if number and number not in [n for _, n in whole]:
                        bits = pack(layer == number)
                        planes[number] = planes[number] | bits if number in planes else bits
            ordered = sorted(planes, key=lambda number: np.searchsorted(FIRST, number, "right"))
            built.append(np.column_stack([planes[number] for number in ordered]))
        return built

    return build


CONTENDERS = {
    **{name: functools.partial(with_kernels, name) for name in ("cython", "numba") if name in available_backends()},
    "numpy comparisons": comparing,
}


@pytest.mark.benchmark(min_rounds=3, max_time=0.2, warmup=False)
@pytest.mark.parametrize("n_labels", [16, None])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_planes(benchmark, contender, grid, n_labels):
    images = six_maps(grid)
    if n_labels:
        images = [thinned(labels, n_labels) for labels in images]
    build = CONTENDERS[contender](grid, images)
    found, expected = build(), comparing(grid, images)()
    for words, others in zip(found, expected, strict=True):
        assert_array_equal(words, others)
    labels = np.mean([words.shape[1] for words in found])
    benchmark.group = f"label planes {grid[0]}x{grid[1]}, six maps, {labels:.0f} labels"
    benchmark(build)
    n_bytes = sum(layer.nbytes for layers, _ in images for _, layer in layers)
    benchmark.extra_info.update(contender=contender, n=len(images), unit="image", note="", bytes=n_bytes)
