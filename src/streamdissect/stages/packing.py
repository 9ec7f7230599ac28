"""A labelled image set into one HDF5 file."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.dataset import Dataset
from ..data.foreign import open_foreign
from ..data.labellers import Labels
from ..data.labelling import label_dataset
from ..data.opening import open_dataset
from ..data.packed import write_packed
from ..errors import BadInput
from ..objects import require_local
from .control import Control


def pack(
    data: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: str | None = None,
    labels: Labels | None = None,
    overwrite: bool = False,
    control: Control | None = None,
) -> Path:
    """Write a dataset as one HDF5 file, which `open_dataset` opens.

    Parameters
    ----------
    data : Dataset, str or path
        See `open_dataset`; with `layout`, the directory of a dataset as it was published.
    out : path
        The file, ending in `.h5`.
    layout : str, optional
        `voc`, `coco-panoptic`, `ade20k` or `cityscapes`.
    labels : str, callable or sequence of these, optional
        What labels the images beside their own labels, see `open_dataset`: its labels are made now and packed.
    overwrite : bool
        Replace a file of that name.
    control : Control, optional

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    BadInput
        The data cannot be read, or there is such a file already.
    StorageFailure
        The file cannot be written.
    Stopped
        `control` asked for it; nothing is left behind.
    """
    control = control or Control()
    require_local(out, "output file", "a file")
    path = Path(out)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise BadInput("output file", repr(str(path)), "a name that ends in .h5", "name it so")
    if path.exists() and not overwrite:
        raise BadInput("output file", repr(str(path)), "a name that is free", "choose another, or give --overwrite")
    if not path.parent.is_dir():
        raise BadInput("output file", repr(str(path)), "a file in a directory that exists", "make the directory")
    if layout is None:
        opened = data if isinstance(data, Dataset) else open_dataset(data)
    elif isinstance(data, Dataset):
        raise BadInput("layout", f"{layout!r} of a dataset that is open", "the path of a directory", "leave it out")
    else:
        opened = open_foreign(layout, data)
    dataset = label_dataset(opened, labels)
    with control.metering("pack", len(dataset), "image") as meter:

        def advance(n: int) -> None:
            control.check()
            meter.advance(n)

        write_packed(dataset, path, advance)
    return path
