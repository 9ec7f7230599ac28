"""The images of a run as they are to be had now, and their labels as they were scored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.dataset import Dataset
from ..data.labellers import Labeller, Labels, open_labellers
from ..data.labelling import base_of, label_dataset, labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput, StorageFailure
from ..measure.dissection import Dissection
from ..options import ScoreOptions
from ..stages.labels import LabelPlanes
from ..stages.scoring import label_rules
from ..store.rundir import RunDir


@dataclass(frozen=True)
class Album:
    """Where the images of a run are."""

    data: Dataset | None
    """None where it is not to be had."""
    index: dict[int, int]
    """Row of the result -> index into the dataset, of the images that it has."""
    planes: LabelPlanes | None
    """Of the labels, on the mask grid; None without a dataset or its labellers."""
    is_as_scored: bool
    """Whether the labels are those that were counted."""
    notices: tuple[str, ...]
    """What a reader has to know of it."""


def open_album(
    run: RunDir,
    result: Dissection,
    settings: dict[str, Any],
    options: ScoreOptions,
    data: Dataset | str | os.PathLike[str] | None,
    labels: Labels | None,
) -> Album:
    """Find the images of a scoring by their names.

    What is named by hand and cannot be used is refused; what the run names and is gone or changed leaves a notice.

    Raises
    ------
    BadInput
        `data` is no dataset, or has none of the images; `labels` are none.
    """
    spec = run.manifest["data"]["spec"]
    if data is None and not spec:
        return missing("The run does not know where its images are, so none are shown: name them with --data.")
    try:
        found = data if isinstance(data, Dataset) else open_dataset(data if data is not None else spec)
    except (BadInput, StorageFailure) as error:
        if data is not None:
            raise
        remedy = "Where they have moved, name them with --data."
        return missing(f"The images cannot be opened ({error}), so none are shown. {remedy}")
    base, notices = base_of(found), list[str]()
    places = {name: i for i, name in enumerate(base.names)}
    index = {row: places[name] for row, name in enumerate(result.image_name) if name in places}
    if not index:
        if data is not None:
            remedy = "give the dataset that was extracted"
            raise BadInput("--data", repr(base.spec), f"images of run {run.path}", remedy)
        return missing(f"None of the images is in {spec} any more, so none are shown: name them with --data.")
    expected = run.manifest["identity"]["data"]
    if expected not in (None, fingerprint_of(base, images_alone=True)):
        notices.append(
            "The images are not all as they were when the run was extracted. They are shown by their names, and "
            "missing ones as missing; numbers and charts are those of the run."
        )
    labellers = find_labellers(found, settings, labels, notices)
    if labellers is None:
        return Album(base, index, None, False, tuple(notices))
    is_as_scored = fingerprint_of(base) == settings["data"] and (
        [each.identity for each in labellers] == [list(each) for each in settings["labels"]]
    )
    if not is_as_scored:
        grids = ", and masks are drawn on the grid of the labels as they are now" * (options.mask_size == "label")
        notices.append(
            f"The labels are not as they were when the run was scored, so their outlines are left out{grids}."
        )
    dataset = label_dataset(base, labellers)
    rules = label_rules(dataset.concepts, options)
    planes = LabelPlanes(run, dataset, "", rules, options.mask_size, options.threads)
    return Album(dataset, index, planes, is_as_scored, tuple(notices))


def missing(notice: str) -> Album:
    """No images at all."""
    return Album(None, {}, None, False, (notice,))


def fingerprint_of(data: Dataset, images_alone: bool = False) -> str | None:
    """Of a dataset or its images; None where files of it are gone."""
    try:
        return data.images_fingerprint() if images_alone else data.fingerprint()
    except (BadInput, StorageFailure):
        return None


def find_labellers(
    data: Dataset, settings: dict[str, Any], labels: Labels | None, notices: list[str]
) -> Sequence[Labeller] | None:
    """What labelled the images; None, and a notice, where that is not to be had."""
    given = labellers_of(data)
    if given and labels is None:
        return given
    try:
        return open_labellers(labels if labels is not None else [spec for spec, _ in settings["labels"]])
    except (BadInput, StorageFailure) as error:
        if labels is not None:
            raise
        notices.append(f"What labelled the images is not to be had ({error}), so labels and masks are left out.")
        return None
