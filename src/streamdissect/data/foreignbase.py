"""What the readers of published datasets share: pictures and label maps where their authors put them."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from glob import glob
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, StorageFailure
from .csvtables import LARGEST_NUMBER
from .dataset import Concepts, Dataset, ImageLabels
from .folder import is_text, iter_files, list_folder
from .imagefiles import check_size, digest_files, path_inside, read_bytes, read_image, read_size

LISTED = "the directory"
ARCHIVES = {".zip": "unzip", ".tar": "tar xf", ".tar.gz": "tar xf", ".tgz": "tar xf"}
"""Ending of an archive, and the command that unpacks it."""


class Layout(NamedTuple):
    """A way in which a dataset is published."""

    form: str
    """What the directory has to be, for messages."""
    marks: tuple[str, ...]
    """Patterns of paths below the directory, one of which is enough to recognise it."""
    open: Callable[[str], Dataset]

    def is_seen_in(self, directory: str) -> bool:
        """Whether a directory looks like this layout, whole or not."""
        return any(glob(pattern, root_dir=directory) for pattern in self.marks)


class ForeignDataset(Dataset):
    """Pictures with label maps, one or several each. A reader sets the fields and says where the files lie."""

    _root: str
    """The directory with the layout's folders: `spec`, or one below it."""
    _splits: Sequence[str]
    _tables_digest: bytes

    @abstractmethod
    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        """(folder below the root, file below the folder) of the picture, then of its label maps."""

    @abstractmethod
    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        """(category index, label numbers) from the label map at a position of `_files`, one or more."""

    def _whole(self, index: int) -> tuple[tuple[int, int], ...]:
        """(category index, number) of the labels that hold for the whole image."""
        return ()

    def split(self, index: int) -> str:
        """`train`, `val`, or empty where the dataset says nothing."""
        return self._splits[index]

    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB. BadInput where the file cannot be decoded."""
        path = self._path(*self._files(index)[0])
        return read_image(path, path, LISTED)

    def encoded(self, index: int) -> bytes:
        """The picture file's content."""
        return read_bytes(self._path(*self._files(index)[0]), LISTED)

    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns) from the file's header."""
        path = self._path(*self._files(index)[0])
        return read_size(path, path, LISTED)

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput for a number that is no class, or label maps of two sizes."""
        size: tuple[int, int] | None = None
        layers: list[tuple[int, NDArray[np.uint16]]] = []
        for position, (folder, name) in enumerate(self._files(index)[1:], start=1):
            path = self._path(folder, name)
            found = self._read_layers(index, position, path)
            shape = found[0][1].shape
            check_size(path, shape, size, "the size of the image's other label maps")
            size = shape[0], shape[1]
            layers += found
        return ImageLabels(size or self.image_size(index), tuple(layers), self._whole(index))

    def has_labels(self, index: int) -> bool:
        """Always: pictures without a label map are refused."""
        return True

    def fingerprint(self) -> str:
        """blake2b hex digest of the tables as they were read, and of the names and present sizes of all files."""
        places = (place for index in range(len(self)) for place in self._files(index))
        files = ((f"{folder}/{name}", self._path(folder, name)) for folder, name in places)
        return digest_files(files, self._tables_digest, LISTED)

    def _path(self, folder: str, name: str) -> str:
        """Where a file really lies. Its folder may be a link; the file must stay in it."""
        root = os.path.realpath(os.path.join(self._root, folder))
        return path_inside(root, name, root)


def make_concepts(found: Iterable[tuple[int, str, int]], categories: Sequence[str], ignore: Sequence[int]) -> Concepts:
    """Concepts from (number, name, category index) in any order, and the ignored number of each category."""
    rows = sorted(found)
    return Concepts(
        number=np.array([number for number, _, _ in rows], np.int32),
        name=tuple(name for _, name, _ in rows),
        category=np.array([category for _, _, category in rows], np.int32),
        category_name=tuple(categories),
        ignore=np.array(ignore, np.int32),
    )


def lookup_table(number_of: Mapping[int, int]) -> NDArray[np.int32]:
    """(65536,) label number of each value of a map, -1 where it has none; 0 is no label."""
    table = np.full(LARGEST_NUMBER + 1, -1, np.int32)
    table[0] = 0
    table[list(number_of)] = list(number_of.values())
    return table


def translate(path: str, values: NDArray[np.uint16], table: NDArray[np.int32], classes: str) -> NDArray[np.uint16]:
    """Label numbers of a map's values. BadInput names the first value that is none of the classes."""
    numbers = table[values]
    is_unknown = numbers < 0
    if is_unknown.any():
        raise BadInput(path, f"label number {int(values[is_unknown][0])}", classes, "restore the file")
    return numbers.astype(np.uint16)


