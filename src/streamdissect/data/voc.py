"""PASCAL VOC: pictures, and palette PNG files whose index is the class."""

from __future__ import annotations

import os
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .folder import list_folder
from .foreignbase import (
    LISTED,
    ForeignDataset,
    Layout,
    check_names,
    iter_lines,
    lookup_table,
    make_concepts,
    missing_folder,
    read_table,
    translate,
    without_partner,
)
from .imagefiles import INDEX_MAPS, read_map

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Number 1 and on; 0 is the background."""
VOID = 255
"""Outlines and what the annotators left open: not judged."""
PICTURES, MAPS = "JPEGImages", "SegmentationClass"
LISTS = os.path.join("ImageSets", "Segmentation")
SPLIT_OF = {"trainval": "", "train": "train", "val": "val"}
"""Split of the pictures that a list names; later lists win over `trainval`."""
FORM = "a VOC directory, with JPEGImages/ and SegmentationClass/, or VOCdevkit with one year in it"


class VocDataset(ForeignDataset):
    """The segmentation part of a year of PASCAL VOC.

    Parameters
    ----------
    directory : path
        `VOCdevkit/VOC2012`, any other folder with `JPEGImages/` and `SegmentationClass/`, or `VOCdevkit` itself, if it
        holds one year.

    Raises
    ------
    BadInput
        The directory holds no year or several, or a list names a picture whose file or label map is not there.

    Notes
    -----
    Pictures and splits are those of `ImageSets/Segmentation/{train,val,trainval}.txt`; without any of these, all
    pictures that have a label map. The 20 classes are category `object`; pixels of 255 are not judged.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = os.path.abspath(directory)
        self._root = find_year(self.spec)
        digest = blake2b()
        splits: dict[str, str] = {}
        listed_in: dict[str, str] = {}
        lists = {name: os.path.join(self._root, LISTS, f"{name}.txt") for name in SPLIT_OF}
        lists = {name: path for name, path in lists.items() if os.path.isfile(path)}
        for name, path in lists.items():
            content = read_table(path, FORM)
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            for place, line in iter_lines(path, content):
                stem = line.strip()
                if splits.get(stem):
                    got = f"image {stem!r} again"
                    raise BadInput(place, got, "each image once, in one split", "remove one of the lines")
                splits[stem], listed_in[stem] = SPLIT_OF[name], place
        self._tables_digest = digest.digest()
        pictures, maps = (list_folder(os.path.join(self._root, folder)) for folder in (PICTURES, MAPS))
        if not lists:
            splits = {name.removesuffix(".png"): "" for name in maps if name.endswith(".png") and name[0] != "."}
        self.names = tuple(sorted(f"{stem}.jpg" for stem in splits))
        self._stems = tuple(name.removesuffix(".jpg") for name in self.names)
        for stem in self._stems:
            for folder, name, present in ((PICTURES, f"{stem}.jpg", pictures), (MAPS, f"{stem}.png", maps)):
                if name not in present and not lists:
                    raise without_partner(os.path.join(self._root, MAPS, f"{stem}.png"), f"{PICTURES}/{name}")
                if name not in present:
                    path, expected = os.path.join(self._root, folder, name), f"the file that {listed_in[stem]} names"
                    raise BadInput(path, "no such file", expected, "restore it, or drop the line")
        self._splits = tuple(splits[stem] for stem in self._stems)
        check_names(self.names, self._root, "pictures with label maps")
        numbers = list(enumerate(CLASSES, start=1))
        rows = [(number, name, 0) for number, name in [*numbers, (VOID, "void")]]
        self.concepts = make_concepts(rows, ("object",), (VOID,))
        self._numbers = lookup_table({number: number for number, _, _ in rows})

    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        stem = self._stems[index]
        return (PICTURES, f"{stem}.jpg"), (MAPS, f"{stem}.png")

    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        values = read_map(path, INDEX_MAPS, LISTED)
        return [(0, translate(path, values, self._numbers, f"0 to {len(CLASSES)}, or {VOID}"))]


def find_year(directory: str) -> str:
    """The folder with the pictures: the directory itself, or the only year in it."""
    if is_year(directory):
        return directory
    entries = sorted(list_folder(directory))
    years = [name for name in entries if is_year(os.path.join(directory, name))]
    if len(years) > 1:
        remedy = f"give one of them, such as {os.path.join(directory, years[-1])}"
        raise BadInput(directory, f"several years, {', '.join(years)}", "one year", remedy)
    if years:
        return os.path.join(directory, years[0])
    for folder, other in ((PICTURES, MAPS), (MAPS, PICTURES)):
        for root in (directory, *(os.path.join(directory, name) for name in entries)):
            if os.path.isdir(os.path.join(root, folder)):
                raise missing_folder(os.path.join(root, other), FORM)
    raise BadInput("data", repr(directory), FORM, "check the path")


def is_year(directory: str) -> bool:
    """Whether a directory holds pictures and label maps of their classes."""
    return all(os.path.isdir(os.path.join(directory, folder)) for folder in (PICTURES, MAPS))


LAYOUT = Layout(FORM, (PICTURES, MAPS, f"*/{PICTURES}", f"*/{MAPS}"), VocDataset)
