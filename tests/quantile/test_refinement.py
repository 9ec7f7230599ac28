"""The second pass: the same thresholds however it is cut up, and refusals where they would be wrong."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.quantile import KllSketch, MissedBracket, Refinement, ReqSketch, refinement, sketch

from .oracle import (
    METHODS,
    N_UNITS,
    STREAMS,
    TAILS,
    assert_thresholds,
    capacity_for,
    exact_thresholds,
    few_levels,
    normal,
    numbers_of,
)

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.__name__)
REFINED = {name: method for name, method in METHODS.items() if not method.new().is_exact}
every_refined_method = pytest.mark.parametrize("method", REFINED.values(), ids=REFINED)


def case(method, stream, shape=(80, N_UNITS, 49), seed=0):
    values = stream(np.random.default_rng(seed), shape, method.dtype)
    return method.of(values, capacity=capacity_for(TAILS, values)), values


def refined(streams, tails, units, *blocks):
    """T and the values above."""
    one = Refinement(streams, tails, units)
    for block in blocks:
        one.update(block)
    return one.thresholds()


def assert_exact(found, values, tails, units):
    """(P, U) of each tail and unit."""
    thresholds, n_above = found
    assert thresholds.shape == n_above.shape == (len(tails), len(units))
    assert (thresholds.dtype, n_above.dtype) == (np.float32, np.int64)
    for j, unit in enumerate(units):
        numbers = numbers_of(values, unit)
        for i, tail in enumerate(tails):
            n = len(numbers)
            expected = numbers[n - 1 - n * tail.numerator // tail.denominator] if n else 0
            assert thresholds[i, j] == expected
            assert n_above[i, j] == np.count_nonzero(numbers > expected) * (n > 0)


@every_method
@every_stream
def test_all_tails_and_units_at_once(method, stream):
    """Exact methods may be refined too: it changes nothing."""
    streams, values = case(method, stream)
    assert_exact(refined(streams, TAILS, range(N_UNITS), values), values, TAILS, range(N_UNITS))


@every_refined_method
@given(cut=st.integers(0, N_UNITS), n_parts=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_ranges_of_units_and_blocks_in_any_order(method, cut, n_parts, seed):
    rng = np.random.default_rng(seed)
    streams, values = case(method, STREAMS[seed % len(STREAMS)], seed=seed)
    expected = refined(streams, TAILS, range(N_UNITS), values)
    blocks = np.array_split(rng.permutation(values), n_parts)
    parts = [refined(streams, TAILS, units, *blocks) for units in (range(cut), range(cut, N_UNITS)) if len(units)]
    for found, whole in zip(zip(*parts, strict=True), expected, strict=True):
        assert_array_equal(np.concatenate(found, axis=1), whole)
    for i, tail in enumerate(TAILS):
        alone = refined(streams, [tail], range(N_UNITS), *blocks)
        assert_array_equal(alone[0][0], expected[0][i])
        assert_array_equal(alone[1][0], expected[1][i])
    twice = refined(streams, [TAILS[2], TAILS[0], TAILS[2]], range(N_UNITS), values)
    assert_array_equal(twice[0], expected[0][[2, 0, 2]])


@every_method
@given(pool=st.integers(0, 200), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8)
def test_a_small_pool_is_emptied_more_often(method, pool, seed):
    streams, values = case(method, STREAMS[seed % len(STREAMS)], seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "POOL", pool)
        found = refined(streams, TAILS, range(N_UNITS), *np.array_split(values, 5))
    assert_exact(found, values, TAILS, range(N_UNITS))


@every_method
def test_a_second_pass_that_is_not_the_first_is_refused(method):
    streams, values = case(method, normal)
    blocks = np.array_split(values, 4)
    for wrong in ([], blocks[:3], blocks[1:], [*blocks, blocks[0]], [values[..., :-1]]):
        with pytest.raises(ValueError, match="did not see the values of the first"):
            refined(streams, TAILS, range(N_UNITS), *wrong)


@every_method
def test_a_block_that_does_not_fit_is_refused(method):
    """As by the streams themselves, before a kernel sees it: a kernel would read beyond its end."""
    streams, values = case(method, few_levels)
    other_dtype = values.astype({2: np.float32, 4: np.float16}[values.itemsize])
    for wrong in (values[:, :3], np.concatenate([values, values[:, :1]], axis=1), values.ravel(), other_dtype,
                  values.astype(np.float64)):  # fmt: skip
        one = Refinement(streams, [TAILS[2]], range(2))  # not the last units: should a kernel see it, all is well
        with pytest.raises(ValueError, match="a block is"):
            one.update(wrong)


@pytest.mark.parametrize("kind, k", [(ReqSketch, 8), (KllSketch, 50)])
def test_a_missed_bracket_is_refused(kind, k):
    """A bracket of no width around what a sketch takes for the threshold: exact, or refused."""
    values = normal(np.random.default_rng(3), (200, 30, 100), np.float32)
    streams = kind(30, k, 1)
    streams.update(values)
    tails, n_missed = [Fraction(1, 10), Fraction(1, 2)], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "BRACKET", 0)
        for unit in range(30):
            one = Refinement(streams, tails, range(unit, unit + 1))
            one.update(values)
            try:
                found = one.thresholds()
            except MissedBracket:
                n_missed += 1
            else:
                assert_exact(found, values, tails, [unit])
    assert n_missed >= 25
    assert_exact(refined(streams, tails, range(30), values), values, tails, range(30))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 0.9995])
@pytest.mark.parametrize("kind, k", [(ReqSketch, 8), (ReqSketch, 50), (KllSketch, 50), (KllSketch, 200),
                                     (KllSketch, 1024)])  # fmt: skip
def test_brackets_hold_where_most_values_are_nan(kind, k, share):
    """The place that NaN keep in a sketch has its part in the error."""
    rng = np.random.default_rng(4)
    values = normal(rng, (400, N_UNITS, 100), np.float32)
    values[:, :3][rng.random((400, 3, 100)) < share] = np.nan
    streams = kind(N_UNITS, k, 1)
    streams.update(values)
    for tail, found in zip(TAILS, exact_thresholds(streams, TAILS, [values]), strict=True):
        assert_thresholds(found, values, tail)


@every_refined_method
def test_memory_of_what_lies_between(method):
    """The plan covers the codes and counts that are gathered."""
    streams, values = case(method, normal)
    planned = Refinement.state_bytes(streams, TAILS)
    assert planned.shape == (N_UNITS,)
    one = Refinement(streams, TAILS, range(N_UNITS))
    one.update(values)
    one.thresholds()
    assert 2 * (one._codes.nbytes + one._many.nbytes) <= planned.sum()
