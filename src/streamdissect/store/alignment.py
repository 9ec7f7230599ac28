"""Files of the experiments on alignment: rotate.h5 and pca.h5 with their tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..hdf5files import creating_hdf5
from ..measure.rotationset import ARRAYS, COUNTS, Rotations, RotationSummary
from .results import save_packed, texts
from .tables import write_csv

SCHEMA_VERSION = 1


def save_rotations(folder: Path, result: Rotations) -> None:
    """Write rotate.h5, rotate.csv (a line for each rotation) and summary.csv (for each kind, value and count)."""
    folder.mkdir(parents=True, exist_ok=True)
    with creating_hdf5(folder / "rotate.h5") as file:
        start_file(file, result.about)
        file["concepts/name"] = texts(result.concept_name)
        file["categories/name"] = texts(result.category_name)
        for name, layer in result.layers.items():
            group = file.create_group(f"layers/{name}")
            for key, value in layer.attributes.items():
                group.attrs[key] = value
            group.attrs["counts"] = list(COUNTS)
            group["kind"] = texts([each.kind for each in layer.rotations])
            group["alpha"] = [each.value for each in layer.rotations]
            group["seed"] = [each.seed for each in layer.rotations]
            save_arrays_packed(group, {key: getattr(layer, key) for key in ARRAYS})
    write_csv(folder / "rotate.csv", rotation_lines(result))
    names = [field.name for field in fields(RotationSummary)]
    rows = [[getattr(row, name) for name in names] for row in result.summary()]
    write_csv(folder / "summary.csv", [names, *rows])


def rotation_lines(result: Rotations) -> Iterable[list[Any]]:
    """layer,kind,alpha,seed, the four counts, the mean best IoU, unique detectors by category."""
    categories = [f"unique_{name}" for name in result.category_name]
    yield ["layer", "kind", "alpha", "seed", *COUNTS, "mean_best_iou", *categories]
    for name, layer in result.layers.items():
        for i, each in enumerate(layer.rotations):
            counts = [*layer.counts[i].tolist(), float(layer.mean_best_iou[i]), *layer.by_category[i].tolist()]
            yield [name, each.kind, each.value, each.seed, *counts]


def start_file(file: Any, about: Mapping[str, Any]) -> None:
    """What every file of an experiment says of itself."""
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["about"] = json.dumps(about)


def save_arrays_packed(group: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name; the larger ones compressed."""
    for key, array in arrays.items():
        if array.ndim > 1:
            save_packed(group, key, array)
        else:
            group[key] = array
