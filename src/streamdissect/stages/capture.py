"""Recording inside a loop that exists already."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..data.opening import open_dataset
from ..errors import BadInput, IncompleteRun
from ..measure.fieldmap import FieldMap
from ..models import field_maps, hash_state, name_object, resolve_layers
from ..models.hooks import ActivationHooks
from ..options import RUN, ExtractOptions
from ..store.claims import Claims
from ..store.rundir import RunDir
from .control import Control
from .forward import to_stored
from .place import refuse_other_content, remove_run
from .planning import plain, plan_run
from .recording import Recorder, layers_of, store_of
from .selection import split_names

MOST_IMAGES = 2**32
"""Indices of images, where no dataset tells."""


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
        if n_images < 1:
            raise BadInput("n_images", repr(n_images), "the number of images to come, at least 1", "pass len(dataset)")
        self._model, self._out, self._n_images, self._data = model, out, n_images, data
        self._options = options
        self._refs = resolve_layers(model, split_names(layers))
        self._hooks = ActivationHooks(model, self._refs, options.layout, options.prefix_tokens, options.grid)
        self._stack = ExitStack()
        self._run: RunDir | None = None
        self._recorder: Recorder | None = None
        self._maps: dict[str, NDArray[Any]] = {}
        self._waiting: list[int] = []
        """Images of the rows in `_maps` so far."""
        self._seen: dict[int, int] = {}
        """index // 1024 -> bits of the images that came."""
        self._n_seen = self._n_calls = 0
        self._shard = 0
        self._input_size: tuple[int, int] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if self._options.overwrite:
            remove_run(self._out, None, Control())
        elif RunDir.exists(self._out):
            remedy = "choose another, or pass overwrite=True"
            raise BadInput("out", repr(os.fspath(self._out)), "a new or empty directory: it holds a run", remedy)
        else:
            refuse_other_content(self._out)
        self._stack.enter_context(self._hooks)
        handle = self._model.register_forward_pre_hook(self._look_at_input)
        self._stack.callback(handle.remove)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None and self._n_seen < self._n_images:
                raise IncompleteRun(
                    f"capture: {self._n_seen} of {self._n_images} images came; the run is incomplete, start it again"
                )

    @contextmanager
    def images(self, index: Sequence[int] | Tensor | NDArray[Any]) -> Iterator[None]:
        """Around one call of the model: which images of the dataset the batch holds, in any order.

        Raises
        ------
        BadInput
            The batch is of another size, an image comes twice, or more come than were announced.
        """
        indices = [operator.index(i) for i in index]
        if not indices:
            yield
            return
        self._check(indices)
        self._started, self._n_calls = time.perf_counter(), 0
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
        for i in indices:
            self._seen[i >> 10] = self._seen.get(i >> 10, 0) | 1 << (i & 1023)
        self._n_seen += len(indices)
        self._take(indices, maps)

    def _check(self, indices: list[int]) -> None:
        """Refuse images that do not exist, come twice, or are more than announced."""
        most = MOST_IMAGES if self._data is None else len(self._data)
        for i in indices:
            if not 0 <= i < most:
                raise BadInput("images", f"index {i}", f"0 to {most - 1}", "pass the dataset's own indices")
        for i in indices:
            if self._seen.get(i >> 10, 0) >> (i & 1023) & 1 or indices.count(i) > 1:
                raise BadInput("images", f"image {i} again", "each image once", "leave repeated images out")
        if self._n_seen + len(indices) > self._n_images:
            got = f"{self._n_seen + len(indices)} images"
            raise BadInput("images", got, f"the {self._n_images} announced", "raise n_images")

    def _look_at_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._n_calls += 1
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            self._input_size = int(args[0].shape[2]), int(args[0].shape[3])

    def _take(self, indices: list[int], maps: dict[str, NDArray[Any]]) -> None:
        """Rows into the shard, whole shards into the run."""
        if self._recorder is None or self._run is None:
            self._begin(maps)
        assert self._recorder is not None and self._run is not None
        done = 0
        while done < len(indices):
            rows = len(self._run.rows(self._shard))
            n = min(rows - len(self._waiting), len(indices) - done)
            start = len(self._waiting)
            for name, buffer in self._maps.items():
                if maps[name].shape[1:] != buffer.shape[1:]:
                    got, expected = maps[name].shape[1:], buffer.shape[1:]
                    raise BadInput(
                        f"layer {name}", f"activations {got}", f"{expected} as at first", "use one input size"
                    )
                buffer[start : start + n] = maps[name][done : done + n]
            self._waiting += indices[done : done + n]
            done += n
            if len(self._waiting) == rows:
                shard = {name: buffer[:rows] for name, buffer in self._maps.items()}
                if not self._recorder.claims.take(self._shard):
                    raise IncompleteRun(f"{self._out}: another process captures into this run; use another directory")
                self._recorder.record(
                    self._shard, shard, self._waiting, {"forward": time.perf_counter() - self._started}
                )
                self._started = time.perf_counter()
                self._waiting = []
                self._shard += 1
        if self._n_seen == self._n_images:
            self._recorder.flush()

    def _begin(self, samples: dict[str, NDArray[Any]]) -> None:
        """Make the run, knowing the first batch."""
        options = self._options
        size = self._input_size or (0, 0)
        fields: dict[str, FieldMap | None] = dict.fromkeys(samples)
        if self._input_size:
            fields = field_maps(self._model, self._refs, size, options.layout)
        model = name_object(self._model)
        identity = {
            "model": model,
            "state": hash_state(self._model),
            "data": None if self._data is None else self._data.fingerprint(),
            "layers": [ref.name for ref in self._refs],
            "captured": True,
            **{name: plain(getattr(options, name)) for name in ("dtype", "tails", "thresholds", "top_images", "codec")},
        }
        about = {
            "model": {"spec": model, "weights": None},
            "data": {"spec": None if self._data is None else self._data.spec, "images": self._n_images},
        }
        plan = plan_run(identity, about, samples, fields, self._n_images, size, options, Control())
        self._run = RunDir.create(self._out, plan.manifest)
        self._run.ledger("extract").create()
        store_of(self._run).create()
        claims = self._stack.enter_context(Claims(self._run.ledger("extract").claims_folder))
        self._recorder = Recorder(self._run, claims)
        rows = int(self._run.manifest["plan"]["shard_images"])
        self._maps = {s.name: np.empty((rows, s.n_units, *s.grid), s.dtype) for s in layers_of(self._run)}


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
        The run; not resumed: a loop that was cut starts anew with `overwrite=True`.
    n_images : int
        How many images will come.
    data : Dataset, str or path, optional
        What the indices given to `images` mean; its fingerprint is kept and checked when scoring.
    options : ExtractOptions, optional
    **named
        Fields of `ExtractOptions`, over those of `options`.

    Returns
    -------
    Capture
        A context; `with capture.images(index): model(batch)` records one batch. Rows are stored in arrival order.

    Raises
    ------
    BadInput
        There is no such layer, `out` holds a run, or a batch cannot be recorded (see `Capture.images`).
    IncompleteRun
        On leaving, where fewer images came than were announced.

    Examples
    --------
    >>> with capture(model, ["relu5"], "run", n_images=len(data)) as cap:  # doctest: +SKIP
    ...     for index, batch in loader:
    ...         with cap.images(index), torch.inference_mode():
    ...             model(batch)
    """
    opened = data if data is None or isinstance(data, Dataset) else open_dataset(data)
    return Capture(model, layers, out, n_images, opened, replace(options or ExtractOptions(), **named))
