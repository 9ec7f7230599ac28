"""The definition of label planes, in booleans and dictionaries, written for reading (see reference.py)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .labels import LabelIndex
from .reference import pack


def label_planes(
    layers: list[NDArray[np.uint16]],
    whole: list[int],
    height: int,
    width: int,
    column_of: NDArray[np.int32],
    category: NDArray[np.int32],
    ignore: NDArray[np.int32],
    as_set: bool,
    touch: bool,
    labelled_only: bool,
) -> LabelIndex:
    """See kernels.label_planes."""
    every, n_pixels = np.ones((height, width), bool), height * width
    whole_columns = [int(column_of[number]) for number in whole if column_of[number] >= 0]
    if as_set:
        whole_columns = sorted(set(whole_columns))

    judged = {}  # category -> its pixels, where some are ignored
    for g, code in enumerate(ignore.tolist()):
        ignored = np.zeros_like(every) | (code in whole)
        for layer in layers:
            ignored |= layer == code
        if code and ignored.any():
            judged[g] = ~ignored

    # labels of maps, by category; then those that no longer hold at every pixel
    labels: dict[tuple[int, int, int], NDArray[np.bool_]] = {}
    for i, layer in enumerate(layers):
        for number in np.unique(layer).tolist():
            column = int(column_of[number])
            if column < 0 or (as_set and column in whole_columns):
                continue
            first = next(j for j, other in enumerate(layers) if number in other) if as_set else i
            key = int(category[column]), first, number
            labels[key] = labels.get(key, ~every) | (layer == number)
    planes = []  # (column, pixels)
    for (g, _, number), pixels in sorted(labels.items()):
        pixels = pixels & judged.get(g, every)
        if pixels.any():
            planes.append((int(column_of[number]), pixels))
    planes += [(column, judged[category[column]]) for column in whole_columns if category[column] in judged]
    whole_columns = [column for column in whole_columns if category[column] not in judged]

    present: dict[int, int] = {}
    for column, area in [*((c, int(pixels.sum())) for c, pixels in planes), *((c, n_pixels) for c in whole_columns)]:
        present[column] = present.get(column, 0) + area
    everywhere = {int(category[column]) for column in whole_columns}

    touch_row = [-1] * len(planes)
    whole_row = [*whole_columns, len(category) + len(ignore)]
    category_pixels = np.zeros(len(ignore), np.int64)
    domains = []  # (row, pixels)
    for g in sorted({int(category[column]) for column in present}):
        row, domain = len(category) + g, judged.get(g, every)
        of_category = [i for i, (column, _) in enumerate(planes) if category[column] == g]
        if labelled_only and g not in everywhere:
            domain = np.any([planes[i][1] for i in of_category], axis=0)
        category_pixels[g] = domain.sum()
        if not domain.all():
            domains.append((row, domain))
        elif touch and g not in everywhere:
            for i in of_category:
                touch_row[i] = row
        else:
            whole_row.append(row)

    side_by_side = [pack(pixels) for _, pixels in [*planes, *domains]]
    n_words = len(pack(every))
    return (
        np.array(side_by_side, np.uint64).reshape(-1, n_words).T.copy(),
        np.array([row for row, _ in [*planes, *domains]], np.int32),
        np.array(touch_row + [-1] * len(domains), np.int32),
        np.array(whole_row, np.int32),
        np.array(list(present), np.int32),
        np.array(list(present.values()), np.int64),
        category_pixels,
    )
