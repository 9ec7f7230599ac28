"""Receptive fields by following one forward pass, operation by operation (methods 2.2).

The network runs once on an image of the run's own size under a dispatch mode, which sees every ATen operation with its
actual arguments. So control flow, functional calls, and padding that depends on the input size need nothing special,
and any network that runs can be followed, whether or not torch.fx can trace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import BadInput
from ..measure.fieldmap import AxisField, FieldMap
from .layers import LayerRef
from .layouts import UNCLEAR, tensor_of
from .programs import fixed_batch
from .quiet import blank_images, evaluating
from .rules import RULES, Axis, Operand, Track, merge
from .wrappers import unwrapped

FRESH = (
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
)
"""Operations whose result does not depend on the values of their input."""


@dataclass(frozen=True)
class Traced:
    """What the trace knows about one layer's tensor."""

    field: FieldMap | None
    layout: str | None
    """`nchw`, `nhwc`, or `unclear` where rows and columns lie in another order; None: no such axes."""


def trace_fields(module: nn.Module, refs: Sequence[LayerRef], input_shape: tuple[int, int]) -> dict[str, FieldMap]:
    """Field maps of the layers that known operations lead to.

    Parameters
    ----------
    module : nn.Module
        Takes (B, 3, rows, columns); its mode and state are left as they were.
    refs : sequence of LayerRef
    input_shape : (rows, columns)
        Of the run: padding may depend on it.

    Returns
    -------
    dict of FieldMap
        By name of the layer. A layer behind an operation without a rule, and one that is no map, are absent.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    >>> str(trace_fields(net, [LayerRef("1", "1")], (224, 224))["1"])
    '(-1,3,2)'
    """
    traced = trace_layers(module, refs, input_shape)
    return {name: layer.field for name, layer in traced.items() if layer.field is not None}


def trace_layers(module: nn.Module, refs: Sequence[LayerRef], input_shape: tuple[int, int]) -> dict[str, Traced]:
    """What one forward pass tells about the layers that known operations lead to; parameters as for `trace_fields`."""
    follower = Follower()
    found: dict[str, Traced] = {}
    with evaluating(module), ExitStack() as stack:
        for ref in refs:
            part = module.get_submodule(ref.module_name)
            note = partial(take_note, follower, ref, found, [])
            if ref.tensor == "input":
                handle = part.register_forward_pre_hook(lambda _, inputs, note=note: note(inputs))
            else:
                handle = part.register_forward_hook(lambda _, inputs, output, note=note: note(output))
            stack.callback(handle.remove)
        images = blank_images(module, fixed_batch(module) or 1, input_shape)
        rows, columns = (Axis(n, dim, AxisField()) for dim, n in zip((2, 3), input_shape, strict=True))
        follower.tracks[images] = Track(rows, columns)
        try:
            with follower:
                unwrapped(module)(images)
        except Exception:  # a network that cannot run says so when it is run for its activations, not here
            return {}
    return {} if follower.is_lost else found


def take_note(follower: Follower, ref: LayerRef, found: dict[str, Traced], calls: list[None], value: object) -> None:
    """Keep the field map and the layout of a tensor as it passes a hook."""
    calls.append(None)
    if len(calls) != (ref.call or 0) + 1:
        return
    try:
        tensor = tensor_of(value, ref.name)
    except BadInput:
        return
    track = follower.tracks.get(tensor)
    if track is None or tensor.ndim not in (2, 4):
        return
    layout = layout_of(track, tensor)
    cells = [1 if axis.dim is None else tensor.shape[axis.dim] for axis in track.axes]
    field = None
    # Otherwise cells and units were mixed and laid out anew.
    if tensor.ndim == 2 or cells[0] * cells[1] in (tensor[0, 0].numel(), tensor[0, ..., 0].numel()):
        is_global = any(axis.is_global for axis in track.axes)
        field = FieldMap(track.rows.field, track.columns.field, "trace", is_global)
    found[ref.name] = Traced(field, layout)


def layout_of(track: Track, tensor: Tensor) -> str | None:
    """Which dimensions of four are the rows and the columns; an axis of a single cell may be anywhere."""
    dims = track.rows.dim, track.columns.dim
    if tensor.ndim != 4 or dims == (None, None):
        return None
    for layout, places in (("nchw", (2, 3)), ("nhwc", (1, 2))):
        if all(dim in (None, place) for dim, place in zip(dims, places, strict=True)):
            return layout
    return UNCLEAR


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the track of every tensor that depends on the input; None where it is unknown."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracks: Any = WeakTensorKeyDictionary()
        self.is_lost = False
        """Whether something was written into a part of a tensor, which tracks of whole tensors cannot tell."""
        self.written: set[StorageWeakRef] = set()
        """Memory into which something was written that depends on the input."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and derive the track of its result; one without a rule is taken apart if that can be."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::").rstrip("_") if func.namespace == "aten" else ""
        is_pointwise = torch.Tag.pointwise in func.tags or name in ("cat", "concat")
        if func.namespace == "aten" and not is_pointwise and name not in RULES:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        arguments = {argument.name: argument.default_value for argument in func._schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False)) | kwargs
        operands = self._operands(arguments)
        result = func(*args, **kwargs)
        if not operands or name in FRESH:
            return result
        for argument in func._schema.arguments:
            written = arguments[argument.name]
            if argument.is_write and isinstance(written, Tensor):
                self._note_write(written)
        outputs = [value for value in listed(result) if isinstance(value, Tensor)]
        if not outputs:
            return result
        known = [(track, tensor) for track, tensor in operands if track is not None]
        track = None
        if len(known) == len(operands):
            track = self._derive(name, is_pointwise, known, arguments, outputs[0])
        for output in outputs:
            self.tracks[output] = track
        return result

    def _operands(self, arguments: dict[str, Any]) -> list[tuple[Track | None, Tensor]]:
        """Tracks of the arguments that depend on the input, be it through memory that another tensor wrote into."""
        tensors = [value for argument in arguments.values() for value in listed(argument) if isinstance(value, Tensor)]
        is_written = [tensor in self.tracks or memory_of(tensor) in self.written for tensor in tensors]
        return [(self.tracks.get(tensor), tensor) for tensor in compress(tensors, is_written)]

    def _note_write(self, written: Tensor) -> None:
        """Something is written into a tensor: what others that share its memory see is not known any more."""
        memory = memory_of(written)
        self.is_lost |= written.untyped_storage().nbytes() > written.numel() * written.element_size()
        self.written.add(memory)
        for tensor in list(self.tracks):
            if tensor is not written and memory_of(tensor) == memory:
                self.tracks[tensor] = None

    def _derive(
        self, name: str, is_pointwise: bool, operands: list[Operand], arguments: dict[str, Any], output: Tensor
    ) -> Track | None:
        if is_pointwise:
            over = arguments.get("dim") if name in ("cat", "concat") else None
            if over is not None and any(axis.dim == over % output.ndim for track, _ in operands for axis in track.axes):
                return None
            return merge(operands, output.ndim)
        rule = RULES.get(name)
        if rule is None or len(operands) != 1:
            return None
        return rule(*operands[0], arguments, output)


def memory_of(tensor: Tensor) -> StorageWeakRef:
    """What tensors that are views of each other have in common; its address is not given to others while this lives."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def listed(value: object) -> Sequence[object]:
    """A list or tuple itself, anything else as the only one."""
    return value if isinstance(value, (list, tuple)) else (value,)
