"""Histograms: every rank beside plain sorting, streams longer than a bin counts, memory."""

from contextlib import contextmanager
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.quantile import Histogram, histogram

from .oracle import (
    METHODS,
    N_UNITS,
    STREAMS,
    TAILS,
    any_bits,
    assert_same_state,
    assert_thresholds,
    exact_thresholds,
    grown,
    normal,
    numbers_of,
    relu6,
    saved,
)

HALF, SINGLE = METHODS["float16 histogram"], METHODS["float32 histogram"]
SHAPE = (60, N_UNITS, 30)
BIN = 2**16
"""float32 values that share a bin, zero aside, which starts one."""
every_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.__name__)
either_dtype = pytest.mark.parametrize("method", [HALF, SINGLE], ids=["float16", "float32"])


def case(method, stream, n_shards, seed):
    """Streams that came about in shards, and the values."""
    rng = np.random.default_rng(seed)
    values = stream(rng, SHAPE, method.dtype)
    return grown(method.new, values, n_shards, rng), values


def bins_of(values):
    """float32 -> which 65,536 neighbouring floats each lies among, counted by value: two floors of its bits."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits < 2**31, bits // BIN, -1 - (bits - 2**31) // BIN)


@every_stream
@given(n_shards=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_float16_quantiles_equal_sorting(stream, n_shards, seed):
    """The least value that at least the share q does not exceed."""
    streams, values = case(HALF, stream, n_shards, seed)
    assert streams.is_exact
    shares = [Fraction(i, 61) for i in range(62)] + [0, 1, 0.1, 0.3, 0.7, 0.995, Fraction(1, 10**6), 1 - 1e-9]
    for q in shares:
        found = streams.quantile(q)
        assert found.dtype == np.float32 and streams.error_bound(float(q)) == 0
        assert_array_equal(found, streams.tail_threshold(1 - Fraction(str(q))))
        for unit in range(N_UNITS):
            numbers = numbers_of(values, unit)
            if len(numbers) == 0:
                assert np.isnan(found[unit])
                continue
            at_least = max(1, ceil(Fraction(str(q)) * len(numbers)))
            assert found[unit] == numbers[at_least - 1]


def places(values):
    """At, between, below and above the values; per unit and for all alike."""
    finite = values[np.isfinite(values)].astype(np.float64)
    some = np.random.default_rng(0).choice(finite if finite.size else np.zeros(1), 12)
    near = [np.nextafter(some, -np.inf), some, np.nextafter(some, np.inf)]
    fixed = [-np.inf, -1e300, -70000, -1e-300, -0.0, 0.0, 1e-300, 5e-324, 65504, 65520, 1e39, 1e300, np.inf]
    yield from np.concatenate([*near, fixed])
    yield from np.resize(some, (3, N_UNITS))


@every_stream
@given(n_shards=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_float16_ranks_equal_counting(stream, n_shards, seed):
    streams, values = case(HALF, stream, n_shards, seed)
    for x in places(values):
        found = streams.rank(x)
        assert found.dtype == np.int64
        with np.errstate(invalid="ignore"):
            expected = [
                np.count_nonzero(numbers_of(values, unit) <= np.broadcast_to(x, N_UNITS)[unit])
                for unit in range(N_UNITS)
            ]
        assert_array_equal(found, expected)


@every_stream
@given(n_shards=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_float32_ranks_are_right_to_a_bin(stream, n_shards, seed):
    """None too small, and none beyond the values up to the end of the bin of x."""
    streams, values = case(SINGLE, stream, n_shards, seed)
    assert not streams.is_exact
    for x in places(values):
        found = streams.rank(x)
        for unit, one in enumerate(np.broadcast_to(x, N_UNITS).tolist()):
            numbers = numbers_of(values, unit)
            least = np.count_nonzero(numbers <= one)
            if len(numbers) == 0 or not numbers[0] <= one < numbers[-1]:
                assert found[unit] == least
                continue
            with np.errstate(over="ignore"):
                below = np.float32(one)
                below = np.nextafter(below, np.float32(-np.inf)) if below > one else below
            most = np.count_nonzero(bins_of(numbers) <= bins_of(np.array([below]))[0])
            assert least <= found[unit] <= most


@every_stream
@given(n_shards=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_a_float32_threshold_keeps_its_bounds(stream, n_shards, seed):
    """Before it is refined: in ranks `error_bound`, in value 2**-7, and never above the exact one."""
    streams, values = case(SINGLE, stream, n_shards, seed)
    for tail in [*TAILS, Fraction(0), Fraction(1, 3), Fraction(1)]:
        found, bound = streams.tail_threshold(tail), streams.error_bound(tail)
        assert 0 <= bound <= 1
        for unit in range(N_UNITS):
            numbers = numbers_of(values, unit)
            n = len(numbers)
            if n == 0:
                assert np.isnan(found[unit])
                continue
            m = min(n * tail.numerator // tail.denominator, n - 1)
            exact, above = numbers[n - 1 - m], np.count_nonzero(numbers > found[unit])
            assert max(0, above - m) / n <= bound
            assert found[unit] <= exact and bins_of(found[unit : unit + 1]) == bins_of(np.array([exact]))
            if abs(exact) >= np.finfo(np.float32).tiny and np.isfinite(exact):
                assert exact - found[unit] <= 2**-7 * abs(found[unit])


def test_the_bound_of_float32_ranks_is_no_larger_than_the_fullest_bin():
    values = normal(np.random.default_rng(0), (60, N_UNITS, 100), np.float32)
    streams = SINGLE.of(values)
    fullest = max(np.unique(bins_of(numbers_of(values, unit)), return_counts=True)[1].max() for unit in range(N_UNITS))
    bounds = [streams.error_bound(float(tail)) for tail in TAILS]
    assert min(bounds) > 0 and max(bounds) <= fullest / 6000 < 0.02


@either_dtype
@every_stream
def test_many_ranks_of_each_unit_at_once(method, stream):
    """(R, K), other ranks for each unit."""
    streams, values = case(method, stream, 3, 1)
    n = streams.n
    m = (np.linspace(0, 1, 17)[:, None] * np.maximum(n - 1, 0)).astype(np.int64)
    m[1::2] = np.maximum(n - 1, 0) - m[1::2]
    keys, n_above = streams.tail_keys(m)
    assert keys.shape == n_above.shape == m.shape
    for row, key, above in zip(m, keys, n_above, strict=True):
        alone = streams.tail_keys(row)
        assert_array_equal(alone[0], key)
        assert_array_equal(alone[1], above)
    found = streams.values_of(keys.astype(np.int32))
    for unit in np.flatnonzero(n).tolist():
        numbers = numbers_of(values, unit)
        exact = numbers[n[unit] - 1 - m[:, unit]]
        if method is HALF:
            assert_array_equal(found[:, unit], exact)
            assert_array_equal(n_above[:, unit], [np.count_nonzero(numbers > one) for one in exact])
        else:
            bins = bins_of(numbers)
            assert_array_equal(n_above[:, unit], [np.count_nonzero(bins > one) for one in bins_of(exact)])
    assert (n_above <= m).all()


# Longer than a bin counts


@contextmanager
def bins_that_count_to(most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "MOST_IN_PAGES", most)
        yield


@either_dtype
@every_stream
@given(n_shards=st.integers(1, 9), most=st.integers(0, 2500), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_long_streams_carry_over(method, stream, n_shards, most, seed):
    """Bins made to count little: in updates, merges and what is saved nothing changes."""
    rng = np.random.default_rng(seed)
    values = stream(rng, SHAPE, method.dtype)
    expected = method.of(values)
    with bins_that_count_to(most):
        streams = grown(method.new, values, n_shards, rng)
        found, short = streams.to_arrays(), expected.to_arrays()
        for name, array in short.items():
            assert_array_equal(found[name], array, err_msg=name)
        for tail, one in zip(TAILS, exact_thresholds(streams, TAILS, [values]), strict=True):
            assert_thresholds(one, values, tail)
        again = saved(streams)
    # What carried over joins what did not, and the other way round.
    once = expected.to_arrays()
    for one, other in ((streams, saved(expected)), (saved(expected), again)):
        one.merge(other)
        assert one.n_seen == 2 * expected.n_seen
        assert_array_equal(one.to_arrays()["count"], 2 * once["count"].astype(np.int64))
        assert_array_equal(one.to_arrays()["bin"], once["bin"])
    assert_array_equal(other.to_arrays()["count"], once["count"])


def times(arrays, factor):
    """The state had every value come so often."""
    shape = arrays["shape"].copy()
    shape[-1] *= factor
    count = arrays["count"].astype(np.uint64) * np.uint64(factor)
    return arrays | {"shape": shape, "counts": arrays["counts"] * factor, "count": count}


@either_dtype
@pytest.mark.parametrize("factor", [2**30, 2**31 + 1, 2**33, 2**40])
def test_more_than_four_milliards_of_values(method, factor):
    """Restored, merged, updated and saved, with counts that really lie beyond 32 bits."""
    values = relu6(np.random.default_rng(2), SHAPE, method.dtype)
    short = method.of(values)
    streams = Histogram.from_arrays(times(short.to_arrays(), factor))
    streams.merge(Histogram.from_arrays(times(short.to_arrays(), factor)))
    streams.update(values)
    streams.merge(saved(streams))
    expected = times(short.to_arrays(), 2 * (2 * factor + 1))
    for name, array in streams.to_arrays().items():
        assert_array_equal(array, expected[name], err_msg=name)
    assert_same_state(saved(streams), streams)
    for tail in TAILS:
        assert_array_equal(streams.tail_threshold(tail), short.tail_threshold(tail))
    assert_array_equal(streams.rank(0.5), short.rank(0.5) * 2 * (2 * factor + 1))
    assert streams.error_bound(0.01) == short.error_bound(0.01)


def test_a_short_stream_is_saved_in_narrow_counts():
    arrays = HALF.of(normal(np.random.default_rng(3), SHAPE, np.float16)).to_arrays()
    assert (arrays["bin"].dtype, arrays["count"].dtype) == (np.uint16, np.uint32)
    assert Histogram.from_arrays(times(arrays, 2**34)).to_arrays()["count"].dtype == np.uint64


# Memory


@either_dtype
def test_memory_is_bounded_by_the_formula(method):
    """Whatever comes, and however much. Vacant pages, which were never written to, take none."""
    rng = np.random.default_rng(4)
    streams = method.new(n_units=16)
    sizes = []
    for _ in range(6):
        streams.update(any_bits(rng, (40, 16, 2000), method.dtype))
        sizes.append(streams.nbytes)
    assert sizes[-1] == sizes[1]
    assert len(np.unique(streams._page_of)) * 1024 + streams._page_of.nbytes <= Histogram.state_bytes(16)
    assert_same_state(saved(streams), streams)


def test_the_class_says_what_activations_take():
    """KiB for each unit of a wide layer."""
    values = relu6(np.random.default_rng(5), (40, 512, 49), np.float32)
    for dtype, most in ((np.float16, 120), (np.float32, 20)):
        streams = Histogram(512, dtype)
        streams.update(values.astype(dtype))
        assert streams.nbytes <= most * 1024 * 512
