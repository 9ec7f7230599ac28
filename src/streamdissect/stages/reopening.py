"""The network of a run once more, and its forward passes as `extract` made them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..errors import BadInput, IncompleteRun
from ..options import CommonOptions, ExtractOptions
from ..store.activations import empty_maps
from ..store.rundir import RunDir
from .control import Control, Meter
from .extract import IDENTITY_OPTIONS, Work, forward_shard, prepare
from .forward import torch_threads
from .planning import require_identity
from .recording import digest_maps, layers_of


def forward_again(
    run: RunDir, reopen: Callable[[], Work], control: Control
) -> Callable[[int, list[int]], dict[str, NDArray[Any]]]:
    """What gives the maps of a shard and its images by layer; the network is opened when first asked."""
    opened = cache(reopen)

    def forward(shard: int, images: list[int]) -> dict[str, NDArray[Any]]:
        work = opened()
        with torch_threads(work.options.threads):
            maps = empty_maps(layers_of(run), len(images))
            forward_shard(work, maps, images, control, Meter())
        compare_maps(run, shard, maps, work.network.device.type)
        return maps

    return forward


def compare_maps(run: RunDir, shard: int, maps: dict[str, NDArray[Any]], device: str) -> None:
    """IncompleteRun where a CPU gives other activations than those that the thresholds were found in.

    A GPU may differ from one pass to the next in the last bits; what it gives is taken.
    """
    commit = run.ledger("extract").read(shard) or {}
    for name, expected in commit.get("digests", {}).items():
        if device == "cpu" and digest_maps(maps[name]) != expected:
            what = f"shard {shard}, layer {name}: other activations than when the thresholds were found"
            raise IncompleteRun(f"{what} (changed images, or another kind of CPU); extract again with --overwrite")


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
        compile=bool(found.get("compile", False)),
        **{name: found[name] for name in IDENTITY_OPTIONS},
    )
    chosen = made["spec"] if model is None else model
    files = weights if weights is not None else made["weights"] if model is None else None
    work = prepare(chosen, data, found["layers"], files, options)
    try:
        require_identity(run, work.identity | {"model": found["model"]})  # what it is counts, not how it is called
    except BadInput as error:
        remedy = "give the network and the images that were extracted, or extract again"
        raise BadInput(error.thing, error.value, error.expected, remedy) from error
    return work
