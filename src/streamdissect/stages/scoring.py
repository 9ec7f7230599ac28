"""A run opened for counting: its settings, its labels, its thresholds; and the counting of shards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import create_json, remove_tree
from ..data.dataset import Dataset
from ..data.opening import open_dataset
from ..errors import BadInput, IncompleteRun
from ..kernels import AxisWeights, mask_maps
from ..kernels.reference import unpack
from ..measure.counters import Counters
from ..measure.dissection import Dissection
from ..measure.fieldmap import AxisField
from ..measure.planes import ImagePlanes, LabelRules
from ..measure.upsample import axis_weights
from ..options import ScoreOptions, parse_mask_size
from ..quantile import DEAD, SPARSE, Thresholds
from ..store.claims import Claims
from ..store.partials import save_arrays, with_prefix
from ..store.rundir import RunDir, stage_of
from ..tally import Arrays
from .control import Control
from .labels import LabelPlanes
from .recording import Recorded, layers_of, peak_bytes, read_recorded, store_of
from .shards import iter_claimed, own_shards, require_alone
from .thresholds import CHUNK_PART, all_thresholds

MOST_CHUNK_BYTES = 32 << 20
"""Of maps read at once; more would only leave the cache."""
PLANES_TOGETHER = 64
"""Images whose label planes are in memory together: some 2 MB at 112x112, 130 MB at 1024x1024."""
SETTINGS_FILE = "settings.json"
PLAIN_SETTINGS = ("union", "mask_test", "multiplicity", "unlabelled")


@dataclass
class Scoring:
    """A run opened for counting."""

    run: RunDir
    data: Dataset
    fingerprint: str
    """Of the dataset."""
    options: ScoreOptions
    settings: dict[str, Any]
    """What the result depends on: two scorings with equal settings are equal."""
    recorded: Recorded
    thresholds: list[dict[Fraction, Thresholds]]
    tail: Fraction
    rules: LabelRules

    def __post_init__(self) -> None:
        self.ledger = self.run.ledger(stage_of(self.options.name))
        self.results = self.run.results_path(self.options.name)
        self.labels = LabelPlanes(
            self.run, self.data, self.fingerprint, self.rules, self.options.mask_size, self.options.threads
        )
        self.layers = layers_of(self.run)
        self.store = store_of(self.run)
        self._weights: dict[tuple[int, tuple[int, int]], tuple[AxisWeights, AxisWeights]] = {}

    def upsampling(self, position: int) -> str:
        """`rf` or another mode, for a layer."""
        if self.options.upsample is not None:
            return self.options.upsample
        return "rf" if self.run.manifest["layers"][position]["field"] else "half_pixel"

    def weights(self, position: int, shape: tuple[int, int]) -> tuple[AxisWeights, AxisWeights]:
        """Interpolation weights from a layer's grid to a mask grid."""
        key = position, shape
        if key not in self._weights:
            mode, field = self.upsampling(position), self.run.manifest["layers"][position]["field"]
            axes = []
            for axis, name in enumerate(("rows", "columns")):
                known = AxisField.from_json(field[name]) if field and mode == "rf" else None
                size = int(self.run.manifest["plan"]["input_size"][axis])
                axes.append(axis_weights(mode, self.layers[position].grid[axis], shape[axis], size, known))
            self._weights[key] = axes[0], axes[1]
        return self._weights[key]

    def used_thresholds(self, position: int) -> NDArray[np.float32]:
        """(K,) thresholds for masks; NaN, an empty mask, where `>=` would light a DEAD or SPARSE unit everywhere."""
        found = self.thresholds[position][self.tail]
        if self.options.mask_test == "gt":
            return found.threshold
        return np.where(found.flags & (DEAD | SPARSE), np.float32(np.nan), found.threshold)

    def count(
        self, position: int, rows: range, images: Sequence[ImagePlanes], counters: Counters, control: Control
    ) -> None:
        """Add one layer's counts over consecutive rows."""
        layer = self.layers[position]
        thresholds = self.used_thresholds(position)
        weights = {shape: self.weights(position, shape) for shape in {image.shape for image in images}}
        most = min(MOST_CHUNK_BYTES, self.options.memory // CHUNK_PART)
        for part, maps in self.store.iter_chunks(layer.name, rows, most):
            control.check()
            counters.add(
                maps,
                thresholds,
                images[part.start - rows.start : part.stop - rows.start],
                weights,
                or_equal=self.options.mask_test == "ge",
                threads=self.options.threads,
                backend=self.options.backend,
            )


def open_scoring(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    options: ScoreOptions,
    control: Control,
    *,
    is_new: bool = True,
) -> Scoring:
    """Open a finished extraction for counting, under settings that are kept with the scoring.

    With `is_new` false nothing is written and the settings are not compared.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(options.name)
    recorded = read_recorded(opened)
    dataset, fingerprint = find_data(opened, data)
    if not len(dataset.concepts) or not any(dataset.has_labels(i) for i in recorded.images.tolist()):
        raise BadInput(
            "data", f"no labelled image among the {len(recorded.images)} of the run", "at least one", "check it"
        )
    tail = scored_tail(opened, options)
    check_upsampling(opened, options.upsample)
    settings = options_to_settings(options, tail)
    concepts = dataset.concepts
    try:
        rules = LabelRules(
            concepts.number,
            concepts.category,
            len(concepts.category_name),
            concepts.ignore,
            options.union,
            options.multiplicity,
            options.unlabelled,
        )
    except ValueError as error:
        raise BadInput("--union", repr(options.union), str(error), "use paper or all-images") from error
    if is_new:
        keep_settings(opened, options, settings)
    thresholds = all_thresholds(opened, recorded.streams, tail, options.memory, control)
    # the streams have told what they know: for float32 they are the largest thing in memory
    return Scoring(
        opened, dataset, fingerprint, options, settings, replace(recorded, streams=[]), thresholds, tail, rules
    )


def scored_tail(run: RunDir, options: ScoreOptions) -> Fraction:
    """The tail asked for, else the first that was extracted."""
    return options.tail or Fraction(run.manifest["identity"]["tails"][0])


def options_to_settings(options: ScoreOptions, tail: Fraction) -> dict[str, Any]:
    """What a scoring's result depends on, ready for JSON."""
    size = options.mask_size
    return {
        "tail": str(tail),
        "iou": str(options.iou),
        "upsample": options.upsample or "auto",
        "mask_size": size if isinstance(size, str) else f"{size[0]}x{size[1]}",
        **{name: getattr(options, name) for name in PLAIN_SETTINGS},
    }


def settings_to_options(settings: dict[str, Any], options: ScoreOptions) -> ScoreOptions:
    """Options with the settings a scoring was made with."""
    return replace(
        options,
        tail=Fraction(settings["tail"]),
        iou=Fraction(settings["iou"]),
        upsample=None if settings["upsample"] == "auto" else settings["upsample"],
        mask_size=parse_mask_size(settings["mask_size"]),
        **{name: settings[name] for name in PLAIN_SETTINGS},
    )


def saved_settings(run: RunDir, name: str | None) -> dict[str, Any] | None:
    """Settings of a scoring that was begun, or None."""
    file = run.ledger(stage_of(name)).folder / SETTINGS_FILE
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IncompleteRun(f"{file}: no JSON; score again with --overwrite") from error
    return found


def find_data(run: RunDir, data: Dataset | str | os.PathLike[str] | None) -> tuple[Dataset, str]:
    """The dataset of a run and its fingerprint; BadInput where it is another one."""
    spec = run.manifest["data"]["spec"]
    if data is None and spec is None:
        raise BadInput("--data", "nothing", "the dataset", "the run was captured without one: name it")
    dataset = data if isinstance(data, Dataset) else open_dataset(data if data is not None else spec)
    expected, fingerprint = run.manifest["identity"]["data"], dataset.fingerprint()
    if expected is not None and fingerprint != expected:
        remedy = "give the dataset that was extracted, unchanged, or extract again"
        raise BadInput("data", repr(dataset.spec), f"the dataset of run {run.path}", remedy)
    return dataset, fingerprint


def check_name(name: str | None) -> None:
    """A scoring's name is a plain file name."""
    if name is not None and (not name or name.startswith(".") or not all(c.isalnum() or c in "._-" for c in name)):
        raise BadInput("--name", repr(name), "letters, digits, dots, dashes and underscores", "choose another")


def check_upsampling(run: RunDir, mode: str | None) -> None:
    """`rf` by name needs every layer's field map."""
    if mode == "rf":
        for layer in run.manifest["layers"]:
            if layer["field"] is None:
                name = layer["array"]["name"]
                raise BadInput(
                    "--upsample", "'rf'", f"a known field map of layer {name}", "leave it out: half_pixel serves"
                )


def keep_settings(run: RunDir, options: ScoreOptions, settings: dict[str, Any]) -> None:
    """Write the settings of a scoring once, or check that they are the same."""
    folder, results = run.ledger(stage_of(options.name)).folder, run.results_path(options.name)
    if options.overwrite:
        require_alone([folder / "claims"], options.shard)
        forget_scoring(folder, results)
    run.ledger(stage_of(options.name)).create()
    if create_json(folder / SETTINGS_FILE, settings):
        return
    compare_settings(saved_settings(run, options.name) or {}, settings)


def compare_settings(made: dict[str, Any], settings: dict[str, Any]) -> None:
    """BadInput naming the first setting in which a scoring differs from what was asked for."""
    for key, value in settings.items():
        if made.get(key) != value:
            raise BadInput(
                f"--{key.replace('_', '-')}",
                repr(value),
                f"{made.get(key)!r}, as this run was scored",
                "use --name NAME to keep both, or --overwrite",
            )


def forget_scoring(folder: Path, results: Path) -> None:
    """Remove a scoring: at no moment could half of it be taken for whole, or its counters for those of another."""
    (results / "summary.json").unlink(missing_ok=True)
    remove_tree(folder)
    remove_tree(results / "tables")
    (results / "dissection.h5").unlink(missing_ok=True)


def count_shards(work: Scoring, control: Control) -> None:
    """Count every shard that is this worker's, unclaimed and not finished."""
    run, ledger, worker = work.run, work.ledger, work.options.shard
    total = sum(len(run.rows(shard)) for shard in own_shards(run.n_shards, worker))
    with Claims(ledger.claims_folder) as claims, control.metering("score", total, "image") as meter:
        for shard, is_mine in iter_claimed(run.n_shards, worker, ledger.is_done, claims, control):
            if is_mine:
                arrays, seconds = count_shard(work, shard, control)
                file = save_arrays(ledger.data_path(shard), arrays)
                ledger.commit(shard, {"file": file, "seconds": seconds, "peak_bytes": peak_bytes()})
                claims.forget(shard)
            meter.advance(len(run.rows(shard)))


def count_shard(work: Scoring, shard: int, control: Control) -> tuple[Arrays, dict[str, float]]:
    """Counters of every layer over one shard, as arrays; and what labels and counting took."""
    counters = [Counters(layer.n_units, work.rules.n_concepts, work.rules.n_categories) for layer in work.layers]
    seconds = {"labels": 0.0, "count": 0.0}
    for part, rows in enumerate(groups_of(work.run.rows(shard))):
        begin = time.perf_counter()
        images = work.labels.of_part(shard, part, work.recorded.images[rows.start : rows.stop])
        labelled = time.perf_counter()
        for position, counted in enumerate(counters):
            work.count(position, rows, images, counted, control)
        seconds["labels"] += labelled - begin
        seconds["count"] += time.perf_counter() - labelled
    arrays: Arrays = {}
    for position, counted in enumerate(counters):
        arrays |= with_prefix(str(position), counted.to_arrays())
    return arrays, seconds


def groups_of(rows: range) -> list[range]:
    """Rows whose label planes are in memory together."""
    return [rows[start : start + PLANES_TOGETHER] for start in range(0, len(rows), PLANES_TOGETHER)]


@dataclass(frozen=True)
class Partial:
    """Counters over some shards of a run, picklable: what `score_partial` gives and `merge` joins."""

    run: str
    """Absolute path of the run."""
    settings: dict[str, Any]
    options: ScoreOptions
    data: Dataset
    shards: dict[int, Arrays]
    """Counters of every layer, by shard."""
    seconds: dict[str, float]


def attach_masks(result: Dissection, open_work: Callable[[], Scoring]) -> Dissection:
    """Give a result the means to draw masks; the run is opened for the first one."""
    opened = cache(open_work)

    def make_mask(image: int, layer: str, unit: int) -> NDArray[np.bool_]:
        work = opened()
        names = [spec.name for spec in work.layers]
        if layer not in names:
            raise KeyError(f"layer {layer!r}: this run has {', '.join(names)}")
        position = names.index(layer)
        for what, number, n in (
            ("image", image, len(work.recorded.images)),
            ("unit", unit, work.layers[position].n_units),
        ):
            if not 0 <= number < n:
                raise IndexError(f"{what} {number} of {n}")
        shape = work.labels.of_image(int(work.recorded.images[image])).shape
        maps = work.store.read(layer, range(image, image + 1))[:, unit]
        bits = mask_maps(
            maps,
            work.used_thresholds(position)[[unit]],
            *work.weights(position, shape),
            or_equal=work.options.mask_test == "ge",
            backend=work.options.backend,
        )
        return unpack(bits[0], shape)

    return replace(result, make_mask=make_mask)
