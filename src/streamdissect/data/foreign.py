"""Datasets in the layouts in which they are published."""

from __future__ import annotations

import os

from ..errors import BadInput
from ..options import FOREIGN
from . import ade20k, cityscapes, coco, voc
from .dataset import Dataset
from .folder import list_folder

LAYOUTS = dict(zip(FOREIGN, (voc.LAYOUT, coco.LAYOUT, ade20k.LAYOUT, cityscapes.LAYOUT), strict=True))
SHOWN = 6
"""Entries of a directory that a message lists."""


def open_foreign(kind: str, directory: str | os.PathLike[str]) -> Dataset:
    """Open a dataset as it was published.

    Parameters
    ----------
    kind : str
        `voc`, `coco-panoptic`, `ade20k` or `cityscapes`; docs/importing.md shows the folders of each.
    directory : path

    Returns
    -------
    Dataset
        Picklable; pictures and label maps are opened when they are first needed.

    Raises
    ------
    BadInput
        There is no such layout, the directory is not of it, or pictures and labels do not belong together. Files are
        checked when they are read.
    """
    if kind not in LAYOUTS:
        raise BadInput("layout", repr(kind), f"one of {', '.join(FOREIGN)}", "see docs/importing.md")
    path, layout = os.path.abspath(directory), LAYOUTS[kind]
    if not os.path.isdir(path):
        raise BadInput("data", repr(path), layout.form, "there is no such directory")
    if not layout.is_seen_in(path):
        raise BadInput(path, describe(path), layout.form, suggest(kind, path))
    return layout.open(path)


def describe(directory: str) -> str:
    """What a directory holds."""
    entries = sorted(list_folder(directory))
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return f"a directory with {', '.join(entries[:SHOWN])}{more}" if entries else "an empty directory"


def suggest(kind: str, directory: str) -> str:
    """What may have been meant by a directory that is not of this kind."""
    for other, layout in LAYOUTS.items():
        if layout.is_seen_in(directory):
            return f"it looks like {other}: give --from {other}"
    for entry in sorted(list_folder(directory)):
        path = os.path.join(directory, entry)
        if os.path.isdir(path) and LAYOUTS[kind].is_seen_in(path):
            return f"give {path}, which looks like it"
    return "check the path, and that the archives are unpacked"
