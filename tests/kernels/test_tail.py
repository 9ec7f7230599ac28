"""The largest values of streams: the state that kernels keep gives the exact ones, whatever comes and in what order."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import kernel_backend

PAGE, NO_BOUND, NO_KEY = 256, -32769, -(2**31)
SIGNALLING = {np.float16: [0x7C01, 0xFC01], np.float32: [0x7F800001, 0xFF800001, 0x7F80FFFF]}
"""NaN whose bits are next to those of the infinities."""
BITS = {np.float16: np.uint16, np.float32: np.uint32}


# The oracle


def keys_of(values):
    """Python integers in the order of the numbers."""
    width = 8 * values.dtype.itemsize
    bits = values.view(f"u{values.dtype.itemsize}").astype(object)
    return np.where(bits >= 2 ** (width - 1), 2 ** (width - 1) - 1 - bits, bits)


def numbers_of(block, k):
    """All numbers of unit k, ascending by key."""
    values = block[:, k].ravel()
    return np.sort(keys_of(values[~np.isnan(values)]))


def assert_facts(state, stream):
    """Counts, extremes and the largest of each map."""
    whole = np.concatenate(stream)
    for k in range(whole.shape[1]):
        values, keys = whole[:, k].ravel(), numbers_of(whole, k)
        expected = [np.isnan(values).sum(), np.isinf(values).sum(), np.count_nonzero(values == 0)]
        assert state.counts[:, k].tolist() == expected
        assert state.extremes[:, k].tolist() == ([keys[0], keys[-1]] if len(keys) else [2**31 - 1, NO_KEY])
    for found, block in zip(state.highest, stream, strict=True):
        for b, k in np.ndindex(found.shape):
            keys = numbers_of(block[b : b + 1], k)
            assert found[b, k] == (keys[-1] if len(keys) else NO_KEY)


def folded(block):
    """Without -0.0, as the kernels ask; NaN keep their bits."""
    bits = block.view(f"u{block.dtype.itemsize}")
    return np.where(bits == 1 << (8 * block.dtype.itemsize - 1), 0, bits).astype(bits.dtype).view(block.dtype)


# The callers


def binned(backend, stream, capacity, n_pages=PAGE):
    """State of bins after a stream of blocks (B, K, n); more pages are brought whenever the kernel asks."""
    kernels, n_units, half = kernel_backend(backend), stream[0].shape[1], stream[0].dtype == np.float16
    state = SimpleNamespace(
        counts=np.zeros((3, n_units), np.int64),
        extremes=np.tile(np.array([[2**31 - 1], [NO_KEY]], np.int32), n_units),
        page_of=np.full((n_units, PAGE), -1, np.int32),
        pages=np.zeros((n_pages, PAGE), np.uint32),
        vacant=np.arange(n_pages, dtype=np.int32),
        n_vacant=n_pages,
        above=np.zeros(n_units, np.int64),
        bound=np.full(n_units, NO_BOUND, np.int32),
        highest=[],
        refills=0,
    )
    for block in stream:
        bits = np.ascontiguousarray(block).view(BITS[block.dtype.type])
        highest = np.zeros(block.shape[:2], np.int32)
        unit = 0
        while unit < n_units:
            if state.n_vacant < PAGE:
                refill(state)
            before = unit
            unit, state.n_vacant = kernels.update_bins(
                bits if half else None,
                None if half else bits,
                unit,
                capacity,
                state.counts,
                state.extremes,
                state.page_of,
                state.pages,
                state.vacant,
                state.n_vacant,
                state.above,
                state.bound,
                highest,
            )
            assert unit > before
        state.highest.append(highest)
    return state


def refill(state):
    old = len(state.pages)
    state.pages = np.concatenate([state.pages, np.zeros((PAGE, PAGE), np.uint32)])
    free = np.concatenate([np.arange(old, old + PAGE), state.vacant[: state.n_vacant]])
    state.vacant = np.concatenate([free, np.zeros(len(state.pages) - len(free))]).astype(np.int32)
    state.n_vacant = len(free)
    state.refills += 1


def bins_of(state, unit):
    """{bin: count} of one unit, above its bound."""
    groups = np.flatnonzero(state.page_of[unit] >= 0)
    found = {}
    for group in groups:
        page = state.pages[state.page_of[unit, group]]
        found |= {int(group * PAGE + at - 32768): int(page[at]) for at in np.flatnonzero(page)}
    return found


def buffered(backend, stream, capacity, room):
    kernels, n_units = kernel_backend(backend), stream[0].shape[1]
    state = SimpleNamespace(
        counts=np.zeros((3, n_units), np.int64),
        extremes=np.tile(np.array([[2**31 - 1], [NO_KEY]], np.int32), n_units),
        values=np.zeros((n_units, room), np.int32),
        filled=np.zeros(n_units, np.int64),
        bound=np.full(n_units, NO_KEY, np.int32),
        highest=[],
    )
    for block in stream:
        highest = np.zeros(block.shape[:2], np.int32)
        bits = np.ascontiguousarray(block).view(np.uint32)
        kernels.update_buffer(
            bits, capacity, state.counts, state.extremes, state.values, state.filled, state.bound, highest
        )
        state.highest.append(highest)
    return state


def assert_bins_exact(state, stream, capacity):
    whole, shift = np.concatenate(stream), 0 if stream[0].dtype == np.float16 else 16
    used = state.page_of[state.page_of >= 0]
    assert len(set(used.tolist())) == len(used), "two groups share a page"
    free = state.vacant[: state.n_vacant].tolist()
    assert sorted([*free, *used.tolist()]) == list(range(len(state.pages))), "pages are lost"
    assert not state.pages[free].any(), "a vacant page is not zero"
    for k in range(whole.shape[1]):
        keys = numbers_of(whole, k) >> shift
        bound, found = int(state.bound[k]), bins_of(state, k)
        above = keys[keys > bound]
        bins, counts = np.unique(above.astype(np.int64), return_counts=True)
        assert found == dict(zip(bins.tolist(), counts.tolist(), strict=True))
        assert state.above[k] == len(above)
        if bound != NO_BOUND:
            assert len(above) < capacity + 64 and capacity <= np.count_nonzero(keys >= bound)
        order = sorted(found, reverse=True)
        descending = [b for b in order for _ in range(found[b])]
        for m in range(min(capacity, len(keys))):
            nth = descending[m] if m < len(descending) else bound
            assert nth == keys[-1 - m]


def assert_buffer_exact(state, stream, capacity):
    whole = np.concatenate(stream)
    for k in range(whole.shape[1]):
        keys = numbers_of(whole, k)[::-1]
        kept = np.sort(state.values[k, : state.filled[k]])[::-1]
        assert_array_equal(kept[:capacity], keys[:capacity])


# The cases

SHAPES = [(1, 1, 1), (3, 2, 5), (2, 3, 15), (2, 2, 16), (2, 2, 63), (3, 2, 64), (2, 2, 65), (2, 2, 169), (1, 2, 333)]


def ordinary(rng, shape):
    return rng.normal(0, 1, shape)


def relu(rng, shape):
    return np.maximum(rng.normal(-0.7, 1, shape), 0)


def all_equal(rng, shape):
    return np.full(shape, 0.1)


def all_negative(rng, shape):
    return -np.exp(rng.normal(0, 3, shape))


def few_levels(rng, shape):
    return rng.choice([-1, 0, 0.5, 6], shape)


def ascending(rng, shape):
    return np.sort(rng.normal(0, 5, shape).ravel()).reshape(shape)


def descending(rng, shape):
    return -ascending(rng, shape)


def odd(rng, shape):
    return rng.choice([0, 1, -1, 6e-8, -6e-8, np.inf, -np.inf, np.nan, -np.nan, 65504], shape)


def nothing_but_nan(rng, shape):
    return np.full(shape, np.nan) * rng.choice([1, -1], shape)


def infinities(rng, shape):
    return rng.choice([np.inf, -np.inf], shape)


def minus_infinity_and_nan(rng, shape):
    return rng.choice([-np.inf, np.nan], shape)


STREAMS = [ordinary, relu, all_equal, all_negative, few_levels, ascending, descending, odd, nothing_but_nan, infinities,
           minus_infinity_and_nan]  # fmt: skip


def stream_of(kind, dtype, shape, n_blocks, seed=71):
    rng = np.random.default_rng(seed)
    whole = kind(rng, (n_blocks * shape[0], *shape[1:]))
    with np.errstate(over="ignore"):
        whole = folded(whole.astype(dtype))
    if kind in (odd, minus_infinity_and_nan):
        bits = whole.view(BITS[dtype])
        bits[rng.random(whole.shape) < 0.2] = rng.choice(SIGNALLING[dtype])
    return np.split(whole, n_blocks)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bins_give_the_largest_values(dtype, kind, shape, any_backend):
    for capacity in (1, 7, 100, 10**6):
        stream = stream_of(kind, dtype, shape, 3)
        state = binned(any_backend, stream, capacity)
        assert_facts(state, stream)
        assert_bins_exact(state, stream, capacity)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
def test_buffers_give_the_largest_values(kind, shape, any_backend):
    for capacity, room in ((1, 65), (7, 71), (7, 200), (100, 264), (5000, 10064)):
        stream = stream_of(kind, np.float32, shape, 3)
        state = buffered(any_backend, stream, capacity, room)
        assert_facts(state, stream)
        assert_buffer_exact(state, stream, capacity)


@pytest.mark.parametrize("kind", [ordinary, ascending, relu], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bins_of_longer_streams(dtype, kind, backend):
    stream = stream_of(kind, dtype, (20, 3, 169), 4)
    state = binned(backend, stream, 60)
    assert (state.bound > NO_BOUND).all()
    assert_bins_exact(state, stream, 60)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pages_run_out_and_are_brought(dtype, any_backend):
    """Numbers of every size take all pages of a unit: the kernel stops before the next one."""
    rng = np.random.default_rng(73)
    bits = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), (2, 4, 600), dtype=np.uint64)
    stream = np.split(folded(bits.astype(BITS[dtype]).view(dtype)), 2)
    state = binned(any_backend, stream, 10**6)
    assert state.refills > 1
    assert_facts(state, stream)
    assert_bins_exact(state, stream, 10**6)


def test_pages_come_back_when_the_bound_has_passed_them(any_backend):
    stream = np.split(np.sort(np.random.default_rng(79).uniform(-60000, 60000, 6000)).astype(np.float16), 60)
    state = binned(any_backend, [folded(block.reshape(1, 1, -1)) for block in stream], 20)
    assert state.refills == 1  # the kernel wants a unit's worth to start with
    assert state.n_vacant > 2 * PAGE - 4


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), capacity=st.integers(1, 90))
def test_any_stream(data, seed, capacity):
    rng = np.random.default_rng(seed)
    kind, dtype = data.draw(st.sampled_from(STREAMS)), data.draw(st.sampled_from([np.float16, np.float32]))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 140)))
    stream = stream_of(kind, dtype, shape, data.draw(st.integers(1, 3)), seed)
    rng.shuffle(stream)
    for backend in ("cython", "numba", "reference"):
        try:
            state = binned(backend, stream, capacity)
        except ImportError:
            continue
        assert_facts(state, stream)
        assert_bins_exact(state, stream, capacity)
        if dtype == np.float32:
            state = buffered(backend, stream, capacity, capacity + 64 + data.draw(st.integers(0, 90)))
            assert_facts(state, stream)
            assert_buffer_exact(state, stream, capacity)


@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bins_are_the_same_arrays_everywhere(dtype, kind, any_backend):
    stream = stream_of(kind, dtype, (3, 2, 169), 3)
    found, expected = (binned(name, stream, 40) for name in (any_backend, "reference"))
    for name in ("counts", "extremes", "page_of", "pages", "vacant", "n_vacant", "above", "bound", "highest"):
        assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
def test_buffers_are_the_same_everywhere(kind, any_backend):
    stream = stream_of(kind, np.float32, (3, 2, 169), 3)
    found, expected = (buffered(name, stream, 40, 150) for name in (any_backend, "reference"))
    for name in ("counts", "extremes", "filled", "bound", "highest"):
        assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for k in range(2):
        assert_array_equal(*(np.sort(s.values[k, : s.filled[k]]) for s in (found, expected)))


def counted(backend, stream):
    """State of a histogram's bins, as `binned` keeps it."""
    state = binned(backend, stream[:0] or [stream[0][:0]], 1)
    kernels, half = kernel_backend(backend), stream[0].dtype == np.float16
    state.highest = []
    for block in stream:
        bits = np.ascontiguousarray(block).view(BITS[block.dtype.type])
        highest, unit = np.zeros(block.shape[:2], np.int32), 0
        while unit < block.shape[1]:
            if state.n_vacant < PAGE:
                refill(state)
            form = (bits, None) if half else (None, bits)
            paged = state.page_of, state.pages, state.vacant, state.n_vacant
            unit, state.n_vacant = kernels.update_histogram(*form, unit, state.counts, state.extremes, *paged, highest)
        state.highest.append(highest)
    return state


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_histogram_holds_every_number_but_zero(dtype, kind, shape, any_backend):
    stream = stream_of(kind, dtype, shape, 3)
    state = counted(any_backend, stream)
    assert_facts(state, stream)
    whole, shift = np.concatenate(stream), 0 if dtype == np.float16 else 16
    for k in range(whole.shape[1]):
        keys = numbers_of(whole, k)
        bins, counts = np.unique((keys[keys != 0] >> shift).astype(np.int64), return_counts=True)
        assert bins_of(state, k) == dict(zip(bins.tolist(), counts.tolist(), strict=True))
    expected = counted("reference", stream)
    for name in ("page_of", "pages", "vacant", "n_vacant"):
        assert_array_equal(getattr(state, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 4, 64), (3, 4, 169)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_brackets_are_counted_and_what_lies_between_is_collected(dtype, shape, kind, any_backend):
    (block,) = stream_of(kind, dtype, shape, 1)
    infinity = 0x7C00 if dtype == np.float16 else 0x7F800000
    keys = [numbers_of(block, k) for k in range(4)]
    slots = []
    for k in (1, 1, 2, 3, 3):
        ends = np.random.default_rng(len(slots)).integers(0, max(1, len(keys[k])), 2)
        slots.append((k, *sorted(int(keys[k][end]) if len(keys[k]) else end for end in ends.tolist())))
    slots += [(3, -infinity - 1, infinity), (0, 5, 5), (0, infinity, infinity)]
    unit, low, high = (np.array(each, np.int32) for each in zip(*slots, strict=True))
    bits = block.view(BITS[dtype])
    form = (bits, None) if dtype == np.float16 else (None, bits)
    counts = np.zeros((3, len(slots)), np.int64)
    pool, room = [], block[:, 0].size
    for _ in range(2):
        slot = 0
        while slot < len(slots):
            some = np.zeros(room, np.int64)
            before, (slot, filled) = (
                slot,
                kernel_backend(any_backend).collect(*form, slot, unit, low, high, counts, some, 0),
            )
            assert slot > before
            pool += some[:filled].tolist()
    for slot, (k, least, most) in enumerate(slots):
        inside = sorted(int(key) for key in keys[k] if least < key < most)
        found = sorted((code & 0xFFFFFFFF) - 2**31 for code in pool if code >> 32 == slot)
        assert found == sorted(2 * inside)
        at_low = 2 * sum(key == least for key in keys[k]) if least < most else 0
        expected = 2 * sum(key > most for key in keys[k]), 2 * sum(key == most for key in keys[k]), at_low
        assert tuple(counts[:, slot].tolist()) == expected


def test_read_only_values(any_backend):
    stream = stream_of(ordinary, np.float32, (2, 2, 70), 1)
    stream[0].flags.writeable = False
    assert_bins_exact(binned(any_backend, stream, 9), stream, 9)
    assert_buffer_exact(buffered(any_backend, stream, 9, 90), stream, 9)
