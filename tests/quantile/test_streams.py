"""Exact thresholds: against the definition, in any order and division, saved and merged."""

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.quantile import (
    BinnedTail,
    BufferedTail,
    Refinement,
    find_thresholds,
    tail_rank,
    tail_threshold,
)

from .oracle import METHODS

KINDS = {name: METHODS[name] for name in ("float16 bins", "float32 buffer", "float32 bins", "float16 histogram",
                                         "float32 histogram")}  # fmt: skip
IN_ONE_PASS = {name: kind for name, kind in KINDS.items() if kind.new().is_exact}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
exact_in_one_pass = pytest.mark.parametrize("kind", IN_ONE_PASS.values(), ids=IN_ONE_PASS)
POOL = [0.0, -0.0, 1.0, 1.0, 1.5, -2.0, 6.0, 6.0, 6e-8, -6e-8, 65504.0, 0.1, 0.10001]


def blocks(dtype, n_units=3):
    values = st.sampled_from(POOL) | st.floats(-7, 7, width=16)
    shape = st.tuples(st.integers(1, 4), st.just(n_units), st.integers(1, 9))
    return st.lists(hnp.arrays(dtype, shape, elements=values), min_size=1, max_size=4).map(same_width)


def same_width(many):
    return [np.resize(block, (block.shape[0], block.shape[1], many[0].shape[2])) for block in many]


def thresholds_of(streams, tail, values):
    """Thresholds, with a second pass where the streams need one."""
    if streams.is_exact:
        return find_thresholds(streams, tail)
    parts = []
    for first in range(0, streams.n_units, 2):
        refinement = Refinement(streams, [tail], range(first, min(first + 2, streams.n_units)))
        for block in values:
            refinement.update(block)
        parts.append([each[0] for each in refinement.thresholds()])
    return find_thresholds(streams, tail, tuple(np.concatenate(each) for each in zip(*parts, strict=True)))


@every_kind
@given(data=st.data(), p=st.fractions(Fraction(1, 200), Fraction(199, 200), max_denominator=200))
def test_thresholds_equal_the_definition(kind, data, p):
    values = data.draw(blocks(kind.dtype))
    n = sum(block[:, 0].size for block in values)
    found = thresholds_of(kind.of(*values, capacity=tail_rank(p, n) + 1), p, values)
    for k in range(3):
        unit = np.concatenate([block[:, k].ravel() for block in values]) + 0
        expected = tail_threshold(unit, p)
        assert found.threshold[k] == expected and found.n[k] == n and found.m[k] == int(p * n)
        assert found.n_above[k] == (unit > expected).sum() <= found.m[k] < (unit >= expected).sum()
        assert found.n_zero[k] == (unit == 0).sum()
        assert (found.vmin[k], found.vmax[k]) == (unit.min(), unit.max())
        assert bool(found.flags[k] & 1) == (unit.min() == unit.max())
        assert bool(found.flags[k] & 2) == (expected == unit.min())
        assert bool(found.flags[k] & 4) == (found.n_above[k] < 0.9 * found.m[k])
        assert bool(found.flags[k] & 8) == (found.m[k] == 0)


@every_kind
@given(data=st.data(), capacity=st.integers(1, 40))
def test_any_division_and_order_gives_the_same_state(kind, data, capacity):
    values = data.draw(blocks(kind.dtype))
    whole = kind.of(*values, capacity=capacity)
    cut = data.draw(st.integers(0, len(values)))
    order = data.draw(st.permutations(values))
    parts = [kind.new(capacity, 3), kind.new(capacity, 3)]
    for i, block in enumerate(order):
        parts[i >= cut].update(block[::-1])
    saved = type(whole).from_arrays(parts[0].to_arrays())
    saved.merge(parts[1])
    expected = whole.to_arrays()
    for name, array in saved.to_arrays().items():
        assert_array_equal(array, expected[name], err_msg=name)


def test_the_worked_example():
    rows = "99 100 100 70 68 99 100 101 67 65 98 102 100 98 60 82 97 99 97 52 75 70 72 70 45"
    values = np.array(rows.split(), np.float16).reshape(1, 1, 25)
    for p, m, threshold, n_above, flag in (
        ((2, 25), 2, 100, 2, 0),
        ((1, 5), 5, 100, 2, 4),
        ((1, 200), 0, 102, 0, 8),
        ((13, 25), 13, 82, 13, 0),
    ):
        found = find_thresholds(METHODS["float16 bins"].of(values, capacity=14), Fraction(*p))
        got = (found.m[0], found.threshold[0], found.n_above[0], found.flags[0])
        assert got == (m, threshold, n_above, flag)


@every_kind
def test_every_image_twice_leaves_the_threshold(kind):
    values = [np.random.default_rng(0).standard_normal((20, 5, 30)).astype(kind.dtype)]
    p = Fraction(1, 40)
    once = thresholds_of(kind.of(*values, capacity=tail_rank(p, 600) + 1), p, values)
    twice = thresholds_of(kind.of(*values, *values, capacity=tail_rank(p, 1200) + 1), p, values * 2)
    assert_array_equal(once.threshold, twice.threshold)
    assert_array_equal(2 * once.m, twice.m)


