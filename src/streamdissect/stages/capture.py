"""Recording inside a loop that exists already."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from types import TracebackType
from typing import Any, Literal, Self, overload

from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..data.labelling import labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput, StorageFailure
from ..measure.dissection import Dissection
from ..measure.fieldmap import FieldMap
from ..models import field_maps, hash_state, hash_structure, name_object
from ..options import RUN, ExtractOptions, ScoreOptions, with_options
from ..store.claims import Claims
from ..store.rundir import RunDir
from .arrivals import PRESENCE, Arrivals
from .control import Control
from .loop import Loop, as_indices
from .monitor import RUNNING, Monitor, open_monitor
from .place import refuse_other_content, remove_run
from .planning import plain, plan_run, require_identity
from .shards import await_fellows

IDENTITY_OPTIONS = (
    "dtype",
    "tails",
    "thresholds",
    "distributions",
    "top_images",
    "spill",
    "codec",
    "layout",
    "prefix_tokens",
    "grid",
)
USED_OPTIONS = (*IDENTITY_OPTIONS, "shard_images", "memory", "max_disk", "allow_nonfinite", "overwrite", "shard")
"""Options that bear on a capture; the others describe the loop, which is the caller's."""


class Capture(Loop):
    """Records the activations of layers while the caller runs the model; see `capture`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | str,
        out: str | os.PathLike[str],
        n_images: int,
        data: Dataset | None,
        options: ExtractOptions,
    ) -> None:
        super().__init__(model, layers, n_images, data, options)
        self._out = out
        self._stack = ExitStack()
        self._rank = options.shard
        self._identity: dict[str, Any] = {}
        self._arrivals: Arrivals | None = None

    def __enter__(self) -> Self:
        self._arrivals = None  # it may be entered again
        self._identity = {
            "model": type(self._network).__qualname__,  # its module may be __main__ for one process only
            "state": hash_state(self._model),
            "structure": hash_structure(self._network),
            "data": None if self._data is None else self._data.images_fingerprint(),
            "layers": [ref.name for ref in self._refs],
            "images": self._n_images,
            "captured": True,
            **{name: plain(getattr(self._options, name)) for name in IDENTITY_OPTIONS},
        }
        if self._options.overwrite:
            remove_run(self._out, self._rank, Control())
        else:
            refuse_other_content(self._out)
        with ExitStack() as stack:
            self._watch(stack)
            if RunDir.exists(self._out):
                self._arrivals = stack.enter_context(self._resume(RunDir(self._out)))
                self._n_fresh = len(self._arrivals.recorded)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._arrivals is None and self._rank is None and kind is None:
            self._stack.close()
            raise BadInput("capture", "no image", f"{self._n_images} images", "call the model within images(index)")
        with naming_storage(self._out):
            self._stack.__exit__(kind, error, at)
            if kind is None and RunDir.exists(self._out):
                run = RunDir(self._out)
                ledger = run.ledger("extract")
                present = Claims(ledger.folder / PRESENCE)
                await_fellows(run.n_shards, self._options, ledger.is_done, present, Control())

    def skip(self, index: Sequence[int] | Tensor | NDArray[Any]) -> bool:
        """Whether all images of a batch are recorded already, so that the loop may go on to the next one."""
        indices = as_indices(index)
        return all(i in self._seen or self._is_recorded(i) for i in indices)

    def _is_recorded(self, index: int) -> bool:
        return self._arrivals is not None and index in self._arrivals.recorded

    def _record(self, indices: list[int], maps: dict[str, NDArray[Any]], begin: float) -> None:
        """What is new of a batch, into the run."""
        with naming_storage(self._out):
            self._add(indices, maps, begin)

    def _add(self, indices: list[int], maps: dict[str, NDArray[Any]], begin: float) -> None:
        if self._arrivals is None:
            self._arrivals = self._stack.enter_context(self._begin(maps))
        expected = tuple(self._arrivals.run.manifest["plan"]["input_size"])
        if (self._input_size or (0, 0)) != expected:
            sizes = [" x ".join(map(str, size)) for size in (self._input_size or (0, 0), expected)]
            raise BadInput("images", f"a batch of {sizes[0]}", f"{sizes[1]} as at first", "use one input size")
        fresh = [row for row, i in enumerate(indices) if not self._is_recorded(i)]
        self._n_fresh += len(fresh)
        for i in indices:
            self._seen.add(i)
        if len(fresh) < len(indices):
            maps = {name: batch[fresh] for name, batch in maps.items()}
        self._arrivals.add([indices[row] for row in fresh], maps, time.perf_counter() - begin)

    def _begin(self, samples: dict[str, NDArray[Any]]) -> Arrivals:
        """Make the run, knowing the first batch; where another process was first, join it."""
        size = self._input_size or (0, 0)
        found: dict[str, FieldMap | None] = dict.fromkeys(samples)
        if self._input_size:
            found = field_maps(self._model, self._refs, size, self._options.layout)
        about = {
            "model": {"spec": name_object(self._network), "weights": None},
            "data": {
                "spec": None if self._data is None else self._data.spec,
                "images": self._n_images,
                "labels": [] if self._data is None else [each.spec for each in labellers_of(self._data)],
            },
        }
        plan = plan_run(self._identity, about, samples, found, self._n_images, size, self._options, Control())
        return self._resume(RunDir.create(self._out, plan.manifest))

    def _resume(self, run: RunDir) -> Arrivals:
        """Go on with a run that is there, if it is this one."""
        if not run.is_captured:
            got = f"{os.fspath(self._out)!r}, a run of extract"
            raise BadInput("out", got, "a new or empty directory, or a run of capture", "choose another")
        require_identity(run, self._identity)
        return Arrivals(run, self._rank)


@contextmanager
def naming_storage(out: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says about a file into a failure that names it."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or os.fspath(out)}: {error.strerror or error}"
        raise StorageFailure(f"{what}; what was recorded stays: run the same loop again") from error


@overload
def capture(
    model: nn.Module,
    layers: Sequence[str] | str,
    out: str | os.PathLike[str],
    *,
    n_images: int,
    data: Dataset | str | os.PathLike[str],
    spill: Literal["none"],
    thresholds: str | Mapping[str, NDArray[Any]] | Dissection = ...,
    rules: ScoreOptions | None = None,
    options: ExtractOptions | None = None,
    **named: Any,
) -> Monitor: ...
@overload
def capture(
    model: nn.Module,
    layers: Sequence[str] | str,
    out: str | os.PathLike[str] = ...,
    *,
    n_images: int,
    data: Dataset | str | os.PathLike[str] | None = None,
    options: ExtractOptions | None = None,
    **named: Any,
) -> Capture: ...
def capture(
    model: nn.Module,
    layers: Sequence[str] | str,
    out: str | os.PathLike[str] = RUN,
    *,
    n_images: int,
    data: Dataset | str | os.PathLike[str] | None = None,
    spill: str | None = None,
    rules: ScoreOptions | None = None,
    options: ExtractOptions | None = None,
    **named: Any,
) -> Capture | Monitor:
    """Record activations inside a loop that exists already, or count in it what units detect.

    Parameters
    ----------
    model : nn.Module
        As the loop uses it, in evaluation mode.
    layers : sequence of str
        See `extract`.
    out : path
        The run. A loop that was cut is run again and goes on: images that are recorded already are passed over.
        Several processes, as torchrun starts them, capture into one run.
    n_images : int
        How many different images will come, in all processes together.
    data : Dataset, str or path, optional
        What the indices given to `images` mean; its fingerprint is kept and checked when scoring.
    spill : str, optional
        `none`: a monitor of a training. Nothing is stored, each batch is counted at once against the labels of `data`,
        and every step appends a JSON line to the file `out`; see docs/monitor.md.
    thresholds : str, Dissection or layer -> float32 (K,)
        Of a monitor. `running`, the default: each step counts with those of the step before, and finds those of the
        next; the first one only finds. Else fixed ones: a result, arrays of one, or those of `Monitor.thresholds`.
        Of a capture: as for `extract`.
    rules : ScoreOptions, optional
        Of a monitor: how masks and labels are counted (iou, upsample, union and the like), backend and threads.
    options : ExtractOptions, optional
    **named
        Fields of `ExtractOptions`, over those of `options`; those that describe the loop itself, such as `batch_size`,
        are refused.

    Returns
    -------
    Capture
        A context; `with capture.images(index): model(batch)` records one batch. Rows are stored in arrival order.
        `capture.skip(index)` tells whether a batch need not be run, since its images are recorded.
    Monitor
        With `spill="none"`: the same, entered once for each step: `with monitor.step(epoch): ...`.

    Raises
    ------
    BadInput
        There is no such layer, `out` holds another run, or a batch cannot be recorded (see `Capture.images`).
    StorageFailure
        A file cannot be written.
    IncompleteRun
        On leaving, where fewer images came than were announced: it names those that are missing.

    Notes
    -----
    An image that several processes bring counts once, as the ones that DistributedSampler repeats to give all of them
    equally many. They must not overlap otherwise: two processes that record the same images for long are found on
    leaving, and the run is refused.

    Examples
    --------
    >>> with capture(model, ["relu5"], "run", n_images=len(data)) as cap:  # doctest: +SKIP
    ...     for index, batch in loader:
    ...         with cap.images(index), torch.inference_mode():
    ...             model(batch)
    """
    given: Any = named.pop("thresholds", RUNNING) if spill == "none" else None
    if spill is not None and spill != "none":
        named["spill"] = spill
    if useless := sorted(named.keys() & {f.name for f in fields(ExtractOptions)} - set(USED_OPTIONS)):
        remedy = "leave it out: the loop is yours"
        raise BadInput(useless[0], repr(named[useless[0]]), "an option that bears on a capture", remedy)
    if not isinstance(model, nn.Module):
        raise BadInput("model", repr(model), "a torch.nn.Module, the one that the loop calls", "pass it itself")
    try:
        announced = -1 if isinstance(n_images, bool) else operator.index(n_images)
    except TypeError:
        announced = -1
    if announced < 1:
        raise BadInput("n_images", repr(n_images), "the number of images to come, at least 1", "pass len(dataset)")
    opened = data if data is None or isinstance(data, Dataset) else open_dataset(data)
    if opened is not None and announced > len(opened):
        raise BadInput("n_images", str(announced), f"at most the {len(opened)} of the dataset", "pass len(dataset)")
    chosen = with_options(options or ExtractOptions(), named)
    if spill == "none":
        return open_monitor(model, layers, out, announced, opened, given, chosen, rules or ScoreOptions())
    if rules is not None:
        raise BadInput("rules", "given to a capture", "spill='none' beside them", "give them to score, which counts")
    return Capture(model, layers, out, announced, opened, chosen)
