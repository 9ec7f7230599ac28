"""One file of a Zarr array: the chunks of a shard and their index, by the codec `sharding_indexed` of Zarr v3.

Written and read here and not by zarr, which any other program may use: zarr passes each chunk through an event loop and
copies, and what it does between two chunks holds the interpreter, while the counting beside it waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

from ..atomic import describe_file, replacing
from ..objects import ObjectPath

CHECKSUM_BYTES = 4
"""crc32c, little endian, behind each chunk and behind the index."""
ABSENT = (1 << 64) - 1
"""What the index says of a chunk that was not written."""


class DamagedShard(Exception):
    """A file that is not as it was written; says what is wrong."""


@dataclass(frozen=True)
class ShardForm:
    """How a shard's file is laid out.

    Parameters
    ----------
    chunk_shape : tuple of int
        (B, K, h, w): images of a chunk, and the shape of an image's maps.
    n_chunks : int
        Of a whole shard; the last shard of an array may hold fewer.
    dtype : dtype
        Little endian.
    codec : str
        none, zstd or lz4.
    """

    chunk_shape: tuple[int, ...]
    n_chunks: int
    dtype: np.dtype[Any]
    codec: str

    @property
    def chunk_bytes(self) -> int:
        """Of a chunk in memory."""
        return int(np.prod(self.chunk_shape)) * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Of the index: offset and length of each chunk, and a checksum."""
        return 16 * self.n_chunks + CHECKSUM_BYTES


