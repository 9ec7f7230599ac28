"""A labelled image set in one HDF5 file: pictures as the bytes they were, label maps compressed.

For file systems that suffer from millions of small files. Plain h5py reads it; see docs/data.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, StorageFailure
from ..hdf5files import creating_hdf5
from .csvtables import LARGEST_NUMBER
from .dataset import Concepts, Dataset, ImageLabels
from .imagefiles import check_size, read_image

FORMAT = "streamdissect-packed"
SCHEMA_VERSION = 1
PICTURE_CHUNK = 1 << 20
"""Bytes."""
LABEL_CHUNK = 1 << 16
"""Pixels: a few label maps of the usual size."""
MOST_COMPRESSION = 1100
"""Of deflate: a file cannot hold more."""
LARGEST_MAP = 1 << 28
"""Pixels of a label map."""
STREAMS = {"images/data": np.uint8, "labels/pixels": np.uint16}
"""dtypes of the arrays that are read by pieces."""
BUFFERED = 1 << 22
"""Values gathered before they are appended."""
LEVEL = 4
"""Of gzip; shuffled label maps shrink to a few per cent at any level."""

TABLES = {
    "images/size": (np.int32, 2),
    "images/offset": (np.int64, 1),
    "labels/size": (np.int32, 2),
    "labels/layer_start": (np.int64, 1),
    "labels/layer_category": (np.int32, 1),
    "labels/pixel_start": (np.int64, 1),
    "labels/whole_start": (np.int64, 1),
    "labels/whole": (np.int32, 2),
    "concepts/number": (np.int32, 1),
    "concepts/category": (np.int32, 1),
    "categories/ignore": (np.int32, 1),
}
"""dtype and dimensions of the arrays that are read whole."""


def write_packed(dataset: Dataset, path: str | os.PathLike[str], advance: Callable[[int], None]) -> None:
    """Write a dataset as one HDF5 file, which takes its name when it is whole.

    Parameters
    ----------
    dataset : Dataset
    path : path
        Replaced if it exists.
    advance : callable
        Told the number of images done since the last call; an exception it raises ends the writing.

    Raises
    ------
    BadInput
        An image or label map cannot be read.
    StorageFailure
        The file cannot be written.
    """
    concepts = dataset.concepts
    images: dict[str, list[Any]] = {"size": [], "offset": [0]}
    labels: dict[str, list[Any]] = {name: [] for name in ("size", "layer_category", "whole")}
    labels |= {name: [0] for name in ("layer_start", "pixel_start", "whole_start")}
    try:
        with creating_hdf5(path) as file:
            pictures = Appended(file, "images/data", np.uint8, PICTURE_CHUNK, is_compressed=False)
            pixels = Appended(file, "labels/pixels", np.uint16, LABEL_CHUNK, is_compressed=True)
            for start in range(0, len(dataset), dataset.label_batch):
                indices = range(start, min(start + dataset.label_batch, len(dataset)))
                for index, found in zip(indices, dataset.labels_of(indices), strict=True):
                    images["size"].append(dataset.image_size(index))
                    images["offset"].append(pictures.add(np.frombuffer(dataset.encoded(index), np.uint8)))
                    labels["size"].append(found.shape)
                    for category, layer in found.layers:
                        labels["layer_category"].append(category)
                        labels["pixel_start"].append(pixels.add(layer.ravel()))
                    labels["layer_start"].append(len(labels["layer_category"]))
                    labels["whole"] += found.whole
                    labels["whole_start"].append(len(labels["whole"]))
                advance(len(indices))
            pictures.flush()
            pixels.flush()
            arrays: dict[str, Any] = {f"images/{name}": values for name, values in images.items()}
            arrays |= {f"labels/{name}": values for name, values in labels.items()}
            arrays |= {"concepts/number": concepts.number, "concepts/category": concepts.category}
            arrays |= {"categories/ignore": concepts.ignore}
            for name, (dtype, width) in TABLES.items():
                file[name] = np.array(arrays[name], dtype).reshape((-1, 2) if width == 2 else -1)
            texts = {"images/name": dataset.names, "concepts/name": concepts.name}
            texts |= {"categories/name": concepts.category_name}
            texts["images/split"] = [dataset.split(index) for index in range(len(dataset))]
            for name, values in texts.items():
                file.create_dataset(
                    name, data=np.array(values, object), shape=(len(values),), dtype=h5py.string_dtype()
                )
            attributes = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "fingerprint": dataset.fingerprint()}
            attributes["images_fingerprint"] = dataset.images_fingerprint()
            file.attrs.update(attributes)
    except OSError as error:
        raise StorageFailure(f"{os.fspath(path)}: {error.strerror or error}") from error


class Appended:
    """A one-dimensional array of a file that grows by pieces of any length."""

    def __init__(self, file: h5py.File, name: str, dtype: type, chunk: int, is_compressed: bool) -> None:
        how: dict[str, Any] = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True}
        self._array = file.create_dataset(
            name, (0,), dtype, maxshape=(None,), chunks=(chunk,), fletcher32=True, **(how if is_compressed else {})
        )
        self._waiting: list[NDArray[Any]] = []
        self._n_waiting = self._n = 0

    def add(self, values: NDArray[Any]) -> int:
        """Append; returns the length so far."""
        self._waiting.append(values)
        self._n_waiting += len(values)
        self._n += len(values)
        if self._n_waiting >= BUFFERED:
            self.flush()
        return self._n

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            begin = self._n - self._n_waiting
            self._array.resize((self._n,))
            self._array[begin:] = np.concatenate(self._waiting)
            self._waiting, self._n_waiting = [], 0


class PackedDataset(Dataset):
    """Images and labels of a file that `pack` wrote.

    Parameters
    ----------
    path : path

    Raises
    ------
    BadInput
        The file is missing, damaged, or of another kind.

    Notes
    -----
    Each process opens the file when it first needs it, so the dataset may be pickled, forked and spawned. Its
    fingerprint is that of the dataset it was packed from: a run that was extracted from one is scored with the other.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.spec = os.path.abspath(path)
        self._opened: tuple[int, h5py.File, dict[str, h5py.Dataset]] | None = None
        arrays, texts, (self._fingerprint, self._images_fingerprint) = self._read_tables()
        self.names, self._splits = texts["images/name"], texts["images/split"]
        self._arrays = arrays
        self.concepts = Concepts(
            number=arrays["concepts/number"],
            name=texts["concepts/name"],
            category=arrays["concepts/category"],
            category_name=texts["categories/name"],
            ignore=arrays["categories/ignore"],
        )
        self._is_known = np.zeros(LARGEST_NUMBER + 1, bool)
        self._is_known[0] = True
        self._is_known[self.concepts.number] = True

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def split(self, index: int) -> str:
        """As in the dataset that was packed."""
        return self._splits[index]

    def encoded(self, index: int) -> bytes:
        """The picture file's content."""
        start, stop = self._arrays["images/offset"][self._check(index) : index + 2].tolist()
        return self._read("images/data", start, stop).tobytes()

    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB. BadInput where the picture cannot be decoded or is not of its size."""
        place = f"{self.spec}, image {self.names[self._check(index)]}"
        pixels = read_image(self.encoded(index), place)
        check_size(place, pixels.shape[:2], self.image_size(index), "as the file says")
        return pixels

    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns)"""
        rows, columns = self._arrays["images/size"][self._check(index)].tolist()
        return rows, columns

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput for a number without an entry."""
        arrays = self._arrays
        rows, columns = arrays["labels/size"][self._check(index)].tolist()
        layers = []
        for layer in range(*arrays["labels/layer_start"][index : index + 2].tolist()):
            numbers = self._read("labels/pixels", *arrays["labels/pixel_start"][layer : layer + 2].tolist())
            if not self._is_known[numbers].all():
                got = f"label number {numbers[~self._is_known[numbers]][0]} in {self.names[index]}"
                raise BadInput(self.spec, got, "a number of /concepts/number", "pack the dataset again")
            layers.append((int(arrays["labels/layer_category"][layer]), numbers.reshape(rows, columns)))
        begin, end = arrays["labels/whole_start"][index : index + 2].tolist()
        whole = tuple((category, number) for category, number in arrays["labels/whole"][begin:end].tolist())
        return ImageLabels((rows, columns), tuple(layers), whole)

    def has_labels(self, index: int) -> bool:
        """Whether the image has any label."""
        pairs = (self._arrays[f"labels/{name}"][index : index + 2] for name in ("layer_start", "whole_start"))
        return any(bool(end > begin) for begin, end in pairs)

    def fingerprint(self) -> str:
        """That of the dataset which was packed."""
        return self._fingerprint

    def images_fingerprint(self) -> str:
        """That of the dataset which was packed."""
        return self._images_fingerprint

    def _check(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return index

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        try:
            found: NDArray[Any] = self._streams()[name][start:stop]
        except OSError as error:  # a checksum that does not fit
            raise damaged(self.spec, str(error)) from error
        return found

    def _streams(self) -> dict[str, h5py.Dataset]:
        """This process's handles, kept for their caches of chunks; a parent's are left alone."""
        pid = os.getpid()
        if self._opened is None or self._opened[0] != pid:
            file = open_unlocked(self.spec)
            self._opened = pid, file, {name: file[name] for name in STREAMS}
        return self._opened[2]

    def _read_tables(self) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...]], tuple[str, str]]:
        """Everything but pictures and pixels, checked against each other."""
        file = open_unlocked(self.spec)
        try:
            form = file.attrs.get("format")
            if not isinstance(form, str) or form != FORMAT:
                raise BadInput("data", repr(self.spec), "an HDF5 file that pack wrote", "it is of another kind")
            if (version := int(file.attrs["schema_version"])) != SCHEMA_VERSION:
                raise BadInput(self.spec, f"version {version}", f"version {SCHEMA_VERSION}", "pack the dataset again")
            arrays = {name: np.asarray(plain(file, name, dtype)[()]) for name, (dtype, _) in TABLES.items()}
            names = ("images/name", "images/split", "concepts/name", "categories/name")
            texts = {name: tuple(plain(file, name, object).asstr()[()]) for name in names}
            lengths = {name: len(plain(file, name, dtype)) for name, dtype in STREAMS.items()}
            fingerprints = str(file.attrs["fingerprint"]), str(file.attrs["images_fingerprint"])
        except (KeyError, OSError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, BadInput):
                raise
            raise damaged(self.spec, str(error)) from error
        finally:
            file.close()
        check_tables(self.spec, arrays, texts, lengths)
        return arrays, texts, fingerprints


def plain(file: h5py.File, name: str, dtype: Any) -> h5py.Dataset:
    """A dataset of that type whose content lies in this very file, and is no larger than the file can hold.

    HDF5 would follow links and storage into other files, and allocate what a file says it holds.
    """
    part = ""
    for piece in name.split("/"):
        part = f"{part}/{piece}"
        if not isinstance(file.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{part} is not in the file")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype != dtype or found.ndim < 1:
        raise ValueError(f"/{name} is no array of {np.dtype(dtype)}")
    if found.external or found.is_virtual:
        raise ValueError(f"/{name} lies in another file")
    stretch = 1 if found.compression is None else MOST_COMPRESSION
    if found.nbytes > stretch * found.id.get_storage_size():
        raise ValueError(f"/{name} is cut")
    return found


def open_unlocked(path: str) -> h5py.File:
    """A file opened for reading; where the file system cannot lock, without a lock, for none ever writes to it."""
    try:
        try:
            return h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            if isinstance(error, FileNotFoundError) or "lock" not in str(error):
                raise
            return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise damaged(path, str(error)) from error


def damaged(path: str, what: str) -> BadInput:
    """The refusal of a file that is cut or altered."""
    return BadInput(path, f"damaged content ({what})", "an HDF5 file that pack wrote", "pack the dataset again")


def check_tables(
    path: str, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, Sequence[str]], lengths: Mapping[str, int]
) -> None:
    """Refuse tables that do not belong together: from a stranger's file nothing is read beside its place."""
    n, n_layers = len(texts["images/name"]), len(arrays["labels/layer_category"])
    n_concepts, n_categories = len(texts["concepts/name"]), len(texts["categories/name"])
    shapes = {
        "images/size": (n, 2),
        "images/offset": (n + 1,),
        "labels/size": (n, 2),
        "labels/layer_start": (n + 1,),
        "labels/layer_category": (n_layers,),
        "labels/pixel_start": (n_layers + 1,),
        "labels/whole_start": (n + 1,),
        "labels/whole": (len(arrays["labels/whole"]), 2),
        "concepts/number": (n_concepts,),
        "concepts/category": (n_concepts,),
        "categories/ignore": (n_categories,),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    wrong += [name for name, (dtype, _) in TABLES.items() if arrays[name].dtype != dtype]
    ends = {
        "images/offset": lengths["images/data"],
        "labels/layer_start": n_layers,
        "labels/pixel_start": lengths["labels/pixels"],
        "labels/whole_start": len(arrays["labels/whole"]),
    }
    for name, end in ends.items():
        if not wrong:
            pointer = arrays[name]
            if pointer[0] != 0 or pointer[-1] != end or np.any(pointer[1:] < pointer[:-1]):
                wrong.append(name)
    if not wrong:
        number, whole = arrays["concepts/number"], arrays["labels/whole"]
        sizes = arrays["labels/size"].astype(np.int64)
        size = np.repeat(sizes, np.diff(arrays["labels/layer_start"]), axis=0)
        checks = {
            "images/name": len(set(texts["images/name"])) == n > 0 and len(texts["images/split"]) == n,
            "images/size": bool(np.all(arrays["images/size"] > 0)),
            "labels/size": bool(np.all(sizes > 0) and np.all(sizes.prod(axis=1) <= LARGEST_MAP)),
            "labels/pixel_start": np.array_equal(np.diff(arrays["labels/pixel_start"]), size.prod(axis=1)),
            "concepts/number": bool(np.all(np.diff(number) > 0) and np.all((number > 0) & (number <= LARGEST_NUMBER))),
            "labels/whole": bool(np.isin(whole[:, 1], number).all()),
            "categories/ignore": bool(np.isin(arrays["categories/ignore"], [0, *number]).all()),
        }
        columns = arrays["labels/layer_category"], arrays["concepts/category"], whole[:, 0]
        checks["categories/name"] = all(bool(np.all((g >= 0) & (g < n_categories))) for g in columns)
        wrong = [name for name, holds in checks.items() if not holds]
    if wrong:
        raise damaged(path, f"/{wrong[0]} does not fit the rest")
