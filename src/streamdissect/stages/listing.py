"""What layers a model has."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ..data.dataset import Dataset
from ..data.opening import open_dataset
from ..errors import BadInput
from ..models import field_maps, list_layers, load_model, resolve_layers
from ..models.hooks import run_model


def layers(
    model: nn.Module | str,
    weights: str | None = None,
    data: Dataset | str | os.PathLike[str] | None = None,
    input_size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Layers that can be dissected.

    Parameters
    ----------
    model, weights
        As for `extract`.
    data : Dataset, str or path, optional
        Gives the input size where none is named.
    input_size : (rows, columns), optional

    Returns
    -------
    list of dict
        `layer`, `module` (class), `shape` of the output without the batch, `field` as text or None; in module order.
        Modules that never run, or whose output is no tensor, are left out.

    Raises
    ------
    BadInput
        The model cannot be loaded or fails on images of that size, or no size is known.
    """
    loaded = load_model(model, weights)
    if input_size is None:
        if data is None:
            raise BadInput("layers", "neither --data nor --input-size", "one of them", "give --input-size H W")
        dataset = data if isinstance(data, Dataset) else open_dataset(data)
        input_size = dataset.image_size(0)
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[name] = tuple(output.shape[1:])
                kinds[name] = type(module).__name__

        return hook

    for name in list_layers(loaded.module):
        handles.append(loaded.module.get_submodule(name).register_forward_hook(watch(name)))
    try:
        with torch.inference_mode():
            run_model(loaded.module, torch.zeros(1, 3, *input_size))
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        return []  # a model without modules in it
    refs = resolve_layers(loaded.module, list(shapes))
    fields = field_maps(loaded.module, [ref for ref in refs if len(shapes[ref.name]) == 3], input_size)
    return [
        {
            "layer": name,
            "module": kinds[name],
            "shape": list(shapes[name]),
            "field": str(fields[name]) if fields.get(name) else None,
        }
        for name in list_layers(loaded.module)
        if name in shapes
    ]
