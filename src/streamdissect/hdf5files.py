"""HDF5 files from this package: written aside, and closed in order even where the disk is full."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from .atomic import local_copy, replacing


class Sparing(io.FileIO):
    """A file that takes what the disk no longer takes, and remembers: HDF5 cannot close a file that fails it."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        """All of it, or, once the disk has failed, nothing."""
        left = memoryview(content).cast("B")
        size = len(left)
        while self.failure is None and len(left):
            try:
                left = left[super().write(left) or 0 :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """As of any file, but for the failure."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def creating_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file that takes the name when it is whole; OSError where the disk does not hold it."""
    with replacing(path) as aside, Sparing(aside, "w+b") as raw:
        with h5py.File(raw, "w") as file:
            yield file
            if raw.failure is not None:
                raise raw.failure
        if raw.failure is not None:
            raise raw.failure


@contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read, where it lies or, of an object, in a temporary copy."""
    with local_copy(path) as copy, h5py.File(copy, "r", locking="best-effort") as file:
        yield file
