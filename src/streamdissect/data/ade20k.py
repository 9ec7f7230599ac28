"""ADE20K: the benchmark of 150 classes (ADEChallengeData2016), and the full dataset with parts (ADE20K_2021_17_01)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .csvtables import is_number
from .dataset import Dataset
from .folder import is_text, refuse_unreadable
from .foreignbase import (
    LISTED,
    ForeignDataset,
    Layout,
    Place,
    check_names,
    decode_text,
    iter_lines,
    lookup_table,
    make_concepts,
    missing_folder,
    pair_files,
    parse_json,
    read_table,
    translate,
    without_partner,
)
from .imagefiles import INDEX_MAPS, describe_kind, read_map, read_png

SPLIT_OF = {"training": "train", "validation": "val"}
"""Folders of both layouts."""
FIRST_PART, FIRST_SCENE = 10000, 20000
"""Added to a part's class, and to a scene's place in the alphabet: numbers are unique over all categories."""
OBJECTS, SCENES = "objectInfo150.txt", "sceneCategories.txt"
FULL = "images/ADE"
LARGEST_CLASS = 25 * 256 + 255
"""(R // 10) * 256 + G of a label map of the full dataset."""
NAMELESS = ("", "-")
"""Names of objects that nobody named: their pixels have no label."""
CHALLENGE_FORM = f"ADEChallengeData2016, with images/, annotations/, {OBJECTS} and {SCENES}"
FULL_FORM = "ADE20K_2021_17_01, with images/ADE/{training,validation}/GROUP/SCENE/"


class ChallengeDataset(ForeignDataset):
    """The scene parsing benchmark: 150 classes of objects, and the scene of each image.

    Parameters
    ----------
    directory : path
        Holds `images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`, `objectInfo150.txt` and
        `sceneCategories.txt`; one of the splits may be missing.

    Raises
    ------
    BadInput
        A table is missing or malformed, a picture or a label map is alone, or a picture has no scene.

    Notes
    -----
    Category `object` has the numbers of objectInfo150.txt, 0 is no label; category `scene`, for whole images, has 20000
    and on, in the alphabetical order of the scenes in sceneCategories.txt.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = self._root = os.path.abspath(directory)
        digest = blake2b()
        tables = {}
        for name in (OBJECTS, SCENES):
            tables[name] = read_table(os.path.join(self.spec, name), CHALLENGE_FORM)
            digest.update(f"{name}\0{len(tables[name])}\0".encode() + tables[name])
        self._tables_digest = digest.digest()
        objects = read_objects(os.path.join(self.spec, OBJECTS), tables[OBJECTS])
        scenes_path = os.path.join(self.spec, SCENES)
        scene_of = read_scenes(scenes_path, tables[SCENES])
        names: list[str] = []
        for folder in SPLIT_OF:
            places = Place(f"images/{folder}", ".jpg"), Place(f"annotations/{folder}", ".png")
            names += [f"{folder}/{name}.jpg" for name in pair_files(self.spec, *places)]
        self.names = tuple(names)
        check_names(self.names, self.spec, CHALLENGE_FORM)
        self._splits = tuple(SPLIT_OF[name.partition("/")[0]] for name in names)
        stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
        for stem in stems:
            if stem not in scene_of:
                expected = f"a line with {stem} and its scene"
                raise BadInput(scenes_path, f"no line {stem}", expected, "add it, or remove the image")
        number_of = number_scenes(scene_of.values())
        self._scenes = tuple(number_of[scene_of[stem]] for stem in stems)
        rows = [(number, name, 0) for number, name in objects.items()]
        rows += [(number, name, 1) for name, number in number_of.items()]
        self.concepts = make_concepts(rows, ("object", "scene"), (0, 0))
        self._numbers = lookup_table({number: number for number in objects})

    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        folder, _, name = self.names[index].partition("/")
        return (f"images/{folder}", name), (f"annotations/{folder}", name.removesuffix(".jpg") + ".png")

    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        values = read_map(path, INDEX_MAPS, LISTED)
        return [(0, translate(path, values, self._numbers, f"0 or a number of {OBJECTS}"))]

    def _whole(self, index: int) -> tuple[tuple[int, int], ...]:
        return ((1, self._scenes[index]),)


class FullDataset(ForeignDataset):
    """The full dataset: thousands of classes of objects, their parts and the parts of these, and scenes.

    Parameters
    ----------
    directory : path
        Holds `images/ADE/{training,validation}/GROUP/SCENE/` with `NAME.jpg`, `NAME_seg.png`, `NAME.json` and, where
        there are parts, `NAME_parts_1.png` and on. One of the splits may be missing. The index is not needed, and a
        pickle is never loaded.

    Raises
    ------
    BadInput
        A picture lacks its label map or JSON file, or these lack their picture; a JSON file is malformed, or gives a
        class another name than the files before.

    Notes
    -----
    A class is (R // 10) * 256 + G of a label map, and `name_ndx` of the JSON files, which are all read when the dataset
    is opened. Category `object` has the classes' own numbers. Category `part` has 10000 more: a window of a house is
    another concept than a window that stands alone. All levels of parts are layers of it. Category `scene`, for whole
    images, has 20000 and on, in alphabetical order of the folders below GROUP; an image without such a folder has none.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = self._root = os.path.abspath(directory)
        found = {
            f"{folder}/{stem}": levels
            for folder in SPLIT_OF
            if os.path.isdir(os.path.join(self.spec, FULL, folder))
            for stem, levels in find_pictures(os.path.join(self.spec, FULL, folder)).items()
        }
        self.names = tuple(sorted(f"{stem}.jpg" for stem in found))
        self._stems = tuple(name.removesuffix(".jpg") for name in self.names)
        self._levels = tuple(found[stem] for stem in self._stems)
        check_names(self.names, self.spec, FULL_FORM)
        self._splits = tuple(SPLIT_OF[stem.partition("/")[0]] for stem in self._stems)
        digest = blake2b()
        classes: dict[tuple[int, bool], str] = {}
        name_of: dict[int, str] = {}
        for stem in self._stems:
            path = os.path.join(self.spec, FULL, f"{stem}.json")
            content = read_table(path, FULL_FORM)
            digest.update(f"{stem}\0{len(content)}\0".encode() + content)
            for number, name, is_part in iter_objects(path, content):
                if name_of.setdefault(number, name) != name:
                    got = f"the name {name!r} for class {number}"
                    raise BadInput(path, got, f"{name_of[number]!r}, as in files before it", "restore the file")
                classes[number, is_part] = name
        self._tables_digest = digest.digest()
        scenes = ["/".join(stem.split("/")[2:-1]) for stem in self._stems]
        number_of = number_scenes(filter(None, scenes))
        self._scenes = tuple(number_of.get(scene, 0) for scene in scenes)
        rows = [
            (number + FIRST_PART * is_part, name, int(is_part))
            for (number, is_part), name in classes.items()
            if name not in NAMELESS
        ]
        rows += [(number, name, 2) for name, number in number_of.items()]
        self.concepts = make_concepts(rows, ("object", "part", "scene"), (0, 0, 0))
        self._numbers = [
            lookup_table({
                number: 0 if name in NAMELESS else number + FIRST_PART * is_part
                for (number, is_part), name in classes.items()
                if is_part == wanted
            })
            for wanted in (False, True)
        ]  # fmt: skip

    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        split, _, stem = self._stems[index].partition("/")
        endings = (".jpg", "_seg.png", *(f"_parts_{level}.png" for level in self._levels[index]))
        return tuple((f"{FULL}/{split}", stem + ending) for ending in endings)

    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        pixels, kind = read_png(path, LISTED)
        if kind != (8, 2):
            raise BadInput(path, describe_kind(kind), "8-bit RGB", "restore the file")
        values = (pixels[..., 0] // 10).astype(np.uint16) * np.uint16(256) + pixels[..., 1].astype(np.uint16)
        category = int(position > 1)
        classes = f"a name_ndx of {'a part' if category else 'an object'} in the JSON files"
        return [(category, translate(path, values, self._numbers[category], classes))]

    def _whole(self, index: int) -> tuple[tuple[int, int], ...]:
        return ((2, self._scenes[index]),) if self._scenes[index] else ()


def read_objects(path: str, content: bytes) -> dict[int, str]:
    """Number -> name of objectInfo150.txt: columns by tabs, Idx first and Name last."""
    found: dict[int, str] = {}
    for place, line in iter_lines(path, content):
        number, *cells = (cell.strip() for cell in line.split("\t"))
        if number == "Idx":
            continue
        if not is_number(number) or not 0 < int(number) < FIRST_PART or not cells or not cells[-1]:
            raise BadInput(place, repr(line), "Idx, Ratio, Train, Val and Name, with tabs between", "restore the file")
        if int(number) in found:
            raise BadInput(place, f"class {number} again", "each class once", "restore the file")
        found[int(number)] = cells[-1]
    if not found:
        raise BadInput(path, "no class", "a line for each class", "restore the file")
    return found


def read_scenes(path: str, content: bytes) -> dict[str, str]:
    """Image -> scene of sceneCategories.txt."""
    found: dict[str, str] = {}
    for place, line in iter_lines(path, content):
        cells = line.split()
        if len(cells) != 2 or cells[0] in found:
            raise BadInput(place, repr(line), "an image and its scene, each image once", "restore the file")
        found[cells[0]] = cells[1]
    return found


def number_scenes(names: Iterable[str]) -> dict[str, int]:
    """Scene -> label number, in alphabetical order."""
    return {name: FIRST_SCENE + position for position, name in enumerate(sorted(set(names)))}


def find_pictures(root: str) -> dict[str, tuple[int, ...]]:
    """Path below a split, without ending, of each picture, and the levels of its parts; checked to be complete."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, folders, names in os.walk(root, onerror=refuse_unreadable):
        present = {name for name in names if not name.startswith(".")}
        # beside NAME.jpg, the folder NAME holds a mask for each object: not needed
        folders[:] = [name for name in folders if not name.startswith(".") and f"{name}.jpg" not in present]
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                raise BadInput(path, "a link to a folder", "a folder of its own", "copy the folder there")
        levels: dict[str, list[int]] = {name[:-4]: [] for name in present if name.endswith(".jpg")}
        for name in sorted(present):
            if match := re.fullmatch(r"(.+?)(?:_seg\.png|_parts_(\d{1,2})\.png|\.json)", name, re.ASCII):
                if match[1] not in levels:
                    raise without_partner(os.path.join(folder, name), f"{match[1]}.jpg")
                if match[2]:
                    levels[match[1]].append(int(match[2]))
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for stem in sorted(levels):
            for ending in ("_seg.png", ".json"):
                if f"{stem}{ending}" not in present:
                    raise without_partner(os.path.join(folder, f"{stem}.jpg"), f"{stem}{ending}")
            found[stem if below == "." else f"{below}/{stem}"] = tuple(sorted(levels[stem]))
    return found


def iter_objects(path: str, content: bytes) -> Iterator[tuple[int, str, bool]]:
    """(class, name, whether it is a part) of the objects in an image's JSON file.

    An empty list stands for a missing value, and an object for a list of one, as MATLAB writes them.
    """
    document = parse_json(path, decode_text(content))
    try:
        objects = document["annotation"]["object"]
        for entry in [objects] if isinstance(objects, dict) else objects:
            number, name, level = entry["name_ndx"], entry["name"], entry["parts"]["part_level"]
            if number == [] or number == 0:
                continue
            name = name.strip() if name else ""
            if not is_class(number) or type(level) is not int or not is_text(name):
                raise TypeError(f"class {number!r}, name {name!r}, part_level {level!r}")
            yield number, name, level > 0
    except (KeyError, TypeError, AttributeError) as error:
        expected = "annotation.object, a list of objects with name, name_ndx and parts.part_level"
        raise BadInput(path, f"something else ({error})", expected, "restore the file") from error


def is_class(number: Any) -> bool:
    """Whether a label map can hold a number."""
    return type(number) is int and 0 < number <= LARGEST_CLASS


def open_ade20k(directory: str) -> Dataset:
    """Either layout."""
    if os.path.isdir(os.path.join(directory, FULL)):
        return FullDataset(directory)
    for folder in ("images", "annotations"):
        if not os.path.isdir(os.path.join(directory, folder)):
            raise missing_folder(os.path.join(directory, folder), CHALLENGE_FORM)
    return ChallengeDataset(directory)


LAYOUT = Layout(f"{CHALLENGE_FORM}; or {FULL_FORM}", (OBJECTS, SCENES, FULL), open_ade20k)
