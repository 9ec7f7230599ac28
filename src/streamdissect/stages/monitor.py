"""What units detect, epoch by epoch: counted on the fly within a loop that exists already (docs/monitor.md)."""

from __future__ import annotations

import json
import operator
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..errors import BadInput, IncompleteRun, StorageFailure
from ..kernels import Chooser, ways_of
from ..measure.counters import Counters
from ..measure.dissection import Dissection
from ..measure.iou import Scores, score_counters
from ..measure.planes import ImagePlanes, image_planes
from ..models import field_maps
from ..objects import require_local
from ..options import ExtractOptions, ScoreOptions
from ..quantile import Thresholds, find_thresholds
from ..ranks import caller_group, find_rank
from ..store.activations import LayerArray
from .control import Control
from .group import Group
from .loop import Loop
from .planning import choose_streams, describe_field
from .scoring import counting_device, label_rules, layer_weights, mask_thresholds
from .watched import Batch, Watched, join_layers, settle_images, tell_failure

USED_OPTIONS = ("dtype", "tails", "layout", "prefix_tokens", "grid", "allow_nonfinite", "memory", "spill", "thresholds",
                "shard")  # fmt: skip
"""Options of `extract` that bear on a monitor."""
USED_RULES = (
    "threads",
    "iou",
    "upsample",
    "mask_size",
    "union",
    "mask_test",
    "multiplicity",
    "unlabelled",
    "backend",
    "device",
)
"""Options of `score` that do; the tail and the memory are those of the other options."""
RUNNING = "running"
PLANES_PART = 4
"""Part of the memory that label planes may take between epochs; those beyond it are built in each."""
N_BEST = 5
"""Units named in a line."""

Given = Mapping[str, NDArray[np.float32]]
"""Thresholds (K,) by layer."""


