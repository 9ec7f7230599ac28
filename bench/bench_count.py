"""Masks and counters of a layer: ns per map of one unit on one image."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from streamdissect.kernels import threshold_keys
from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import image_planes, plane_batch

from . import street
from .cases import CASES, STREET, Case, data_of
from .contenders import CONTENDERS, OURS, grid_sampling, kernels_of

LARGE_GRIDS = [Case("sparse 128 x 28x28", 8, 128, (28, 28)), Case("sparse 64 x 56x56", 8, 64, (56, 56))]
LOOP = {name: make for name, make in CONTENDERS.items() if not name.startswith("torch")}
PAIRS = [(name, case) for cases, some in ((CASES, CONTENDERS), (LARGE_GRIDS, LOOP)) for case in cases for name in some]
"""Large grids without torch: enlarging takes it as long whatever the grid."""
PAIRS += [("torch, grid_sample", CASES[0])]
PAIRS += [(name, STREET) for name in CONTENDERS if name != "torch" and street.is_there()]


def first_available():
    """The fastest of ours that there is."""
    for contender in OURS:
        try:
            kernels_of(contender)
        except ImportError:
            continue
        return contender
    raise AssertionError("Numba is always there")


def note_of(case):
    """What decides the speed, and what is read."""
    n_bytes = 2 * case.grid[0] * case.grid[1]
    return f"active maps {data_of(case).active_share:.0%}, {n_bytes} bytes each"


def describe(benchmark, case, contender, n, note=""):
    """What is printed, and what is kept with the figures."""
    benchmark.extra_info.update(
        contender=contender,
        n=n,
        unit="map",
        note=note or note_of(case),
        grid=case.grid,
        mask=case.mask,
        n_images=case.n_images,
        n_units=case.n_units,
        map_bytes=2 * case.grid[0] * case.grid[1],
    )


@pytest.mark.benchmark(min_rounds=3, max_time=0.2, warmup=False)
@pytest.mark.parametrize("contender, case", PAIRS, ids=str)
def test_count(benchmark, contender, case):
    try:
        count = (CONTENDERS | {"torch, grid_sample": grid_sampling})[contender](case)
    except ImportError as error:
        pytest.skip(str(error))
    check(count(), case, exactly=contender in OURS)
    benchmark.group = f"count {case}"
    benchmark(count)
    describe(benchmark, case, contender, case.n_maps)


def check(rows, case, exactly):
    """Ours equals the definition on some units; float32 contenders equal ours but for pixels at the threshold.

    T is a value of the data, so on a map that attains it a few pixels are exactly at T: whether float32 puts them above
    it is chance. 1 % of a counter and 100 pixels leave room for those and for no other mistake; summed over all
    counters, 0.1 %.
    """
    if exactly:
        data = data_of(case)
        active = (data.maps > data.thresholds[:, None, None]).any(axis=(2, 3)).sum(axis=0)
        units = np.argsort(active, kind="stable")[[-1, -2, 0]]
        reference = Counters(len(units), data.rules.n_concepts, data.rules.n_categories)
        reference.add(data.maps[:, units], data.thresholds[units], data.planes, data.weights, backend="reference")
        assert reference.unit_area_all[:2].all()
        assert_array_equal(rows[:, units], reference.rows)
    else:
        expected = CONTENDERS[first_available()](case)()
        difference = np.abs(rows - expected)
        assert (difference <= 100 + expected // 100).all()
        assert difference.sum() <= expected.sum() / 1000


COPIES = 32
"""Of the maps of a case, one after the other: 88 MB of float32, more than caches hold."""
READ_FLOATS = 1 << 26
"""256 MB."""


def prepared(case, copies, dtype):
    """(maps, thresholds, keys, weights, labels) of a case, images repeated."""
    data = data_of(case)
    maps = np.tile(data.maps.astype(dtype), (copies, 1, 1, 1))
    return maps, threshold_keys(data.thresholds, False), data.weights[case.mask], plane_batch(data.planes * copies)


@pytest.mark.benchmark(min_rounds=3, max_time=0.2, warmup=False)
@pytest.mark.parametrize("contender", (*OURS, "sum of a large float32 array"))
def test_count_from_memory(benchmark, contender):
    """float32 maps that no cache holds, and how long it takes merely to read as many bytes."""
    case = CASES[0]
    benchmark.group = f"count {case}, float32 from memory"
    if contender in OURS:
        try:
            kernels, take_level = kernels_of(contender)
        except ImportError as error:
            pytest.skip(str(error))
        maps, bounds, weights, planes = prepared(case, COPIES, np.float32)
        labels, rules = kernels.prepare(planes), data_of(case).rules
        shapes = (rules.n_rows, case.n_units), (rules.n_concepts, case.n_units), case.n_units
        counters = [np.zeros(shape, np.int64) for shape in shapes]
        take_level()
        kernels.count_maps(maps, *bounds, False, *weights, labels, 0, case.n_units, *counters)
        assert_array_equal(counters[0], COPIES * CONTENDERS[first_available()](case)())
        take_level()
        benchmark(kernels.count_maps, maps, *bounds, False, *weights, labels, 0, case.n_units, *counters)
        n = COPIES * case.n_maps
    else:
        values = torch.ones(READ_FLOATS)
        assert benchmark(torch.sum, values) == READ_FLOATS
        n = READ_FLOATS / (case.grid[0] * case.grid[1])
    describe(benchmark, case, contender, n, "as many bytes are read")


@pytest.mark.benchmark(min_rounds=5, max_time=0.3, warmup=False)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("level", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("settles", [True, False], ids=["exact", "filter alone"])
def test_what_exactness_costs(benchmark, settles, level, case):
    """Counting as it is, and with the float32 filter alone, whose masks are nearly the same."""
    try:
        kernels, take_level = kernels_of(f"cython {level}")
    except ImportError as error:
        pytest.skip(str(error))
    maps, bounds, weights, planes = prepared(case, 1, np.float16)
    (labels, most_planes), rules = kernels.prepare(planes), data_of(case).rules
    shapes = (rules.n_rows, case.n_units), (rules.n_concepts, case.n_units), case.n_units
    counters = [np.zeros(shape, np.int64) for shape in shapes]
    half = maps.reshape(*maps.shape[:2], -1).view(np.uint16)
    axes = [kernels._axis(axis) for axis in weights]
    margin = kernels._counting.MARGIN if settles else 0.0
    arguments = half, None, *bounds, False, *axes, labels, most_planes, 0, case.n_units, *counters, margin
    take_level()
    kernels._counting.count_maps(*arguments)
    expected = CONTENDERS[first_available()](case)()
    difference = np.abs(counters[0] - expected)
    assert not difference.any() if settles else difference.sum() <= expected.sum() / 1000
    benchmark.group = f"exactness at {level}, {case}"
    take_level()
    benchmark(kernels._counting.count_maps, *arguments)
    describe(benchmark, case, "exact" if settles else "filter alone", case.n_maps)


@pytest.mark.benchmark(min_rounds=3, max_time=0.2, warmup=False)
def test_label_planes(benchmark):
    """From label maps to bit planes, once for each image and then cached."""
    data = data_of(CASES[0])
    labels = list(zip(data.layers, data.whole, strict=True))

    def build():
        return [image_planes(CASES[0].mask, *one, data.rules) for one in labels]

    for built, expected in zip(build(), data.planes, strict=True):
        assert_array_equal(built.words, expected.words)
    benchmark.group = "label planes of an image, 112x112"
    benchmark(build)
    benchmark.extra_info.update(contender="cython", n=len(labels), unit="image", note="")
