"""Masks of a shard's active maps in a file of their own (docs/methods.md 3.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteRun
from ..hdf5files import creating_hdf5, reading_hdf5
from ..kernels import words_of

SCHEMA_VERSION = 1
CHUNK = 1 << 16
"""Entries that are compressed together."""
MOST_BYTES = 32 << 20
"""Of masks read at once."""


class MaskWriter:
    """Takes the masks of each layer, image by image in the order of the rows."""

    def __init__(self, file: h5py.File, layers: Sequence[str]) -> None:
        self._groups = [file.create_group(f"layers/{position}") for position in range(len(layers))]
        for group, name in zip(self._groups, layers, strict=True):
            group.attrs["name"] = name
            for key, dtype in (("unit", np.uint32), ("bits", np.uint64)):
                group.create_dataset(
                    key, (0,), dtype, maxshape=(None,), chunks=(CHUNK,), compression="gzip", compression_opts=1
                )
        self._images: list[list[tuple[int, int, int, int]]] = [[] for _ in layers]
        """Row, H, W and number of masks."""

    def add_image(self, position: int, row: int, shape: tuple[int, int], n_masks: int) -> None:
        """An image, whose masks `append` brings in the same order."""
        self._images[position].append((row, *shape, n_masks))

    def append(self, position: int, unit: NDArray[np.int64], bits: NDArray[np.uint64]) -> None:
        """Units and packed masks (M, H * words)."""
        for key, array in (("unit", unit), ("bits", bits.reshape(-1))):
            dataset = self._groups[position][key]
            begin = len(dataset)
            dataset.resize(begin + len(array), axis=0)
            dataset[begin:] = array

    def finish(self) -> None:
        """Write what tells the images apart."""
        for group, images in zip(self._groups, self._images, strict=True):
            table = np.array(images, np.int64).reshape(-1, 4)
            n_words = table[:, 1] * np.array([words_of(width) for width in table[:, 2].tolist()], np.int64)
            group["row"], group["shape"] = table[:, 0], table[:, 1:3]
            group["pointer"] = np.concatenate([[0], np.cumsum(table[:, 3])])
            group["word_pointer"] = np.concatenate([[0], np.cumsum(table[:, 3] * n_words)])


@contextmanager
def creating_masks(path: Path, layers: Sequence[str]) -> Iterator[MaskWriter]:
    """A new file of masks that takes the name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with creating_hdf5(path) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        writer = MaskWriter(file, layers)
        yield writer
        writer.finish()


def iter_masks(path: Path, position: int) -> Iterator[tuple[int, int, tuple[int, int], NDArray[np.uint64]]]:
    """Row, unit, mask grid and packed mask of each active map of a layer; IncompleteRun where the file is damaged."""
    try:
        with reading_hdf5(path) as file:
            if int(file.attrs["schema_version"]) != SCHEMA_VERSION:
                raise ValueError(f"format {file.attrs['schema_version']}, expected {SCHEMA_VERSION}")
            group = file[f"layers/{position}"]
            row, shape, pointer, start = (group[key][()] for key in ("row", "shape", "pointer", "word_pointer"))
            for i, grid in enumerate(map(tuple, shape.tolist())):
                n_words = grid[0] * words_of(grid[1])
                unit = group["unit"][pointer[i] : pointer[i + 1]].tolist()
                step = max(1, MOST_BYTES // (8 * n_words))
                for first in range(0, len(unit), step):
                    some = unit[first : first + step]
                    word = int(start[i]) + first * n_words
                    bits = group["bits"][word : word + len(some) * n_words].reshape(len(some), n_words)
                    for k, mask in zip(some, bits, strict=True):
                        yield int(row[i]), k, grid, mask
    except (OSError, KeyError, ValueError) as error:
        raise IncompleteRun(f"{path}: no masks to be read ({error}); score again with --overwrite") from error
