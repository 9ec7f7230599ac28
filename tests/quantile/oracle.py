"""What exact thresholds are held to: plain sorting, hostile streams, and every way in which a state may come about."""

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import numpy as np
from numpy.testing import assert_array_equal

from streamdissect.quantile import (
    BinnedTail,
    BufferedTail,
    Histogram,
    KllSketch,
    Refinement,
    ReqSketch,
    UnitStreams,
    find_thresholds,
)

N_UNITS = 4
TAILS = [Fraction(1, 200), Fraction(1, 100), Fraction(1, 10), Fraction(1, 2), Fraction(199, 200)]


@dataclass(frozen=True)
class Method:
    """A class with all of its settings but the capacity."""

    kind: type
    dtype: type
    settings: tuple = ()

    def new(self, capacity=1, n_units=N_UNITS):
        settings = (capacity,) if issubclass(self.kind, UnitStreams) else self.settings
        return self.kind(n_units, *settings, dtype=self.dtype)

    def of(self, *blocks, capacity=1):
        streams = self.new(capacity, blocks[0].shape[1])
        for block in blocks:
            streams.update(block)
        return streams


METHODS = {
    "float16 bins": Method(BinnedTail, np.float16),
    "float32 buffer": Method(BufferedTail, np.float32),
    "float32 bins": Method(BinnedTail, np.float32),
    "float16 histogram": Method(Histogram, np.float16),
    "float32 histogram": Method(Histogram, np.float32),
    "float16 REQ": Method(ReqSketch, np.float16, (8, 3)),
    "float32 REQ": Method(ReqSketch, np.float32, (8, 3)),
    "float16 KLL": Method(KllSketch, np.float16, (50, 3)),
    "float32 KLL": Method(KllSketch, np.float32, (50, 3)),
}


# The streams: (N, K, n) of a dtype


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def few_levels(rng, shape, dtype):
    return rng.integers(-2, 3, shape).astype(dtype)


def relu6(rng, shape, dtype):
    """Ties with 0 and, at the top, with 6."""
    return np.clip(4 * rng.standard_normal(shape), 0, 6).astype(dtype)


def mostly_zero(rng, shape, dtype):
    """99 % zeros: the threshold at 1/100 is among the least positive values, or zero."""
    return np.where(rng.random(shape) < 0.99, 0, rng.exponential(size=shape)).astype(dtype)


def signed_zeros(rng, shape, dtype):
    least = np.finfo(dtype).smallest_subnormal
    return rng.choice(np.array([-0.0, 0.0, least, -least, -1], dtype), shape)


def negative_zeros(rng, shape, dtype):
    return np.full(shape, -0.0, dtype)


def infinities(rng, shape, dtype):
    """So many that three of the tails end in them."""
    return np.where(rng.random(shape) < 0.04, rng.choice([-np.inf, np.inf], shape), normal(rng, shape, dtype)).astype(
        dtype
    )


