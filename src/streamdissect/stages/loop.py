"""A loop that exists already, looked at while it runs a model: which images a batch holds, and what the layers gave."""

from __future__ import annotations

import operator
import reprlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..data.dataset import Dataset
from ..errors import BadInput
from ..models import resolve_layers
from ..models.hooks import ActivationHooks, images_of
from ..models.wrappers import unwrapped
from ..options import ExtractOptions
from .arrivals import IndexSet
from .forward import to_stored
from .selection import split_names

DEPENDING_ON_MODE = (_NormBase, _DropoutNd)
MOST_IMAGES = 2**32
"""Indices of images, where no dataset tells."""


class Loop(ABC):
    """Takes the activations of batches that the caller gives the model.

    Parameters
    ----------
    model : nn.Module
    layers : sequence of str
    n_images : int
        That are to come.
    data : Dataset, optional
    options : ExtractOptions
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | str,
        n_images: int,
        data: Dataset | None,
        options: ExtractOptions,
    ) -> None:
        self._network = unwrapped(model)
        self._model, self._n_images, self._data, self._options = model, n_images, data, options
        self._refs = resolve_layers(model, split_names(layers))
        self._hooks = ActivationHooks(model, self._refs, options.layout, options.prefix_tokens, options.grid)
        self._seen = IndexSet()
        """Images that came since the context was entered."""
        self._n_fresh = 0
        """Images recorded when it was entered, and those that came since and were not."""
        self._is_entered = False
        self._n_calls = 0
        self._input_size: tuple[int, int] | None = None
        self._passed = 0.0
        """When the model had run over the last batch, as `time.perf_counter` tells."""

    def _watch(self, stack: ExitStack) -> None:
        """Look at the model until the stack is closed."""
        self._seen, self._n_fresh = IndexSet(), 0
        stack.enter_context(self._hooks)
        handle = self._model.register_forward_pre_hook(self._look_at_input, with_kwargs=True)
        stack.callback(handle.remove)
        stack.callback(self._leave)
        self._is_entered = True

    def _leave(self) -> None:
        self._is_entered = False

    @abstractmethod
    def _is_recorded(self, index: int) -> bool:
        """Whether an image need not come."""

    @abstractmethod
    def _record(self, indices: list[int], maps: dict[str, NDArray[Any]], begin: float) -> None:
        """Take the stored form of a batch, begun at that time."""

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
        self._passed = time.perf_counter()
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
        self._record(indices, maps, begin)

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
