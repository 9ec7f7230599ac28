"""A scored run opened for other images: its thresholds, its grids, its network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..data.labellers import Labels, open_labellers
from ..data.labelling import base_of, labellers_of
from ..errors import BadInput, IncompleteRun
from ..kernels import AxisWeights, mask_maps
from ..measure.dissection import Dissection, LayerDissection
from ..measure.fieldmap import AxisField
from ..measure.perturbations import KINDS, Perturbation
from ..measure.planes import LabelRules
from ..measure.upsample import axis_weights
from ..measure.warps import CellAxis
from ..models import load_model, resolve_layers
from ..options import CommonOptions, ExtractOptions, ScoreOptions
from ..perturboptions import PERTURBATIONS, ShowOptions
from ..quantile import DEAD, SPARSE
from ..store.results import load_dissection
from ..store.rundir import RunDir
from .forward import Network, iter_images
from .planning import require_identity
from .recording import layers_of, store_of
from .reopening import reopen_network
from .scoring import find_data, label_rules
from .settings import check_name, saved_settings, settings_to_options

Axes = tuple[AxisWeights, AxisWeights]
CAPTURE_TOLERANCE = 0.02
"""Of what a captured run stored, how far its images may come out otherwise: other batches round otherwise."""


@dataclass
class Scored:
    """A run that was scored, and its dataset."""

    run: RunDir
    data: Dataset
    result: Dissection
    settings: dict[str, Any]
    """Of the scoring."""
    options: ScoreOptions
    """As it was scored."""
    rules: LabelRules
    _weights: dict[tuple[str, tuple[int, int]], Axes] = field(default_factory=dict)

    @property
    def input_size(self) -> tuple[int, int]:
        """(rows, columns) that the network sees."""
        rows, columns = self.run.manifest["plan"]["input_size"]
        return int(rows), int(columns)

    @property
    def tau(self) -> Fraction:
        """The IoU above which a unit is a detector."""
        return self.options.iou

    @property
    def tail(self) -> Fraction:
        """Of the thresholds."""
        return Fraction(self.settings["tail"])

    def layer(self, name: str) -> LayerDissection:
        """A layer's part of the result."""
        return self.result.layers[name]

    def grid(self, layer: str) -> tuple[int, int]:
        """(h, w) of a layer."""
        return next(spec.grid for spec in layers_of(self.run) if spec.name == layer)

    def axes(self, layer: str) -> tuple[tuple[int, int, AxisField | None], tuple[int, int, AxisField | None]]:
        """(cells, input pixels, field) of a layer's rows and of its columns."""
        described = next(each for each in self.run.manifest["layers"] if each["array"]["name"] == layer)
        known = described["field"]
        fields = [AxisField.from_json(known[axis]) if known else None for axis in ("rows", "columns")]
        rows, columns = zip(self.grid(layer), self.input_size, fields, strict=True)
        return rows, columns

    def upsampling(self, layer: str) -> str:
        """How the layer was brought to the mask grid."""
        return str(self.layer(layer).attributes["upsample"])

    def weights(self, layer: str, shape: tuple[int, int]) -> Axes:
        """Interpolation weights from a layer's grid to a mask grid."""
        key = layer, shape
        if key not in self._weights:
            mode = self.upsampling(layer)
            (h, n, of_rows), (w, m, of_columns) = self.axes(layer)
            found = axis_weights(mode, h, shape[0], n, of_rows), axis_weights(mode, w, shape[1], m, of_columns)
            self._weights[key] = found
        return self._weights[key]

    def cells(self, layer: str) -> tuple[CellAxis, CellAxis]:
        """Where a layer's cells lie in the picture."""
        rows, columns = (CellAxis.of(self.upsampling(layer), *axis) for axis in self.axes(layer))
        return rows, columns

    def thresholds(self, layer: str) -> NDArray[np.float32]:
        """(K,) for masks; NaN, an empty mask, where `>=` would light a unit everywhere."""
        found = self.layer(layer)
        if self.options.mask_test == "gt":
            return found.threshold
        return np.where(found.flags & (DEAD | SPARSE), np.float32(np.nan), found.threshold)

    def active_units(self, maps: NDArray[Any], thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(K,) units whose maps (K, h, w) pass their thresholds (K,) anywhere; the masks of others are empty."""
        bound = thresholds[:, None, None]
        is_above = maps >= bound if self.options.mask_test == "ge" else maps > bound
        return np.asarray(is_above.any(axis=(1, 2)), np.bool_)

    def masks(
        self, layer: str, maps: NDArray[Any], thresholds: NDArray[np.float32], shape: tuple[int, int]
    ) -> NDArray[np.uint64]:
        """Masks (A, H * words) of maps (A, h, w) at thresholds (A,)."""
        return mask_maps(
            maps,
            thresholds,
            *self.weights(layer, shape),
            or_equal=self.options.mask_test == "ge",
            backend="auto",
        )

    def mask_shape(self, image_size: tuple[int, int], label_shape: tuple[int, int] | None) -> tuple[int, int]:
        """The mask grid of an image, as the scoring chose it; that of a picture without label maps is its own size."""
        size = self.options.mask_size
        if not isinstance(size, str):
            return size
        return label_shape if size == "label" and label_shape is not None else image_size

    def layers(self, patterns: Sequence[str]) -> list[str]:
        """Layers of the run that names and globs stand for, in the run's order; all where there are none."""
        names = list(self.result.layers)
        for pattern in patterns:
            if not any(pattern == name or fnmatchcase(name, pattern) for name in names):
                raise BadInput("--layers", repr(pattern), f"layers of the run: {', '.join(names)}", "correct it")
        return [n for n in names if not patterns or any(p == n or fnmatchcase(n, p) for p in patterns)]


def open_scored(
    run: RunDir | str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str] | None,
    labels: Labels | None,
    name: str | None,
    common: CommonOptions,
) -> Scored:
    """Open a scored run and the dataset it was scored with.

    Raises
    ------
    BadInput
        There is no such run, it is not scored, or its dataset is not to be had or has changed.
    IncompleteRun
        It is damaged.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(name)
    settings, results = saved_settings(opened, name), opened.results_path(name)
    option = f" --name {name}" if name else ""
    if settings is None or not (results / "summary.json").exists():
        remedy = f"run: streamdissect score {opened.path}{option}"
        raise BadInput(
            "run", f"{str(opened.path)!r}, not scored{' under that name' * bool(name)}", "one that is", remedy
        )
    if settings.get("until_stable") is not None:
        got = "a scoring that stopped early (--until-stable)"
        raise BadInput("--name", got, "one of all images", "score plainly under another --name")
    if settings.get("directions"):
        got = "a scoring of directions"
        raise BadInput("--name", got, "one of the network's own units", "name another, or score the run plainly")
    given = labellers_of(data) if isinstance(data, Dataset) else ()
    named = labels if labels is not None else [spec for spec, _ in settings["labels"]]
    labellers = given if given and labels is None else open_labellers(named)
    dataset, _ = find_data(opened, data, labellers)
    if [each.identity for each in labellers] != settings["labels"]:
        got, expected = (", ".join(spec for spec, _ in each) or "none" for each in (
            [labeller.identity for labeller in labellers], settings["labels"]
        ))  # fmt: skip
        raise BadInput("--labels", repr(got), f"{expected!r} as it was scored, unchanged", "give those")
    if base_of(dataset).fingerprint() != settings["data"]:
        remedy = f"run: streamdissect score {opened.path}{option} --overwrite"
        raise BadInput("labels of the data", "others than were scored", "the same", remedy)
    concepts = dataset.concepts
    options = settings_to_options(settings, ScoreOptions(name=name, threads=common.threads, memory=common.memory))
    result = load_dissection(results / "dissection.h5")
    if result.concept_name != concepts.name:
        raise IncompleteRun(
            f"{results / 'dissection.h5'}: of other concepts than the data; score again with --overwrite"
        )
    rules = label_rules(concepts, options)
    return Scored(opened, dataset, result, settings, options, rules)


def open_network(
    scored: Scored,
    layers: Sequence[str],
    model: nn.Module | str | None,
    weights: str | None,
    trust: bool,
    options: ShowOptions,
) -> Network:
    """The run's network with hooks on some layers, checked to be the one that was extracted or captured.

    Raises
    ------
    BadInput
        It is not to be had, or another one; or the images come out otherwise than in the loop that was captured.
    """
    run = scored.run
    if run.manifest["identity"].get("recorded"):
        remedy = "extract with the network itself, or capture it"
        raise BadInput("run", f"{run.full_name}, of activations that came as arrays", "one of a network", remedy)
    if not run.is_captured:
        for name in ("mean", "std"):
            given, own = getattr(options, name), tuple(run.manifest["identity"][name])
            if given not in (None, own):
                raise BadInput(f"--{name}", str(given), f"the run's own, {own}", "leave it out: the run knows it")
        if model is None and str(run.manifest["model"]["spec"]).startswith("python:"):
            raise missing_model(run)
        work = reopen_network(run, base_of(scored.data), model, weights, trust, options)
        refs = [ref for ref in work.refs if ref.name in layers]
        return Network(work.loaded.module, refs, work.options)
    if model is None:
        raise missing_model(run)
    loaded = load_model(model, weights, 0, trust)
    identity = dict(run.manifest["identity"])
    require_identity(run, identity | {"state": loaded.state_hash, "structure": loaded.structure_hash})
    found = {name: identity[name] for name in ("dtype", "layout", "prefix_tokens", "grid")}
    plain = {name: value for name in ("mean", "std") if (value := getattr(options, name)) is not None}
    made = ExtractOptions(
        threads=options.threads, memory=options.memory, input_size=scored.input_size, **(found | plain)
    )
    network = Network(loaded.module, resolve_layers(loaded.module, layers), made)
    compare_with_capture(scored, network)
    return network


def missing_model(run: RunDir) -> BadInput:
    """The refusal of a run whose network was an object."""
    spec = run.manifest["model"]["spec"]
    remedy = "pass model=... in Python, or --model with what builds it"
    return BadInput("model", f"{spec}, which was an object", "the network of the run", remedy)


def compare_with_capture(scored: Scored, network: Network) -> None:
    """BadInput where an image comes out otherwise than in the captured loop, which prepared images its own way."""
    run = scored.run
    if not run.activations_path.exists():
        return
    index = list(scored.data.names).index(scored.result.image_name[0])
    image = next(iter(iter_images(scored.data, [index], scored.input_size, 0)))
    for name, maps in network.activations([image]).items():
        stored = store_of(run).read(name, range(1))[0].astype(np.float64)
        is_there = stored > -np.inf  # which maps that --spill candidates left out are not
        difference = float(np.abs(maps[0].astype(np.float64) - stored).max(where=is_there, initial=0))
        if difference > CAPTURE_TOLERANCE * max(float(np.abs(stored).max(where=is_there, initial=0)), 1e-6):
            got = f"activations of {scored.result.image_name[0]} that differ by {difference:.3g} in layer {name}"
            raise BadInput("--mean, --std", got, "the preprocessing of the captured loop", "give its --mean and --std")


def chosen_perturbations(options: ShowOptions, size: tuple[int, int]) -> list[Perturbation]:
    """What the options ask for, checked against the size of the network's input."""
    kinds = [(KINDS[name.replace("_", "-")], getattr(options, name)) for name in PERTURBATIONS]
    found = [kind.make(magnitude, options) for kind, magnitudes in kinds for magnitude in magnitudes]
    for each in found:
        each.check(size)
    return found


def spread_units(scored: Scored, units: Sequence[str]) -> list[tuple[str, int]]:
    """(layer, unit) of texts LAYER:UNIT; without any, the strongest detector of each layer, else its best unit."""
    if not units:
        return [
            (name, int(np.argmax(np.where(layer.is_detector, 1.0, 0.0) + layer.best_iou)))
            for name, layer in scored.result.layers.items()
        ]
    found = []
    for text in units:
        layer, _, number = text.rpartition(":")
        if layer not in scored.result.layers:
            names = ", ".join(scored.result.layers)
            raise BadInput("--units", repr(text), f"LAYER:UNIT with a layer of the run: {names}", "correct it")
        n = len(scored.layer(layer).n)
        if not (number.isascii() and number.isdigit() and int(number) < n):
            raise BadInput("--units", repr(text), f"a unit of {layer}, 0 to {n - 1}", "correct it")
        found.append((layer, int(number)))
    return found