def nan(rng, shape, dtype):
    """Few, most, all and all but one, of either sign and with any payload."""
    unsigned, values = np.dtype(f"u{np.dtype(dtype).itemsize}"), normal(rng, shape, dtype)
    infinity = int(np.array(np.inf, dtype).view(unsigned))
    mantissa = np.finfo(dtype).nmant
    payload = (
        infinity + rng.integers(1, 1 << mantissa, shape) + (rng.integers(0, 2, shape) << (values.itemsize * 8 - 1))
    )
    share = np.resize([0.3, 1, 0.98, 1], shape[1])[:, None]
    values = np.where(rng.random(shape) < share, payload.astype(unsigned).view(dtype), values)
    values[len(values) // 2, 3, 0] = -2
    return values


def subnormals(rng, shape, dtype):
    size = np.dtype(dtype).itemsize
    bits = rng.integers(0, 1 << np.finfo(dtype).nmant, shape) | rng.integers(0, 2, shape) << (8 * size - 1)
    return bits.astype(f"u{size}").view(dtype)


def any_bits(rng, shape, dtype):
    """Whatever a register may hold."""
    size = np.dtype(dtype).itemsize
    return rng.integers(0, 1 << 8 * size, shape, np.uint64).astype(f"u{size}").view(dtype)


def neighbours(rng, shape, dtype):
    """Values that follow one another: for float32 all in two bins of 2**16."""
    bits = np.array(1.5, dtype).view(f"i{np.dtype(dtype).itemsize}") + rng.integers(-300, 300, shape)
    return bits.astype(f"i{np.dtype(dtype).itemsize}").view(dtype)


def largest(rng, shape, dtype):
    most = np.finfo(dtype).max
    return rng.choice(np.array([most, np.nextafter(most, dtype(0)), -most, np.inf], dtype), shape)


def in_order(values):
    """Ascending over all images of a unit."""
    n, n_units, width = values.shape
    rows = np.sort(values.swapaxes(0, 1).reshape(n_units, -1), axis=1)
    return np.ascontiguousarray(rows.reshape(n_units, n, width).swapaxes(0, 1))


def ascending(rng, shape, dtype):
    return in_order(normal(rng, shape, dtype))


def descending(rng, shape, dtype):
    return ascending(rng, shape, dtype)[::-1, :, ::-1].copy()


def by_source(rng, shape, dtype):
    source = np.sort(rng.integers(0, 5, shape[0]))
    return ((1 + source % 3)[:, None, None] * rng.standard_normal(shape) + source[:, None, None] % 4).astype(dtype)


def all_equal(rng, shape, dtype):
    return np.full(shape, 0.1, dtype)


def all_negative(rng, shape, dtype):
    return (-np.exp(2 * rng.standard_normal(shape))).astype(dtype)


def one_image(rng, shape, dtype):
    return normal(rng, (1, shape[1], 300), dtype)


def few_values(rng, shape, dtype):
    """n < 1 / p"""
    return normal(rng, (3, shape[1], 11), dtype)


def one_value(rng, shape, dtype):
    return normal(rng, (1, shape[1], 1), dtype)


STREAMS = [normal, few_levels, relu6, mostly_zero, signed_zeros, negative_zeros, infinities, nan, subnormals, any_bits,
           neighbours, largest, ascending, descending, by_source, all_equal, all_negative, one_image, few_values,
           one_value]  # fmt: skip


# The oracle


def numbers_of(values, unit):
    """Ascending numbers of one unit of (N, K, n), as float64; no -0.0."""
    row = values[:, unit].ravel()
    return np.sort(row[~np.isnan(row)].astype(np.float64)) + 0.0


def assert_thresholds(found, values, tail):
    """Everything that is told of the units."""
    for unit in range(values.shape[1]):
        numbers = numbers_of(values, unit)
        n, m = len(numbers), len(numbers) * tail.numerator // tail.denominator
        expected = numbers[n - 1 - m] if n else np.nan
        assert_array_equal(found.threshold[unit], expected)
        assert not (np.signbit(found.threshold[unit]) and expected == 0)
        n_above, n_zero = np.count_nonzero(numbers > expected), np.count_nonzero(numbers == 0)
        told = found.n[unit], found.m[unit], found.n_above[unit], found.n_zero[unit]
        assert told == (n, m, n_above, n_zero)
        assert found.n_nonfinite[unit] == values[:, unit].size - np.count_nonzero(np.isfinite(values[:, unit]))
        ends = (numbers[0], numbers[-1]) if n else (np.nan, np.nan)
        assert_array_equal((found.vmin[unit], found.vmax[unit]), ends)


def exact_thresholds(streams, tails, blocks):
    """Of all units at each tail, with a second pass where the streams need one."""
    if streams.is_exact:
        return [find_thresholds(streams, tail) for tail in tails]
    refinement = Refinement(streams, tails, range(streams.n_units))
    for block in blocks:
        refinement.update(block)
    return [find_thresholds(streams, tail, one) for tail, *one in zip(tails, *refinement.thresholds(), strict=True)]


def capacity_for(tails, values):
    return max(values[:, 0].size * tail.numerator // tail.denominator for tail in tails) + 1


# How a state may come about


def saved(streams):
    """Through a file and back."""
    file = BytesIO()
    np.savez(file, **streams.to_arrays())
    file.seek(0)
    with np.load(file) as arrays:
        return type(streams).from_arrays(arrays)


def at_times_saved(streams, rng):
    return saved(streams) if rng.random() < 0.3 else streams


def grown(make, images, n_shards, rng):
    """Uneven shards, some of them empty, merged in a tree of random shape; any of it saved and resumed in between."""
    images, last = np.split(images, [int(rng.integers(0, len(images) + 1))])
    cuts = np.sort(rng.integers(0, len(images) + 1, n_shards - 1))
    forest = []
    for shard in np.split(images, cuts):
        streams = make()
        for part in np.split(shard, [int(rng.integers(0, len(shard) + 1))]):
            streams = at_times_saved(streams, rng)
            if len(part):
                streams.update(part)
        forest.append(streams)
    while len(forest) > 1:
        one, other = (at_times_saved(forest.pop(int(rng.integers(len(forest)))), rng) for _ in range(2))
        one.merge(other)
        forest.append(one)
    whole = at_times_saved(forest[0], rng)
    if len(last):
        whole.update(last)
    return whole


def assert_same_state(found, expected):
    """Bit by bit."""
    found, expected = found.to_arrays(), expected.to_arrays()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert_array_equal(found[name], array, err_msg=name)
