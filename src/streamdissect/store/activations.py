"""Activations on disk: a Zarr v3 array for each layer, a Zarr shard for each shard of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from ..atomic import digest_file, sync
from ..errors import IncompleteRun

CHUNK_BYTES, CHUNK_IMAGES = 4 << 20, 64
"""Of what is read and decoded at once, at most."""
WORTHWHILE = 1.15
"""Compression that makes up for its time; signed data shrink by 1.0 to 1.1 only."""
WRITES_ALL: Any = {"write_empty_chunks": True}
"""Chunks of zeros too: a file that is there was written, and comparing costs more than writing."""


@dataclass(frozen=True)
class LayerArray:
    """Shape and form of one layer's array."""

    name: str
    n_units: int
    grid: tuple[int, int]
    """(h, w)"""
    dtype: str
    codec: str
    """none, zstd or lz4; without shuffling, which spoils the runs of zeros of sparse maps."""
    chunk_images: int

    @property
    def map_bytes(self) -> int:
        """Bytes of one image's maps."""
        return self.n_units * self.grid[0] * self.grid[1] * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """Ready for run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LayerArray:
        """Inverse of `to_json`."""
        rows, columns = value["grid"]
        return cls(**{**value, "grid": (int(rows), int(columns))})


def choose_chunk(shard_images: int, map_bytes: int) -> int:
    """Images to a chunk: the divisor of the shard that comes nearest below CHUNK_BYTES and CHUNK_IMAGES."""
    most = max(1, min(CHUNK_BYTES // map_bytes, CHUNK_IMAGES))
    return max(d for d in range(1, shard_images + 1) if shard_images % d == 0 and d <= most)


def choose_codec(sample: NDArray[Any]) -> str:
    """zstd where it makes a sample of the layer's activations smaller by more than an eighth, else none."""
    packed = numcodecs.Zstd(level=1).encode(np.ascontiguousarray(sample))
    return "zstd" if len(packed) * WORTHWHILE < sample.nbytes else "none"


class ActivationStore:
    """The arrays of a run.

    Parameters
    ----------
    path : Path
        The Zarr group.
    layers : list of LayerArray
    n_images, shard_images : int
        Rows of the arrays, and of a shard.
    """

    def __init__(self, path: Path, layers: list[LayerArray], n_images: int, shard_images: int) -> None:
        self.path, self.n_images, self.shard_images = path, n_images, shard_images
        self.layers = {layer.name: layer for layer in layers}
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def create(self) -> None:
        """Write the metadata that is not there yet; several workers may do so at once."""
        try:
            group = zarr.create_group(self.path, zarr_format=3)
        except ContainsGroupError:
            group = zarr.open_group(self.path, mode="r+")
        for layer in self.layers.values():
            compressors: list[Any] = []
            if layer.codec == "zstd":
                compressors = [ZstdCodec(level=1)]
            elif layer.codec == "lz4":
                compressors = [BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1)]
            with suppress(ContainsArrayError):
                group.create_array(
                    layer.name,
                    shape=(self.n_images, layer.n_units, *layer.grid),
                    dtype=layer.dtype,
                    chunks=(layer.chunk_images, layer.n_units, *layer.grid),
                    shards=(self.shard_images, layer.n_units, *layer.grid),
                    compressors=[*compressors, Crc32cCodec()],
                    fill_value=0,
                    config=WRITES_ALL,
                )

    def _array(self, layer: str) -> zarr.Array[Any]:
        if layer not in self._arrays:
            try:
                # opening takes a config and ignores it (zarr 3.1): a shard of zeros would leave no file
                array = zarr.open_array(self.path / layer, mode="r+").with_config(WRITES_ALL)
            except (FileNotFoundError, ValueError, KeyError) as error:
                raise IncompleteRun(f"{self.path / layer}: no Zarr array ({error}); extract again") from error
            self._arrays[layer] = array
        return self._arrays[layer]

    def file(self, layer: str, shard: int) -> Path:
        """The file of a shard."""
        return self.path / layer / "c" / str(shard) / "0" / "0" / "0"

    def write(self, layer: str, shard: int, maps: NDArray[Any]) -> dict[str, Any]:
        """Write all rows (B, K, h, w) of a shard at once; returns what its commit says of the file."""
        start = shard * self.shard_images
        rows = min(self.shard_images, self.n_images - start)
        assert maps.shape[0] == rows, "a Zarr shard has one writer and is written whole"
        self._array(layer)[start : start + rows] = maps
        path = self.file(layer, shard)
        sync(path)
        sync(path.parent)
        return self.describe(layer, shard)

    def describe(self, layer: str, shard: int) -> dict[str, Any]:
        """What a commit says of a shard's file: its bytes and their digest."""
        path = self.file(layer, shard)
        return {"bytes": path.stat().st_size, "blake2b": digest_file(path)}

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """Rows and their maps (B, K, h, w), in order, as many at once as fit into `most_bytes`."""
        spec = self.layers[layer]
        step = max(1, most_bytes // (spec.map_bytes * spec.chunk_images)) * spec.chunk_images
        for start in range(rows.start, rows.stop, step):
            part = range(start, min(start + step, rows.stop))
            yield part, self.read(layer, part)

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """Maps (B, K, h, w) of consecutive rows. IncompleteRun where a chunk fails its checksum."""
        try:
            maps = np.asarray(self._array(layer)[rows.start : rows.stop])
        except (ValueError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            shards = sorted({rows.start // self.shard_images, (rows.stop - 1) // self.shard_images})
            where = " or ".join(str(self.file(layer, shard)) for shard in shards)
            raise IncompleteRun(f"{where}: damaged ({error}); delete it, then run the same extract again") from error
        return maps

    def find_damage(self, layer: str, shard: int, expected: dict[str, Any], thorough: bool) -> str:
        """What is wrong with a shard's file, empty where nothing is; only `thorough` reads it."""
        path = self.file(layer, shard)
        try:
            n_bytes = path.stat().st_size
        except FileNotFoundError:
            return f"{path}: missing"
        if n_bytes != expected["bytes"]:
            return f"{path}: {n_bytes} bytes, its commit says {expected['bytes']}"
        if thorough and digest_file(path) != expected["blake2b"]:
            return f"{path}: its content is not what was written"
        return ""