def check_names(names: Sequence[str], place: str, expected: str) -> None:
    """Refuse a dataset without pictures, pictures listed twice, and names that are no text."""
    if not names:
        raise BadInput(place, "no picture", expected, "check that the dataset is whole")
    seen: set[str] = set()
    for name in names:
        if not is_text(name):
            raise BadInput(place, f"picture {name!r}", "a name in UTF-8", "rename it")
        if name in seen:
            raise BadInput(place, f"picture {name!r} again", "each picture once", "remove one of them")
        seen.add(name)


class Place(NamedTuple):
    """Where one kind of file lies: `images/training`, and what follows the part of the names that pairs them."""

    folder: str
    ending: str


def pair_files(root: str, pictures: Place, maps: Place) -> list[str]:
    """The names, without their endings, of the pictures that have a label map, in order; none where both folders lack.

    BadInput where a folder or a file lacks its counterpart.
    """
    if not any(os.path.isdir(os.path.join(root, place.folder)) for place in (pictures, maps)):
        return []
    found: dict[Place, set[str]] = {}
    for place, other in permutations((pictures, maps)):
        folder = os.path.join(root, place.folder)
        if not os.path.isdir(folder):
            raise missing_folder(folder, f"a folder that belongs to {other.folder}")
        names = iter_files(folder)
        found[place] = {name.removesuffix(place.ending) for name in names if name.endswith(place.ending)}
    for place, other in permutations((pictures, maps)):
        if alone := found[place] - found[other]:
            name = min(alone)
            path = os.path.join(root, place.folder, name + place.ending)
            raise without_partner(path, f"{other.folder}/{name}{other.ending}")
    return sorted(found[pictures], key=lambda name: name + pictures.ending)


def without_partner(path: str, partner: str) -> BadInput:
    """The refusal of a file whose counterpart is not there."""
    return BadInput(path, f"no {partner}", "a picture and its label map", "restore the one or remove the other")


def missing_folder(folder: str, expected: str) -> BadInput:
    """The refusal of a dataset without a folder, with the archive beside it that holds it, if there is one."""
    parent, name = os.path.split(folder)
    remedy = "add it"
    for entry in sorted(list_folder(parent)) if os.path.isdir(parent) else ():
        for ending, command in ARCHIVES.items():
            if entry.startswith(name) and entry.endswith(ending):
                remedy = f"unpack it: {command} {os.path.join(parent, entry)}"
    return BadInput("data", f"no folder {folder}", expected, remedy)


def read_table(path: str, form: str) -> bytes:
    """Content of a table without which the directory is not what it has to be (`form`)."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadInput("data", f"no file {path}", form, "add it") from error
    except OSError as error:
        raise StorageFailure(f"{path}: {error.strerror}") from error


def decode_text(content: bytes) -> str:
    """The text of a table: UTF-8, as it should be, else Latin-1, which some releases have."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def iter_lines(path: str, content: bytes) -> Iterator[tuple[str, str]]:
    """(place for messages, line without its end) of the lines that are not blank."""
    for number, line in enumerate(decode_text(content).splitlines(), start=1):
        if line.strip():
            yield f"{path} line {number}", line


def parse_json(path: str, text: str, compact: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON file holds, each object passed through `compact` as soon as it is read."""
    try:
        return json.loads(text, object_hook=compact)
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"damaged content ({error})", "JSON as it was published", "restore it") from error
