"""From what the user names to a dataset."""

from __future__ import annotations

import os

from ..errors import BadInput
from .broden import BrodenDataset
from .dataset import Dataset


def open_dataset(spec: str | os.PathLike[str]) -> Dataset:
    """Open a labelled image set.

    Parameters
    ----------
    spec : str or path
        A Broden directory (it holds `index.csv`), or the built-in scenes: `synth`, `synth:?n=256&seed=0`. The text
        `synth` always means the scenes; a directory of that name is `./synth`, or a `Path`.

    Returns
    -------
    Dataset
        Picklable; files are opened when they are first needed.

    Raises
    ------
    BadInput
        `spec` names neither, or the dataset's tables cannot be used.
    """
    if isinstance(spec, str) and (spec == "synth" or spec.startswith("synth:")):
        from .synthetic import SyntheticScenes

        return SyntheticScenes.from_spec(spec)
    if os.path.isfile(os.path.join(spec, "index.csv")):
        return BrodenDataset(spec)
    raise BadInput(
        "data",
        repr(os.fspath(spec)),
        "a Broden directory, with index.csv, or a built-in set, synth or synth:?n=256&seed=0",
        "check the path: " + describe(spec),
    )


def describe(path: str | os.PathLike[str]) -> str:
    """What a path that is no dataset leads to."""
    if os.path.isdir(path):
        return "the directory has no index.csv"
    return "it is a file" if os.path.exists(path) else "there is no such directory"
