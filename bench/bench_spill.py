"""What storing activations costs: writes and reads by codec, beside plain arrays on disk, zarr, and zarr with zarrs.

Everything written is brought to the disk. The store takes a digest of each file for its commit, too. Opponents get the
chunks and shards of the store; zarrs is left out where it is not installed.
"""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from streamdissect.store.activations import ActivationStore, LayerArray, choose_chunk

from .cases import CASES, data_of

COPIES, SHARDS = 12, 2
"""Of the images of the case in a shard, of 16 MB; and shards."""
CASE = CASES[0]
READ_BYTES = 6 << 20
"""Of maps that are read at once."""
CODECS = ("none", "zstd", "lz4")
PIPELINES = {"zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}


@functools.cache
def maps():
    """float16 (N, K, h, w) of one shard."""
    return np.concatenate([data_of(CASE).maps] * COPIES)


@functools.cache
def kept():
    """(N, K) maps that exceed the thresholds: what `--spill candidates` comes to late in a run."""
    return maps().max(axis=(2, 3)) > data_of(CASE).thresholds


@functools.cache
def folder():
    """As long as the benchmarks run."""
    return tempfile.TemporaryDirectory()


@functools.cache
def store(name, codec):
    """An empty store with a form for the shards."""
    n_images, n_units, *grid = maps().shape
    layer = LayerArray("layer", n_units, tuple(grid), "float16", codec, choose_chunk(n_images, maps()[0].nbytes))
    found = ActivationStore(Path(folder().name) / f"{name}-{codec}", [layer], SHARDS * n_images, n_images)
    found.create()
    return found


class Stored:
    """Our own, all maps or candidates."""

    def __init__(self, codec, kept=None):
        self.store, self.kept = store("all" if kept is None else "candidates", codec), kept

    def write(self):
        for shard in range(SHARDS):
            self.store.write("layer", shard, maps(), self.kept)

    def read(self):
        for _, _part in self.store.iter_chunks("layer", range(self.store.n_images), READ_BYTES):
            pass

    def whole(self):
        return self.store.read("layer", range(self.store.n_images))

    @property
    def n_bytes(self):
        return sum(self.store.file("layer", shard).stat().st_size for shard in range(SHARDS))


class Zarr(Stored):
    """The same array by zarr, whose pipeline may be another's; one thread, as ours."""

    def __init__(self, name, codec):
        if name == "zarrs":
            pytest.importorskip("zarrs")
        self.store = store(name, codec)
        self.settings = {"codec_pipeline.path": PIPELINES[name], "threading.max_workers": 1}
        with zarr.config.set(self.settings):
            self.array = zarr.open_array(self.store.path / "layer", mode="r+")

    def write(self):
        with zarr.config.set(self.settings):
            for shard in range(SHARDS):
                self.array[shard * len(maps()) : (shard + 1) * len(maps())] = maps()
                handle = os.open(self.store.file("layer", shard), os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)

    def read(self):
        step = READ_BYTES // maps()[0].nbytes // self.array.chunks[0] * self.array.chunks[0]
        with zarr.config.set(self.settings):
            for start in range(0, self.store.n_images, step):
                self.array[start : start + step]


class Plain:
    """An array of a dtype mapped into memory, as a published tool keeps activations in float64."""

    def __init__(self, dtype):
        shape = (SHARDS * len(maps()), *maps().shape[1:])
        self.array = np.memmap(Path(folder().name) / np.dtype(dtype).name, dtype, "w+", shape=shape)

    def write(self):
        for shard in range(SHARDS):
            self.array[shard * len(maps()) : (shard + 1) * len(maps())] = maps()
            self.array.flush()

    def read(self):
        step = READ_BYTES // maps()[0].nbytes
        for start in range(0, len(self.array), step):
            np.array(self.array[start : start + step])

    def whole(self):
        return self.array

    @property
    def n_bytes(self):
        return self.array.nbytes


CONTENDERS = {
    "memmap float16": lambda: Plain(np.float16),
    **{f"store, {codec}": functools.partial(Stored, codec) for codec in CODECS},
    **{f"{name}, {codec}": functools.partial(Zarr, name, codec) for name in PIPELINES for codec in CODECS},
    "candidates, zstd": lambda: Stored("zstd", kept()),
    "memmap float64": lambda: Plain(np.float64),
}


@pytest.mark.benchmark(min_rounds=3, max_time=0.5, warmup=False)
@pytest.mark.parametrize("what", ["write", "read"])
@pytest.mark.parametrize("contender", CONTENDERS)
def test_spill(benchmark, contender, what):
    disk = CONTENDERS[contender]()
    disk.write()
    expected = maps()
    if contender.startswith("candidates"):
        expected = np.where(kept()[..., None, None], maps(), -np.inf)
    np.testing.assert_array_equal(disk.whole(), np.concatenate([expected] * SHARDS))
    benchmark.group = f"spill, {what}"
    benchmark(getattr(disk, what))
    n = SHARDS * maps().size
    note = f"{CASE}, {100 * kept().mean():.0f} % of the maps are candidates"
    benchmark.extra_info.update(
        contender=f"{contender} ({disk.n_bytes / n:.2f} B)", n=n, unit="activation", note=note, bytes=disk.n_bytes
    )
