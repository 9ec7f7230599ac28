"""Scoring from the store: decoding and counting side by side, against the longer of the two alone."""

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from streamdissect.cli import SWITCH_SECONDS
from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import LaidOut
from streamdissect.stages.ahead import read_ahead
from streamdissect.store.activations import ActivationStore, LayerArray, choose_chunk

from .cases import CASES, data_of

COPIES, SHARDS = 12, 4
"""Of the images of a case in a shard, of 16 MB; and shards."""
CHUNK_BYTES = 6 << 20
"""64 images, as scoring takes them together."""
CASE = CASES[0]


@functools.cache
def store(codec):
    """The case's maps as `extract` stores them."""
    maps = data_of(CASE).maps
    folder = tempfile.TemporaryDirectory()
    maps = np.concatenate([maps] * COPIES)
    n_images, n_units, h, w = maps.shape
    layer = LayerArray("layer", n_units, (h, w), "float16", codec, choose_chunk(n_images, maps[0].nbytes))
    found = ActivationStore(Path(folder.name) / "activations.zarr", [layer], SHARDS * n_images, n_images)
    found.create()
    for shard in range(SHARDS):
        found.write("layer", shard, maps)
    found.folder = folder  # as long as the store is used
    return found


@functools.cache
def laid_out():
    """Labels of a shard's images."""
    return LaidOut(data_of(CASE).planes * COPIES)


def chunks(codec):
    """Rows and their maps, as scoring reads them."""
    found = store(codec)
    return found.iter_chunks("layer", range(found.n_images), CHUNK_BYTES)


def counting(read):
    """Count what `read` gives; returns the counters' rows."""
    data = data_of(CASE)
    counters = Counters(CASE.n_units, data.rules.n_concepts, data.rules.n_categories)
    images = laid_out()
    for rows, maps in read():
        first = rows.start % len(images)
        counters.add(maps, data.thresholds, images[first : first + len(rows)], data.weights)
    return counters.rows


def decode(codec):
    """Decoding alone."""
    return lambda: [maps.shape for _, maps in chunks(codec)]


def float64_memmap(codec):
    """Reading alone, of a plain array of float64 on disk, as a published tool keeps activations; whatever the codec."""
    del codec
    maps = np.concatenate([data_of(CASE).maps] * COPIES)
    path = Path(store("none").folder.name) / "float64"
    plain = np.memmap(path, np.float64, "w+", shape=(SHARDS * len(maps), *maps.shape[1:]))
    for shard in range(SHARDS):
        plain[shard * len(maps) : (shard + 1) * len(maps)] = maps
    plain.flush()
    step = CHUNK_BYTES // maps[0].nbytes
    return lambda: [np.array(plain[begin : begin + step]).shape for begin in range(0, len(plain), step)]


def count(codec):
    """Counting alone, of maps in memory."""
    held = list(chunks(codec))
    return lambda: counting(lambda: held)


def in_turn(codec):
    """A chunk is decoded, then counted, and so on."""
    return lambda: counting(lambda: chunks(codec))


def side_by_side(codec):
    """As scoring does: a chunk is decoded while the one before is counted."""
    return lambda: counting(lambda: read_ahead(chunks(codec), 2))


CONTENDERS = {"side by side": side_by_side, "decode alone": decode, "count alone": count, "in turn": in_turn,
              "float64 memmap, read": float64_memmap}  # fmt: skip


@pytest.fixture(autouse=True)
def as_the_command_has_it():
    """Threads switch as often as under the command line."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.mark.benchmark(min_rounds=3, max_time=0.5, warmup=False)
@pytest.mark.parametrize("codec", ["zstd", "none"])
@pytest.mark.parametrize("contender", CONTENDERS)
def test_scoring_from_the_store(benchmark, contender, codec):
    work = CONTENDERS[contender](codec)
    if contender in ("side by side", "count alone", "in turn"):
        np.testing.assert_array_equal(
            work(), SHARDS * COPIES * counting(lambda: [(range(CASE.n_images), data_of(CASE).maps)])
        )
    benchmark.group = f"from the store, {codec}"
    benchmark(work)
    n = SHARDS * COPIES * CASE.n_images * CASE.n_units
    benchmark.extra_info.update(contender=contender, n=n, unit="map", note=f"{CASE}, one thread each", bytes=n * 338)
