"""A Broden directory: images, label maps as PNG files, and the tables that tie them together."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .csvtables import LARGEST_NUMBER, Cells, Table, digest_tables, is_number, open_table, require_table
from .dataset import Concepts, Dataset, ImageLabels
from .imagefiles import check_size, digest_files, inside, path_inside, read_bytes, read_image, read_map, read_size

INDEX_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")
"""Columns of index.csv that are no category."""
FORM = "a Broden directory, with index.csv and label.csv"


class BrodenDataset(Dataset):
    """Images and labels of a Broden directory.

    Parameters
    ----------
    directory : path
        Holds `index.csv`, `label.csv` and the folder `images`; `category.csv` and `c_CATEGORY.csv` are read where they
        are present. Missing columns `split`, `ih`, `iw`, `sh`, `sw` are made good from the files' headers.

    Raises
    ------
    BadInput
        A table is missing or malformed, there is no image, an image is listed twice, a path leaves `images`, or a cell
        names a label that `label.csv` has not. Files are checked when they are read.

    Notes
    -----
    Source: methods 3.2, 3.3. The primary category of a label is decided by the coverage in `c_CATEGORY.csv`; where one
    of its categories has no such table, by the counts in brackets in `label.csv`; without those, by the order alone.
    `category.csv` may have a column `ignore`, a number listed in `label.csv`.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = os.path.abspath(directory)
        self._images = os.path.realpath(os.path.join(self.spec, "images"))
        index = require_table(self.spec, "index.csv", ("image",), FORM)
        label = require_table(self.spec, "label.csv", ("number", "name"), FORM)
        category = open_table(self.spec, "category.csv", ("name",))
        categories = category_names(index, category)
        covers = [open_table(self.spec, f"c_{name}.csv", ("number", "coverage")) for name in categories]
        self.concepts = read_concepts(label, category, categories, covers)
        known = {0, *self.concepts.number.tolist()}
        self._is_known = np.zeros(LARGEST_NUMBER + 1, bool)  # (65536,) the same, to look up whole maps
        self._is_known[list(known)] = True
        self._rows = [read_row(cells, categories, known) for cells in index.rows]
        self.names = tuple(row.name for row in self._rows)
        check_names(index, self.names)
        self._tables_digest = digest_tables([index, label, category, *covers])

    def split(self, index: int) -> str:
        """Text of the column `split`; empty where there is none."""
        return self._rows[index].split

    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB. BadInput where the file cannot be decoded or is not of the size listed."""
        row = self._rows[index]
        path = self._path(row.name)
        pixels = read_image(path, path)
        check_size(path, pixels.shape[:2], row.image_size, "ih and iw of its row in index.csv")
        return pixels

    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns) of an image, from `ih` and `iw`, else from the file's header."""
        row = self._rows[index]
        if row.image_size is not None:
            return row.image_size
        path = self._path(row.name)
        return read_size(path, path)

    def encoded(self, index: int) -> bytes:
        """The image file's content."""
        return read_bytes(self._path(self._rows[index].name))

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput for a map of the wrong size or a number that `label.csv` has not."""
        row = self._rows[index]
        size, source = row.label_size, "sh and sw of its row in index.csv"
        layers = []
        for category, name in row.layers:
            path = self._path(name)
            numbers = read_map(path)
            check_size(path, numbers.shape, size, source)
            size, source = (numbers.shape[0], numbers.shape[1]), "the size of the image's other label maps"
            is_known = self._is_known[numbers]
            if not is_known.all():
                raise unknown_number(path, int(numbers[~is_known][0]))
            layers.append((category, numbers))
        return ImageLabels(self.image_size(index) if size is None else size, tuple(layers), row.whole)

    def has_labels(self, index: int) -> bool:
        """Whether any category of the image's row holds a label."""
        row = self._rows[index]
        return bool(row.layers or row.whole)

    def fingerprint(self) -> str:
        """blake2b hex digest of the tables as they were read, and of the names and present sizes of all files."""
        names = (name for row in self._rows for name in (row.name, *(name for _, name in row.layers)))
        return digest_files(((name, self._path(name)) for name in names), self._tables_digest)

    def images_fingerprint(self) -> str:
        """blake2b hex digest of the names and present sizes of the image files."""
        return digest_files((row.name, self._path(row.name)) for row in self._rows)

    def _path(self, name: str) -> str:
        """Where a file listed in index.csv really lies; BadInput where links lead out of `images`."""
        return path_inside(self._images, name, os.path.join(self.spec, "index.csv"))


class Row(NamedTuple):
    """One image of index.csv."""

    name: str
    split: str
    image_size: tuple[int, int] | None
    label_size: tuple[int, int] | None
    layers: tuple[tuple[int, str], ...]
    """(category index, file name)"""
    whole: tuple[tuple[int, int], ...]
    """(category index, label number)"""


