"""Cityscapes: street scenes with finely annotated label maps."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .foreignbase import (
    LISTED,
    ForeignDataset,
    Layout,
    Place,
    check_names,
    lookup_table,
    make_concepts,
    missing_folder,
    pair_files,
    translate,
)
from .imagefiles import INDEX_MAPS, read_map

CLASSES = (
    "static", "dynamic", "ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence",
    "guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Label ids 4 to 33."""
FIRST_CLASS = 4
OUTSIDE = 1
"""Number of the pixels that show nothing of the scene."""
OUTSIDE_IDS = (1, 2, 3)
"""Ego vehicle, rectification border, out of the region of interest."""
PICTURES, MAPS = "leftImg8bit", "gtFine"
PICTURE_ENDING, MAP_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"
SPLITS = ("train", "val")
FORM = "a Cityscapes directory, with leftImg8bit/{train,val} and gtFine/{train,val}"


class CityscapesDataset(ForeignDataset):
    """The finely annotated part of Cityscapes.

    Parameters
    ----------
    directory : path
        Holds `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png` and `gtFine/{train,val}/CITY/*_gtFine_labelIds.png`; one
        of the splits may be missing.

    Raises
    ------
    BadInput
        A folder is missing, a picture or a label map is alone, or there is no picture outside of `test`, which is
        published without labels and left out.

    Notes
    -----
    Label ids 4 to 33 are the concepts, all of category `object`, under their own numbers; 0 is no label. The ego
    vehicle, the rectification border and what lies outside the region of interest (ids 1 to 3) become number 1, whose
    pixels are not judged. The groups of the classes (flat, human, vehicle, ...) are left out: each covers its classes
    and would compete with them for the best concept of a unit.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.spec = self._root = os.path.abspath(directory)
        for folder in (PICTURES, MAPS):
            if not os.path.isdir(os.path.join(self.spec, folder)):
                raise missing_folder(os.path.join(self.spec, folder), FORM)
        names: list[str] = []
        for split in SPLITS:
            places = Place(f"{PICTURES}/{split}", PICTURE_ENDING), Place(f"{MAPS}/{split}", MAP_ENDING)
            names += [f"{split}/{name}{PICTURE_ENDING}" for name in pair_files(self.spec, *places)]
        self.names = tuple(names)
        if not names and os.path.isdir(os.path.join(self.spec, PICTURES, "test")):
            raise BadInput(self.spec, "only the split test", "train or val", "test is published without labels")
        check_names(self.names, self.spec, FORM)
        self._splits = tuple(name.partition("/")[0] for name in names)
        self._tables_digest = b""  # the table of classes is in this module
        rows = [(number, name, 0) for number, name in enumerate(CLASSES, start=FIRST_CLASS)]
        self.concepts = make_concepts([(OUTSIDE, "outside the scene", 0), *rows], ("object",), (OUTSIDE,))
        self._numbers = lookup_table({number: number for number, _, _ in rows} | dict.fromkeys(OUTSIDE_IDS, OUTSIDE))

    def _files(self, index: int) -> tuple[tuple[str, str], ...]:
        split, _, name = self.names[index].partition("/")
        map_name = name.removesuffix(PICTURE_ENDING) + MAP_ENDING
        return (f"{PICTURES}/{split}", name), (f"{MAPS}/{split}", map_name)

    def _read_layers(self, index: int, position: int, path: str) -> list[tuple[int, NDArray[np.uint16]]]:
        values = read_map(path, INDEX_MAPS, LISTED)
        return [(0, translate(path, values, self._numbers, f"0 to {FIRST_CLASS + len(CLASSES) - 1}"))]


LAYOUT = Layout(FORM, (PICTURES, MAPS), CityscapesDataset)
