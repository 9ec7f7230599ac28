"""What layers a model has."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ..data.dataset import Dataset
from ..data.opening import open_dataset
from ..errors import BadInput
from ..models import field_maps, list_layers, load_model, resolve_layers
from ..models.hooks import run_model
from ..models.layouts import tensor_of
from ..models.programs import class_name, fixed_batch
from ..models.quiet import evaluating


def layers(
    model: nn.Module | str,
    weights: str | None = None,
    data: Dataset | str | os.PathLike[str] | None = None,
    input_size: tuple[int, int] | None = None,
    trust_model: bool = False,
) -> list[dict[str, Any]]:
    """Layers that can be dissected.

    Parameters
    ----------
    model, weights
        As for `extract`.
    data : Dataset, str or path, optional
        Gives the input size where none is named.
    input_size : (rows, columns), optional
    trust_model : bool
        Whether an exported program may be read, which can run code.

    Returns
    -------
    list of dict
        `layer`, `module` (class), `shape` of the output without the batch, `field` as text or None; in module order.
        Modules that never run, or whose output is no tensor (or a tensor first), are left out; of those that run
        several times each call is a layer, `NAME#0`, `NAME#1` and so on.

    Raises
    ------
    BadInput
        The model cannot be loaded or fails on images of that size, or no size is known.
    """
    loaded = load_model(model, weights, trust=trust_model)
    if input_size is None:
        if data is None:
            raise BadInput("layers", "neither --data nor --input-size", "one of them", "give --input-size H W")
        dataset = data if isinstance(data, Dataset) else open_dataset(data)
        input_size = dataset.image_size(0)
    calls: dict[str, list[tuple[int, ...] | None]] = {}
    kinds: dict[str, str] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            shape = None
            with suppress(BadInput):
                shape = tuple(tensor_of(output, name).shape[1:])
            calls[name].append(shape)
            kinds[name] = class_name(module)

        return hook

    named = list_layers(loaded.module)
    for ref in resolve_layers(loaded.module, named) if named else []:
        calls[ref.name] = []
        handles.append(loaded.module.get_submodule(ref.module_name).register_forward_hook(watch(ref.name)))
    try:
        with evaluating(loaded.module):
            run_model(loaded.module, torch.zeros(fixed_batch(loaded.module) or 1, 3, *input_size))
    finally:
        for handle in handles:
            handle.remove()
    shapes, modules = {}, {}
    for name, found in calls.items():
        for call, shape in enumerate(found):
            if shape is not None:
                layer = name if len(found) == 1 else f"{name}#{call}"
                shapes[layer], modules[layer] = shape, kinds[name]
    if not shapes:
        remedy = "look for a callable that returns modules with layers inside"
        raise BadInput("model", f"{loaded.spec!r}, in which no module runs", "a module inside that runs", remedy)
    refs = [ref for ref in resolve_layers(loaded.module, list(shapes)) if len(shapes[ref.name]) == 3]
    fields = field_maps(loaded.module, refs, input_size)
    return [
        {
            "layer": layer,
            "module": modules[layer],
            "shape": list(shape),
            "field": str(fields[layer]) if fields.get(layer) else None,
        }
        for layer, shape in shapes.items()
    ]