@every_kind
def test_a_monotone_map_maps_the_threshold(kind):
    values = [np.random.default_rng(1).standard_normal((20, 5, 30)).astype(kind.dtype)]
    p = Fraction(1, 40)
    before = thresholds_of(kind.of(*values, capacity=20), p, values)
    after = thresholds_of(kind.of(*(4 * v for v in values), capacity=20), p, [4 * v for v in values])
    assert_array_equal(4 * before.threshold, after.threshold)
    assert_array_equal(before.n_above, after.n_above)


@exact_in_one_pass
def test_nan_and_infinity(kind):
    values = np.array([[[np.nan, 1, 2, np.inf, 3, -np.inf, -0.0]], [[np.nan] * 7]], kind.dtype)
    streams = kind.new(4, 1)
    highest = streams.update(values)
    assert highest[1, 0] == -(2**31) and streams.values_of(highest[:1, 0])[0] == np.inf
    found = find_thresholds(streams, Fraction(1, 2))
    assert (found.n[0], found.m[0], found.threshold[0], found.n_above[0]) == (6, 3, 1.0, 3)
    assert (found.n_nonfinite[0], found.n_zero[0], found.flags[0]) == (10, 1, 16)
    assert (found.vmin[0], found.vmax[0]) == (-np.inf, np.inf)
    nothing = kind.of(values[1:], capacity=4)
    found = find_thresholds(nothing, Fraction(1, 2))
    assert found.n[0] == 0 and np.isnan(found.threshold[0]) and found.flags[0] & 1


def test_counts_that_a_bin_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="capacity"):
        BinnedTail(1, 2**32, np.float16)
    streams = BinnedTail(1, 5, np.float16)
    streams.n_seen = 2**33  # a long stream is none
    streams.update(np.ones((1, 1, 9), np.float16))
    assert streams.n[0] == 2**33 + 9


def test_many_bins_take_more_pages():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    values = np.stack([every, every[::-1]]).reshape(1, 2, -1)
    streams = METHODS["float16 bins"].of(values, values, capacity=4 * every.size)  # nothing is forgotten
    for m in (0, 1, 1000, 2 * every.size - 1):
        keys, n_above = streams.tail_keys(np.array([m, m]))
        expected = np.sort(np.repeat(every + 0, 2))[::-1][m]
        assert_array_equal(streams.values_of(keys.astype(np.int32)), [expected] * 2)
        assert_array_equal(n_above, (np.repeat(every, 2) > expected).sum())


def test_memory_does_not_grow_with_the_stream():
    rng = np.random.default_rng(3)
    streams = BinnedTail(4, 51, np.float16)
    sizes = []
    for _ in range(30):
        streams.update(np.maximum(rng.standard_normal((64, 4, 49)), 0).astype(np.float16))
        sizes.append(streams._pages.nbytes)
    assert sizes[-1] == sizes[2]


def test_a_wide_layer_takes_little_memory():
    """2048 units: 537 MB as plain histograms, here what the tail's bins need."""
    streams = BinnedTail(2048, tail_rank(Fraction(1, 200), 512 * 49) + 1, np.float16)
    rng = np.random.default_rng(0)
    for _ in range(8):
        streams.update(np.maximum(rng.standard_normal((64, 2048, 49)), 0).astype(np.float16))
    assert streams._pages.nbytes + streams._page_of.nbytes < 40e6


def test_float32_memory_follows_its_formula():
    for capacity in (10, 1000):
        streams = BufferedTail(7, capacity)
        assert streams._keys.nbytes == BufferedTail.state_bytes(7, capacity) == 4 * 7 * (2 * capacity + 64)
        before = streams._keys
        for _ in range(20):
            streams.update(np.random.default_rng(0).standard_normal((64, 7, 100)).astype(np.float32))
        assert streams._keys is before


def test_what_does_not_fit_is_refused():
    streams = BinnedTail(3, 5, np.float16)
    for block in (np.zeros((1, 2, 4), np.float16), np.zeros((1, 3, 4), np.float32), np.zeros(3, np.float16)):
        with pytest.raises(ValueError, match="a block is"):
            streams.update(block)
    streams.update(np.ones((4, 3, 4), np.float16))
    with pytest.raises(ValueError, match="rank 8, only 5"):
        find_thresholds(streams, Fraction(1, 2))
    for other in (BinnedTail(3, 6, np.float16), BinnedTail(2, 5, np.float16), BufferedTail(3, 5)):
        with pytest.raises(ValueError, match="cannot join"):
            streams.merge(other)
    with pytest.raises(ValueError, match="float32"):
        BufferedTail(1, 1, np.float16)
    with pytest.raises(ValueError, match="float16 or float32"):
        BinnedTail(1, 1, np.float64)
    with pytest.raises(ValueError, match="at least 1"):
        BinnedTail(1, 0, np.float16)
    for nothing in (np.array([], np.float32), np.array([1, np.nan], np.float32)):
        with pytest.raises(ValueError, match="numbers"):
            tail_threshold(nothing, Fraction(1, 2))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_long_streams_in_hostile_order(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(64 * 3 * 200)).astype(np.float16).reshape(64, 1, 600).copy()
    if seed % 2:
        values = values[::-1, :, ::-1].copy()
    p = Fraction(1, 50)
    for kind in KINDS.values():
        same = values.astype(kind.dtype)
        found = thresholds_of(kind.of(same, capacity=tail_rank(p, values.size) + 1), p, [same])
        assert found.threshold[0] == tail_threshold(values.ravel(), p)