class Monitor(Loop):
    """Dissects a network once in every step of its training, within the caller's own loop; see `capture`.

    A context, entered once for each step: `with monitor.step(epoch): ...`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | str,
        out: str | os.PathLike[str],
        n_images: int,
        data: Dataset,
        thresholds: str | Given | Dissection,
        options: ExtractOptions,
        rules: ScoreOptions,
    ) -> None:
        super().__init__(model, layers, n_images, data, options)
        require_local(out, "out", "a file")
        self._out, self._rules = Path(out), rules
        if self._out.is_dir():
            got = f"{os.fspath(out)!r}, a directory"
            raise BadInput("out", got, "a file that lines of JSON are appended to", "name one, such as monitor.jsonl")
        self._dataset = data
        self._label_rules = label_rules(data.concepts, rules)
        self._device = counting_device(rules)
        self._tail = options.tails[0]
        self._is_running = isinstance(thresholds, str)
        self._fixed = check_given(thresholds, [ref.name for ref in self._refs], rules.mask_test)
        self._number = -1
        self._found: dict[str, Thresholds] = {}
        self._found_in: int | None = None
        """The step in which the running thresholds were found."""
        self._layers: dict[str, Watched] = {}
        self._planes: dict[int, ImagePlanes] = {}
        self._planes_bytes = 0
        self._stack = ExitStack()
        self._expected_size: tuple[int, int] | None = None
        """Of the network's input."""
        self._begin = self._overhead = 0.0
        self._group: Group | None = None
        """Of the processes that share the images, once they have begun; one process has none."""
        self._came: list[int] = []
        self._held: Batch = [], {}
        """The last batch, which of several processes is counted once it is known whose its images are."""

    @property
    def thresholds(self) -> dict[str, NDArray[np.float32]]:
        """(K,) by layer: those that the next step counts with; empty where there are none yet."""
        if self._is_running:
            return {name: found.threshold for name, found in self._found.items()}
        return dict(self._fixed)

    @property
    def counters(self) -> dict[str, Counters]:
        """The counters of each layer in the last step; empty where it had no thresholds."""
        return {name: each.counters for name, each in self._layers.items() if each.counters is not None}

    def step(self, number: int) -> Self:
        """Give the step to be entered its number; without it steps count from 0."""
        try:
            self._number = operator.index(number) - 1
        except TypeError as error:
            raise BadInput("step", repr(number), "a whole number", "pass the epoch") from error
        return self

    def __enter__(self) -> Self:
        if self._is_entered:
            raise BadInput("monitor", "a step within a step", "one after the other", "leave the first one before")
        if self._group is None and self._options.shard is not None:
            self._group = Group()
        self._came, self._held = [], ([], {})
        self._number += 1
        self._begin, self._overhead = time.perf_counter(), 0.0
        with ExitStack() as stack:
            self._watch(stack)
            self._stack = stack.pop_all()
        for each in self._layers.values():
            self._start(each)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        if kind is not None:
            if self._group is not None and issubclass(kind, Exception):
                tell_failure(self._group)
            return
        begin = time.perf_counter()
        n_images = len(self._seen)
        if self._group is not None:
            n_images = settle_images(self._group, self._number, self._came, self._held, self._take_in)
        if n_images != self._n_images:
            got = f"{n_images} of the {self._n_images} images announced came"
            raise IncompleteRun(f"step {self._number}: {got}; nothing is written")
        if self._group is not None:
            join_layers(self._group, self._layers)
        line = self._describe()
        if self._is_running:
            self._found = {
                name: find_thresholds(each.streams, self._tail)
                for name, each in self._layers.items()
                if each.streams is not None
            }
            self._found_in = self._number
        now = time.perf_counter()
        if self._group is not None and self._group.rank:
            return
        line |= {"seconds": round(now - self._begin, 6), "overhead_seconds": round(self._overhead + now - begin, 6)}
        try:
            append_line(self._out, json.dumps(line | {"layers": line.pop("layers")}, ensure_ascii=False))
        except OSError as failure:
            raise StorageFailure(f"{self._out}: {failure.strerror or failure}; the step's line is lost") from failure

    def _is_recorded(self, index: int) -> bool:
        return False

    def _record(self, indices: list[int], maps: dict[str, NDArray[Any]], begin: float) -> None:
        """Look at a batch, and take it in."""
        if not self._layers:
            self._open(maps)
        if self._input_size != self._expected_size:
            sizes = [" x ".join(map(str, size or (0, 0))) for size in (self._input_size, self._expected_size)]
            raise BadInput("images", f"a batch of {sizes[0]}", f"{sizes[1]} as at first", "use one input size")
        for name, batch in maps.items():
            each = self._layers[name]
            if batch.shape[1:] != (each.array.n_units, *each.array.grid):
                got, expected = batch.shape[1:], (each.array.n_units, *each.array.grid)
                raise BadInput(f"layer {name}", f"activations {got}", f"{expected} as at first", "use one input size")
        self._n_fresh += len(indices)
        for i in indices:
            self._seen.add(i)
        if self._group is not None:
            self._came += indices
            (indices, maps), self._held = self._held, (indices, maps)
        self._take_in(indices, maps)
        self._overhead += time.perf_counter() - self._passed

    def _take_in(self, indices: list[int], maps: dict[str, NDArray[Any]]) -> None:
        """Count a batch, and take its values in for the next thresholds."""
        if not indices:
            return
        images = self._planes_of(indices) if any(each.used is not None for each in self._layers.values()) else []
        for name, batch in maps.items():
            each = self._layers[name]
            if each.streams is not None:
                each.streams.update(batch)
            if each.used is not None:
                self._count(each, batch, images)

    def _count(self, each: Watched, batch: NDArray[Any], images: list[ImagePlanes]) -> None:
        """Add one layer's counts over a batch."""
        assert each.counters is not None and each.n_above is not None and each.used is not None
        for shape in {image.shape for image in images} - each.weights.keys():
            mode = self._upsampling(each)
            each.weights[shape] = layer_weights(
                mode, each.field_map, self._expected_size or (0, 0), each.array.grid, shape
            )
        each.n_above += np.count_nonzero(batch > each.used[:, None, None], axis=(0, 2, 3))
        each.counters.add(
            batch,
            each.used,
            images,
            each.weights,
            or_equal=self._rules.mask_test == "ge",
            threads=self._rules.threads,
            backend=each.chooser,
        )

    def _open(self, samples: dict[str, NDArray[Any]]) -> None:
        """Learn what the layers are like from the first batch."""
        self._expected_size = size = self._input_size
        found = (
            dict.fromkeys(samples) if size is None else field_maps(self._model, self._refs, size, self._options.layout)
        )
        ways = ways_of(self._rules.backend, self._device, imports_torch=True)
        opened = {}
        for name, sample in samples.items():
            array = LayerArray(name, sample.shape[1], (sample.shape[2], sample.shape[3]), str(sample.dtype), "none", 1)
            each = Watched(array, describe_field(found[name]), Chooser(ways))
            if self._rules.upsample == "rf" and each.field_map is None:
                remedy = "leave it out: half_pixel serves"
                raise BadInput("upsample", "'rf'", f"a known field map of layer {name}", remedy)
            if not self._is_running and self._fixed[name].shape != (array.n_units,):
                got, expected = f"{self._fixed[name].shape} for layer {name}", f"({array.n_units},), one for each unit"
                raise BadInput("thresholds", got, expected, "give those of this network")
            opened[name] = each
        self._layers = opened
        for each in opened.values():
            self._start(each)

    def _start(self, each: Watched) -> None:
        """Empty counters and streams, and the thresholds of this step."""
        name, array, rules = each.array.name, each.array, self._label_rules
        if self._is_running:
            known = self._found.get(name)
            test = self._rules.mask_test
            each.used = None if known is None else mask_thresholds(known.threshold, known.flags, test)
            options = replace(self._options, thresholds="exact", distributions="none")
            plan, _ = choose_streams(array, self._n_images, options, len(self._refs), Control())
            each.streams = plan.streams(array, self._rules.threads)
            if not each.streams.is_exact:
                got = f"{self._options.memory} bytes, too few for the thresholds of layer {name}"
                raise BadInput("memory", got, "what they take in one pass", "raise it, or give dtype='float16'")
        else:
            each.used = self._fixed[name]
        if each.used is not None:
            each.counters = Counters(array.n_units, rules.n_concepts, rules.n_categories)
            each.n_above = np.zeros(array.n_units, np.int64)

    def _upsampling(self, each: Watched) -> str:
        """`rf` or another mode, for a layer."""
        return self._rules.upsample or ("rf" if each.field_map else "half_pixel")

    def _planes_of(self, indices: list[int]) -> list[ImagePlanes]:
        """The label planes of a batch's images."""
        lacking = [i for i in indices if i not in self._planes]
        size = self._dataset.label_batch
        batches = [lacking[start : start + size] for start in range(0, len(lacking), size)]
        with ThreadPoolExecutor(self._rules.threads, thread_name_prefix="labels") as pool:
            built = {i: planes for part in pool.map(self._build, batches) for i, planes in part.items()}
        for i, planes in built.items():
            n_bytes = sum(value.nbytes for value in vars(planes).values() if isinstance(value, np.ndarray))
            if self._planes_bytes + n_bytes <= self._options.memory // PLANES_PART:
                self._planes[i] = planes
                self._planes_bytes += n_bytes
        return [self._planes[i] if i in self._planes else built[i] for i in indices]

    def _build(self, indices: list[int]) -> dict[int, ImagePlanes]:
        """Label planes by image."""
        size, found = self._rules.mask_size, {}
        for i, labels in zip(indices, self._dataset.labels_of(indices), strict=True):
            grid = None if size == "label" else self._dataset.image_size(i) if isinstance(size, str) else size
            try:
                found[i] = image_planes(labels.shape, labels.layers, labels.whole, self._label_rules, grid)
            except ValueError as error:
                name = self._dataset.names[i]
                raise BadInput(f"labels of {name}", str(error), "label maps of one size", "correct them") from error
        return found

    def _describe(self) -> dict[str, Any]:
        """What the step found, for its line."""
        kind = {"kind": RUNNING, "of_step": self._found_in} if self._is_running else {"kind": "fixed"}
        layers = {name: self._describe_layer(each) for name, each in self._layers.items() if each.used is not None}
        return {
            "step": self._number,
            "images": self._n_images,
            "tail": str(self._tail),
            "thresholds": kind,
            "layers": layers,
        }

    def _describe_layer(self, each: Watched) -> dict[str, Any]:
        assert each.counters is not None and each.n_above is not None
        concepts, counters = self._dataset.concepts, each.counters
        scores = score_counters(counters, concepts.category, self._rules.iou, self._rules.union)
        share = each.n_above / (self._n_images * each.array.grid[0] * each.array.grid[1])
        return {
            "units": counters.n_units,
            "detectors": int(scores.is_detector.sum()),
            "unique_top": scores.unique_top(),
            "unique_by_category": int(scores.unique_by_category().sum()),
            "unique_any": scores.unique_any(),
            "mean_best_iou": float(scores.best_iou.mean()),
            "best": best_units(scores, concepts.name),
            "share_above": dict(
                zip(("least", "median", "most"), np.quantile(share, [0, 0.5, 1]).tolist(), strict=True)
            ),
            "upsample": self._upsampling(each),
        }


