"""Activations out of a running network, copied the moment they exist, as (B, K, h, w)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isqrt
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import BadInput
from .layers import LayerRef

LAYOUT_REMEDY = "say where its units and cells are with --layout, --grid and --prefix-tokens"


class ActivationHooks:
    """Records the chosen tensors of every forward pass while it is entered; may be entered again.

    Parameters
    ----------
    module : nn.Module
    refs : sequence of LayerRef
    layout : str
        `auto`, `nchw`, `nhwc` or `tokens`; see `to_maps`.
    prefix_tokens : int, optional
        Tokens before those of the grid, such as a class token.
    grid : (h, w), optional
        Of tokens.

    Notes
    -----
    A tensor is copied inside the hook, because a later in-place operation writes into the original (methods 1.5).
    """

    def __init__(
        self,
        module: nn.Module,
        refs: Sequence[LayerRef],
        layout: str = "auto",
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        self._module, self._refs = module, tuple(refs)
        self._layout, self._prefix_tokens, self._grid = layout, prefix_tokens, grid
        self._found: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self.clear()
        # A pass that nobody asked for, such as a probe of this network, must not add to the next one.
        self._handles.append(self._module.register_forward_pre_hook(lambda *_: self.clear()))
        for ref in self._refs:
            part = self._module.get_submodule(ref.module_name)
            if ref.tensor == "input":
                handle = part.register_forward_pre_hook(partial(self._take_input, ref))
            else:
                handle = part.register_forward_hook(partial(self._take_output, ref))
            self._handles.append(handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._found, self._calls = {}, {}

    def take(self) -> dict[str, Tensor]:
        """Name -> (B, K, h, w) of the forward pass since the last call; detached copies.

        Raises
        ------
        BadInput
            A layer did not run, ran several times, or its output is no map of units.
        """
        found, calls = self._found, self._calls
        self.clear()
        return {ref.name: self._checked(ref, found, calls.get(ref.name, 0)) for ref in self._refs}

    def _checked(self, ref: LayerRef, found: dict[str, Tensor], calls: int) -> Tensor:
        if ref.call is None and calls > 1:
            remedy = f"choose one of them: {call_name(ref, 0)} ... {call_name(ref, calls - 1)}"
            raise BadInput("layers", f"{ref.name!r}, called {calls} times", "one call per forward pass", remedy)
        if ref.name not in found:
            if calls:
                remedy = f"it is called {calls} times: at most #{calls - 1}"
                raise BadInput("layers", repr(ref.name), "a call that happens", remedy)
            remedy = "it was never called; choose another: streamdissect layers --model ..."
            raise BadInput("layers", repr(ref.name), "a module that runs in a forward pass", remedy)
        return to_maps(found[ref.name], ref.name, self._layout, self._prefix_tokens, self._grid)

    def _take_input(self, ref: LayerRef, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        self._keep(ref, tensors[0] if tensors else inputs)

    def _take_output(self, ref: LayerRef, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        self._keep(ref, output)

    def _keep(self, ref: LayerRef, value: object) -> None:
        call = self._calls.get(ref.name, 0)
        self._calls[ref.name] = call + 1
        if call == (ref.call or 0):
            tensor = tensor_of(value, ref.name).detach()
            self._found[ref.name] = torch.relu(tensor) if ref.tensor == "relu" else tensor.clone()


def run_model(module: nn.Module, batch: Tensor) -> None:
    """A forward pass. BadInput where the network fails on images of this size or on this device.

    Running out of memory goes through as it is.
    """
    try:
        module(batch)
    except (torch.OutOfMemoryError, MemoryError, BadInput):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        size = f"{batch.shape[2]}x{batch.shape[3]}"
        remedy = "give the size it was made for with --input-size H W, or check the model"
        raise BadInput("model", f"{reason} on images of {size}", "a forward pass", remedy) from error


def call_name(ref: LayerRef, call: int) -> str:
    """The name of one call of a layer."""
    name, colon, tensor = ref.name.partition(":")
    return f"{name}#{call}{colon}{tensor}"


def tensor_of(value: object, layer: str) -> Tensor:
    """The tensor a module takes or returns: itself, or the first of a tuple, list or dict."""
    first = value
    if isinstance(value, Mapping):
        first = next(iter(value.values()), None)
    elif isinstance(value, (tuple, list)):
        first = value[0] if value else None
    if not isinstance(first, Tensor):
        kind = type(value).__name__
        raise BadInput(f"layer {layer}", f"a {kind}", "a tensor, or a tensor first", "choose a module inside it")
    return first


def to_maps(
    tensor: Tensor,
    layer: str,
    layout: str = "auto",
    prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """(B, K, h, w) from a layer's tensor (methods 1.4), a view where that is possible.

    Parameters
    ----------
    tensor : (B, K, h, w), (B, K), (B, tokens, K), or (B, h, w, K) with layout `nhwc`
    layer : str
        For messages.
    layout, prefix_tokens, grid
        See `ActivationHooks`. Tokens are in row-major order; without `grid` their number must be a square.
    """
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        return tensor[:, :, None, None]
    if tensor.ndim == 4:
        return tensor.permute(0, 3, 1, 2) if layout == "nhwc" else tensor
    if tensor.ndim != 3 or layout in ("nchw", "nhwc"):
        expected = "(B, units, h, w), (B, units) or (B, tokens, units)"
        raise BadInput(f"layer {layer}", f"a tensor {shape} with layout {layout}", expected, LAYOUT_REMEDY)
    prefix = prefix_tokens or 0
    n_tokens = shape[1] - prefix
    rows, columns = grid or (isqrt(max(n_tokens, 0)),) * 2
    if rows * columns != n_tokens or n_tokens < 1:
        expected = f"{rows} x {columns} tokens of the grid" if grid else "a square number of tokens"
        got = f"{shape[1]} tokens" + (f", {n_tokens} without {prefix} before them" if prefix else "")
        raise BadInput(f"layer {layer}", got, expected, LAYOUT_REMEDY)
    return tensor[:, prefix:].transpose(1, 2).reshape(shape[0], shape[2], rows, columns)