def write_shard(
    path: Path, maps: NDArray[Any], form: ShardForm, kept: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """Write a shard's rows (rows, K, h, w): aside, synced, then under its name; see `iter_whole_chunks`.

    Returns what its commit says of the file, read where it was written: an object is sent once and not fetched again.
    """
    encode = encoder(form.codec)
    index = np.full((form.n_chunks, 2), ABSENT, "<u8")
    at, offset = 0, 0
    with replacing(path) as aside:
        with open(aside, "wb", buffering=0) as file:
            for at, chunk in enumerate(iter_whole_chunks(maps, form, kept)):
                content = encode(chunk)
                length = write_checked(file, content)
                index[at] = offset, length
                offset += length
            write_checked(file, index)
        return describe_file(aside)


def iter_whole_chunks(
    maps: NDArray[Any], form: ShardForm, kept: NDArray[np.bool_] | None = None
) -> Iterator[NDArray[Any]]:
    """The rows a chunk at a time, the last one filled up with zeros; maps that are not kept (rows, K) are -inf."""
    n_images = form.chunk_shape[0]
    for start in range(0, len(maps), n_images):
        rows = maps[start : start + n_images]
        if len(rows) == n_images and kept is None:
            yield np.ascontiguousarray(rows, form.dtype)
            continue
        chunk = np.zeros(form.chunk_shape, form.dtype)
        chunk[: len(rows)] = rows
        if kept is not None:
            chunk[: len(rows)][~kept[start : start + n_images]] = -np.inf
        yield chunk


def write_checked(file: Any, content: Any) -> int:
    """Write bytes and their checksum; returns how many that were."""
    view = np.frombuffer(content, np.uint8)
    written = 0
    while written < view.nbytes:  # an unbuffered file takes at most 2 GiB at a time
        written += file.write(view[written:])
    file.write(checksum(view))
    return view.nbytes + CHECKSUM_BYTES


def checksum(view: NDArray[np.uint8]) -> bytes:
    """The four bytes behind `view`."""
    return int(google_crc32c.value(view)).to_bytes(CHECKSUM_BYTES, "little")


@dataclass(frozen=True)
class Encoded:
    """A chunk that was read and checked, and where its rows go once it is decoded."""

    content: NDArray[np.uint8]
    rows: NDArray[Any]
    skipped: int
    """Rows of the chunk before those."""
    what: str


class Source(Protocol):
    """What a shard is read from, at any place."""

    size: int

    def expect(self, parts: NDArray[np.uint64]) -> None:
        """Told which parts, offset and length (n, 2), are read next."""

    def read(self, targets: Sequence[memoryview], offset: int) -> int:
        """Fill buffers one after the other; returns how many bytes came, 0 at the end."""


class FileSource:
    """A file of this machine's."""

    def __init__(self, handle: int) -> None:
        self._handle, self.size = handle, os.fstat(handle).st_size

    def expect(self, parts: NDArray[np.uint64]) -> None:
        """Nothing: the system reads ahead by itself."""

    def read(self, targets: Sequence[memoryview], offset: int) -> int:
        return os.preadv(self._handle, targets, offset)


class ObjectSource:
    """An object: one request brings its size and its end, where the index is, and one more what is read next."""

    def __init__(self, path: ObjectPath, index_bytes: int) -> None:
        self._path = path
        self.size, self._held = path.read_end(index_bytes)
        self._begin = self.size - len(self._held)

    def expect(self, parts: NDArray[np.uint64]) -> None:
        begin, n_bytes = int(parts[0, 0]), int(parts[:, 1].sum())
        if begin + n_bytes == int(parts[-1].sum()) <= self.size:  # side by side, as they are written
            self._begin, self._held = begin, self._path.read_range(begin, n_bytes)

    def read(self, targets: Sequence[memoryview], offset: int) -> int:
        at = offset - self._begin
        n_bytes = min(sum(target.nbytes for target in targets), self.size - offset)
        if at < 0 or at + n_bytes > len(self._held):
            self._begin, self._held, at = offset, self._path.read_range(offset, n_bytes), 0
        copied = 0
        for target in targets:
            part = self._held[at + copied : at + min(copied + target.nbytes, n_bytes)]
            target.cast("B")[: len(part)] = part
            copied += len(part)
        return copied


@contextmanager
def opened(path: Path, form: ShardForm) -> Iterator[Source]:
    """A shard's file to read."""
    if isinstance(path, ObjectPath):
        yield ObjectSource(path, form.index_bytes)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield FileSource(handle)
    finally:
        os.close(handle)


def fetch_rows(path: Path, start: int, out: NDArray[Any], form: ShardForm) -> list[Encoded]:
    """Read the shard's rows from `start` on, as many as `out` (rows, K, h, w) has, up to decoding them into it.

    Whole chunks that are stored as they are are there already; `decode_rows` brings the others.

    Raises
    ------
    DamagedShard
        The file is shorter than its index says, or a checksum tells otherwise.
    """
    n_images = form.chunk_shape[0]
    encoded = []
    chunks = range(start // n_images, -(-(start + len(out)) // n_images))
    with opened(path, form) as source:
        index = read_index(source, form)
        source.expect(index[chunks.start : chunks.stop])
        for chunk in chunks:
            first = chunk * n_images
            skipped = max(start - first, 0)
            rows = out[first + skipped - start : min(first + n_images - start, len(out))]
            offset, length = map(int, index[chunk])
            is_there = form.codec == "none" and len(rows) == n_images
            content = read_chunk(source, offset, length, rows if is_there else None, form, f"chunk {chunk}")
            if not is_there:
                encoded.append(Encoded(content, rows, skipped, f"chunk {chunk}"))
    return encoded


def decode_rows(encoded: Iterable[Encoded], form: ShardForm) -> None:
    """Decode what `fetch_rows` left to be decoded."""
    decode = decoder(form.codec)
    for part in encoded:
        is_whole = len(part.rows) == form.chunk_shape[0]
        chunk = part.rows if is_whole else np.empty(form.chunk_shape, form.dtype)
        try:
            decode(part.content, chunk)
        except (RuntimeError, ValueError) as error:
            raise DamagedShard(f"{part.what}: {error}") from error
        if not is_whole:
            part.rows[:] = chunk[part.skipped : part.skipped + len(part.rows)]


def read_index(source: Source, form: ShardForm) -> NDArray[np.uint64]:
    """Offset and length of each chunk (n_chunks, 2)."""
    size = source.size
    if size < form.index_bytes:
        raise DamagedShard(f"{size} bytes, too few for an index of {form.n_chunks} chunks")
    index, told = np.empty((form.n_chunks, 2), "<u8"), np.empty(CHECKSUM_BYTES, np.uint8)
    content = index.reshape(-1).view(np.uint8)
    read_exactly(source, content, told, size - form.index_bytes, "the index")
    check(content, told, "the index")
    return index


def read_chunk(
    source: Source, offset: int, length: int, target: NDArray[Any] | None, form: ShardForm, what: str
) -> NDArray[np.uint8]:
    """A chunk's bytes as they are stored, checked; read into `target` where one is given."""
    if offset == ABSENT:
        raise DamagedShard(f"{what} was never written")
    n_bytes = length - CHECKSUM_BYTES
    if not 0 < n_bytes <= source.size or (form.codec == "none" and n_bytes != form.chunk_bytes):
        raise DamagedShard(f"{what}: {length} bytes by its index, {form.chunk_bytes} once decoded")
    content = np.empty(n_bytes, np.uint8) if target is None else target.reshape(-1).view(np.uint8)
    told = np.empty(CHECKSUM_BYTES, np.uint8)
    read_exactly(source, content, told, offset, what)
    check(content, told, what)
    return content


def read_exactly(source: Source, content: NDArray[np.uint8], told: NDArray[np.uint8], offset: int, what: str) -> None:
    """Fill `content` and the checksum behind it, by one call where the system grants it."""
    filled, n_bytes = 0, content.nbytes
    while filled < n_bytes + CHECKSUM_BYTES:
        got = source.read([content[filled:].data, told[max(0, filled - n_bytes) :].data], offset + filled)
        if got == 0:
            raise DamagedShard(f"{what}: the file ends before it")
        filled += got


def check(content: NDArray[np.uint8], told: NDArray[np.uint8], what: str) -> None:
    """DamagedShard where the checksum is another."""
    if checksum(content) != told.tobytes():
        raise DamagedShard(f"{what}: its checksum is another")


def encoder(codec: str) -> Callable[[NDArray[Any]], Any]:
    """What a chunk becomes on disk; lz4 within a Blosc frame, and without shuffling, which spoils runs of zeros."""
    if codec == "zstd":
        return lambda chunk: numcodecs.zstd.compress(chunk, 1)
    if codec == "lz4":
        return lambda chunk: numcodecs.blosc.compress(chunk, b"lz4", 1, numcodecs.blosc.NOSHUFFLE, 0, 1)
    return lambda chunk: chunk


def decoder(codec: str) -> Callable[[NDArray[np.uint8], NDArray[Any]], object]:
    """How a chunk comes back: bytes, and the array that takes what they stand for."""
    if codec == "zstd":
        return numcodecs.zstd.decompress  # type: ignore[no-any-return]
    if codec == "lz4":
        return numcodecs.blosc.decompress  # type: ignore[no-any-return]
    return lambda content, chunk: np.copyto(chunk.reshape(-1).view(np.uint8), content)
