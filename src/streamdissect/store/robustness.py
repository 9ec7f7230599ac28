"""The results of `perturb`: perturb.h5, one CSV for each layer, summary.csv and composition.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..errors import BadInput, IncompleteRun
from ..hdf5files import creating_hdf5, reading_hdf5
from ..measure.composition import Robustness, Setting
from ..measure.dissection import Dissection
from ..measure.robustness import OUTCOME_ARRAYS, Outcome
from .results import read_texts, texts
from .tables import file_name

SCHEMA_VERSION = 1
FILE = "perturb.h5"
COUNTERS = ("intersection", "unit_area", "unit_area_all", "concept_area")
"""Whole counters of the perturbed masks, beside what follows from them."""

Part = tuple[str, int, Outcome, Mapping[str, NDArray[Any]]]
"""Layer, row, outcome, counters."""


def save_outcomes(
    path: Path,
    parts: Iterable[Part],
    settings: tuple[Setting, ...],
    trials: tuple[tuple[int, int], ...],
    image_name: tuple[str, ...],
    about: Mapping[str, Any],
) -> None:
    """Write perturb.h5 part by part: the counters of all rows together may not fit into memory."""
    with creating_hdf5(path) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["about"] = json.dumps(about)
        file["images/name"] = texts(image_name)
        for name in ("text", "kind", "label"):
            file[f"settings/{name}"] = texts([getattr(setting, name) for setting in settings])
        file["settings/magnitude"] = np.array([setting.magnitude for setting in settings], np.float64)
        rows = np.array(trials, np.int64).reshape(-1, 2)
        file["rows/setting"], file["rows/trial"] = rows[:, 0], rows[:, 1]
        numbers: dict[str, list[str]] = {}
        for layer, row, outcome, counters in parts:
            found = {f"layers/{layer}/{name}": array for name, array in outcome.arrays.items()}
            found |= {f"layers/{layer}/counters/{name}": counters[name] for name in COUNTERS}
            for name, array in found.items():
                put_row(file, name, row, len(rows), array)
            numbers.setdefault(layer, []).append(json.dumps(outcome.numbers))
        for layer, lines in numbers.items():
            file[f"layers/{layer}"].attrs["position"] = list(numbers).index(layer)
            file[f"layers/{layer}/numbers"] = texts(lines)


def put_row(file: h5py.File, name: str, row: int, n_rows: int, array: NDArray[Any]) -> None:
    """One row of a dataset whose first axis is the rows."""
    if name not in file:
        is_table = array.ndim > 1 and array.size > 0
        file.create_dataset(
            name,
            (n_rows, *array.shape),
            array.dtype,
            chunks=(1, *array.shape) if is_table else None,
            compression="gzip" if is_table else None,
            shuffle=is_table or None,
        )
    file[name][row] = array


def load_robustness(folder: Path, result: Dissection) -> Robustness:
    """Read what `perturb` wrote.

    Raises
    ------
    BadInput
        Nothing was perturbed, or the file is of another format.
    IncompleteRun
        It is damaged.
    """
    path = folder / FILE
    try:
        with reading_hdf5(path) as file:
            version = int(file.attrs["schema_version"])
            if version != SCHEMA_VERSION:
                remedy = "perturb again with --overwrite"
                raise BadInput(str(path), f"format {version}", f"format {SCHEMA_VERSION}", remedy)
            columns = [read_texts(file[f"settings/{name}"]) for name in ("text", "kind", "label")]
            magnitude = file["settings/magnitude"][()].tolist()
            settings = tuple(
                Setting(text, kind, m, label)
                for (text, kind, label), m in zip(zip(*columns, strict=True), magnitude, strict=True)
            )
            pairs = zip(file["rows/setting"][()].tolist(), file["rows/trial"][()].tolist(), strict=True)
            layers = [layer for layer in result.layers if f"layers/{layer}/numbers" in file]
            return Robustness(
                result=result,
                settings=settings,
                trials=tuple(pairs),
                outcomes={layer: read_outcomes(file[f"layers/{layer}"]) for layer in layers},
                image_name=read_texts(file["images/name"]),
                about=json.loads(file.attrs["about"]),
            )
    except FileNotFoundError as error:
        remedy = "run: streamdissect perturb"
        raise BadInput("run", f"no {path}", "a run whose images were perturbed", remedy) from error
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise IncompleteRun(f"{path}: damaged ({error}); delete it, then run the same perturb again") from error


def read_outcomes(group: h5py.Group) -> tuple[Outcome, ...]:
    """All rows of one layer."""
    arrays = {name: group[name][()] for name in OUTCOME_ARRAYS}
    numbers = [json.loads(text) for text in read_texts(group["numbers"])]
    return tuple(
        Outcome(**{name: array[row] for name, array in arrays.items()}, numbers=found)
        for row, found in enumerate(numbers)
    )


def save_robustness_tables(folder: Path, found: Robustness) -> None:
    """LAYER.csv of every layer, composition.csv and summary.csv, which is written last."""
    for layer, stem in layer_stems(list(found.outcomes)).items():
        save_rows(folder / f"{stem}.csv", list(found.units(layer)))
    save_rows(folder / "composition.csv", found.composition())
    save_rows(folder / "summary.csv", found.summary())


def layer_stems(layers: Sequence[str]) -> dict[str, str]:
    """File names of layers without their endings; no two alike, nor like those of the other tables."""
    taken, stems = {"summary", "composition"}, {}
    for layer in layers:
        stem = file_name(layer)
        while stem.casefold() in taken:  # `a:relu` and `a_relu` are two layers
            stem += "_"
        taken.add(stem.casefold())
        stems[layer] = stem
    return stems


def save_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of one kind as a CSV file; what is no number is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
        writer.writerows([cell(value) for value in row.values()] for row in rows)
    write_bytes(path, text.getvalue().encode())


def cell(value: Any) -> Any:
    """A value of a table."""
    return "" if isinstance(value, float) and math.isnan(value) else value
