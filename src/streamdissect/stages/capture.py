"""Recording inside a loop that exists already."""

from __future__ import annotations

import operator
import os
import reprlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..data.dataset import Dataset
from ..data.labelling import labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput, StorageFailure
from ..measure.fieldmap import FieldMap
from ..models import field_maps, hash_state, hash_structure, name_object, resolve_layers
from ..models.hooks import ActivationHooks, images_of
from ..models.wrappers import unwrapped
from ..options import RUN, ExtractOptions, with_options
from ..store.rundir import RunDir
from .arrivals import Arrivals, IndexSet
from .control import Control
from .forward import to_stored
from .place import refuse_other_content, remove_run
from .planning import plain, plan_run, require_identity
from .ranks import find_rank
from .selection import split_names

DEPENDING_ON_MODE = (_NormBase, _DropoutNd)
MOST_IMAGES = 2**32
"""Indices of images, where no dataset tells."""
IDENTITY_OPTIONS = (
    "dtype",
    "tails",
    "thresholds",
    "distributions",
    "top_images",
    "codec",
    "layout",
    "prefix_tokens",
    "grid",
)
USED_OPTIONS = (*IDENTITY_OPTIONS, "shard_images", "memory", "max_disk", "allow_nonfinite", "overwrite", "shard")
"""Options that bear on a capture; the others describe the loop, which is the caller's."""


class Capture:
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
        self._network = unwrapped(model)
        self._model, self._out, self._n_images, self._data = model, out, n_images, data
        self._options = options
        self._refs = resolve_layers(model, split_names(layers))
        self._hooks = ActivationHooks(model, self._refs, options.layout, options.prefix_tokens, options.grid)
        self._stack = ExitStack()
        self._rank = options.shard or find_rank()
        self._identity: dict[str, Any] = {}
        self._arrivals: Arrivals | None = None
        self._seen = IndexSet()
        """Images that came since the context was entered."""
        self._n_fresh = 0
        """Images recorded when it was entered, and those that came since and were not."""
        self._is_entered = False
        self._n_calls = 0
        self._input_size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._arrivals, self._seen, self._n_fresh = None, IndexSet(), 0  # it may be entered again
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
            stack.enter_context(self._hooks)
            handle = self._model.register_forward_pre_hook(self._look_at_input, with_kwargs=True)
            stack.callback(handle.remove)
            if RunDir.exists(self._out):
                self._arrivals = stack.enter_context(self._resume(RunDir(self._out)))
                self._n_fresh = len(self._arrivals.recorded)
            self._stack = stack.pop_all()
        self._is_entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_entered = False
        if self._arrivals is None and self._rank is None and kind is None:
            self._stack.close()
            raise BadInput("capture", "no image", f"{self._n_images} images", "call the model within images(index)")
        with naming_storage(self._out):
            self._stack.__exit__(kind, error, at)

    def skip(self, index: Sequence[int] | Tensor | NDArray[Any]) -> bool:
        """Whether all images of a batch are recorded already, so that the loop may go on to the next one."""
        indices = as_indices(index)
        return all(i in self._seen or self._is_recorded(i) for i in indices)

    def _is_recorded(self, index: int) -> bool:
        return self._arrivals is not None and index in self._arrivals.recorded

    @contextmanager
    def images(self, index: Sequence[int] | Tensor | NDArray[Any]) -> Iterator[None]:
        """Around one call of the model: which images of the dataset the batch holds, in any order.

        Raises
        ------
        BadInput
            The batch is of another size, an image comes twice, or more come than were announced.
        """
        if not self._is_entered:
            raise BadInput("capture", "a batch outside it", "a context", "write: with sd.capture(...) as cap:")
        indices = as_indices(index)
        if not indices:
            yield
            return
        self._check(indices)
        refuse_training(self._model)
        begin, self._n_calls = time.perf_counter(), 0
        self._hooks.clear()
        yield
        if self._n_calls != 1:
            got = f"{self._n_calls} calls of the model for one batch"
            raise BadInput("images", got, "exactly one", "put each call into a block of its own")
        maps = {
            name: to_stored(tensor, name, self._options.dtype, self._options.allow_nonfinite)
            for name, tensor in self._hooks.take().items()
        }
        for name, batch in maps.items():
            if len(batch) != len(indices):
                raise BadInput(
                    "images", f"{len(indices)} indices", f"{len(batch)}, the batch of layer {name}", "pass one each"
                )
        with naming_storage(self._out):
            self._record(indices, maps, begin)

    def _record(self, indices: list[int], maps: dict[str, NDArray[Any]], begin: float) -> None:
        """What is new of a batch, into the run."""
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

    def _check(self, indices: list[int]) -> None:
        """Refuse images that do not exist, come twice, or are more than announced."""
        most = MOST_IMAGES if self._data is None else len(self._data)
        here: set[int] = set()
        for i in indices:
            if not 0 <= i < most:
                raise BadInput("images", f"index {i}", f"0 to {most - 1}", "pass the dataset's own indices")
            if i in self._seen or i in here:
                raise BadInput("images", f"image {i} again", "each image once", "leave repeated images out")
            here.add(i)
        n_fresh = self._n_fresh + sum(not self._is_recorded(i) for i in indices)
        if n_fresh > self._n_images:
            raise BadInput("images", f"{n_fresh} images", f"the {self._n_images} announced", "raise n_images")

    def _look_at_input(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._n_calls += 1
        images = images_of((args, named))
        self._input_size = None if images is None else (images.shape[2], images.shape[3])

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


def as_indices(index: Sequence[int] | Tensor | NDArray[Any]) -> list[int]:
    """The indices of a batch as plain integers. BadInput where they are none."""
    try:
        indices = [-1 if isinstance(i, (bool, np.bool_)) else operator.index(i) for i in index]
    except TypeError as error:
        expected = "a sequence, tensor or array of the images' numbers in the dataset"
        raise BadInput("images", f"an index {reprlib.repr(index)}", expected, "pass what the loader yields") from error
    return indices


def refuse_training(model: nn.Module) -> None:
    """BadInput where a part would act otherwise than in evaluation: dropout, or statistics of the batch."""
    for name, part in model.named_modules():
        if part.training and isinstance(part, DEPENDING_ON_MODE):
            got = f"{type(part).__name__} {name!r} in training mode"
            raise BadInput("model", got, "a network in evaluation mode", "call model.eval() before the loop")


@contextmanager
def naming_storage(out: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says about a file into a failure that names it."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or os.fspath(out)}: {error.strerror or error}"
        raise StorageFailure(f"{what}; what was recorded stays: run the same loop again") from error


def capture(
    model: nn.Module,
    layers: Sequence[str] | str,
    out: str | os.PathLike[str] = RUN,
    *,
    n_images: int,
    data: Dataset | str | os.PathLike[str] | None = None,
    options: ExtractOptions | None = None,
    **named: Any,
) -> Capture:
    """Record activations inside a loop that exists already.

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
    options : ExtractOptions, optional
    **named
        Fields of `ExtractOptions`, over those of `options`; those that describe the loop itself, such as `batch_size`,
        are refused.

    Returns
    -------
    Capture
        A context; `with capture.images(index): model(batch)` records one batch. Rows are stored in arrival order.
        `capture.skip(index)` tells whether a batch need not be run, since its images are recorded.

    Raises
    ------
    BadInput
        There is no such layer, `out` holds another run, or a batch cannot be recorded (see `Capture.images`).
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
    return Capture(model, layers, out, announced, opened, with_options(options or ExtractOptions(), named))
