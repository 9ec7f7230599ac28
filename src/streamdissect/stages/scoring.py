"""A run opened for counting, with its labels and thresholds; and the counting of its shards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..data.labellers import Labeller, Labels, open_labellers
from ..data.labelling import add_labellers, base_of, label_dataset, labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput
from ..kernels import AxisWeights, mask_maps
from ..kernels.reference import unpack
from ..measure.counters import Counters
from ..measure.dissection import Dissection
from ..measure.fieldmap import AxisField
from ..measure.planes import ImagePlanes, LabelRules
from ..measure.upsample import axis_weights
from ..options import ScoreOptions
from ..quantile import DEAD, SPARSE, Distribution, Thresholds
from ..store.activations import LayerArray
from ..store.claims import Claims
from ..store.partials import Ledger, save_arrays, with_prefix
from ..store.rundir import RunDir, stage_of
from ..tally import Arrays
from .control import Control, Meter
from .extract import Work
from .labels import LabelPlanes
from .recording import Recorded, layers_of, peak_bytes, read_recorded, store_of
from .settings import check_approximate, check_name, check_upsampling, keep_settings, options_to_settings, scored_tail
from .shards import iter_claimed, own_shards
from .sources import ForwardMaps, Maps, reopen_network
from .thresholds import CHUNK_PART, all_distributions, all_thresholds, check_tail

MOST_CHUNK_BYTES = 32 << 20
"""Of maps read at once; more would only leave the cache."""
PLANES_TOGETHER = 64
"""Images whose label planes are in memory together: some 2 MB at 112x112, 130 MB at 1024x1024."""

Axes = tuple[AxisWeights, AxisWeights]
"""Weights of the rows and of the columns."""


@dataclass(frozen=True)
class Network:
    """The network of a run, where it is not as run.json says."""

    model: nn.Module | str | None = None
    weights: str | None = None
    trust_model: bool = False


NO_NETWORK = Network()


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
    maps: Maps
    thresholds: list[dict[Fraction, Thresholds]]
    distributions: list[Distribution | None]
    tail: Fraction
    rules: LabelRules
    ledger: Ledger = field(init=False)
    """Commits of the scoring."""
    results: Path = field(init=False)
    """Where its results go."""
    labels: LabelPlanes = field(init=False)
    layers: list[LayerArray] = field(init=False)
    _weights: dict[tuple[int, tuple[int, int]], tuple[AxisWeights, AxisWeights]] = field(
        init=False, default_factory=dict
    )
    """(layer, mask grid) -> weights of its rows and columns, made when first asked for."""

    def __post_init__(self) -> None:
        self.ledger = self.run.ledger(stage_of(self.options.name))
        self.results = self.run.results_path(self.options.name)
        self.labels = LabelPlanes(
            self.run, self.data, self.fingerprint, self.rules, self.options.mask_size, self.options.threads
        )
        self.layers = layers_of(self.run)

    @cached_property
    def device(self) -> str | None:
        """Where the kernels count."""
        return counting_device(self.options)

    def upsampling(self, position: int) -> str:
        """`rf` or another mode, for a layer."""
        if self.options.upsample is not None:
            return self.options.upsample
        return "rf" if self.run.manifest["layers"][position]["field"] else "half_pixel"

    def weights(self, position: int, shape: tuple[int, int]) -> Axes:
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
        for part, maps in self.maps.iter_chunks(layer.name, rows, most):
            control.check()
            counters.add(
                maps,
                thresholds,
                images[part.start - rows.start : part.stop - rows.start],
                weights,
                or_equal=self.options.mask_test == "ge",
                threads=self.options.threads,
                backend=self.options.backend,
                device=self.device,
            )


def open_scoring(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    labellers: Sequence[Labeller],
    options: ScoreOptions,
    control: Control,
    network: Network = NO_NETWORK,
    *,
    is_new: bool = True,
) -> Scoring:
    """Open a finished extraction for counting, under settings that are kept with the scoring.

    `network` is for a run without activations, where the one it names is not to be had. With `is_new` false nothing is
    written and the settings are not compared.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(options.name)
    if is_new:
        counting_device(options)  # that there is one, before the work
    recorded = read_recorded(opened)
    dataset, fingerprint = find_data(opened, data, labellers)
    if recorded.images.max() >= len(dataset):
        got = f"{len(dataset)} images, the run has one of index {recorded.images.max()}"
        raise BadInput("data", got, "the dataset whose indices were captured", "give that one")
    if not len(dataset.concepts) or not any(dataset.has_labels(i) for i in recorded.images.tolist()):
        raise BadInput(
            "data",
            f"no labelled image among the {len(recorded.images)} of the run",
            "at least one",
            "see docs/data.md for where labels go, or give --labels, such as --labels colors",
        )
    tail = scored_tail(opened, options)
    check_upsampling(opened, options.upsample)
    check_approximate(opened, options)
    settings = options_to_settings(options, tail, labellers) | {"data": base_of(dataset).fingerprint()}
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
    check_tail(opened, recorded.tallies, tail)
    maps = open_maps(opened, dataset, recorded.images, options, network, control)
    if is_new:
        keep_settings(opened, options, settings)
    thresholds = all_thresholds(opened, maps, recorded.tallies, tail, options.approximate, options.memory, control)
    distributions = all_distributions(opened, recorded.tallies)
    # the tallies have told what they know: they are the largest thing in memory
    recorded = replace(recorded, tallies=[])
    return Scoring(
        opened, dataset, fingerprint, options, settings, recorded, maps, thresholds, distributions, tail, rules
    )


