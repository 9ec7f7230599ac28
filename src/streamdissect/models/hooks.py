"""Activations out of a running network, copied the moment they exist, as (B, K, h, w)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .layers import LayerRef
from .layouts import choose_layout, tensor_of, to_maps
from .programs import EXPORT, check_images, fixed_batch, fixed_shape
from .tracing import trace_layers
from .wrappers import eagerly


class ActivationHooks:
    """Records the chosen tensors of every forward pass while it is entered; may be entered again.

    Parameters
    ----------
    module : nn.Module
    refs : sequence of LayerRef
    layout : str
        `auto`, `nchw`, `nhwc` or `tokens`; see `to_maps`. Unless it is `nchw` or `nhwc`, the order of four dimensions
        is found for each layer by itself: by the trace, else by the proportions of the input, see `choose_layout`.
    prefix_tokens : int, optional
        Tokens before those of the grid, such as a class token.
    grid : (h, w), optional
        Of tokens.
    is_compiled : bool
        Whether the network is called through `torch.compile` for these hooks alone, and so compiles them too.

    Notes
    -----
    A tensor is copied inside the hook, because a later in-place operation writes into the original (methods 1.5).
    Parts that the caller compiled run eagerly meanwhile, because compiled code may pass hooks by.
    """

    def __init__(
        self,
        module: nn.Module,
        refs: Sequence[LayerRef],
        layout: str = "auto",
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        is_compiled: bool = False,
    ) -> None:
        self._module, self._refs, self._is_compiled = module, tuple(refs), is_compiled
        self._layout, self._prefix_tokens, self._grid = layout, prefix_tokens, grid
        self._layouts: dict[str, str] = {}
        """Of layers with four dimensions, once they are known."""
        self._images_first: set[str] = set()
        """Layers of tokens whose first axis has been seen to be the batch."""
        self._input_shape: tuple[int, ...] | None = None
        """Of the last batch of images (B, C, rows, columns), where the network was given one."""
        self._found: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.clear()
        if not self._is_compiled:
            self._stack.enter_context(eagerly())
        handles = [self._module.register_forward_pre_hook(self._start, with_kwargs=True)]
        for ref in self._refs:
            part = self._module.get_submodule(ref.module_name)
            if ref.tensor == "input":
                handles.append(part.register_forward_pre_hook(partial(self._take_input, ref), with_kwargs=True))
            else:
                handles.append(part.register_forward_hook(partial(self._take_output, ref)))
        for handle in handles:
            self._stack.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._found, self._calls = {}, {}

    def unsettled(self) -> bool:
        """Whether the last pass leaves open which axis of a layer is the batch, and one of another size would tell."""
        return fixed_batch(self._module) is None and any(
            self._is_either(name, tensor) for name, tensor in self._found.items()
        )

    def take(self) -> dict[str, Tensor]:
        """Name -> (B, K, h, w) of the forward pass since the last call; detached copies.

        Raises
        ------
        BadInput
            A layer did not run, ran several times, or its output is no map of units, or may be read in two ways.
        """
        found, calls, shape = self._found, self._calls, self._input_shape
        self.clear()
        tensors = {ref.name: self._checked(ref, found, calls.get(ref.name, 0)) for ref in self._refs}
        size = None if shape is None else (shape[2], shape[3])
        if size is None:
            self._refuse_guesses(tensors)
        elif self._layout not in ("nchw", "nhwc"):
            self._find_layouts({name: tensor for name, tensor in tensors.items() if tensor.ndim == 4}, size)
        return {
            name: to_maps(tensor, name, self._layouts.get(name, self._layout), self._prefix_tokens, self._grid, size)
            for name, tensor in tensors.items()
        }

    def _refuse_guesses(self, tensors: Mapping[str, Tensor]) -> None:
        """BadInput where nothing tells which axes are which, as the network was given no images."""
        for name, tensor in tensors.items():
            got = f"a tensor {tuple(tensor.shape)} of a network that was given no images (B, channels, rows, columns)"
            if tensor.ndim == 4 and self._layout not in ("nchw", "nhwc"):
                raise BadInput(f"layer {name}", got, "--layout nchw or --layout nhwc", "give one of them")
            if tensor.ndim == 3 and self._grid is None:
                raise BadInput(f"layer {name}", got, "--grid H W", "give it, and --prefix-tokens if there are any")

    def _find_layouts(self, tensors: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        """Where the units of layers with four dimensions are, of those for which that is not known yet."""
        refs = [ref for ref in self._refs if ref.name in tensors and ref.name not in self._layouts]
        if refs:
            traced = trace_layers(self._module, refs, size)
            self.clear()  # the trace ran the network
            for ref in refs:
                layer = traced.get(ref.name)
                shape = tuple(tensors[ref.name].shape)
                self._layouts[ref.name] = choose_layout(shape, size, layer.layout if layer else None)

    def _is_either(self, name: str, tensor: Tensor) -> bool:
        """Whether a layer has as many tokens as there are images, so that the batch may be either axis."""
        return tensor.ndim == 3 and tensor.shape[0] == tensor.shape[1] > 1 and name not in self._images_first

    def _checked(self, ref: LayerRef, found: dict[str, Tensor], calls: int) -> Tensor:
        """The layer's tensor, if it is there and holds one item for each image."""
        if ref.call is None and calls > 1:
            remedy = f"choose one of them: {call_name(ref, 0)} ... {call_name(ref, calls - 1)}"
            raise BadInput("layers", f"{ref.name!r}, called {calls} times", "one call per forward pass", remedy)
        if ref.name not in found:
            if calls:
                remedy = f"it is called {calls} times: at most #{calls - 1}"
                raise BadInput("layers", repr(ref.name), "a call that happens", remedy)
            remedy = "it was never called; choose another: streamdissect layers --model ..."
            raise BadInput("layers", repr(ref.name), "a module that runs in a forward pass", remedy)
        tensor = found[ref.name]
        if self._input_shape is None:
            return tensor
        n_images = self._input_shape[0]
        if tensor.ndim < 2 or tensor.shape[0] != n_images:
            got = f"a tensor {tuple(tensor.shape)} from {n_images} images"
            remedy = "choose a module whose output has the images along its first axis"
            raise BadInput(f"layer {ref.name}", got, f"({n_images}, ...)", remedy)
        if self._is_either(ref.name, tensor):
            got = f"a tensor {tuple(tensor.shape)}, of which either axis may be the images"
            is_fixed = fixed_batch(self._module) is not None
            remedy = f"export it for any batch: {EXPORT}" if is_fixed else "give another --batch-size"
            raise BadInput(f"layer {ref.name}", got, "(images, tokens, units)", remedy)
        self._images_first.add(ref.name)
        return tensor

    def _start(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A pass that nobody asked for, such as a probe of this network, must not add to the next one.
        self.clear()
        images = images_of((inputs, named))
        self._input_shape = None if images is None else tuple(images.shape)

    def _take_input(self, ref: LayerRef, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        self._keep(ref, tensors[0] if tensors else inputs)

    def _take_output(self, ref: LayerRef, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        self._keep(ref, output)

    def _keep(self, ref: LayerRef, value: object) -> None:
        call = self._calls.get(ref.name, 0)
        self._calls[ref.name] = call + 1
        if call == (ref.call or 0):
            tensor = tensor_of(value, ref.name).detach()
            self._found[ref.name] = torch.relu(tensor) if ref.tensor == "relu" else tensor.clone()


def images_of(given: object) -> Tensor | None:
    """The batch of images among what a network was given, within lists, tuples and dicts too.

    The first tensor of four dimensions, if there are several the first of three channels: masks have one.
    """
    found = [tensor for tensor in tensors_in(given) if tensor.ndim == 4]
    return next((tensor for tensor in found if tensor.shape[1] == 3), found[0] if found else None)


def tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors within lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)


def run_model(module: nn.Module, batch: Tensor) -> None:
    """A forward pass. BadInput where the network fails on images of this size or on this device.

    Running out of memory goes through as it is.
    """
    check_images(module, tuple(batch.shape))
    try:
        module(batch)
    except (torch.OutOfMemoryError, MemoryError, BadInput):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        size = f"{batch.shape[2]}x{batch.shape[3]}"
        raise BadInput("model", f"{reason} on images of {size}", "a forward pass", advice(module, error)) from error


def advice(module: nn.Module, error: Exception) -> str:
    """What may help where a network fails."""
    kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()}
    if kinds - {"float32"}:
        found = " and ".join(sorted(kinds))
        return f"its weights are {found}: build or export it as model.float(); for speed there is --amp"
    if isinstance(error, (TypeError, KeyError, AttributeError)):
        return "it is called with one batch of images (B, 3, H, W): wrap it in a module whose forward takes just that"
    if fixed_shape(module) is not None:
        return "give images that the exported program takes (--input-size H W), or export it anew with dynamic shapes"
    return "give the size it was made for with --input-size H W, or check that it takes images (B, 3, H, W)"


def call_name(ref: LayerRef, call: int) -> str:
    """The name of one call of a layer."""
    name, colon, tensor = ref.name.partition(":")
    return f"{name}#{call}{colon}{tensor}"
