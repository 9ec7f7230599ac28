"""What all streams promise beside their numbers: states of their own, honest bounds, clear refusals."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.quantile import (
    BinnedTail,
    BufferedTail,
    Histogram,
    KllSketch,
    Moments,
    Refinement,
    ReqSketch,
    find_distribution,
    find_thresholds,
)

MAKE = {
    "binned": lambda: BinnedTail(3, 500, np.float16),
    "buffered": lambda: BufferedTail(3, 500),
    "histogram": lambda: Histogram(3, np.float32),
    "req": lambda: ReqSketch(3, 8),
    "kll": lambda: KllSketch(3, 8),
    "moments": lambda: Moments(3),
}


def block_for(streams, seed=0, n=40):
    dtype = getattr(streams, "dtype", np.float32)
    return np.random.default_rng(seed).normal(0, 1, (n, 3, 70)).astype(dtype)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_saved_state_does_not_change_with_its_streams(make):
    streams = make()
    streams.update(block_for(streams))
    saved = streams.to_arrays()
    before = {name: array.copy() for name, array in saved.items()}
    streams.update(3 * block_for(streams, 1) + 1)
    for name, array in saved.items():
        assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("kind", [ReqSketch, KllSketch])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_above_a_sketched_threshold_where_most_are_nan(kind, dtype):
    values = np.random.default_rng(0).normal(0, 1, (9, 2, 100)).astype(dtype)
    values[:, 0][np.random.default_rng(1).random((9, 100)) < 0.7] = np.nan
    sketch = kind(2, dtype=dtype)
    sketch.update(values)
    found = find_thresholds(sketch, Fraction(1, 10))
    assert_array_equal(found.n_above, (values > found.threshold[:, None]).sum(axis=(0, 2)))


def test_the_bound_of_a_coarse_distribution_is_that_of_its_worst_share():
    """Nearly all values in one bin: what is told of their quantiles may be far off, and says so."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(-1, 0, 100), rng.uniform(1, 1.005, 9800), rng.uniform(2, 3, 100)])
    histogram, moments = Histogram(1, np.float32), Moments(1)
    for each in (histogram, moments):
        each.update(values.astype(np.float32).reshape(100, 1, 100))
    found = find_distribution(histogram, histogram, moments)
    assert found.quantile_error >= 0.97
    ordered = np.sort(values.astype(np.float32))
    assert (found.vmin[0], found.vmax[0]) == (ordered[0], ordered[-1])
    assert histogram.quantile(1)[0] == ordered[-1] and histogram.quantile(0)[0] == ordered[0]


def test_refining_values_of_one_bin_is_not_quadratic(monkeypatch):
    """What is gathered is sorted in only when as much again has come."""
    from streamdissect.quantile import refinement

    values = np.random.default_rng(0).uniform(1, 1.007, (64, 4, 300)).astype(np.float32)
    histogram = Histogram(4, np.float32)
    histogram.update(values)
    monkeypatch.setattr(refinement, "POOL", 256)
    sorted_in, real = [], Refinement._empty_pool
    monkeypatch.setattr(
        Refinement, "_empty_pool", lambda self, least=0: sorted_in.append(len(self._codes)) or real(self, least)
    )
    refined = Refinement(histogram, [Fraction(1, 2)], range(4))
    for block in values[:, None]:
        refined.update(block)
    found, _ = refined.thresholds()
    assert_array_equal(found[0], np.sort(values.swapaxes(0, 1).reshape(4, -1))[:, -1 - 64 * 150])
    assert sum(sorted_in) < 4 * values.size


def test_ties_take_no_memory_in_a_refinement():
    values = np.zeros((50, 2, 1000), np.float32)
    values[:, 1] = np.random.default_rng(0).choice([1, 2, 3], (50, 1000))
    for streams in (Histogram(2, np.float32), ReqSketch(2), KllSketch(2)):
        streams.update(values)
        assert Refinement.state_bytes(streams, [Fraction(1, 200), Fraction(1, 2)]).max() < 10**7
    assert Refinement.state_bytes(streams, [Fraction(1, 200)])[0] == 0


def test_what_a_refinement_cannot_take_is_refused():
    histogram = Histogram(3, np.float32)
    histogram.update(block_for(histogram))
    for units in (range(2, 9), range(0, 3, 2), range(1, 1), range(-1, 2)):
        with pytest.raises(ValueError, match="a range within"):
            Refinement(histogram, [Fraction(1, 2)], units)
    with pytest.raises(ValueError, match="no tails"):
        Refinement(histogram, [], range(3))
    assert Refinement(histogram, [0.5], range(3)) is not None


def test_moments_know_no_layout_and_refuse_what_they_cannot_hold():
    values = np.random.default_rng(0).normal(0, 1e4, (6, 3, 7, 9)).astype(np.float32)
    expected = Moments(3)
    expected.update(values)
    by_image, last = Moments(3), np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for image in last:
        by_image.update(image[None])
    assert_array_equal(by_image.to_arrays()["limbs"], expected.to_arrays()["limbs"])
    by_image.update(values[:0])
    for wrong in (values.astype(np.float64), values[:, :2], values[0], [[1.0]]):
        with pytest.raises(ValueError):
            expected.update(wrong)


@pytest.mark.parametrize("make", [make for name, make in MAKE.items() if name != "moments"])
def test_odd_arguments_are_refused_in_words(make):
    streams = make()
    streams.update(block_for(streams))
    for share in (float("nan"), None, "abc", [0.5], -0.1, 1.5):
        for ask in (streams.quantile, streams.tail_threshold, streams.error_bound):
            with pytest.raises(ValueError, match="a share is 0 to 1"):
                ask(share)
    with pytest.raises(ValueError, match="3 units"):
        streams.rank([1.0, 2.0])
    with pytest.raises(ValueError, match="a block is a NumPy array"):
        streams.update([[1.0]])
    with pytest.raises(ValueError, match="tail 1"):
        find_thresholds(streams, 1)


def test_settings_are_whole_numbers():
    for make in (
        lambda: ReqSketch(3, 50.0),
        lambda: BinnedTail(3, 2.5, np.float16),
        lambda: Histogram(2.5, np.float16),
    ):
        with pytest.raises(ValueError, match="whole number"):
            make()
