"""A folder of pictures, and beside it a folder of label maps for each category."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, StorageFailure
from .csvtables import LARGEST_NUMBER, Table, digest_tables, require_table
from .dataset import Concepts, Dataset, ImageLabels
from .imagefiles import (
    ENDINGS,
    INDEX_MAPS,
    check_size,
    digest_files,
    path_inside,
    read_bytes,
    read_image,
    read_map,
    read_size,
)

TABLE = "labels.csv"
SPLITS = ("train", "val")
OTHER_ENDINGS = (".tif", ".tiff", ".gif", ".heic", ".avif", ".jp2", ".jxl", ".ppm")
"""Of pictures that cannot be read: they are not left out in silence."""
LISTED = "the folder"
FORM = "a labelled folder: images/, labels/CATEGORY/ and labels.csv with the columns number,name,category"


class FolderDataset(Dataset):
    """Pictures `images/**`, label maps `labels/CATEGORY/**.png`, concepts in `labels.csv`.

    Parameters
    ----------
    directory : path
        Without a folder `images`, the pictures are those below the directory itself, and it has no labels.

    Raises
    ------
    BadInput
        There is no picture, two pictures share a label map's name, a label map has no picture, or labels.csv is
        missing or malformed. Files are checked when they are read.

    Notes
    -----
    The label map of `images/a/b.jpg` is `labels/CATEGORY/a/b.png`, 8- or 16-bit greyscale or with a palette, whose
    values are numbers of labels.csv; 0 is no label. An image may lack categories. Pictures below `images/train` and
    `images/val` belong to those splits. labels.csv may have a column `ignore`: a row with 1 there names pixels that are
    not judged for the concepts of its category.

    Numbers may count through all categories, or each category's from 1: where one number has several names the concepts
    are numbered anew, 1 to C, in the order of labels.csv.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = os.path.abspath(directory)
        inner = os.path.join(self.spec, "images")
        self._images = os.path.realpath(inner if os.path.isdir(inner) else self.spec)
        self._labels = os.path.realpath(os.path.join(self.spec, "labels"))
        files = sorted(iter_files(self._images))
        if odd := [name for name in files if name.lower().endswith(OTHER_ENDINGS)]:
            forms = ", ".join(ENDINGS)
            raise BadInput(self._images, f"the picture {odd[0]}", f"files {forms}", "convert it, or move it away")
        self.names = tuple(name for name in files if name.lower().endswith(ENDINGS))
        if not self.names:
            forms = ", ".join(ENDINGS)
            raise BadInput("data", f"no picture in {self._images}", f"files {forms} there or below", "check the path")
        table = None
        if os.path.isdir(self._labels) or os.path.isfile(os.path.join(self.spec, TABLE)):
            for folder in (inner, self._labels):
                if not os.path.isdir(folder):
                    raise BadInput("data", f"no folder {folder}", FORM, "add it")
            table = require_table(self.spec, TABLE, ("number", "name", "category"), FORM)
        self.concepts, self._numbers = read_labels(table)
        self._layers = self._find_maps() if table else [()] * len(self.names)
        self._tables_digest = digest_tables([table])

    def split(self, index: int) -> str:
        """`train` or `val` where the picture lies in a folder of that name, else empty."""
        top, slash, _ = self.names[index].partition("/")
        return top if slash and top in SPLITS else ""

    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB. BadInput where the file cannot be decoded."""
        path = self._path(index)
        return read_image(path, path, LISTED)

    def encoded(self, index: int) -> bytes:
        """The picture file's content."""
        return read_bytes(self._path(index), LISTED)

    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns) from the file's header."""
        path = self._path(index)
        return read_size(path, path, LISTED)

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput for a number that labels.csv has not, or maps of two sizes."""
        size: tuple[int, int] | None = None
        first, layers = "", []
        for category, name in self._layers[index]:
            path = path_inside(self._labels, name, os.path.join(self.spec, "labels"))
            values = read_map(path, INDEX_MAPS, LISTED)
            check_size(path, values.shape, size, f"the size of the image's label map {first}")
            size, first = (values.shape[0], values.shape[1]), first or name
            numbers = self._numbers[category][values]
            unknown = (numbers == 0) & (values > 0)
            if unknown.any():
                value, kind = int(values[unknown][0]), self.concepts.category_name[category]
                expected = f"a number that {TABLE} lists for {kind}"
                raise BadInput(path, f"label number {value}", expected, f"add a line to {TABLE}")
            layers.append((category, numbers))
        return ImageLabels(size or self.image_size(index), tuple(layers), ())

    def has_labels(self, index: int) -> bool:
        """Whether any category has a label map of the image."""
        return bool(self._layers[index])

    def fingerprint(self) -> str:
        """blake2b hex digest of labels.csv and of the names and present sizes of all files."""
        entries = (entry for layers in self._layers for _, entry in layers)
        maps = [(entry, os.path.join(self._labels, entry)) for entry in entries]
        return digest_files([*self._pictures(), *maps], self._tables_digest, LISTED)

    def images_fingerprint(self) -> str:
        """blake2b hex digest of the names and present sizes of the pictures."""
        return digest_files(self._pictures(), listed=LISTED)

    def _pictures(self) -> list[tuple[str, str]]:
        return [(name, self._path(index)) for index, name in enumerate(self.names)]

    def _path(self, index: int) -> str:
        return path_inside(self._images, self.names[index], self._images)

    def _find_maps(self) -> list[tuple[tuple[int, str], ...]]:
        """Of each image: (category index, file below labels/) of its label maps."""
        index_of: dict[str, int] = {}
        for index, name in enumerate(self.names):
            stem = os.path.splitext(name)[0]
            if stem in index_of:
                got = f"{self.names[index_of[stem]]} and {name}"
                raise BadInput(self._images, got, "pictures whose names differ before the ending", "rename one")
            index_of[stem] = index
        found: list[list[tuple[int, str]]] = [[] for _ in self.names]
        categories = self.concepts.category_name
        for folder in sorted(list_folder(self._labels)):
            path = os.path.join(self._labels, folder)
            if folder.startswith(".") or not os.path.isdir(path):
                continue
            if folder not in categories:
                known = f"one of the categories of {TABLE}: {', '.join(categories)}"
                raise BadInput(path, f"category {folder!r}", known, f"add its labels to {TABLE}, or remove the folder")
            for name in sorted(iter_files(path)):
                stem, ending = os.path.splitext(name)
                if ending.lower() != ".png":
                    raise BadInput(os.path.join(path, name), f"a label map {ending}", "a PNG file", "convert it")
                if stem not in index_of:
                    picture = f"a picture {os.path.join('images', stem)} with one of {', '.join(ENDINGS)}"
                    raise BadInput(os.path.join(path, name), "no picture of its name", picture, "rename or remove it")
                layers = found[index_of[stem]]
                if layers and layers[-1][0] == categories.index(folder):
                    got = f"{name} and {layers[-1][1].partition('/')[2]}"
                    raise BadInput(path, got, "one label map for each picture", "remove one")
                layers.append((categories.index(folder), f"{folder}/{name}"))
        return [tuple(sorted(layers)) for layers in found]


def iter_files(root: str) -> Iterator[str]:
    """Files below a directory, relative, with forward slashes; none hidden, no tables. Linked folders are refused."""
    for folder, folders, names in os.walk(root, onerror=refuse_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                path = os.path.join(folder, name)
                raise BadInput(path, "a link to a folder", "folders of its own below images/", "copy the folder there")
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
            if not name.startswith(".") and not name.lower().endswith((".csv", ".txt", ".md", ".json")):
                if not is_text(path):
                    raise BadInput(repr(os.path.join(folder, name)), "a name that is no UTF-8", "UTF-8", "rename it")
                yield path


def refuse_unreadable(error: OSError) -> None:
    """What cannot be listed is not left out."""
    raise StorageFailure(f"{error.filename}: {error.strerror}") from error


def list_folder(path: str | os.PathLike[str]) -> set[str]:
    """Names in a directory."""
    try:
        return set(os.listdir(path))
    except OSError as error:
        raise StorageFailure(f"{path}: {error.strerror}") from error


def is_folder_of_pictures(path: str | os.PathLike[str]) -> bool:
    """Whether a directory has a folder `images`, or holds pictures itself."""
    if os.path.isdir(os.path.join(path, "images")):
        return True
    return os.path.isdir(path) and any(name.lower().endswith(ENDINGS) for name in list_folder(path))


def is_text(name: str) -> bool:
    """Whether a file name can be written down as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_labels(table: Table | None) -> tuple[Concepts, list[NDArray[np.uint16]]]:
    """The concepts of labels.csv, and for each category (65536,) from a map's value to a concept's number, 0: none."""
    rows: dict[tuple[str, int], str] = {}
    ignored: dict[str, int] = {}
    for cells in table.rows if table else ():
        category, name = cells.get("category"), cells.get("name")
        number = cells.whole_number("number", 0, LARGEST_NUMBER)
        for column, text in (("category", category), ("name", name)):
            if not text or (column == "category" and (set(text) & set("/\\;\0") or text.startswith("."))):
                raise BadInput(f"{cells.place}, column {column}", repr(text), "a name, without slashes", "correct it")
        if number == 0:  # background, listed for completeness
            continue
        if (category, number) in rows:
            raise BadInput(cells.place, f"number {number} of {category} again", "each number once", "remove a line")
        rows[category, number] = name
        if (mark := cells.get("ignore")) not in ("", "0", "1"):
            raise BadInput(f"{cells.place}, column ignore", repr(mark), "1, 0 or nothing", "correct the table")
        if mark == "1":
            if category in ignored:
                raise BadInput(cells.place, "ignore again", "one ignored number in a category", "merge the numbers")
            ignored[category] = number
    categories = list(dict.fromkeys(category for category, _ in rows))
    names: dict[int, set[str]] = {}
    for (_, number), name in rows.items():
        names.setdefault(number, set()).add(name)
    is_shared = all(len(several) == 1 for several in names.values())
    numbered = {key: key[1] if is_shared else position for position, key in enumerate(rows, start=1)}
    if len(rows) > LARGEST_NUMBER:
        raise BadInput(TABLE, f"{len(rows)} lines", f"at most {LARGEST_NUMBER}", "leave some out")
    home = {number: (rows[key], categories.index(key[0])) for key, number in numbered.items()}  # later lines win
    lookup = [np.zeros(LARGEST_NUMBER + 1, np.uint16) for _ in categories]
    for (category, value), number in numbered.items():
        lookup[categories.index(category)][value] = number
    numbers = sorted(home)
    concepts = Concepts(
        number=np.array(numbers, np.int32),
        name=tuple(home[number][0] for number in numbers),
        category=np.array([home[number][1] for number in numbers], np.int32),
        category_name=tuple(categories),
        ignore=np.array([numbered.get((name, ignored.get(name, 0)), 0) for name in categories], np.int32),
    )
    return concepts, lookup
