"""A run opened for counting, with its labels and thresholds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Concepts, Dataset
from ..data.labellers import Labeller, Labels, open_labellers
from ..data.labelling import add_labellers, base_of, label_dataset, labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput
from ..kernels import AxisWeights, Chooser, mask_maps, ways_of
from ..kernels.reference import unpack
from ..measure.blocks import BlockTally
from ..measure.counters import Counters
from ..measure.dissection import Dissection
from ..measure.fieldmap import AxisField
from ..measure.planes import ImagePlanes, LabelRules
from ..measure.upsample import axis_weights
from ..options import ScoreOptions
from ..quantile import DEAD, SPARSE, Distribution, Thresholds
from ..store.activations import LayerArray
from ..store.masks import MaskWriter
from ..store.partials import Ledger
from ..store.rundir import RunDir, stage_of
from ..tally import Arrays
from .blocks import blocks_of
from .control import Control
from .directionfiles import check_directions
from .labels import LabelPlanes
from .masks import keep_masks
from .recording import Recorded, layers_of, read_recorded, store_of
from .settings import check_approximate, check_name, check_upsampling, keep_settings, options_to_settings, scored_tail
from .sources import ForwardMaps, Maps
from .thresholds import CHUNK_PART, all_distributions, all_thresholds, check_tail

if TYPE_CHECKING:
    from torch import nn

MOST_CHUNK_BYTES = 32 << 20
"""Of maps read at once; more would only leave the cache."""

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
    _weights: dict[tuple[int, tuple[int, int], str], Axes] = field(init=False, default_factory=dict)
    """(layer, mask grid, upsampling) -> weights of its rows and columns, made when first asked for."""

    _choosers: dict[int, Chooser] = field(init=False, default_factory=dict)
    """Of each layer: the way its maps are counted."""

    def __post_init__(self) -> None:
        self.ledger = self.run.ledger(stage_of(self.options.name))
        self.results = self.run.results_path(self.options.name)
        self.labels = LabelPlanes(
            self.run, self.data, self.fingerprint, self.rules, self.options.mask_size, self.options.threads
        )
        self.layers = layers_of(self.run)

    @cached_property
    def block_of(self) -> NDArray[np.int64] | None:
        """(N,) the block of each row's image, where counters are kept by block."""
        if self.options.blocks is None:
            return None
        names = (self.data.names[index] for index in self.recorded.images.tolist())
        return blocks_of(names, self.options.blocks, self.options.block_by)

    @cached_property
    def device(self) -> str | None:
        """Where the kernels count."""
        return counting_device(self.options)

    def upsampling(self, position: int) -> str:
        """`rf` or another mode, for a layer."""
        if self.options.upsample is not None:
            return self.options.upsample
        return "rf" if self.run.manifest["layers"][position]["field"] else "half_pixel"

    def weights(self, position: int, shape: tuple[int, int], upsampling: str | None = None) -> Axes:
        """Interpolation weights from a layer's grid to a mask grid."""
        mode = upsampling or self.upsampling(position)
        key = position, shape, mode
        if key not in self._weights:
            field, sizes = self.run.manifest["layers"][position]["field"], self.run.manifest["plan"]["input_size"]
            self._weights[key] = layer_weights(mode, field, sizes, self.layers[position].grid, shape)
        return self._weights[key]

    def used_thresholds(self, position: int, tail: Fraction | None = None) -> NDArray[np.float32]:
        """(K,) thresholds for masks; NaN, an empty mask, where `>=` would light a DEAD or SPARSE unit everywhere."""
        found = self.thresholds[position][tail or self.tail]
        return mask_thresholds(found.threshold, found.flags, self.options.mask_test)

    def how(self) -> dict[str, Any]:
        """What every call of a counting kernel is told."""
        return {
            "or_equal": self.options.mask_test == "ge",
            "backend": self.options.backend,
            "device": self.device,
        }

    def iter_maps(self, position: int, rows: range, control: Control) -> Iterator[tuple[range, NDArray[Any]]]:
        """A layer's maps over consecutive rows, by chunks, with the rows of each."""
        most = min(MOST_CHUNK_BYTES, self.options.memory // CHUNK_PART)
        for part, maps in self.maps.iter_chunks(self.layers[position].name, rows, most):
            control.check()
            yield part, maps

    def chooser(self, position: int) -> Chooser:
        """The way to count a layer's maps, found by trying; PyTorch is asked for CUDA where it is needed anyway."""
        if position not in self._choosers:
            ways = ways_of(self.options.backend, self.device, imports_torch=not self.run.is_spilled)
            self._choosers[position] = Chooser(ways)
        return self._choosers[position]

    def count(
        self,
        position: int,
        held: range,
        maps: NDArray[Any],
        images: Sequence[ImagePlanes],
        counters: Counters,
        blocks: BlockTally | None,
        writer: MaskWriter | None,
    ) -> None:
        """Add one layer's counts over a chunk: the rows `held`, their maps, and the labels of their images."""
        thresholds, how = self.used_thresholds(position), self.how()
        weights = {shape: self.weights(position, shape) for shape in {image.shape for image in images}}
        named = how | {"threads": self.options.threads, "backend": self.chooser(position), "device": None}
        if blocks is None or self.block_of is None:
            counters.add(maps, thresholds, images, weights, **named)
        else:
            where = self.block_of[held.start : held.stop]
            blocks.add(counters, maps, thresholds, images, where, weights, **named)
        if writer is not None:
            keep_masks(writer, position, held, maps, thresholds, images, weights, **how)


def mask_thresholds(threshold: NDArray[np.float32], flags: NDArray[np.uint8], mask_test: str) -> NDArray[np.float32]:
    """(K,) thresholds for masks; NaN, an empty mask, where `>=` would light a DEAD or SPARSE unit everywhere."""
    if mask_test == "gt":
        return threshold
    return np.where(flags & (DEAD | SPARSE), np.float32(np.nan), threshold)


def layer_weights(
    mode: str, field: Mapping[str, Any] | None, sizes: Sequence[int], grid: tuple[int, int], shape: tuple[int, int]
) -> Axes:
    """Interpolation weights from a layer's grid to a mask grid; `sizes` are those of the network's input."""
    rows, columns = (
        axis_weights(
            mode,
            grid[axis],
            shape[axis],
            int(sizes[axis]),
            AxisField.from_json(field[name]) if field and mode == "rf" else None,
        )
        for axis, name in enumerate(("rows", "columns"))
    )
    return rows, columns


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
    written and the settings are not compared; nor is then anything counted until it is stable.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(options.name)
    if not is_new and options.until_stable is not None:
        remedy = "leave it out: only score stops early, and its result stands for itself"
        raise BadInput("--until-stable", str(options.until_stable), "none here", remedy)
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
    check_directions(opened, options)
    settings = asked_settings(options, tail, labellers) | {"data": base_of(dataset).fingerprint()}
    rules = label_rules(dataset.concepts, options)
    check_tail(opened, recorded.tallies, tail)
    maps = open_maps(opened, dataset, recorded.images, options, network, control)
    if is_new:
        keep_settings(opened, options, settings)
    thresholds = all_thresholds(opened, maps, recorded.tallies, tail, options, control)
    distributions = all_distributions(opened, recorded.tallies)
    # the tallies have told what they know: they are the largest thing in memory
    recorded = replace(recorded, tallies=[])
    scoring = Scoring(
        opened, dataset, fingerprint, options, settings, recorded, maps, thresholds, distributions, tail, rules
    )
    if options.directions is None:
        return scoring
    from .directions import direct  # which rests on what is here

    return direct(scoring, control)


def asked_settings(options: ScoreOptions, tail: Fraction, labellers: Sequence[Labeller]) -> dict[str, Any]:
    """As `options_to_settings`, with the width at which counting stops: such a result is of some images only."""
    width = None if options.until_stable is None else str(options.until_stable)
    return options_to_settings(options, tail, labellers) | {"until_stable": width}


def label_rules(concepts: Concepts, options: ScoreOptions) -> LabelRules:
    """How a dataset's labels are counted. BadInput where the union does not go with them."""
    try:
        return LabelRules(
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


def open_maps(
    run: RunDir, data: Dataset, images: NDArray[np.int64], options: ScoreOptions, network: Network, control: Control
) -> Maps:
    """The run's activations, from its store or by the network once more."""
    if run.is_spilled:
        refuse_network(run, network)
        return store_of(run)

    def forward(shard: int, indices: list[int]) -> dict[str, NDArray[Any]]:
        return passes()(shard, indices)

    @cache
    def passes() -> Callable[[int, list[int]], dict[str, NDArray[Any]]]:
        from .reopening import forward_again, reopen_network  # with PyTorch, which a stored run does without

        named = network.model, network.weights, network.trust_model
        return forward_again(run, lambda: reopen_network(run, base_of(data), *named, options), control)

    return ForwardMaps(run, images, forward)


def refuse_network(run: RunDir, network: Network) -> None:
    """BadInput for a network where none is needed."""
    if run.is_spilled and network != NO_NETWORK:
        got = "a network, for a run that stored its activations"
        raise BadInput("--model, --weights, --trust-model", got, "none of them", "leave them out: nothing is run again")


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
