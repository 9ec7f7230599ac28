"""COCO panoptic: segments of things and stuff, drawn as RGB numbers and listed in one large JSON file per split."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .csvtables import LARGEST_NUMBER
from .folder import is_text, list_folder
from .foreignbase import (
    LISTED,
    ForeignDataset,
    Layout,
    check_names,
    decode_text,
    make_concepts,
    missing_folder,
    parse_json,
    read_table,
)
from .imagefiles import check_size, describe_kind, read_png

SPLITS = ("train", "val")
CATEGORIES = ("object", "stuff")
FORM = "a COCO directory, with annotations/panoptic_{train,val}2017.json, the folders of that name, and the pictures"
LARGEST_SEGMENT = 2**24 - 1
"""R + 256 G + 65536 B."""


class Picture(NamedTuple):
    """An entry of `images`, as far as it is needed."""

    key: int | str
    name: str
    size: tuple[int, int]


class Annotation(NamedTuple):
    """An entry of `annotations`."""

    key: int | str
    name: str
    segments: NDArray[np.int64]
    """(n, 2) segment ids, category ids."""


class Split(NamedTuple):
    """One split, pictures by name."""

    pictures: list[str]
    maps: list[str]
    folder: str
    """Of the pictures, below the root."""
    size: NDArray[np.int32]
    """(N, 2) rows, columns."""
    start: NDArray[np.int64]
    """(N + 1,) where an image's segments begin."""
    segment: NDArray[np.uint32]
    """(S,) segment ids, ascending within an image."""
    number: NDArray[np.uint16]
    """(S,) label numbers."""
    categories: dict[int, tuple[str, bool]]
    """Category id -> name, whether it is a thing."""


