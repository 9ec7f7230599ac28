"""Masks and counters of a layer: ns per map of one unit on one image."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import image_planes

from .cases import CASES, data_of
from .contenders import CONTENDERS, OURS


@pytest.mark.benchmark(min_rounds=3, max_time=0.4, warmup=False)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_count(benchmark, contender, case):
    try:
        count = CONTENDERS[contender](case)
    except ImportError as error:
        pytest.skip(str(error))
    check(count(), case, exactly=contender in OURS)
    benchmark.group = f"count {case}"
    benchmark(count)
    benchmark.extra_info.update(
        contender=contender, n=case.n_maps, unit="map", note=f"active maps {data_of(case).active_share:.0%}"
    )


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
        expected = CONTENDERS["cython"](case)()
        difference = np.abs(rows - expected)
        assert (difference <= 100 + expected // 100).all()
        assert difference.sum() <= expected.sum() / 1000


@pytest.mark.benchmark(min_rounds=3, max_time=0.4, warmup=False)
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
