"""The network of a run once more, and its forward passes as `extract` made them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..errors import BadInput
from ..options import CommonOptions, ExtractOptions
from ..store.rundir import RunDir
from .control import Control, Meter
from .extract import IDENTITY_OPTIONS, Work, forward_shard, prepare
from .forward import torch_threads
from .planning import require_identity


def forward_again(
    run: RunDir, reopen: Callable[[], Work], control: Control
) -> Callable[[list[int]], dict[str, NDArray[Any]]]:
    """What gives the maps of a shard's images by layer; the network is opened when first asked."""
    opened = cache(reopen)

    def forward(images: list[int]) -> dict[str, NDArray[Any]]:
        work = opened()
        with torch_threads(work.options.threads):
            maps, _ = forward_shard(run, work, images, control, Meter())
        return maps

    return forward


def reopen_network(
    run: RunDir, data: Dataset, model: nn.Module | str | None, weights: str | None, trust: bool, common: CommonOptions
) -> Work:
    """The network and the images of a run, as `extract` had them.

    Parameters
    ----------
    model, weights
        Where they are not where `extract` found them, or were given as objects.
    trust : bool
        Whether an exported program may be read.
    common : CommonOptions
        Gives the memory; whatever else the activations depend on is the run's.

    Raises
    ------
    BadInput
        The network is not to be had, or another one.
    """
    made, found = run.manifest["model"], run.manifest["identity"]
    if model is None and str(made["spec"]).startswith("python:"):
        remedy = "score(run, model=...) in Python, or --model with what builds it"
        raise BadInput("model", f"{made['spec']}, which was an object", "the network that was extracted", remedy)
    options = ExtractOptions(
        memory=common.memory,
        threads=int(found["torch_threads"]),
        input_size=tuple(found["input_size"]),
        device=str(found["device"]),
        trust_model=trust,
        **{name: found[name] for name in IDENTITY_OPTIONS},
    )
    chosen, files = (made["spec"], made["weights"]) if model is None else (model, weights)
    work = prepare(chosen, data, found["layers"], files, options)
    require_identity(run, work.identity | {"model": found["model"]})  # what it is counts, not how it is called
    return work