class CocoPanopticDataset(ForeignDataset):
    """The panoptic annotations of COCO 2017.

    Parameters
    ----------
    directory : path
        Holds `annotations/panoptic_{train,val}2017.json`, the label maps in `annotations/panoptic_{train,val}2017/`,
        and the pictures in `{train,val}2017/` or `images/{train,val}2017/`. One of the splits may be missing.

    Raises
    ------
    BadInput
        A folder or file is missing, a JSON file is malformed, or the splits have other categories.

    Notes
    -----
    Things are category `object`, stuff is category `stuff`; label numbers are the category ids. Pixels of no segment
    (0) have no label; crowds are labelled like single things. Pictures that the JSON files do not list are left out.

    A JSON file is read once, when the dataset is opened, and each of its objects cut down as soon as it is parsed: as
    large as the one of `train` (118287 images, 1.3 million segments, 164 MB) it takes 3 seconds and 350 MB. About
    30 MB stay.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = self._root = os.path.abspath(directory)
        digest = blake2b()
        found: dict[str, Split] = {}
        for split in SPLITS:
            if os.path.isfile(json_path(self.spec, split)):
                digest.update(split.encode())
                found[split] = read_split(self.spec, split, digest)
        if not found:
            raise BadInput(self.spec, "no annotations/panoptic_{train,val}2017.json", FORM, "add one of them")
        self._tables_digest = digest.digest()
        first, *others = found.values()
        for split, other in zip([*found][1:], others, strict=True):
            if other.categories != first.categories:
                got = "other categories than those of the other split"
                raise BadInput(json_path(self.spec, split), got, "the same ids, names and things", "restore the file")
        self.names = tuple(f"{split}2017/{name}" for split, part in found.items() for name in part.pictures)
        check_names(self.names, self.spec, FORM)
        self._splits = tuple(split for split, part in found.items() for _ in part.pictures)
        self._folders = {split: part.folder for split, part in found.items()}
        self._maps = tuple(name for part in found.values() for name in part.maps)
        self._size = np.concatenate([part.size for part in found.values()])
        self._start = np.append(0, np.cumsum(np.concatenate([np.diff(part.start) for part in found.values()])))
        self._segment = np.concatenate([part.segment for part in found.values()])
        self._number = np.concatenate([part.number for part in found.values()])
        self._is_thing = np.zeros(LARGEST_NUMBER + 1, bool)
        self._is_thing[[number for number, (_, is_thing) in first.categories.items() if is_thing]] = True
        rows = [(number, name, int(not is_thing)) for number, (name, is_thing) in first.categories.items()]
        self.concepts = make_concepts(rows, CATEGORIES, (0, 0))

    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB. BadInput where the file cannot be decoded or is not of the size listed."""
        pixels = super().image(index)
        place = f"{self.spec}, picture {self.names[index]}"
        check_size(place, pixels.shape[:2], self.image_size(index), "height and width in the JSON file")
        return pixels

    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns) from the JSON file."""
        rows, columns = self._size[index].tolist()
        return rows, columns

    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        split, _, name = self.names[index].partition("/")
        return (self._folders[self._splits[index]], name), (f"annotations/panoptic_{split}", self._maps[index])

    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        pixels, kind = read_png(path, LISTED)
        if kind != (8, 2):
            raise BadInput(path, describe_kind(kind), "8-bit RGB", "restore the file")
        red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
        ids = red | green << 8 | blue << 16
        begin, end = self._start[index : index + 2].tolist()
        known = np.append(np.uint32(0), self._segment[begin:end])
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        is_unknown = known[place] != ids
        if is_unknown.any():
            got, expected = f"segment {int(ids[is_unknown][0])}", "a segment that the JSON file lists for the image"
            raise BadInput(path, got, expected, "restore the file")
        numbers = np.append(np.uint16(0), self._number[begin:end])[place]
        is_thing = self._is_thing[numbers]
        return [(0, np.where(is_thing, numbers, np.uint16(0))), (1, np.where(is_thing, np.uint16(0), numbers))]


def json_path(directory: str, split: str) -> str:
    """The table of a split."""
    return os.path.join(directory, "annotations", f"panoptic_{split}2017.json")


def read_document(path: str, digest: blake2b) -> dict[str, Any]:
    """What the JSON file of a split holds, cut down; its content goes into the digest."""
    content = read_table(path, FORM)
    digest.update(str(len(content)).encode())
    digest.update(content)
    text = decode_text(content)
    del content  # hundreds of megabytes, not needed while the text is parsed
    document = parse_json(path, text, compact)
    if not isinstance(document, dict):
        raise malformed(path, "no object")
    return document


def read_split(directory: str, split: str, digest: blake2b) -> Split:
    """The pictures and segments of one split from its JSON file; files checked to be there."""
    path = json_path(directory, split)
    document = read_document(path, digest)
    categories = read_categories(path, entries(path, document, "categories", dict))
    pictures, ordered = match(path, entries(path, document, "images", Picture), document)
    maps_folder = os.path.join(directory, "annotations", f"panoptic_{split}2017")
    if not os.path.isdir(maps_folder):
        raise missing_folder(maps_folder, "the label maps of the JSON file beside it")
    candidates = [f"{split}2017", f"images/{split}2017"]
    folders = [folder for folder in candidates if os.path.isdir(os.path.join(directory, folder))]
    if not folders:
        raise missing_folder(os.path.join(directory, candidates[0]), f"the pictures, there or in {candidates[1]}")
    pictures_folder = os.path.join(directory, folders[0])
    for folder, names in (
        (pictures_folder, [picture.name for picture in pictures]),
        (maps_folder, [annotation.name for annotation in ordered]),
    ):
        present = list_folder(folder)
        for name in names:
            if name not in present:
                expected = f"the file that {path} lists"
                raise BadInput(os.path.join(folder, name), "no such file", expected, "restore it, or drop its entry")
    segments, start = join_segments(path, pictures, ordered)
    unknown = segments[~np.isin(segments[:, 1], [*categories])]
    if len(unknown):
        got = f"category {unknown[0, 1]} of segment {unknown[0, 0]}"
        raise BadInput(path, got, "one that its categories list", "restore the file")
    return Split(
        pictures=[picture.name for picture in pictures],
        maps=[annotation.name for annotation in ordered],
        folder=folders[0],
        size=np.array([picture.size for picture in pictures], np.int32).reshape(-1, 2),
        start=start,
        segment=segments[:, 0].astype(np.uint32),
        number=segments[:, 1].astype(np.uint16),
        categories=categories,
    )


def match(path: str, pictures: list[Picture], document: dict[str, Any]) -> tuple[list[Picture], list[Annotation]]:
    """Pictures by name, and the annotation of each. BadInput where one lacks the other, or has it twice."""
    found: list[Annotation] = entries(path, document, "annotations", Annotation)
    annotations, keys = {entry.key: entry for entry in found}, {picture.key for picture in pictures}
    if len(annotations) != len(found) or len(keys) != len(pictures):
        raise BadInput(path, "an image or an annotation twice", "each id once", "restore the file")
    pictures = sorted(pictures, key=lambda picture: picture.name)
    for picture in pictures:
        if picture.key not in annotations:
            raise BadInput(path, f"no annotation of {picture.name}", "one for each image", "restore the file")
    if stray := annotations.keys() - keys:
        name = min(annotations[key].name for key in stray)
        raise BadInput(path, f"annotation {name} without an image", "an image for each", "restore the file")
    return pictures, [annotations[picture.key] for picture in pictures]


def compact(entry: dict[str, Any]) -> Any:
    """A JSON object with what is needed of it. ValueError where that is not there."""
    if "category_id" in entry:
        segment, category = entry.get("id"), entry["category_id"]
        if type(segment) is not int or not 0 < segment <= LARGEST_SEGMENT or not is_number(category):
            raise ValueError(f"segment {segment!r} of category {category!r}")
        return segment, category
    if "segments_info" in entry:
        key, name, segments = entry.get("image_id"), entry.get("file_name"), entry["segments_info"]
        if not isinstance(key, int | str) or not is_name(name) or not isinstance(segments, list):
            raise ValueError(f"annotation of image {key!r}, file_name {name!r}")
        if not all(type(segment) is tuple for segment in segments):
            raise ValueError(f"a segment of {name!r} without category_id")
        return Annotation(key, name, np.array(segments, np.int64).reshape(-1, 2))
    if "file_name" in entry:
        key, name, rows, columns = (entry.get(word) for word in ("id", "file_name", "height", "width"))
        if not isinstance(key, int | str) or not is_name(name):
            raise ValueError(f"image {key!r}, file_name {name!r}")
        if type(rows) is not int or type(columns) is not int or not (0 < rows < 2**31 and 0 < columns < 2**31):
            raise ValueError(f"image {name!r} of height {rows!r} and width {columns!r}")
        return Picture(key, name, (rows, columns))
    return entry


def is_number(value: Any) -> TypeGuard[int]:
    """Whether a value can be a label number."""
    return type(value) is int and 0 < value <= LARGEST_NUMBER


def is_name(name: Any) -> TypeGuard[str]:
    """Whether a value can name a file in a folder."""
    return isinstance(name, str) and name != "" and "/" not in name and is_text(name)


def entries(path: str, document: dict[str, Any], word: str, kind: type) -> list[Any]:
    """A list of the JSON file, all of one kind."""
    found = document.get(word)
    if not isinstance(found, list) or not all(type(entry) is kind for entry in found):
        raise malformed(path, f"no list of {word}, or something else in it")
    return found


def read_categories(path: str, found: list[dict[str, Any]]) -> dict[int, tuple[str, bool]]:
    """Category id -> name, whether it is a thing."""
    categories: dict[int, tuple[str, bool]] = {}
    for entry in found:
        number, name, is_thing = entry.get("id"), entry.get("name"), entry.get("isthing")
        if not is_number(number) or number in categories:
            got = f"category id {number!r}"
            raise BadInput(path, got, f"ids from 1 to {LARGEST_NUMBER}, each once", "number the categories anew")
        if not isinstance(name, str) or not is_text(name) or is_thing not in (0, 1):
            raise malformed(path, f"category {number} with name {name!r} and isthing {is_thing!r}")
        categories[number] = name, bool(is_thing)
    return categories


def join_segments(
    path: str, pictures: list[Picture], annotations: list[Annotation]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S, 2) segments and categories, ids ascending within each image, and (N + 1,) where each image begins."""
    start = np.append(0, np.cumsum([len(annotation.segments) for annotation in annotations], dtype=np.int64))
    segments = np.concatenate([np.empty((0, 2), np.int64), *(annotation.segments for annotation in annotations)])
    image = np.repeat(np.arange(len(annotations)), np.diff(start))
    segments = segments[np.lexsort((segments[:, 0], image))]
    is_repeated = (np.diff(segments[:, 0]) == 0) & (np.diff(image) == 0)
    if is_repeated.any():
        row = int(np.argmax(is_repeated))
        got = f"segment {segments[row, 0]} of {pictures[image[row]].name} again"
        raise BadInput(path, got, "each segment of an image once", "restore the file")
    return segments, start


def malformed(path: str, what: str) -> BadInput:
    """The refusal of a JSON file of another form."""
    return BadInput(path, what, "images, annotations and categories of a panoptic COCO file", "restore the file")


LAYOUT = Layout(FORM, ("annotations/panoptic_*2017*",), CocoPanopticDataset)