def best_units(scores: Scores, names: Sequence[str]) -> list[dict[str, Any]]:
    """The units of the largest IoU, at most N_BEST that have a concept."""
    order = np.argsort(-scores.best_iou, kind="stable")[:N_BEST]
    return [
        {"unit": k, "concept": names[scores.best_concept[k]], "iou": float(scores.best_iou[k])}
        for k in order.tolist()
        if scores.best_concept[k] >= 0
    ]


def check_given(
    thresholds: str | Given | Dissection, layers: Sequence[str], mask_test: str
) -> dict[str, NDArray[np.float32]]:
    """Fixed thresholds for masks, of each layer; none where they are running. BadInput where they cannot be used."""
    if isinstance(thresholds, str):
        if thresholds != RUNNING:
            expected = "'running', a Dissection, or an array for each layer"
            raise BadInput("thresholds", repr(thresholds), expected, "give one of them")
        return {}
    has_flags = isinstance(thresholds, Dissection)
    known = thresholds.thresholds if isinstance(thresholds, Dissection) else thresholds
    if missing := [name for name in layers if name not in known]:
        raise BadInput("thresholds", f"none of layer {missing[0]}", f"those of {', '.join(layers)}", "give them")
    if mask_test == "ge" and not has_flags:
        remedy = "give the Dissection, which knows units without a threshold, or mask_test='gt'"
        raise BadInput("thresholds", "arrays, with mask_test 'ge'", "a Dissection", remedy)
    found = {}
    for name in layers:
        given = np.asarray(known[name])
        found[name] = given.astype(np.float32)
        if given.dtype.kind not in "fiu" or not np.array_equal(found[name], given, equal_nan=given.dtype.kind == "f"):
            remedy = "give those of a result, or of monitor.thresholds"
            raise BadInput("thresholds", f"{given.dtype} of layer {name}", "float32 numbers", remedy)
        if isinstance(thresholds, Dissection):
            found[name] = mask_thresholds(found[name], thresholds.layers[name].flags, mask_test)
    return found


