"""Thresholds: the upper tail of each unit's values, ns per value."""

import functools
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.quantile import BinnedTail, BufferedTail, find_thresholds, tail_rank

from .cases import activations, thresholds_of

TAIL = Fraction(1, 200)
N_IMAGES, N_UNITS, BATCH = 1024, 32, 64


@functools.cache
def stream(kind):
    """float16 (N, K, 13, 13)"""
    return activations(kind, N_IMAGES, N_UNITS, 13, 13)


@functools.cache
def truth(kind):
    """float32 (K,)"""
    return thresholds_of(stream(kind), TAIL)


def by_unit(kind):
    """float16 (K, n), as sorting and counting like it best."""
    return np.ascontiguousarray(stream(kind).swapaxes(0, 1).reshape(N_UNITS, -1))


def streaming(kind, make, dtype):
    """In batches, as the activations come."""
    batches = [part.astype(dtype) for part in np.split(stream(kind), N_IMAGES // BATCH)]
    capacity = tail_rank(TAIL, stream(kind)[:, 0].size) + 1

    def find():
        tail = make(N_UNITS, capacity, dtype)
        for batch in batches:
            tail.update(batch)
        return find_thresholds(tail, TAIL).threshold

    return find


def sorting(kind):
    values = by_unit(kind)
    rank = values.shape[1] - 1 - tail_rank(TAIL, values.shape[1])
    return lambda: np.sort(values, axis=1)[:, rank].astype(np.float32)


def histogram(kind):
    """All 65,536 float16 bit patterns counted, then summed from above."""
    bits, m = by_unit(kind).view(np.uint16), tail_rank(TAIL, stream(kind)[:, 0].size)
    pattern = np.arange(65536, dtype=np.uint16)
    finite = np.isfinite(pattern.view(np.float16))
    order = pattern[finite][np.argsort(-pattern[finite].view(np.float16).astype(np.float32), kind="stable")]

    def find():
        found = []
        for values in bits:
            above = np.cumsum(np.bincount(values, minlength=65536)[order])
            found.append(order[np.searchsorted(above, m, "right")])
        return np.array(found, np.uint16).view(np.float16).astype(np.float32)

    return find


CONTENDERS = {
    "float16 tail": lambda kind: streaming(kind, BinnedTail, np.float16),
    "float32 tail": lambda kind: streaming(kind, BufferedTail, np.float32),
    "numpy sort": sorting,
    "numpy histogram": histogram,
}


@pytest.mark.benchmark(min_rounds=3, max_time=0.4, warmup=False)
@pytest.mark.parametrize("kind", ["relu", "signed"])
@pytest.mark.parametrize("contender", CONTENDERS)
def test_tail(benchmark, contender, kind):
    find = CONTENDERS[contender](kind)
    assert_array_equal(find(), truth(kind))
    benchmark.group = f"tail {kind}"
    benchmark(find)
    zeros = f"zeros {(stream(kind) == 0).mean():.0%}"
    benchmark.extra_info.update(contender=contender, n=stream(kind).size, unit="value", note=zeros)
