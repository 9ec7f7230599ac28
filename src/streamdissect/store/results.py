"""dissection.h5: all results of a scoring in one file, replaced at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..hdf5files import creating_hdf5, reading_hdf5
from ..measure.blocks import check_arrays
from ..measure.bootstrap import BlockCounters
from ..measure.dissection import ARRAYS, Dissection, LayerDissection
from ..quantile import Distribution
from ..tally import Arrays

SCHEMA_VERSION = 1
ONE_CHUNK = 1 << 20
"""Bytes of an array up to which it is one piece with one checksum."""
COMPRESSED = ("intersection", "chance", "iou")
"""(K, C) arrays, mostly zero."""


def save_dissection(path: Path, result: Dissection) -> None:
    """Write a result; layer names with dots stand as they are, each a group below /layers."""
    with creating_hdf5(path) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["summary"] = json.dumps(result.summary)
        file["images/name"] = texts(result.image_name)
        save_checked(file, "concepts/number", result.concept_number)
        file["concepts/name"] = texts(result.concept_name)
        save_checked(file, "concepts/category", result.concept_category)
        file["categories/name"] = texts(result.category_name)
        save_checked(file, "categories/images", result.category_images)
        save_checked(file, "categories/pixels", result.category_pixels)
        for position, (name, layer) in enumerate(result.layers.items()):
            group = file.create_group(f"layers/{name}")
            group.attrs["position"] = position
            for key, value in layer.attributes.items():
                group.attrs[key] = value
            group.attrs["summary"] = json.dumps(layer.summary)
            for key, array in layer.arrays.items():
                if key in COMPRESSED:
                    save_packed(group, key, array)
                else:
                    save_checked(group, key, array)
            if layer.distribution is not None:
                for key, array in layer.distribution.to_arrays().items():
                    save_checked(group, f"distribution/{key}", array)
            if layer.blocks is not None:
                for key, array in layer.blocks.arrays.items():
                    save_packed(group, f"blocks/{key}", array)


def save_packed(group: h5py.Group, key: str, array: NDArray[Any]) -> None:
    """Save an array, compressed if there is anything in it."""
    packed = {"compression": "gzip", "shuffle": True, "fletcher32": True} if array.size else {}
    group.create_dataset(key, data=array, **packed)


def save_checked(group: h5py.Group, key: str, array: NDArray[Any]) -> None:
    """Save an array with checksums, so that a byte that changes on the disk is found when it is read."""
    whole = array.shape if array.nbytes <= ONE_CHUNK else True
    group.create_dataset(
        key, data=array, **({"fletcher32": True, "chunks": whole} if array.size and array.ndim else {})
    )


def load_dissection(path: Path) -> Dissection:
    """Read a result.

    Raises
    ------
    BadInput
        There is no such file, or it is of another format.
    IncompleteRun
        It is damaged.
    """
    try:
        with reading_hdf5(path) as file:
            version = int(file.attrs["schema_version"])
            if version != SCHEMA_VERSION:
                raise BadInput(
                    str(path), f"format {version}", f"format {SCHEMA_VERSION}", "score again with --overwrite"
                )
            category = file["concepts/category"][()]
            groups = sorted(_layer_groups(file["layers"]), key=lambda group: int(group.attrs["position"]))
            return Dissection(
                image_name=read_texts(file["images/name"]),
                concept_number=file["concepts/number"][()],
                concept_name=read_texts(file["concepts/name"]),
                concept_category=category,
                category_name=read_texts(file["categories/name"]),
                category_images=file["categories/images"][()],
                category_pixels=file["categories/pixels"][()],
                layers={group.name[len("/layers/") :]: _read_layer(group, category) for group in groups},
                summary=json.loads(file.attrs["summary"]),
            )
    except FileNotFoundError as error:
        raise BadInput("run", f"no {path}", "a run that was scored", "run: streamdissect score") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # h5py raises all of these on damage
        if isinstance(error, BadInput):
            raise
        raise IncompleteRun(f"{path}: damaged ({error}); score again with --overwrite") from error


def _layer_groups(group: h5py.Group) -> list[h5py.Group]:
    """Groups that hold a layer, at any depth: a layer's name may contain slashes."""
    found = []
    for child in group.values():
        if isinstance(child, h5py.Group):
            found += [child] if "position" in child.attrs else _layer_groups(child)
    return found


def _read_layer(group: h5py.Group, category: NDArray[np.int32]) -> LayerDissection:
    attributes = {key: _plain(value) for key, value in group.attrs.items() if key not in ("position", "summary")}
    arrays: dict[str, NDArray[Any]] = {name: group[name][()] for name in ARRAYS}
    distribution = None
    if "distribution" in group:
        distribution = Distribution.from_arrays({name: each[()] for name, each in group["distribution"].items()})
    blocks = None
    if "blocks" in group:
        found: Arrays = {name: each[()] for name, each in group["blocks"].items()}
        check_arrays(found)
        blocks = BlockCounters(found, category, attributes["union"])
    return LayerDissection(
        **arrays,
        distribution=distribution,
        blocks=blocks,
        attributes=attributes,
        summary=json.loads(group.attrs["summary"]),
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def texts(values: Sequence[str]) -> NDArray[Any]:
    """Strings as h5py stores them: UTF-8, variable length."""
    return np.array(list(values), dtype=h5py.string_dtype("utf-8"))


def read_texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Inverse of `texts`."""
    return tuple(dataset.asstr()[()].tolist())
