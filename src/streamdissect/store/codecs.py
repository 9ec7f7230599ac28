"""Which compression a layer's activations are stored with, by trying on some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shardfile import decoder, encoder

SAMPLE_BYTES = 2 << 20
"""Of activations that are tried, about."""
DISK_BYTES_PER_SECOND = 500e6
"""What a byte on disk costs, written once and read once: a network disk of a cluster, or a shared local one."""
MARGIN = 1.5
"""Times that differ by less count as equal, and the smaller file is taken."""
LEAST_GAIN = 5 / 6
"""A file larger than this part of the activations is no smaller one."""
LEAST_TIMED = 1 << 17
"""Bytes of a sample; with fewer the calls would be timed, not the work, and time does not matter."""
TRIES = 3

Costs = dict[str, tuple[float, float]]
"""Of each codec: seconds to encode and decode a byte of activations, and what becomes of that byte."""


def choose_codec(sample: NDArray[Any], codecs: Sequence[str] = ("zstd", "lz4", "none")) -> str:
    """The codec that suits a layer, from activations (B, K, h, w) of some images.

    Each is tried on about two megabytes of them: the time to encode and to decode, in this process and on this
    machine, and the bytes that come out. To the time is added what a disk of 500 MB/s takes to write these bytes once
    and to read them once. Among the codecs within 1.5 times the shortest sum the one that makes the smallest file is
    taken, so that measurements that differ by chance do not decide between codecs that are about as good. One that
    leaves more than five sixths of the bytes is not taken in place of `none`. Of a sample of less than 128 KiB only the
    bytes count.

    The choice may differ from one machine to the next; it is made once, by whoever creates the run, and kept in
    run.json, where every other worker finds it.

    Parameters
    ----------
    sample : float16 or float32 (B, K, h, w)
    codecs : sequence of str
        To choose from.

    Returns
    -------
    str
        One of them.
    """
    with ThreadPoolExecutor(1) as pool:  # as shards are recorded: in the main thread Blosc would take several
        costs = pool.submit(measure, part_of(sample), codecs).result()
    return cheapest(costs)


def part_of(sample: NDArray[Any]) -> NDArray[Any]:
    """Some units of all images, spread evenly, about SAMPLE_BYTES of them."""
    return np.ascontiguousarray(sample[:, :: max(1, min(sample.shape[1], sample.nbytes // SAMPLE_BYTES))])


def measure(part: NDArray[Any], codecs: Sequence[str], clock: Callable[[], float] = time.thread_time) -> Costs:
    """What each codec costs, the best of a few tries."""
    costs = {}
    target = np.empty_like(part)
    for codec in codecs:
        if codec == "none":
            costs[codec] = 0.0, 1.0
            continue
        seconds = []
        for _ in range(TRIES):
            begin = clock()
            content = encoder(codec)(part)
            decoder(codec)(np.frombuffer(content, np.uint8), target)
            seconds.append(clock() - begin)
        costs[codec] = min(seconds) / part.nbytes if part.nbytes >= LEAST_TIMED else 0.0, len(content) / part.nbytes
    return costs


def cheapest(costs: Costs) -> str:
    """The codec of the smallest file among those of about the shortest time; see `choose_codec`."""
    worthwhile = {name: cost for name, cost in costs.items() if cost[1] <= LEAST_GAIN or "none" not in costs}
    worthwhile |= {name: cost for name, cost in costs.items() if name == "none"}
    total = {name: seconds + 2 * kept / DISK_BYTES_PER_SECOND for name, (seconds, kept) in worthwhile.items()}
    near = [name for name in total if total[name] <= MARGIN * min(total.values())]
    return min(near, key=lambda name: worthwhile[name][1])


def packed_share(sample: NDArray[Any], codec: str) -> float:
    """The part of its bytes that a sample of activations takes on disk."""
    part = part_of(sample)
    return memoryview(encoder(codec)(part)).nbytes / part.nbytes
