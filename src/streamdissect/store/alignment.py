"""Files of the experiments on alignment: rotate.h5 and pca.h5 with their tables, written and read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..hdf5files import creating_hdf5, reading_hdf5
from ..measure.alignment import VERDICTS, AlignmentStatistics, Exclusivity
from ..measure.alignmentresult import VARIANTS, Alignment, Carriers, LayerAlignment, Variant
from ..measure.rotationset import ARRAYS, COUNTS, LayerRotations, Rotation, Rotations, RotationSummary
from .results import read_texts, save_packed, texts
from .tables import write_csv

SCHEMA_VERSION = 2
ROTATE, PCA = "rotate", "pca"
"""What a file is of; it is called so."""
LAYER_ARRAYS = ("samples", "images", "mean", "std", "shift", "iou_rank", "detects", "is_best_unit")
CARRIER_ARRAYS = ("direction_iou", "unit", "unit_iou", "united_iou")
VARIANT_ARRAYS = ("values", "vectors", "diagonal", "adjusted_p", "subsets_p")


def save_rotations(folder: Path, result: Rotations) -> None:
    """Write rotate.h5, rotate.csv (a line for each rotation) and summary.csv (for each kind, value and count)."""
    folder.mkdir(parents=True, exist_ok=True)
    with creating_hdf5(folder / f"{ROTATE}.h5") as file:
        start_file(file, ROTATE, result.about)
        file["concepts/name"] = texts(result.concept_name)
        file["categories/name"] = texts(result.category_name)
        for position, (name, layer) in enumerate(result.layers.items()):
            group = file.create_group(f"layers/{name}")
            group.attrs["position"] = position
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


def start_file(file: h5py.File, of: str, about: Mapping[str, Any]) -> None:
    """What every file of an experiment says of itself."""
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["experiment"] = of
    file.attrs["about"] = json.dumps(about)


def save_arrays_packed(group: h5py.Group, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name; the larger ones compressed."""
    for key, array in arrays.items():
        if array.ndim > 1:
            save_packed(group, key, array)
        else:
            group[key] = array