def category_names(index: Table, category: Table | None) -> list[str]:
    """Categories in the dataset's order: category.csv's, else the other columns of index.csv."""
    if category is None:
        names = [column for column in index.columns if column and column not in INDEX_COLUMNS]
    else:
        names = [cells.get("name") for cells in category.rows]
    for i, name in enumerate(names):
        if not name or name in INDEX_COLUMNS or name in names[:i] or re.search(r"[/\\\0]", name):
            path = index.path if category is None else category.path
            expected = "a category name once, without slashes, that is no other column of index.csv"
            raise BadInput(f"{path}, category {i + 1}", repr(name), expected, "rename it")
    return names


def read_concepts(
    label: Table, category: Table | None, categories: Sequence[str], covers: Sequence[Table | None]
) -> Concepts:
    """The concepts of label.csv, ascending, each in its primary category."""
    coverage = [
        None
        if table is None
        else {cells.whole_number("number", 0, LARGEST_NUMBER): cells.coverage() for cells in table.rows}
        for table in covers
    ]
    found: dict[int, tuple[str, int]] = {}
    for cells in label.rows:
        number = cells.whole_number("number", 0, LARGEST_NUMBER)
        if number in found:
            raise BadInput(cells.place, f"label number {number} again", "each number once", "remove one of the lines")
        if number > 0:
            found[number] = cells.get("name"), primary_category(cells, number, categories, coverage)
    numbers = sorted(found)
    ignore = [0] * len(categories)
    for g, cells in enumerate(category.rows if category else ()):
        if cells.get("ignore"):
            ignore[g] = cells.whole_number("ignore", 0, LARGEST_NUMBER)
            if ignore[g] and ignore[g] not in found:
                raise unknown_number(f"{cells.place}, column ignore", ignore[g])
    return Concepts(
        number=np.array(numbers, np.int32),
        name=tuple(found[number][0] for number in numbers),
        category=np.array([found[number][1] for number in numbers], np.int32),
        category_name=tuple(categories),
        ignore=np.array(ignore, np.int32),
    )


def primary_category(
    cells: Cells, number: int, categories: Sequence[str], coverage: Sequence[dict[int, float] | None]
) -> int:
    """Index of the category in which a label covers most, ties to the later one (methods 3.3)."""
    counts = dict(parse_categories(cells.get("category")))
    candidates = [g for g, name in enumerate(categories) if name in counts or number in (coverage[g] or ())]
    if not candidates:
        expected = f"at least one of the dataset's categories {', '.join(categories)}"
        raise BadInput(f"{cells.place}, category", repr(cells.get("category")), expected, "add it, or drop the label")
    tables = [coverage[g] for g in candidates]
    covered = [table.get(number, 0.0) for table in tables if table is not None]
    counted = [count for g in candidates if (count := counts.get(categories[g])) is not None]
    for weights in (covered, counted):
        if len(weights) == len(candidates):
            return max(zip(weights, candidates, strict=True))[1]
    return candidates[-1]


def parse_categories(text: str) -> Iterator[tuple[str, float | None]]:
    """Names and counts of `material(36);object(3)`; None where there is no count."""
    for entry in filter(None, map(str.strip, text.split(";"))):
        match = re.fullmatch(r"(.*\S)\s*\((\d+(?:\.\d*)?)\)", entry)
        yield (match[1], float(match[2])) if match else (entry, None)


def read_row(cells: Cells, categories: Sequence[str], known: Container[int]) -> Row:
    """One image of index.csv, its cells checked; a label number 0 says nothing and is left out."""
    layers, whole = [], []
    for g, column in enumerate(categories):
        for entry in filter(None, map(str.strip, cells.get(column).split(";"))):
            if not is_number(entry):
                layers.append((g, inside(cells.place, entry)))
            elif int(entry) > 0:
                if int(entry) not in known:
                    raise unknown_number(f"{cells.place}, column {column}", int(entry))
                whole.append((g, int(entry)))
    name = inside(cells.place, cells.get("image"))
    return Row(name, cells.get("split"), cells.size("ih", "iw"), cells.size("sh", "sw"), tuple(layers), tuple(whole))


def check_names(index: Table, names: Sequence[str]) -> None:
    """Refuse an empty index and images listed twice."""
    if not names:
        raise BadInput(index.path, "no image", "one line per image", "check that the file is whole")
    seen: set[str] = set()
    for cells, name in zip(index.rows, names, strict=True):
        if name in seen:
            raise BadInput(cells.place, f"image {name!r} again", "each image once", "remove one of the lines")
        seen.add(name)


def unknown_number(place: str, number: int) -> BadInput:
    """The refusal of a label number without an entry."""
    return BadInput(place, f"label number {number}", "a number that label.csv lists", "add it to label.csv")
