"""Thresholds from all values of each unit, ns per value: largest values and histograms beside sketches and sorting."""

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from streamdissect.quantile import BinnedTail, BufferedTail, Histogram, tail_rank

from .cases import activations
from .running import FEW_UNITS, SOME_UNITS, Contender, datasketches, in_torch, rank_errors, rows_of

TAIL = Fraction(1, 200)
CASES = {"relu 256 x 13x13": ("relu", 256, 256, 13), "signed 256 x 13x13": ("signed", 256, 256, 13),
         "signed 2048 x 7x7": ("signed", 384, 2048, 7)}  # fmt: skip
MADE = 64
"""Images; the rest are these, fainter by and by."""
BATCH = 32
CHECKED = 256
"""Units."""
METHODS = {"float16 tail": (BinnedTail, np.float16), "float32 tail": (BufferedTail, np.float32),
           "float16 histogram": (Histogram, np.float16), "float32 histogram": (Histogram, np.float32)}  # fmt: skip


@functools.lru_cache(2)  # float16 and float32 of one case
def stream(case, dtype):
    """(N, K, h, w); as float32 with digits that float16 has not."""
    kind, n, n_units, size = CASES[case]
    if dtype == np.float32:
        return stream(case, np.float16).astype(np.float32) * np.float32(1.0001)
    some = activations(kind, MADE, n_units, size, size)
    return np.concatenate([some * np.float16(1 - 0.15 * i) for i in range(n // MADE)])


@functools.lru_cache(2)
def sorted_units(case, dtype):
    """(256, n) ascending."""
    return np.sort(rows_of(stream(case, dtype), CHECKED), axis=1)


def batches(case, dtype):
    """As the activations come."""
    return np.split(stream(case, dtype), len(stream(case, dtype)) // BATCH)


def ours(backend):
    """Of one backend; for float32 histograms without the second pass."""

    def prepare(method, case):
        kind, dtype = METHODS[method]
        parts, values = batches(case, dtype), stream(case, dtype)
        capacity = () if kind is Histogram else (tail_rank(TAIL, values[:, 0].size) + 1,)

        def take():
            streams = kind(values.shape[1], *capacity, dtype, backend)
            for batch in parts:
                streams.update(batch)
            return streams

        return Contender(take, lambda streams: streams.tail_threshold(TAIL), values.size)

    return prepare


def sorting(method, case):
    rows = rows_of(stream(case, METHODS[method][1]), SOME_UNITS)
    rank = rows.shape[1] - 1 - tail_rank(TAIL, rows.shape[1])
    return Contender(lambda: np.sort(rows, axis=1), lambda rows: rows[:, rank].astype(np.float32), rows.size)


def counting(method, case):
    """All 65,536 patterns of a value's upper 16 bits counted, then summed from above."""
    rows = rows_of(stream(case, METHODS[method][1]), SOME_UNITS)
    bits, m = rows.view(f"u{rows.itemsize}"), tail_rank(TAIL, rows.shape[1])
    shift = 8 * (rows.itemsize - 2)
    values = (np.arange(65536, dtype=bits.dtype) << shift).view(rows.dtype)
    order = np.flatnonzero(np.isfinite(values))
    order = order[np.argsort(-values[order].astype(np.float32), kind="stable")]

    def take():
        return [np.bincount(row >> shift, minlength=65536) for row in bits]

    def ask(counts):
        at = [np.searchsorted(np.cumsum(count[order]), m, "right") for count in counts]
        return values[order[at]].astype(np.float32)

    return Contender(take, ask, rows.size)


CONTENDERS = {
    "cython": ours("cython"),
    "numba": ours("numba"),
    "numpy sort": sorting,
    "numpy histogram": counting,
    "datasketches KLL k=200": lambda _, case: datasketches("KLL", 200, batches(case, np.float32), TAIL),
    "datasketches REQ k=12": lambda _, case: datasketches("REQ", 12, batches(case, np.float32), TAIL),
    "torch": lambda _, case: in_torch(batches(case, np.float32), TAIL),
}
STANDARD_ERROR = {"datasketches KLL k=200": 0.89 / 200**0.9723, "datasketches REQ k=12": 0.131 / 12 * float(TAIL),
                  "torch": 0.89 / 1024**0.9723}  # fmt: skip
"""Of a rank, as a share of all values; of the others there is none."""


def check(contender, method, case, found):
    """Against sorting; the sketches within five standard errors, the bins of float32 within a bin."""
    dtype = np.float32 if contender in STANDARD_ERROR else METHODS[method][1]
    rows = sorted_units(case, dtype)
    assert len(found) >= FEW_UNITS
    if contender in STANDARD_ERROR:
        errors = list(rank_errors(rows, found, TAIL))
        assert max(errors) <= 5 * STANDARD_ERROR[contender] * rows.shape[1]
        return
    found, exact = found[:CHECKED], rows[: len(found), rows.shape[1] - 1 - tail_rank(TAIL, rows.shape[1])]
    if dtype == np.float32 and (method == "float32 histogram" or contender == "numpy histogram"):
        assert_array_equal(exact.view(np.uint32) >> 16, found.view(np.uint32) >> 16)
    else:
        assert_array_equal(found, exact)


@functools.cache
def note(method, case):
    """Share of zeros, and what the state of ours takes in the end."""
    streams = ours("auto")(method, case).take()
    zeros = (stream(case, METHODS[method][1]) == 0).mean()
    return f"zeros {zeros:.0%}, {streams.nbytes / streams.n_units / 1024:.0f} KiB/unit"


@pytest.mark.benchmark(min_rounds=3, max_time=0.1, warmup=False)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_tail(benchmark, contender, method, case):
    """The stream alone is timed: what is asked for afterwards takes as long for ten images as for a million."""
    torch.set_num_threads(1)
    try:
        one = CONTENDERS[contender](method, case)
        found = one.find()
    except ImportError as error:
        pytest.skip(str(error))
    check(contender, method, case, found)
    benchmark.group = f"{method} {case}"
    benchmark(one.take)
    benchmark.extra_info.update(contender=contender, n=one.n, unit="value", note=note(method, case))