def open_maps(
    run: RunDir, data: Dataset, images: NDArray[np.int64], options: ScoreOptions, network: Network, control: Control
) -> Maps:
    """The run's activations, from its store or by the network once more."""
    if run.is_spilled:
        if network != NO_NETWORK:
            got = "a network, for a run that stored its activations"
            raise BadInput("--model, --weights", got, "neither", "leave them out: no forward pass is needed")
        return store_of(run)

    def reopen() -> Work:
        return reopen_network(run, base_of(data), network.model, network.weights, network.trust_model, options)

    return ForwardMaps(run, images, reopen, control)


def counting_device(options: ScoreOptions) -> str | None:
    """The device of the backend `torch`; None for the others. BadInput for one that is not there."""
    if options.backend != "torch":
        return None
    import torch  # takes its time, and the other backends do without

    from .forward import choose_device

    name = options.device or "auto"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return str(choose_device(name))


def choose_labellers(
    run: RunDir, data: Dataset | str | os.PathLike[str] | None, labels: Labels | None
) -> tuple[Labeller, ...]:
    """The labellers asked for, else those that the dataset given has, else those that `extract` was given."""
    if labels is not None:
        return open_labellers(labels)
    given = labellers_of(data) if isinstance(data, Dataset) else ()
    return given or open_labellers(run.manifest["data"].get("labels", []))


def find_data(
    run: RunDir, data: Dataset | str | os.PathLike[str] | None, labellers: Sequence[Labeller]
) -> tuple[Dataset, str]:
    """The dataset of a run, with labellers, and its fingerprint; BadInput where its images are others."""
    spec = run.manifest["data"]["spec"]
    if data is None and not spec:
        remedy = "the run was captured without one, or made from an object: name it, or pass it"
        raise BadInput("--data", "nothing", "the dataset", remedy)
    dataset = data if isinstance(data, Dataset) else open_dataset(data if data is not None else spec)
    expected = run.manifest["identity"]["data"]
    if expected is not None and dataset.images_fingerprint() != expected:
        remedy = "give the dataset that was extracted, its images unchanged, or extract again"
        raise BadInput("data", repr(dataset.spec), f"the images of run {run.path}", remedy)
    return label_dataset(dataset, labellers), add_labellers(base_of(dataset).fingerprint(), labellers)


def count_shards(work: Scoring, control: Control) -> None:
    """Count every shard that is this worker's, unclaimed and not finished."""
    run, ledger, worker = work.run, work.ledger, work.options.shard
    total = sum(len(run.rows(shard)) for shard in own_shards(run.n_shards, worker))
    with Claims(ledger.claims_folder) as claims, control.metering("score", total, "image") as meter:
        for shard, is_mine in iter_claimed(run.n_shards, worker, ledger.is_done, claims, control):
            advanced = 0
            if is_mine:
                arrays, seconds = count_shard(work, shard, control, meter)
                advanced = len(run.rows(shard))
                file = save_arrays(ledger.data_path(shard), arrays)
                ledger.commit(shard, {"file": file, "seconds": seconds, "peak_bytes": peak_bytes()})
                claims.forget(shard)
            meter.advance(len(run.rows(shard)) - advanced)


def count_shard(work: Scoring, shard: int, control: Control, meter: Meter) -> tuple[Arrays, dict[str, float]]:
    """Counters of every layer over one shard, as arrays; and what labels and counting took."""
    counters = [Counters(layer.n_units, work.rules.n_concepts, work.rules.n_categories) for layer in work.layers]
    seconds = {"labels": 0.0, "count": 0.0}
    for part, rows in enumerate(groups_of(work.run.rows(shard))):
        begin = time.perf_counter()
        images = work.labels.of_part(shard, part, work.recorded.images[rows.start : rows.stop], control)
        labelled = time.perf_counter()
        for position, counted in enumerate(counters):
            work.count(position, rows, images, counted, control)
        seconds["labels"] += labelled - begin
        seconds["count"] += time.perf_counter() - labelled
        meter.advance(len(rows))
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

    def __repr__(self) -> str:
        return f"<Partial of {self.run}: shards {', '.join(map(str, sorted(self.shards)))}>"


def attach_masks(result: Dissection, open_work: Callable[[], Scoring]) -> Dissection:
    """Give a result the means to draw masks; the run is opened for the first one."""
    opened = cache(open_work)

    def make_mask(image: int | str, layer: str, unit: int) -> NDArray[np.bool_]:
        work = opened()
        if isinstance(image, str):
            if image not in result.image_name:
                raise KeyError(f"image {image!r} of {len(result.image_name)}, such as {result.image_name[0]!r}")
            image = result.image_name.index(image)
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
        maps = work.maps.read(layer, range(image, image + 1))[:, unit]
        bits = mask_maps(
            maps,
            work.used_thresholds(position)[[unit]],
            *work.weights(position, shape),
            or_equal=work.options.mask_test == "ge",
            backend=work.options.backend,
        )
        return unpack(bits[0], shape)

    return replace(result, make_mask=make_mask)
