"""Recording inside a loop that exists already."""

from __future__ import annotations

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
from ..errors import BadInput, IncompleteRun
from ..measure.fieldmap import FieldMap
from ..models import field_maps, hash_state, name_object, resolve_layers
from ..models.hooks import ActivationHooks
from ..options import RUN, ExtractOptions
from ..store.claims import Claims
from ..store.rundir import RunDir
from .control import Control
from .extract import plain, refuse_other_content
from .forward import to_stored
from .planning import plan_run
from .recording import Recorder, layers_of, store_of


class Capture:
    """Records the activations of layers while the caller runs the model; see `capture`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        out: str | os.PathLike[str],
        n_images: int,
        data: Dataset | None,
        options: ExtractOptions,
    ) -> None:
        if n_images < 1:
            raise BadInput("n_images", repr(n_images), "the number of images to come, at least 1", "pass len(dataset)")
        self._model, self._out, self._n_images, self._data = model, out, n_images, data
        self._options = options
        self._refs = resolve_layers(model, list(layers))
        self._hooks = ActivationHooks(model, self._refs, options.layout, options.prefix_tokens, options.grid)
        self._stack = ExitStack()
        self._run: RunDir | None = None
        self._recorder: Recorder | None = None
        self._maps: dict[str, NDArray[Any]] = {}
        self._waiting: list[int] = []
        """Images of the rows in `_maps` so far."""
        self._seen: set[int] = set()
        self._shard = 0
        self._input_size: tuple[int, int] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if RunDir.exists(self._out):
            if not self._options.overwrite:
                remedy = "choose another, or pass overwrite=True"
                raise BadInput("out", repr(os.fspath(self._out)), "a new or empty directory: it holds a run", remedy)
            RunDir(self._out).remove()
        refuse_other_content(self._out)
        self._stack.enter_context(self._hooks)
        handle = self._model.register_forward_pre_hook(self._look_at_input)
        self._stack.callback(handle.remove)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None and len(self._seen) < self._n_images:
                raise IncompleteRun(
                    f"capture: {len(self._seen)} of {self._n_images} images came; the run is incomplete, start it again"
                )

    @contextmanager
    def images(self, index: Sequence[int] | Tensor | NDArray[Any]) -> Iterator[None]:
        """Around one call of the model: which images of the dataset the batch holds, in any order.

        Raises
        ------
        BadInput
            The batch is of another size, an image comes twice, or more come than were announced.
        """
        indices = [int(i) for i in index]
        if len(set(indices)) < len(indices) or not self._seen.isdisjoint(indices):
            twice = next(i for i in indices if i in self._seen or indices.count(i) > 1)
            raise BadInput("images", f"image {twice} again", "each image once", "leave repeated images out")
        if len(self._seen) + len(indices) > self._n_images:
            raise BadInput(
                "images", f"{len(self._seen) + len(indices)} images", f"the {self._n_images} announced", "raise it"
            )
        self._started = time.perf_counter()
        self._hooks.clear()
        yield
        found = self._hooks.take()
        maps = {
            name: to_stored(tensor, name, self._options.dtype, self._options.allow_nonfinite)
            for name, tensor in found.items()
        }
        for name, batch in maps.items():
            if len(batch) != len(indices):
                raise BadInput(
                    "images", f"{len(indices)} indices", f"{len(batch)}, the batch of layer {name}", "pass one each"
                )
        self._seen.update(indices)
        self._take(indices, maps)

    def _look_at_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
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
                self._recorder.claims.take(self._shard)
                self._recorder.record(
                    self._shard, shard, self._waiting, {"forward": time.perf_counter() - self._started}
                )
                self._started = time.perf_counter()
                self._waiting = []
                self._shard += 1
        if len(self._seen) == self._n_images:
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
    layers: Sequence[str],
    out: str | os.PathLike[str] = RUN,
    *,
    n_images: int,
    data: Dataset | None = None,
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
    data : Dataset, optional
        What the indices given to `images` mean; its fingerprint is kept and checked when scoring.
    options : ExtractOptions, optional
    **named
        Fields of `ExtractOptions`, over those of `options`.

    Returns
    -------
    Capture
        A context; `with capture.images(index): model(batch)` records one batch. Rows are stored in arrival order.

    Examples
    --------
    >>> with capture(model, ["relu5"], "run", n_images=len(data)) as cap:  # doctest: +SKIP
    ...     for index, batch in loader:
    ...         with cap.images(index), torch.inference_mode():
    ...             model(batch)
    """
    return Capture(model, layers, out, n_images, data, replace(options or ExtractOptions(), **named))
