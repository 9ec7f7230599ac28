"""Counting on the host alone, and the forms of PyTorch: on its device, or feeding the host; ns per map.

On the CPU the forms only cost: there is no second device whose work could be hidden. That is what the choice is for,
whose time is given, too. With CUDA the maps come from the host, as they do from a store, or lie on the device, as they
do behind a network.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from streamdissect.kernels import host_backend, kernel_backend, threshold_keys
from streamdissect.kernels.choosing import FORMS, Chooser, Way, ways_of
from streamdissect.measure.planes import plane_batch

from .bench_count import describe, note_of
from .cases import CASES, data_of

HOST = Way()
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
PLACES = ["cpu", pytest.param("cuda, from the host", marks=CUDA), pytest.param("cuda", marks=CUDA)]
CASES = [CASES[0], CASES[1], CASES[3]]


def counting(case):
    """(count, arguments of a chooser): counts in a way, and returns the counters, which start at 0 each time."""
    data = data_of(case)
    rules, planes, axes = data.rules, plane_batch(data.planes), data.weights[case.mask]
    shapes = (rules.n_rows, case.n_units), (rules.n_concepts, case.n_units), case.n_units
    added = [np.zeros(shape, np.int64) for shape in shapes]

    def count(maps, thresholds, rows, columns, planes, *added, backend, device, form):
        module, bounds = kernel_backend(backend), threshold_keys(thresholds, False)
        named = {} if form is None else {"form": form, "threads": 1}
        prepared = module.prepare(planes, **({} if device is None else {"device": device}))
        if isinstance(maps, torch.Tensor) and form is None:
            maps = maps.numpy(force=True)
        module.count_maps(maps, *bounds, False, rows, columns, prepared, 0, case.n_units, *added, **named)

    return count, (data.thresholds, *axes, planes, *added)


def maps_at(case, place):
    """Where they are before they are counted."""
    maps = data_of(case).maps
    return torch.tensor(maps, device="cuda") if place == "cuda" else maps


def expected_of(case):
    """Counters, chance, active maps, by the kernels of the host."""
    count, arrays = counting(case)
    count(data_of(case).maps, *arrays, **HOST._asdict())
    return arrays[-3:]


@pytest.mark.benchmark(min_rounds=3, max_time=0.3, warmup=False)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("contender", ["host alone", *FORMS])
def test_feed(benchmark, contender, place, case):
    count, arrays = counting(case)
    way = HOST if contender == "host alone" else Way("torch", place.partition(",")[0], contender)
    maps = maps_at(case, place)
    count(maps, *arrays, **way._asdict())
    for found, expected in zip(arrays[-3:], expected_of(case), strict=True):
        assert_array_equal(found, expected)
    benchmark.group = f"feed {case}, {place}"
    benchmark(count, maps, *arrays, **way._asdict())
    describe(benchmark, case, contender, case.n_maps, f"{note_of(case)}; the host's are {host_backend().name}")


@pytest.mark.benchmark(min_rounds=1, max_time=0.2, warmup=False)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_choice(benchmark, place, case):
    """The choice among all of these, as it is made once for a layer."""
    count, arrays = counting(case)
    maps, ways = maps_at(case, place), (HOST, *ways_of("torch", place.partition(",")[0]))
    benchmark.group = f"choice {case}, {place}"
    chosen = benchmark(lambda: Chooser(ways).way(count, maps, *arrays))
    assert chosen in ways and not any(array.any() for array in arrays[-3:])
    describe(benchmark, case, "chooser", 1, f"chosen: {chosen.form or 'host alone'}")
    benchmark.extra_info["unit"] = "choice"