def open_monitor(
    model: nn.Module,
    layers: Sequence[str] | str,
    out: str | os.PathLike[str],
    n_images: int,
    data: Dataset | None,
    thresholds: str | Given | Dissection,
    options: ExtractOptions,
    rules: ScoreOptions,
) -> Monitor:
    """A monitor, its options checked; see `capture`."""
    if data is None or not len(data.concepts):
        raise BadInput("data", "none" if data is None else repr(data.spec), "a labelled dataset", "pass it")
    refuse_useless(options, USED_OPTIONS, ExtractOptions())
    refuse_useless(rules, USED_RULES, ScoreOptions(memory=rules.memory))
    if options.shard is not None and caller_group() != options.shard:
        got = f"{find_rank() or 'worker {}/{}'.format(*options.shard)}, and no group of torch.distributed to count with"
        remedy = "open one (init_process_group), or pass shard=None in the process that monitors"
        raise BadInput("monitor", got, "one process, or a group", remedy)
    if len(options.tails) != 1:
        raise BadInput("tails", f"{len(options.tails)} of them", "one", "a monitor counts with one")
    return Monitor(model, layers, out, n_images, data, thresholds, options, rules)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file and sync it; behind a line that was cut, a new one is begun."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        is_cut = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * is_cut + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def refuse_useless(options: ExtractOptions | ScoreOptions, used: Sequence[str], plain: object) -> None:
    """BadInput for an option that has no bearing on a monitor."""
    for each in fields(options):
        value = getattr(options, each.name)
        if each.name not in used and value != getattr(plain, each.name):
            raise BadInput(each.name, repr(value), "an option that bears on a monitor", "leave it out")
