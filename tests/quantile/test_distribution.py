"""What units' values are like: against sorting and plain arithmetic, in any order and division."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from streamdissect.quantile import BufferedTail, Histogram, KllSketch, Moments, find_distribution
from streamdissect.quantile.distribution import SHARES, TAIL_SHARES, Distribution


def activations(seed=0, n=40, n_units=5, dtype=np.float16):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(-0.3, 1, (n, n_units, 7, 9)) * np.arange(1, n_units + 1)[:, None, None], 0).astype(
        dtype
    )


def exact(values):
    histogram = Histogram(values.shape[1], values.dtype)
    histogram.update(values)
    return find_distribution(histogram, histogram)


def test_the_shares_are_those_documented():
    assert len(SHARES) == 256 and SHARES[0] == Fraction(1, 512) and SHARES[-1] == Fraction(511, 512)
    assert len(TAIL_SHARES) == 64 and TAIL_SHARES[-1] == Fraction(1, 10**5)
    assert {Fraction(1, 10**i) for i in range(1, 6)} <= set(TAIL_SHARES) and sorted(TAIL_SHARES)[::-1] == list(
        TAIL_SHARES
    )


def test_a_histogram_tells_all_exactly():
    values = activations()
    found = exact(values)
    for k in range(5):
        unit = np.sort(values[:, k].ravel()).astype(np.float64)
        n = len(unit)
        assert_array_equal(found.quantile[k], [unit[n - 1 - int((1 - share) * n)] for share in SHARES])
        assert_array_equal(found.tail_value[k], [unit[n - 1 - int(p * n)] for p in TAIL_SHARES])
        assert (found.vmin[k], found.vmax[k]) == (unit[0], unit[-1])
        assert_allclose([found.mean[k], found.std[k]], [unit.mean(), unit.std()], rtol=1e-12)
        assert found.zero_share[k] == (unit == 0).mean()
    assert found.quantile_error == 0 and not found.tail_error.any()


def test_a_sketch_tells_about_and_the_exact_tail_exactly():
    values = activations(1, 400, 3, np.float32)
    sketch, tail, moments = KllSketch(3, 200), BufferedTail(3, 400 * 63 // 100 + 1), Moments(3)
    for block in np.split(values, 8):
        for each in (sketch, tail, moments):
            each.update(block)
    found = find_distribution(sketch, tail, moments)
    n = 400 * 63
    for k in range(3):
        unit = np.sort(values[:, k].ravel())
        for share, value in zip(SHARES, found.quantile[k], strict=True):
            low, high = (np.searchsorted(unit, value, side) / n for side in ("left", "right"))
            assert low - found.quantile_error <= share <= high + found.quantile_error
        for p, value, error in zip(TAIL_SHARES, found.tail_value[k], found.tail_error, strict=True):
            if p <= Fraction(1, 100):
                assert error == 0 and value == unit[n - 1 - int(p * n)]
            else:
                assert error > 0
        assert_allclose([found.mean[k], found.std[k]], [unit.mean(dtype=float), unit.std(dtype=float)], rtol=1e-12)
    assert np.all(np.diff(found.quantile, axis=1) >= 0) and np.all(np.diff(found.tail_value, axis=1) >= 0)


def test_shares_between_values_come_from_those_known():
    found = exact(activations(2, 200))
    values = activations(2, 200)
    for k in range(5):
        x = np.linspace(-1, float(values[:, k].max()) + 1, 50)
        truth = [(values[:, k] > each).mean() for each in x]
        assert_allclose(found.share_above(k, x), truth, atol=1 / 256 + 1e-9)
        bins = found.bins(k)
        assert len(bins) == 20 and bins[0][0] == found.vmin[k] and bins[-1][1] == found.vmax[k]
        assert_allclose(sum(share for _, _, share in bins) + found.zero_share[k], 1, atol=1e-9)


def test_a_dead_unit_and_one_of_nan():
    values = np.zeros((4, 3, 2, 2), np.float16)
    values[:, 1], values[:, 2] = np.nan, np.inf
    found = exact(values)
    assert found.bins(0) == found.bins(1) == found.bins(2) == []
    assert_array_equal(found.mean, [0, np.nan, np.nan])
    assert_array_equal(found.zero_share, [1, 0, 0])
    assert np.isnan(found.quantile[1]).all() and np.isinf(found.tail_value[2]).all()


def test_saved_and_read():
    found = exact(activations())
    again = Distribution.from_arrays(found.to_arrays())
    for name, array in found.to_arrays().items():
        assert_array_equal(getattr(again, name), array)
    with pytest.raises(ValueError, match="cut"):
        Distribution.from_arrays({k: v for k, v in found.to_arrays().items() if k != "mean"})


# Moments

NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1e-45, -1e38, 3e38])


def moments_of(blocks):
    moments = Moments(blocks[0].shape[1])
    for block in blocks:
        moments.update(block)
    return moments


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=8))
def test_moments_of_single_values_are_those_of_fractions(rows):
    values = np.array(rows, np.float32).reshape(-1, 2, 3)
    found = moments_of([values[:, :, i : i + 1] for i in range(3)]).read()  # each value a map: nothing is rounded
    for k in range(2):
        finite = [Fraction(float(v)) for v in values[:, k].ravel() if np.isfinite(v)]
        if not finite:
            assert np.isnan(found[0][k]) and np.isnan(found[1][k])
            continue
        mean = sum(finite) / len(finite)
        variance = sum((v - mean) ** 2 for v in finite) / len(finite)
        assert found[0][k] == float(mean)
        # squares of float32 are rounded below 2**-384 nowhere, so only the last root is inexact
        assert_allclose(found[1][k], float(variance) ** 0.5 if variance > 1e-300 else 0, rtol=1e-15, atol=1e-140)


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_moments_are_the_same_in_any_order_and_division(seed, data):
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 1, (12, 3, 17)) * 10.0 ** rng.integers(-30, 30, (12, 3, 1))).astype(np.float32)
    expected = moments_of([values]).to_arrays()
    order = data.draw(st.permutations(range(12)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 11))))
    parts = [moments_of([part]) for part in np.split(values[order], cuts)]
    whole = Moments.from_arrays(parts[0].to_arrays())
    for part in parts[1:]:
        whole.merge(part)
    for name, array in whole.to_arrays().items():
        assert_array_equal(array, expected[name])


def test_a_large_mean_leaves_the_deviation():
    values = (1e4 + np.random.default_rng(0).normal(0, 1, (200, 2, 50))).astype(np.float32)
    mean, std = moments_of([values]).read()
    truth = values.swapaxes(0, 1).reshape(2, -1).astype(np.float64)
    assert_allclose(mean, truth.mean(axis=1), rtol=1e-14)
    assert_allclose(std, truth.std(axis=1), rtol=1e-6)


def test_limbs_are_carried_before_they_overflow(monkeypatch):
    from streamdissect.quantile import moments

    values = np.random.default_rng(0).normal(0, 1e30, (50, 2, 3)).astype(np.float32)
    expected = moments_of([values]).to_arrays()
    monkeypatch.setattr(moments, "CARRY_AFTER", 3)
    found = moments_of(list(values[:, None])).to_arrays()
    assert_array_equal(found["limbs"], expected["limbs"])


def test_moments_that_do_not_fit_are_refused():
    moments = moments_of([activations()])
    with pytest.raises(ValueError, match="cannot join"):
        moments.merge(Moments(2))
    arrays = moments.to_arrays()
    for name in arrays:
        with pytest.raises(ValueError):
            Moments.from_arrays({k: v for k, v in arrays.items() if k != name})
    for wrong in ({"version": np.array(9)}, {"limbs": arrays["limbs"][:1]}):
        with pytest.raises(ValueError, match="version"):
            Moments.from_arrays(arrays | wrong)
