"""Files of the experiments on alignment: rotate.h5 and pca.h5 with their tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..hdf5files import creating_hdf5
from ..measure.alignment import VERDICTS
from ..measure.alignmentresult import Alignment, Carriers, Variant
from ..measure.rotationset import ARRAYS, COUNTS, Rotations, RotationSummary
from .results import save_packed, texts
from .tables import write_csv

SCHEMA_VERSION = 1
VARIANT_ARRAYS = ("values", "vectors", "diagonal", "adjusted_p", "subsets_p")


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


def save_alignment(folder: Path, result: Alignment) -> None:
    """Write pca.h5 and pca.csv, a line for each concept of each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    with creating_hdf5(folder / "pca.h5") as file:
        start_file(file, result.about)
        file["concepts/name"] = texts(result.concept_name)
        file["concepts/category"] = texts(result.concept_category)
        file["concepts/column"] = result.concept_column
        for name, layer in result.layers.items():
            group = file.create_group(f"layers/{name}")
            group.attrs["verdicts"] = list(VERDICTS)
            plain = ("samples", "images", "mean", "std", "shift", "iou_rank", "detects", "is_best_unit")
            save_arrays_packed(group, {key: getattr(layer, key) for key in plain})
            for key, variant in layer.variants.items():
                save_variant(group.create_group(key), variant)
            save_carriers(group.create_group("carriers"), layer.carriers)
            group["top_images/direction"] = texts([" ".join(names) for names in layer.top_images["direction"]])
            for unit, names in result.top_unit_images[name].items():
                group[f"top_images/unit_{unit}"] = texts(names)
    rows = result.rows()
    write_csv(folder / "pca.csv", [list(rows[0]) if rows else [], *(list(row.values()) for row in rows)])


def save_variant(group: Any, variant: Variant) -> None:
    """Directions and statistics of one variant."""
    save_arrays_packed(group, {key: getattr(variant, key) for key in VARIANT_ARRAYS})
    save_arrays_packed(group, variant.statistics.to_arrays())
    for field in fields(variant.exclusivity):
        group[f"exclusivity/{field.name}"] = getattr(variant.exclusivity, field.name)


def save_carriers(group: Any, carriers: Carriers) -> None:
    """What carries each concept."""
    for key in ("direction_iou", "unit", "unit_iou", "united_iou"):
        group[key] = getattr(carriers, key)
    group["united"] = texts([" ".join(map(str, units)) for units in carriers.united])