def save_alignment(folder: Path, result: Alignment) -> None:
    """Write pca.h5 and pca.csv, a line for each concept of each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    with creating_hdf5(folder / f"{PCA}.h5") as file:
        start_file(file, PCA, result.about)
        file.attrs["chosen"] = result.chosen
        file["concepts/name"] = texts(result.concept_name)
        file["concepts/category"] = texts(result.concept_category)
        file["concepts/column"] = result.concept_column
        for position, (name, layer) in enumerate(result.layers.items()):
            group = file.create_group(f"layers/{name}")
            group.attrs["position"] = position
            group.attrs["verdicts"] = list(VERDICTS)
            save_arrays_packed(group, {key: getattr(layer, key) for key in LAYER_ARRAYS})
            for key, variant in layer.variants.items():
                save_variant(group.create_group(key), variant)
            save_carriers(group.create_group("carriers"), layer.carriers)
            group["top_images/direction"] = texts([json.dumps(names) for names in layer.top_images["direction"]])
            for unit, names in result.top_unit_images[name].items():
                group[f"top_images/unit_{unit}"] = texts(names)
    rows = result.rows()
    write_csv(folder / "pca.csv", [list(rows[0]) if rows else [], *(list(row.values()) for row in rows)])


def save_variant(group: h5py.Group, variant: Variant) -> None:
    """Directions and statistics of one variant."""
    save_arrays_packed(group, {key: getattr(variant, key) for key in VARIANT_ARRAYS})
    save_arrays_packed(group, variant.statistics.to_arrays())
    for field in fields(variant.exclusivity):
        group[f"exclusivity/{field.name}"] = getattr(variant.exclusivity, field.name)


def save_carriers(group: h5py.Group, carriers: Carriers) -> None:
    """What carries each concept."""
    for key in CARRIER_ARRAYS:
        group[key] = getattr(carriers, key)
    group["united"] = texts([" ".join(map(str, units)) for units in carriers.united])


@contextmanager
def opened(folder: Path, of: str, was: str) -> Iterator[h5py.File]:
    """The file of an experiment, with errors that say what is wrong with it."""
    path = folder / f"{of}.h5"
    try:
        with reading_hdf5(path) as file:
            version, again = int(file.attrs["schema_version"]), f"{of} again with --overwrite"
            if version != SCHEMA_VERSION:
                raise BadInput(str(path), f"format {version}", f"format {SCHEMA_VERSION}", again)
            if (found := str(file.attrs["experiment"])) != of:
                raise BadInput(str(path), f"a result of {found}", f"one of {of}", again)
            yield file
    except FileNotFoundError as error:
        raise BadInput("run", f"no {path}", f"a run that was {was}", f"run: streamdissect {of}") from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        raise IncompleteRun(f"{path}: damaged ({error}); {of} again with --overwrite") from error


def layer_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Groups of layers by name, in the order of the run; a name may contain slashes."""
    found: list[h5py.Group] = []

    def look(_: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and "position" in item.attrs:
            found.append(item)

    file["layers"].visititems(look)
    found.sort(key=lambda group: int(group.attrs["position"]))
    return {group.name[len("/layers/") :]: group for group in found}


def read_arrays(group: h5py.Group, names: Iterable[str], n_rows: int | None = None) -> dict[str, Any]:
    """Arrays by name; ValueError where one has not as many rows as there should be."""
    found = {name: group[name][()] for name in names}
    for name, array in found.items():
        if n_rows is not None and len(array) != n_rows:
            raise ValueError(f"{group.name}/{name} has {len(array)} rows, not {n_rows}")
    return found


def load_rotations(folder: Path) -> Rotations:
    """Read what `rotate` wrote.

    Parameters
    ----------
    folder : Path
        `RUN/rotate`, or that of a scoring with a name.

    Raises
    ------
    BadInput
        Nothing was rotated, or the file is of another format or experiment.
    IncompleteRun
        It is damaged.
    """
    with opened(folder, ROTATE, "rotated") as file:
        return Rotations(
            {name: read_rotated(group) for name, group in layer_groups(file).items()},
            read_texts(file["concepts/name"]),
            read_texts(file["categories/name"]),
            json.loads(file.attrs["about"]),
        )


def read_rotated(group: h5py.Group) -> LayerRotations:
    """One layer."""
    columns = read_texts(group["kind"]), group["alpha"][()].tolist(), group["seed"][()].tolist()
    rotations = tuple(Rotation(kind, value, seed) for kind, value, seed in zip(*columns, strict=True))
    held = {key: value for key, value in group.attrs.items() if key not in ("position", "counts")}
    attributes = {key: value.item() if isinstance(value, np.generic) else value for key, value in held.items()}
    return LayerRotations(rotations, **read_arrays(group, ARRAYS, len(rotations)), attributes=attributes)


def load_alignment(folder: Path) -> Alignment:
    """Read what `pca` wrote.

    Parameters
    ----------
    folder : Path
        `RUN/pca`, or that of a scoring with a name.

    Raises
    ------
    BadInput
        No directions were looked for, or the file is of another format or experiment.
    IncompleteRun
        It is damaged.
    """
    with opened(folder, PCA, "looked at") as file:
        names, groups = read_texts(file["concepts/name"]), layer_groups(file)
        return Alignment(
            names,
            read_texts(file["concepts/category"]),
            file["concepts/column"][()],
            {name: read_aligned(group, len(names)) for name, group in groups.items()},
            {name: read_unit_images(group["top_images"]) for name, group in groups.items()},
            str(file.attrs["chosen"]),
            json.loads(file.attrs["about"]),
        )


def read_aligned(group: h5py.Group, n_concepts: int) -> LayerAlignment:
    """One layer."""
    of_units = ("mean", "std")
    arrays = read_arrays(group, of_units) | read_arrays(group, set(LAYER_ARRAYS) - set(of_units), n_concepts)
    return LayerAlignment(
        **arrays,
        variants={name: read_variant(group[name], n_concepts) for name in VARIANTS},
        carriers=read_carriers(group["carriers"], n_concepts),
        top_images={"direction": [json.loads(text) for text in read_texts(group["top_images/direction"])]},
    )


def read_variant(group: h5py.Group, n_concepts: int) -> Variant:
    """Inverse of `save_variant`."""
    statistics = [field.name for field in fields(AlignmentStatistics)]
    exclusive = [field.name for field in fields(Exclusivity)]
    return Variant(
        **read_arrays(group, VARIANT_ARRAYS, n_concepts),
        statistics=AlignmentStatistics(**read_arrays(group, statistics, n_concepts)),
        exclusivity=Exclusivity(**read_arrays(group["exclusivity"], exclusive, n_concepts)),
    )


def read_carriers(group: h5py.Group, n_concepts: int) -> Carriers:
    """Inverse of `save_carriers`."""
    united = tuple(tuple(map(int, text.split())) for text in read_texts(group["united"]))
    if len(united) != n_concepts:
        raise ValueError(f"{group.name}/united has {len(united)} rows, not {n_concepts}")
    return Carriers(**read_arrays(group, CARRIER_ARRAYS, n_concepts), united=united)


def read_unit_images(group: h5py.Group) -> dict[int, list[str]]:
    """Images where leading units are largest, by unit."""
    found = {int(key[len("unit_") :]): list(read_texts(group[key])) for key in group if key.startswith("unit_")}
    return dict(sorted(found.items()))
