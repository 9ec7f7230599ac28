"""Write any labelled image set as a Broden directory, which `BrodenDataset` and other Broden readers open."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, StorageFailure
from .dataset import Dataset, ImageLabels
from .imagefiles import encode_png

Table = list[list[Any]]
"""Lines of cells, the header first."""
UNFINISHED = "images.unfinished"
"""The folder of images until all are there."""


def write_broden(dataset: Dataset, out_dir: str | os.PathLike[str]) -> None:
    """Write images, label maps and tables.

    Parameters
    ----------
    dataset : Dataset
        Any. Where it offers `planted_facts`, they are written too, as `facts.json`.
    out_dir : path
        Made if it does not exist; must be empty if it does. Images go to `images/` under their own names, as PNG files
        (`.png` is added to other names), label maps to `images/labels/`.

    Raises
    ------
    BadInput
        The directory is not empty, or a name cannot stand in `index.csv`.
    StorageFailure
        A file cannot be written.

    Notes
    -----
    A label PNG is RGB, number = R + 256 G. `coverage` is the sum over images of the share of the label map, `frequency`
    a number of images. `images` takes its name when all files are there, `index.csv` is written last: a directory that
    was cut short is no dataset.
    """
    out = Path(out_dir)
    check_empty(out)
    names = [name if name.lower().endswith(".png") else name + ".png" for name in dataset.names]
    categories = dataset.concepts.category_name
    check_names(names, categories)
    header = ["image", "split", "ih", "iw", "sh", "sw", *categories]
    index: Table = [header]
    covers = [Coverage() for _ in categories]
    total = Coverage()
    with naming_failures(out):
        for i, name in enumerate(names):
            labels = dataset.labels(i)
            save_png(out / UNFINISHED / name, dataset.image(i))
            cells: list[list[str]] = [[] for _ in categories]
            for g, layer in labels.layers:
                entry = f"labels/{categories[g]}_{len(cells[g])}/{name}"
                save_png(out / UNFINISHED / entry, encode_map(layer))
                cells[g].append(entry)
            for g, number in labels.whole:
                cells[g].append(str(number))
            sizes = *dataset.image_size(i), *labels.shape
            index.append([name, dataset.split(i), *sizes, *(";".join(entries) for entries in cells)])
            total.add(labels, range(len(categories)))
            for g, cover in enumerate(covers):
                cover.add(labels, [g])
        for file_name, table in list_tables(dataset, covers, total).items():
            write_table(out / file_name, table)
        facts = getattr(dataset, "planted_facts", None)
        if facts is not None:
            (out / "facts.json").write_text(json.dumps(facts(), indent=1) + "\n", encoding="utf-8")
        os.rename(out / UNFINISHED, out / "images")
        write_table(out / "index.csv", index)


class Coverage:
    """How much of the images each label covers, in some categories."""

    def __init__(self) -> None:
        self.share: dict[int, float] = {}
        """Sum over images of the share of the label map, by label number."""
        self.frequency: dict[int, int] = {}
        """Images with the label, by label number."""
        self.n_images = 0
        """Images with any label."""

    def add(self, labels: ImageLabels, categories: Iterable[int]) -> None:
        """Count one image's labels in these categories, a pixel once for each label (methods 3.2)."""
        chosen = set(categories)
        layers = [layer for g, layer in labels.layers if g in chosen]
        share: dict[int, float] = {}
        for i, layer in enumerate(layers):
            is_new = layer > 0
            for earlier in layers[:i]:
                is_new &= layer != earlier
            numbers, counts = np.unique(layer[is_new], return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                share[number] = share.get(number, 0.0) + count / layer.size
        share.update((number, 1.0) for g, number in labels.whole if g in chosen)
        for number, part in share.items():
            self.share[number] = self.share.get(number, 0.0) + part
            self.frequency[number] = self.frequency.get(number, 0) + 1
        self.n_images += bool(share)


def list_tables(dataset: Dataset, covers: Sequence[Coverage], total: Coverage) -> dict[str, Table]:
    """label.csv, category.csv and the c_CATEGORY.csv by name; a label that never occurs stands in its own category."""
    concepts = dataset.concepts
    has_ignore = bool(concepts.ignore.any())
    label: Table = [["number", "name", "category", "frequency", "coverage", "syns"]]
    category: Table = [["name", "first", "last", "count", "frequency", *(["ignore"] if has_ignore else [])]]
    tables = {"label.csv": label, "category.csv": category}
    listed = [
        sorted({*cover.share, *concepts.number[concepts.category == g].tolist()}) for g, cover in enumerate(covers)
    ]
    name_of = dict(zip(concepts.number.tolist(), concepts.name, strict=True))
    for number, name in name_of.items():
        homes = [
            f"{concepts.category_name[g]}({covers[g].frequency.get(number, 0)})"
            for g, numbers in enumerate(listed)
            if number in numbers
        ]
        counts = total.frequency.get(number, 0), total.share.get(number, 0.0)
        label.append([number, name, ";".join(homes), *counts, ""])
    for g, (category_name, cover, numbers) in enumerate(zip(concepts.category_name, covers, listed, strict=True)):
        ends = [numbers[0], numbers[-1]] if numbers else ["", ""]
        ignore = [int(concepts.ignore[g])] if has_ignore else []
        category.append([category_name, *ends, len(numbers), cover.n_images, *ignore])
        table: Table = [["code", "number", "name", "frequency", "coverage"]]
        for code, number in enumerate(numbers, start=1):
            counts = cover.frequency.get(number, 0), cover.share.get(number, 0.0)
            table.append([code, number, name_of[number], *counts])
        tables[f"c_{category_name}.csv"] = table
    return tables


def encode_map(numbers: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(H, W) label numbers to (H, W, 3) with R + 256 G."""
    return np.stack([numbers & 255, numbers >> 8, np.zeros_like(numbers)], axis=-1).astype(np.uint8)


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB pixels, making folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels))


def write_table(path: Path, lines: Table) -> None:
    """Write a CSV file; numbers as Python prints them, so that they read back equal."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def check_empty(out: Path) -> None:
    """Make the directory, or refuse one that holds something."""
    if out.exists() and not out.is_dir():
        raise BadInput("output directory", repr(str(out)), "a new or empty directory", "a file has this name")
    with naming_failures(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise BadInput(
                "output directory", repr(str(out)), "a new or empty directory", "choose another, or empty it first"
            )


def check_names(names: Sequence[str], categories: Sequence[str]) -> None:
    """Refuse names that index.csv cannot hold, or that would overwrite each other or the label maps."""
    for name in categories:
        if not name or any(sign in name for sign in "/\\;\0") or name != name.strip():
            raise BadInput("category", repr(name), "a name without slashes and semicolons", "rename it")
    taken: set[str] = set()
    for name in names:
        folders = name.split("/")
        if name != name.strip() or any(sign in name for sign in ";\0\n\r") or ".." in folders or "" in folders:
            raise BadInput(
                "image", repr(name), "a relative path without semicolons that stays below images/", "rename it"
            )
        if name in taken or folders[0] == "labels":
            raise BadInput("image", repr(name), "a name of its own, outside labels/", "rename it")
        taken.add(name)


@contextmanager
def naming_failures(out: Path) -> Iterator[None]:
    """Turn what the system says about a file into a failure that names it."""
    try:
        yield
    except OSError as error:
        raise StorageFailure(f"{error.filename or out}: {error.strerror or error}") from error
