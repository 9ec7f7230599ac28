"""Activations on disk: a Zarr v3 array for each layer, a Zarr shard for each shard of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from ..atomic import ASIDE, describe_file, digest_file, sync
from ..errors import IncompleteRun
from ..objects import ObjectPath
from .shardfile import DamagedShard, Encoded, ShardForm, decode_rows, fetch_rows, write_shard

CHUNK_BYTES, CHUNK_IMAGES = 4 << 20, 64
"""Of what is read and decoded at once, at most."""


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


def empty_maps(layers: Iterable[LayerArray], n_images: int) -> dict[str, NDArray[Any]]:
    """Room for the maps (B, K, h, w) of so many images, by layer."""
    return {spec.name: np.empty((n_images, spec.n_units, *spec.grid), spec.dtype) for spec in layers}


def choose_chunk(shard_images: int, map_bytes: int) -> int:
    """Images to a chunk: the divisor of the shard that comes nearest below CHUNK_BYTES and CHUNK_IMAGES."""
    most = max(1, min(CHUNK_BYTES // map_bytes, CHUNK_IMAGES))
    return max(d for d in range(1, shard_images + 1) if shard_images % d == 0 and d <= most)


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
        self._checked: set[str] = set()

    def create(self) -> None:
        """Write the metadata that is not there yet; several workers may do so at once."""
        try:
            group = zarr.create_group(zarr_place(self.path), zarr_format=3)
        except ContainsGroupError:
            group = zarr.open_group(zarr_place(self.path), mode="r+")
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
                )

    def _form(self, layer: str) -> ShardForm:
        """How the layer's files are laid out, once the array's metadata were seen to say the same."""
        spec = self.layers[layer]
        shape = (spec.n_units, *spec.grid)
        if layer not in self._checked:
            path = self.path / layer
            try:
                array = zarr.open_array(zarr_place(path), mode="r")
            except (FileNotFoundError, ValueError, KeyError) as error:
                raise IncompleteRun(f"{path}: no Zarr array ({error}); extract again") from error
            held = (array.shape, array.shards, array.chunks, array.dtype)
            asked = (
                (self.n_images, *shape),
                (self.shard_images, *shape),
                (spec.chunk_images, *shape),
                np.dtype(spec.dtype),
            )
            if held != asked:
                raise IncompleteRun(f"{path}: an array of {held}, the run is one of {asked}; extract again")
            self._checked.add(layer)
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        return ShardForm((spec.chunk_images, *shape), self.shard_images // spec.chunk_images, dtype, spec.codec)

    def file(self, layer: str, shard: int) -> Path:
        """The file of a shard."""
        return self.path / layer / "c" / str(shard) / "0" / "0" / "0"

    def write(
        self, layer: str, shard: int, maps: NDArray[Any], kept: NDArray[np.bool_] | None = None
    ) -> dict[str, Any]:
        """Write all rows (B, K, h, w) of a shard at once; returns what its commit says of the file.

        Of the maps that are not `kept` (B, K) every value is written as -inf: they never exceed a threshold.
        """
        start = shard * self.shard_images
        rows = min(self.shard_images, self.n_images - start)
        assert maps.shape[0] == rows, "a Zarr shard has one writer and is written whole"
        form, path = self._form(layer), self.file(layer, shard)
        if isinstance(path, ObjectPath):
            return write_shard(path, maps, form, kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{path.name}{ASIDE}*"):  # by a writer that was killed: a shard has one at a time
            left.unlink(missing_ok=True)
        described = write_shard(path, maps, form, kept)
        for folder in list(path.parents)[1:4]:  # the names of the new folders; replacing the file synced its own
            sync(folder)
        return described

    def describe(self, layer: str, shard: int) -> dict[str, Any]:
        """What a commit says of a shard's file: its bytes and their digest."""
        return describe_file(self.file(layer, shard))

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """Rows and their maps (B, K, h, w), in order, as many at once as fit into `most_bytes`.

        The bytes of the next ones are read before these are handed out: to a thread that reads ahead only the decoding
        is left then, for which it does not need the interpreter, while whoever got these begins with what does.
        """
        spec = self.layers[layer]
        step = max(1, most_bytes // (spec.map_bytes * spec.chunk_images)) * spec.chunk_images
        parts = [range(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]
        coming = self._fetch(layer, parts[0]) if parts else None
        for part, following in zip_longest(parts, parts[1:]):
            assert coming is not None
            maps = self._decode(layer, *coming)
            coming = self._fetch(layer, following) if following else None
            yield part, maps

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """Maps (B, K, h, w) of consecutive rows. IncompleteRun where a chunk is missing or fails its checksum."""
        return self._decode(layer, *self._fetch(layer, rows))

    def _fetch(self, layer: str, rows: range) -> tuple[NDArray[Any], list[tuple[Path, list[Encoded]]]]:
        """Room for the maps, and what has to be decoded into it, with the file it comes from."""
        form, spec = self._form(layer), self.layers[layer]
        maps = np.empty((len(rows), spec.n_units, *spec.grid), form.dtype)
        fetched = []
        at = rows.start
        while at < rows.stop:
            shard, within = divmod(at, self.shard_images)
            stop = min(at - within + self.shard_images, rows.stop)
            path = self.file(layer, shard)
            with naming_damage(path):
                fetched.append((path, fetch_rows(path, within, maps[at - rows.start : stop - rows.start], form)))
            at = stop
        return maps, fetched

    def _decode(self, layer: str, maps: NDArray[Any], fetched: list[tuple[Path, list[Encoded]]]) -> NDArray[Any]:
        """The maps, whole."""
        for path, encoded in fetched:
            with naming_damage(path):
                decode_rows(encoded, self._form(layer))
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


def zarr_place(path: Path) -> Any:
    """What zarr takes for a path."""
    if not isinstance(path, ObjectPath):
        return path
    from zarr.storage import ObjectStore

    return ObjectStore(path.store_below())


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """IncompleteRun, with the remedy, where a shard's file is missing or damaged."""
    try:
        yield
    except (DamagedShard, FileNotFoundError) as error:
        what = "damaged" if isinstance(error, DamagedShard) else "missing"
        raise IncompleteRun(f"{path}: {what} ({error}); delete it, then run the same extract again") from error
