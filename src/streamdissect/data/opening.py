"""From what the user names to a dataset."""

from __future__ import annotations

import os

from ..errors import BadInput
from .broden import BrodenDataset
from .dataset import Dataset
from .folder import FolderDataset, is_folder_of_pictures
from .labellers import Labels
from .labelling import label_dataset

FORMS = "a Broden directory (index.csv), a folder with images/, a packed .h5 file, or synth"


def open_dataset(spec: str | os.PathLike[str], labels: Labels | None = None) -> Dataset:
    """Open a labelled image set.

    Parameters
    ----------
    spec : str or path
        A Broden directory (it holds `index.csv`); a file that `pack` wrote (`.h5`); a folder with `images/`, and, where
        it is labelled, `labels/CATEGORY/` and `labels.csv`; a folder of pictures without labels; or the built-in
        scenes: `synth`, `synth:?n=256&seed=0`. The text `synth` always means the scenes; a directory of that name is
        `./synth`, or a `Path`.
    labels : str, callable or sequence of these, optional
        What labels the images beside the dataset's own labels: `colors`, `package.module:callable`,
        `path/file.py:callable`, or the callable itself; see docs/labelling.md.

    Returns
    -------
    Dataset
        Picklable; files are opened when they are first needed.

    Raises
    ------
    BadInput
        `spec` names none of these, the dataset's tables cannot be used, or there is no such labeller.
    """
    return label_dataset(find_dataset(spec), labels)


def find_dataset(spec: str | os.PathLike[str]) -> Dataset:
    """A dataset with its own labels."""
    if not isinstance(spec, (str, os.PathLike)):
        raise BadInput("data", repr(spec), FORMS, "or pass a Dataset")
    if isinstance(spec, str) and (spec == "synth" or spec.startswith("synth:")):
        from .synthetic import SyntheticScenes

        return SyntheticScenes.from_spec(spec)
    if os.path.isfile(os.path.join(spec, "index.csv")):
        return BrodenDataset(spec)
    if os.path.isfile(spec):
        if not os.fspath(spec).lower().endswith((".h5", ".hdf5")):
            raise BadInput("data", repr(os.fspath(spec)), FORMS, "it is a file, not of that kind")
        from .packed import PackedDataset

        return PackedDataset(spec)
    if os.path.isfile(os.path.join(spec, "label.csv")):
        raise BadInput("data", repr(os.fspath(spec)), FORMS, "it has a label.csv but no index.csv: it is cut short")
    if is_folder_of_pictures(spec):
        return FolderDataset(spec)
    raise BadInput("data", repr(os.fspath(spec)), FORMS, "check the path: " + describe(spec))


def describe(path: str | os.PathLike[str]) -> str:
    """What a path that is no dataset leads to."""
    if not os.path.isdir(path):
        return "there is no such file or directory"
    near = [name for name in sorted(os.listdir(path)) if is_dataset(os.path.join(path, name))]
    return f"the directory holds one, {near[0]}" if near else "the directory has no index.csv, no images/, no picture"


def is_dataset(path: str) -> bool:
    """Whether a path looks like a dataset, to guess what was meant."""
    return os.path.isfile(os.path.join(path, "index.csv")) or os.path.isdir(os.path.join(path, "images"))
