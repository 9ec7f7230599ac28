"""Exact methods beside plain sorting, on every stream, in shards that are saved, resumed and merged in any tree."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.quantile import BinnedTail, BufferedTail, Histogram

from .oracle import (
    METHODS,
    N_UNITS,
    STREAMS,
    TAILS,
    assert_same_state,
    assert_thresholds,
    capacity_for,
    exact_thresholds,
    grown,
    normal,
    numbers_of,
    relu6,
    saved,
)

SHAPE = (150, N_UNITS, 49)
EXACT = {name: method for name, method in METHODS.items() if method.kind in (BinnedTail, BufferedTail, Histogram)}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_exact_method = pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)
every_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.__name__)
tails_together = st.lists(st.sampled_from(TAILS), min_size=1, max_size=len(TAILS), unique=True)


def check(method, stream, n_shards, tails, seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    values = stream(rng, shape, method.dtype)
    capacity = capacity_for(tails, values)
    streams = grown(lambda: method.new(capacity), values, n_shards, rng)
    assert streams.n_seen == values[:, 0].size
    second = rng.permutation(values)  # the second pass need not come in the order of the first
    blocks = np.array_split(second, min(len(second), 3))
    for tail, found in zip(tails, exact_thresholds(streams, tails, blocks), strict=True):
        assert_thresholds(found, values, tail)


@every_stream
@every_method
@example(n_shards=1, tails=TAILS, seed=0)
@example(n_shards=5, tails=TAILS[:1], seed=1)
@given(n_shards=st.integers(1, 64), tails=tails_together, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_thresholds_equal_sorting(method, stream, n_shards, tails, seed):
    check(method, stream, n_shards, tails, seed)


@pytest.mark.long
@every_stream
@every_method
@given(
    n_shards=st.integers(1, 64),
    tails=tails_together,
    seed=st.integers(0, 2**32 - 1),
    n_images=st.integers(1, 400),
    width=st.integers(1, 70),
)
@settings(max_examples=40)
def test_thresholds_equal_sorting_in_many_shards(method, stream, n_shards, tails, seed, n_images, width):
    check(method, stream, n_shards, tails, seed, (n_images, N_UNITS, width))


@every_stream
@every_exact_method
@given(n_shards=st.integers(1, 64), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2)
def test_order_and_division_leave_no_trace(method, stream, n_shards, seed):
    rng = np.random.default_rng(seed)
    values = stream(rng, (40, N_UNITS, 30), method.dtype)
    capacity = capacity_for(TAILS[:3], values)
    expected = method.of(values, capacity=capacity)
    shuffled = rng.permutation(values)[..., rng.permutation(values.shape[2])]
    assert_same_state(grown(lambda: method.new(capacity), shuffled, n_shards, rng), expected)


@every_method
def test_any_layout_of_a_block_is_the_same_values(method):
    """Maps, vectors, columns first, every other image, read only."""
    values = normal(np.random.default_rng(0), (60, N_UNITS, 42), method.dtype)
    expected = method.of(values, capacity=30)
    maps = values.reshape(60, N_UNITS, 6, 7)
    spread = np.repeat(values, 2, axis=0)[::2]
    frozen = values.copy()
    frozen.flags.writeable = False
    for same in (maps, maps.swapaxes(2, 3).copy().swapaxes(2, 3), spread, np.asfortranarray(values), frozen):
        assert_same_state(method.of(same, capacity=30), expected)
    vectors = normal(np.random.default_rng(1), (300, N_UNITS), method.dtype)
    assert_same_state(method.of(vectors, capacity=9), method.of(vectors[..., None], capacity=9))


@every_method
def test_what_an_update_returns_is_the_largest_of_each_map(method):
    rng = np.random.default_rng(2)
    for stream in STREAMS:
        values = stream(rng, (20, N_UNITS, 9), method.dtype)
        streams = method.new(5)
        highest = streams.update(values)
        assert highest.shape == values.shape[:2] and highest.dtype == np.int32
        is_empty = np.isnan(values).all(axis=2)
        assert_array_equal(highest == -(2**31), is_empty)
        numbers = np.where(np.isnan(values), -np.inf, values)
        assert_array_equal(streams.values_of(highest)[~is_empty], numbers.max(axis=2)[~is_empty])


@every_method
def test_no_cells_are_no_values(method):
    values = relu6(np.random.default_rng(3), (20, N_UNITS, 9), method.dtype)
    streams = method.of(values, capacity=5)
    for nothing in (values[..., :0], values.reshape(20, N_UNITS, 3, 3)[..., :0]):
        assert streams.update(nothing).shape == (20, N_UNITS)
        assert_same_state(streams, method.of(values, capacity=5))


@every_method
def test_no_images_are_no_values(method):
    values = relu6(np.random.default_rng(3), (20, N_UNITS, 9), method.dtype)
    streams = method.of(values, capacity=5)
    for nothing in (values[:0], values[:0, :, 0], values.reshape(20, N_UNITS, 3, 3)[:0]):
        assert streams.update(nothing).shape == (0, N_UNITS)
        assert_same_state(streams, method.of(values, capacity=5))


def assert_same_knowledge(found, expected):
    """Beside the state: a sketch that merged has coins of its own."""
    m = np.arange(5)[:, None].repeat(N_UNITS, axis=1)
    for mine, theirs in zip(found.tail_keys(m), expected.tail_keys(m), strict=True):
        assert_array_equal(mine, theirs)
    for name in ("n", "counts", "extremes"):
        assert_array_equal(getattr(found, name), getattr(expected, name))


@every_method
def test_streams_without_values(method):
    values = relu6(np.random.default_rng(3), (20, N_UNITS, 9), method.dtype)
    streams, empty = method.of(values, capacity=5), method.new(5)
    assert_array_equal(empty.tail_threshold(TAILS[0]), [np.nan] * N_UNITS)
    assert_array_equal(empty.rank(0.0), [0] * N_UNITS)
    assert_array_equal([empty.vmin(), empty.vmax()], [[np.nan] * N_UNITS] * 2)
    streams.merge(saved(empty))
    empty.merge(streams)
    for one in (streams, empty):
        assert_same_knowledge(one, method.of(values, capacity=5))


@every_method
def test_streams_merged_with_themselves_hold_every_value_twice(method):
    values = relu6(np.random.default_rng(4), (40, N_UNITS, 49), method.dtype)
    streams = method.of(values, capacity=500)
    streams.merge(streams)
    (found,) = exact_thresholds(streams, [TAILS[2]], [values, values])
    assert_thresholds(found, np.concatenate([values, values]), TAILS[2])


@every_method
def test_a_merge_and_a_later_update_leave_the_other_alone(method):
    rng = np.random.default_rng(5)
    first, second = (normal(rng, (30, N_UNITS, 49), method.dtype) for _ in range(2))
    one, other = method.of(first, capacity=40), method.of(second, capacity=40)
    one.merge(other)
    one.update(first)
    assert_same_state(other, method.of(second, capacity=40))
    restored = type(one).from_arrays(other.to_arrays())
    restored.update(first)
    assert_same_state(other, method.of(second, capacity=40))


@pytest.mark.parametrize("name", ["float16 bins", "float32 buffer"])
def test_a_tail_of_all_values_knows_every_rank(name):
    method, rng = METHODS[name], np.random.default_rng(6)
    values = relu6(rng, (8, N_UNITS, 25), method.dtype)
    streams = method.of(values, capacity=200)
    rows = np.array([numbers_of(values, unit) for unit in range(N_UNITS)])
    for m in range(200):
        keys, n_above = streams.tail_keys(np.full(N_UNITS, m))
        assert_array_equal(streams.values_of(keys.astype(np.int32)), rows[:, 199 - m])
        assert_array_equal(n_above, (rows > rows[:, 199 - m, None]).sum(axis=1))
    for x in (-np.inf, -1.0, 0.0, 1e-9, 0.5, 6.0, 7.0):
        assert_array_equal(streams.rank(x), (rows <= x).sum(axis=1))
    assert_array_equal(streams.quantile(1), rows[:, -1])
    assert_array_equal(streams.quantile(Fraction(1, 200)), rows[:, 0])
    assert_array_equal(streams.quantile(0), rows[:, 0])


every_tail = pytest.mark.parametrize("name", ["float16 bins", "float32 buffer", "float32 bins"])


def with_eleven_kept(name):
    """Of 1000 values."""
    values = normal(np.random.default_rng(7), (40, N_UNITS, 25), METHODS[name].dtype)
    return METHODS[name].of(values, capacity=11), values.max(axis=(0, 2))


@every_tail
def test_a_share_beyond_the_capacity_is_refused(name):
    streams, _ = with_eleven_kept(name)
    assert streams.knows(Fraction(1, 100)) and not streams.knows(Fraction(11, 1000))
    streams.tail_threshold(0.01)
    for ask in (lambda: streams.tail_threshold(0.011), lambda: streams.quantile(0.5), lambda: streams.rank(0.0)):
        with pytest.raises(ValueError, match="were kept"):
            ask()


@every_tail
def test_a_rank_beyond_the_capacity_is_refused(name):
    """Ranks may be asked for without a share: no answer is better than that of another rank."""
    streams, _ = with_eleven_kept(name)
    streams.tail_keys(np.full(N_UNITS, 10))
    for m in (np.full(N_UNITS, 11), np.array([[0] * N_UNITS, [0, 0, 500, 0]])):
        with pytest.raises(ValueError, match="were kept"):
            streams.tail_keys(m)


@every_tail
def test_both_ends_are_known_whatever_was_kept(name):
    streams, highest = with_eleven_kept(name)
    assert_array_equal(streams.rank(highest), 1000)
    assert_array_equal(streams.rank(np.inf), 1000)
    assert_array_equal(streams.rank(np.nextafter(streams.vmin(), np.float32(-np.inf))), 0)
    assert_array_equal(streams.rank(-np.inf), 0)
