"""Quantile sketches: what the kernels keep is what the definition keeps, bit for bit, in any division of the work."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import kernel_backend
from streamdissect.kernels.reference_sketch import GULP, LEVELS, compact, first_coins, throw_coins, unit_seeds

LIMIT, N_LEVELS, FILLER = 90, 14, -(2**31)
BITS = {np.float16: np.uint16, np.float32: np.uint32}


def ordinary(rng, shape):
    return rng.normal(0, 1, shape)


def relu(rng, shape):
    return np.maximum(rng.normal(-0.7, 1, shape), 0)


def nearly_dead(rng, shape):
    return np.maximum(rng.normal(-2.5, 1, shape), 0)


def all_equal(rng, shape):
    return np.full(shape, 0.1)


def few_levels(rng, shape):
    return rng.choice([-1, 0, 0.5, 6], shape)


def next_to_each_other(rng, shape):
    return 1 + rng.integers(0, 200, shape) / 2**10


def descending(rng, shape):
    return -np.sort(rng.normal(0, 5, shape).ravel()).reshape(shape)


def odd(rng, shape):
    return rng.choice([0, 1, -1, 6e-8, -6e-8, np.inf, -np.inf, np.nan, -np.nan, 65504], shape)


def nothing_but_nan(rng, shape):
    return np.full(shape, np.nan)


def every_number(rng, shape):
    return np.exp(rng.uniform(-80, 80, shape)) * rng.choice([-1, 1], shape)


STREAMS = [ordinary, relu, nearly_dead, all_equal, few_levels, next_to_each_other, descending, odd, nothing_but_nan,
           every_number]  # fmt: skip
SHAPES = [(2500, 2, 1), (40, 3, 63), (20, 2, 169), (9, 2, 333), (3, 2, GULP), (2, 3, 2 * GULP + 77)]


def stream_of(kind, dtype, shape, seed=3):
    """float (B, K, n) without -0.0."""
    with np.errstate(over="ignore"):
        return kind(np.random.default_rng(seed), shape).astype(dtype) + dtype(0)


def plan_gulps(fill, turn, n_gulps):
    """A schedule for tests: a level of LIMIT keys is cut to an eighth, a quarter, ... of it in turn; and levels 3 and 5
    are compacted at times though nothing joins them."""
    amounts = np.zeros((max(1, n_gulps), N_LEVELS), np.int64)
    for row in amounts[:n_gulps]:
        come = GULP
        for level in range(N_LEVELS):
            total = fill[level] + come
            row[level] = (total - LIMIT * (turn[level] % 8) // 8) & ~1 if total >= LIMIT else 0
            if level in (3, 5) and turn[0] % 4 == 0 and come == 0:
                row[level] = total // 3 & ~1
            fill[level] = total - row[level]
            turn[level] += row[level] > 0
            come = row[level] // 2
    return amounts


def sketched(backend, blocks, seed=11, ranges=None):
    """State after a stream of blocks (B, K, n), its units taken in these ranges."""
    n_units = blocks[0].shape[1]
    state = SimpleNamespace(
        rows=np.zeros((n_units, N_LEVELS * LIMIT), np.int32),
        pending=np.zeros((n_units, GULP), np.int32),
        coins=first_coins(seed, n_units),
        counts=np.zeros((3, n_units), np.int64),
        extremes=np.tile(np.array([[2**31 - 1], [FILLER]], np.int32), n_units),
        highest=[],
        fill=[0] * N_LEVELS,
        turn=[0] * N_LEVELS,
        n_pending=0,
    )
    for block in blocks:
        bits = np.ascontiguousarray(block).view(BITS[block.dtype.type])
        bits.flags.writeable = False
        highest = np.zeros(block.shape[:2], np.int32)
        before = [np.array(one, np.int64) for one in (state.fill, state.turn)]
        n_gulps, n_pending = divmod(state.n_pending + block[:, 0].size, GULP)
        amounts = plan_gulps(state.fill, state.turn, n_gulps)
        for begin, end in ranges or [(0, n_units)]:
            kernel_backend(backend).update_sketch(
                bits if block.dtype == np.float16 else None,
                bits if block.dtype == np.float32 else None,
                begin,
                end,
                seed,
                amounts,
                *before,
                state.rows,
                state.pending,
                state.n_pending,
                state.coins,
                state.counts,
                state.extremes,
                highest,
            )
        state.n_pending = n_pending
        state.highest.append(highest)
    return state


def kept(state):
    """Keys of each level (K, n), and those that wait."""
    begins = [sum(state.fill[level + 1 :]) for level in range(N_LEVELS)]
    levels = [state.rows[:, begin : begin + n] for begin, n in zip(begins, state.fill, strict=True)]
    return [*levels, state.pending[:, : state.n_pending]]


def assert_same(found, expected):
    for name in ("coins", "counts", "extremes"):
        assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert_array_equal(np.concatenate(found.highest), np.concatenate(expected.highest))
    for level, pair in enumerate(zip(kept(found), kept(expected), strict=True)):
        assert_array_equal(*pair, err_msg=f"level {level}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_kernels_keep_what_the_reference_keeps(dtype, kind, shape, backend):
    block = stream_of(kind, dtype, shape)
    found = sketched(backend, [block, block[::-1]])
    assert sum(found.turn) > 0
    assert_same(found, sketched("reference", [block, block[::-1]]))


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1))
def test_any_stream_any_division_and_any_order_of_units(data, seed):
    kind, dtype = data.draw(st.sampled_from(STREAMS)), data.draw(st.sampled_from([np.float16, np.float32]))
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 900)))
    block = stream_of(kind, dtype, shape, seed)
    expected = sketched("reference", [block], seed)
    cuts = sorted(data.draw(st.lists(st.integers(1, shape[0]), max_size=3)))
    blocks = [part for part in np.split(block, cuts) if len(part)]
    edges = sorted({0, shape[1], *data.draw(st.lists(st.integers(0, shape[1]), max_size=2))})
    ranges = data.draw(st.permutations(list(pairwise(edges))))
    for name in ("cython", "numba", "reference"):
        try:
            assert_same(sketched(name, blocks, seed, ranges), expected)
        except ImportError:
            continue


@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
def test_every_value_is_stood_for_once(kind, any_backend):
    """Weights add up to n, levels ascend, and keys are keys of the data."""
    block = stream_of(kind, np.float32, (20, 2, 169))
    state = sketched(any_backend, [block])
    bits = block.view(np.int32)
    keys = np.where(np.isnan(block), FILLER, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    weights = [keys.shape[1] << level for level, keys in enumerate(kept(state)[:-1])]
    assert sum(weights) + state.n_pending == 20 * 169
    assert state.counts[0].tolist() == np.isnan(block).sum(axis=(0, 2)).tolist()
    for run in kept(state):
        for k in range(2):
            assert np.isin(run[k], keys[:, k]).all()
    for run in kept(state)[:-1]:
        assert (np.diff(run.astype(np.int64), axis=1) >= 0).all()


def test_a_compaction_takes_every_other_of_the_lowest_keys():
    runs = [np.array([[9, 3, 5, 1]], np.int32), np.array([[4, 8]], np.int32)]
    taken = set()
    for seed in range(20):
        coins = first_coins(seed, 1)
        stays, promoted = compact(unit_seeds(seed, 0, 1), coins, 2, 0, runs, 4)
        assert stays.tolist() == [[8, 9]]
        taken.add(tuple(promoted[0].tolist()))
    assert taken == {(1, 4), (3, 5)}


def test_coins_are_fair_and_every_second_of_a_kind_is_turned_over():
    n_units, keys = 4000, np.arange(8, dtype=np.int32)[None]
    seeds, coins = unit_seeds(5, 0, n_units), first_coins(5, n_units)
    thrown = np.array([throw_coins(seeds, coins, 1, turn, np.repeat(keys, n_units, 0)) for turn in range(64)])
    assert set(np.unique(thrown)) == {0, 1}
    assert abs(thrown.mean(axis=1) - 0.5).max() < 4 * 0.5 / n_units**0.5
    for kind in range(5):  # turns that end in `kind` ones
        turns = [turn for turn in range(64) if turn % 2 ** (kind + 1) == 2**kind - 1]
        assert_array_equal(thrown[turns[0::2]], 1 - thrown[turns[1::2]])
    first = thrown[[0, 1, 3, 4, 7, 8, 15, 31]].astype(float)  # one of each pair
    assert abs(np.corrcoef(first) - np.eye(len(first))).max() < 0.08


def test_coins_differ_by_seed_unit_level_and_what_is_compacted():
    """Else shards of one run would err alike, and their errors would add up."""
    keys = np.random.default_rng(0).integers(0, 99, (500, 10), dtype=np.int32)

    def thrown(seed=1, first_unit=0, level=0, turn=0, keys=keys):
        seeds = unit_seeds(seed, first_unit, first_unit + 500)
        return throw_coins(seeds, np.zeros((500, LEVELS), np.uint32), level, turn, keys)

    plain = thrown()
    assert_array_equal(plain, thrown())
    for other in (thrown(seed=2), thrown(first_unit=500), thrown(level=1), thrown(turn=4), thrown(keys=keys + 1)):
        assert 150 < np.count_nonzero(other != plain) < 350
