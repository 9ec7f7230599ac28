"""Forward passes over a dataset into a run: activations, thresholds' state, top images."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..data.labelling import base_of, label_dataset, labellers_of
from ..data.opening import open_dataset
from ..errors import BadInput
from ..granted import Granted
from ..models import field_maps, load_model, resolve_layers
from ..models.layers import LayerRef
from ..models.loading import LoadedModel
from ..models.programs import check_batches, fixed_batch
from ..options import BATCH, RUN, SHIPPED_DATA, SHIPPED_LAYERS, SHIPPED_MODEL, ExtractOptions, with_options
from ..store.activations import LayerArray
from ..store.rundir import RunDir
from .control import Control, Meter
from .filling import Maps, fill_shards
from .forward import Launched, Network, iter_images, torch_threads
from .memoryplan import FORWARD_FACTOR, LEAST_STATE, Division, Facts, divide, own_bytes, state_bytes
from .place import refuse_other_content, remove_run
from .planning import (
    SHARD_BYTES,
    SHARD_IMAGES,
    Plan,
    choose_streams,
    fit_shard,
    plain,
    plan_run,
    require_identity,
)
from .recording import peak_bytes
from .selection import choose_images, choose_input_size, digest_names, split_names
from .spilling import expect_disk

IDENTITY_OPTIONS = (
    "dtype",
    "mean",
    "std",
    "amp",
    "batch_size",
    "split",
    "limit",
    "is_first",
    "seed",
    "labelled_only",
    "tails",
    "thresholds",
    "distributions",
    "layout",
    "prefix_tokens",
    "grid",
    "allow_nonfinite",
    "top_images",
    "spill",
    "codec",
    "shard_images",
)
"""Options that belong to a run's identity; the rest may change from one call to the next."""


MEASURED = 2
"""Images whose forward pass tells what others take; of one alone some networks leave the axis of the batch open."""
LABELS_LOOKED_AT = 16
"""Images whose labels are read before the work."""


def extract(
    model: nn.Module | str = SHIPPED_MODEL,
    data: Dataset | str | os.PathLike[str] = SHIPPED_DATA,
    layers: Sequence[str] | str = SHIPPED_LAYERS,
    out: str | os.PathLike[str] = RUN,
    *,
    weights: str | None = None,
    labels: Labels | None = None,
    options: ExtractOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> RunDir:
    """Record the activations of a network's layers on a labelled image set.

    Parameters
    ----------
    model : nn.Module or str
        A module (moved to the device and put into evaluation mode), or `package.module:callable`,
        `path/file.py:callable`; by default the network that comes with the package.
    data : Dataset, str or path
        See `open_dataset`.
    layers : sequence of str
        Dotted module names, globs, `NAME:relu`, `NAME:input`.
    out : path
        The run. The same call again resumes a run, or finds it finished.
    weights : str, optional
        A checkpoint file, or `random`.
    labels : str, callable or sequence of these, optional
        What `score` is to label the images with, beside their own labels; see `open_dataset`. It is kept in the run.
    options : ExtractOptions, optional
    control : Control, optional
        Hears of progress and is asked whether to stop.
    **named
        Fields of `ExtractOptions`, over those of `options`.

    Returns
    -------
    RunDir
        Of which this process has done its part; other processes may still be at work on theirs.

    Raises
    ------
    BadInput
        Something given cannot be used, or the run at `out` is another one.
    Stopped
        `control` asked for it; the same call resumes.

    Notes
    -----
    Source: methods 1.4, 1.5. Batches never cross a shard, so activations do not depend on how shards are shared out.
    """
    control = control or Control()
    work = prepare(model, data, layers, weights, with_options(options or ExtractOptions(), named), labels)
    if work.options.overwrite:
        remove_run(out, work.options.shard, control)
    else:
        refuse_other_content(out)
    run = RunDir(out) if RunDir.exists(out) else RunDir.create(out, plan_work(work, control).manifest)
    follow_threads(run, work, control)
    follow_batch(run, work)
    require_identity(run, work.identity)
    require_labels(run, work.dataset)
    with torch_threads(work.identity["torch_threads"]):
        record_shards(run, work, control)
    return run


def follow_threads(run: RunDir, work: Work, control: Control) -> None:
    """Take the threads of the forward passes from a run that is there, unless others were asked for.

    What a machine grants differs from node to node and with the number of ranks on it; activations depend on them.
    """
    made = run.manifest["identity"].get("torch_threads")
    if isinstance(made, int) and made != work.options.threads and isinstance(work.options.threads, Granted):
        control.say(f"forward passes on {made} threads, as the run was begun; here are {work.options.threads}")
        work.identity["torch_threads"] = made
        work.sampled.clear()  # by another number of threads


def follow_batch(run: RunDir, work: Work) -> None:
    """Take the size of batches from a run that is there, unless one was asked for: activations depend on it."""
    made = run.manifest["identity"].get("batch_size")
    if isinstance(made, int) and work.options.batch_size is None and made != work.identity["batch_size"]:
        work.settle_batch(made)
        work.sampled.clear()


def plan_extract(
    model: nn.Module | str = SHIPPED_MODEL,
    data: Dataset | str | os.PathLike[str] = SHIPPED_DATA,
    layers: Sequence[str] | str = SHIPPED_LAYERS,
    *,
    weights: str | None = None,
    labels: Labels | None = None,
    options: ExtractOptions | None = None,
    control: Control | None = None,
) -> Plan:
    """What `extract` would make, from a forward pass over the first images. BadInput as `extract`."""
    work = prepare(model, data, layers, weights, options or ExtractOptions(), labels)
    return plan_work(work, control or Control(), is_told=True)


@dataclass(frozen=True)
class Work:
    """Everything an extraction needs, opened and checked."""

    dataset: Dataset
    loaded: LoadedModel
    refs: list[LayerRef]
    network: Network
    images: NDArray[np.int64]
    """(N,) indices into the dataset."""
    size: tuple[int, int]
    """Of the network's input."""
    options: ExtractOptions
    identity: dict[str, Any]
    """What makes two runs the same run; activations depend on all of it and on nothing else."""
    sampled: dict[tuple[int, ...], dict[str, NDArray[Any]]] = field(default_factory=dict)
    """Activations of the batch that the plan was made from, by its images, until they are used."""

    def settle_batch(self, batch_size: int) -> None:
        """Images in a forward pass, from now on."""
        self.identity["batch_size"] = self.network.batch_size = batch_size


def prepare(
    model: nn.Module | str,
    data: Dataset | str | os.PathLike[str],
    layers: Sequence[str] | str,
    weights: str | None,
    options: ExtractOptions,
    labels: Labels | None = None,
) -> Work:
    """Open the data and the model, choose images and layers."""
    dataset = label_dataset(data if isinstance(data, Dataset) else open_dataset(data), labels)
    loaded = load_model(model, weights, options.seed, options.trust_model)
    refs = resolve_layers(loaded.module, split_names(layers))
    images = choose_images(dataset, options)
    look_at_labels(base_of(dataset), images)
    size = choose_input_size(dataset, images, options.input_size)
    check_batches(loaded.module, len(images), options.batch_size or BATCH, options.shard_images)
    network = Network(loaded.module, refs, options)
    identity = {
        "model": loaded.spec,
        "state": loaded.state_hash,
        "code": loaded.code_hash,
        "structure": loaded.structure_hash,
        "data": dataset.images_fingerprint(),
        "which_images": digest_names(dataset, images),
        "layers": [ref.name for ref in refs],
        "input_size": list(size),
        "device": network.device.type,
        "torch_threads": options.threads,
        **({"compile": True} if options.compile else {}),
        **{name: plain(getattr(options, name)) for name in IDENTITY_OPTIONS},
        "batch_size": network.batch_size,
    }
    return Work(dataset, loaded, refs, network, images, size, options, identity)


def look_at_labels(dataset: Dataset, images: NDArray[np.int64]) -> None:
    """BadInput where the labels of a few images cannot be read: better now than after the forward passes."""
    for index in images[:: -(-len(images) // LABELS_LOOKED_AT)].tolist():
        if dataset.has_labels(index):
            dataset.labels(index)


def require_labels(run: RunDir, dataset: Dataset) -> None:
    """BadInput where a run was made for other labels: its activations are the same, but `score` would take those."""
    asked, made = [labeller.spec for labeller in labellers_of(dataset)], run.manifest["data"].get("labels", [])
    if asked != made:
        got, expected = (repr(",".join(specs) or "none") for specs in (asked, made))
        remedy = f"other labels need no new run: streamdissect score {run.path} --labels ... --name NAME"
        raise BadInput("--labels", got, f"{expected} as when {run.path} was made", remedy)


def plan_work(work: Work, control: Control, is_told: bool = False) -> Plan:
    """What the run will be, from a forward pass over its first images. Makes nothing.

    The memory is divided if the size of batches is to follow from it, or if the plan is to tell of it.
    """
    options, division = work.options, None
    is_chosen = options.batch_size is None and fixed_batch(work.network.module) is None
    if is_chosen or is_told:
        with torch_threads(options.threads):
            division = divide_memory(work, is_chosen)
    if division is not None and is_chosen:
        if division.batch_size < min(work.network.batch_size, len(work.images)):
            limit = f"--memory {options.memory / 1e6:.0f} MB"
            control.say(f"batches of {division.batch_size} images: more do not fit into {limit}")
            work.settle_batch(division.batch_size)
        options = replace(options, batch_size=work.network.batch_size, shard_images=division.shard_images)
    first = work.images[: work.network.batch_size].tolist()
    before = peak_bytes()
    with torch_threads(work.options.threads):
        samples = work.network.activations(list(iter_images(work.dataset, first, work.size, work.options.workers)))
        if not is_chosen and before < (peak := peak_bytes()) > work.options.memory:
            limit = f"--memory {work.options.memory / 1e6:.0f} MB"
            control.say(f"a batch of {len(first)} images took {peak / 1e6:.0f} MB, beyond {limit}: lower --batch-size")
        fields = field_maps(work.network.module, work.refs, work.size, work.options.layout)
    work.sampled[tuple(first)] = samples
    about = {
        "model": {"spec": work.loaded.spec, "weights": work.loaded.weights},
        "data": {
            "spec": work.dataset.spec,
            "images": len(work.dataset),
            "labels": [labeller.spec for labeller in labellers_of(work.dataset)],
        },
    }
    state_memory = None if division is None else division.state_memory
    plan = plan_run(work.identity, about, samples, fields, len(work.images), work.size, options, control, state_memory)
    if not is_told:
        return plan
    return replace(plan, division=division, disk=expect_disk(samples, plan.manifest, options))


def divide_memory(work: Work, is_chosen: bool) -> Division:
    """What goes where, from a forward pass of two images; of the batch that is asked for, where it is not chosen."""
    options, n_images = work.options, len(work.images)
    first = work.images[: fixed_batch(work.network.module) or MEASURED].tolist()
    process = own_bytes()
    samples, live = work.network.measure(list(iter_images(work.dataset, first, work.size, 0)))
    rows, columns = work.dataset.image_size(int(work.images[0]))
    stored = sum(sample[0].nbytes for sample in samples.values())
    facts = Facts(
        process=process,
        state=state_of(samples, n_images, options),
        pictures=3 * (2 * options.workers + 3) * max(rows * columns, work.size[0] * work.size[1]),
        image_forward=math.ceil(FORWARD_FACTOR * live / len(first)) + 3 * work.size[0] * work.size[1],
        image_stored=stored,
    )
    batch_size = min(work.network.batch_size, n_images)
    if not is_chosen:
        return Division(facts, batch_size, options.shard_images or fit_shard(stored, n_images, options))
    shard_bytes = min(SHARD_BYTES, stored * min(n_images, SHARD_IMAGES))
    state_memory = options.memory
    while True:
        try:
            found = divide(facts, options.memory, batch_size, shard_bytes, options.shard_images)
            return replace(found, state_memory=state_memory)
        except BadInput:
            if state_memory < LEAST_STATE:
                raise
        state_memory //= 2
        facts = replace(facts, state=state_of(samples, n_images, replace(options, memory=state_memory)))


def state_of(samples: dict[str, NDArray[Any]], n_images: int, options: ExtractOptions) -> int:
    """Bytes of the thresholds' and distributions' state, in the forms that are chosen for the options' memory."""
    layers = []
    for name, sample in samples.items():
        spec = LayerArray(name, sample.shape[1], (sample.shape[2], sample.shape[3]), str(sample.dtype), "none", 1)
        layers.append((spec, *choose_streams(spec, n_images, options, len(samples), Control())))
    return state_bytes(layers, n_images, options.top_images)


def record_shards(run: RunDir, work: Work, control: Control) -> None:
    """Do every shard that is this worker's, unclaimed and not finished."""

    def forward(maps: Maps, images: list[int], meter: Meter) -> dict[str, float]:
        return forward_shard(work, maps, images, control, meter)

    fill_shards(run, work.images, forward, work.options, control)


def forward_shard(work: Work, maps: Maps, images: list[int], control: Control, meter: Meter) -> dict[str, float]:
    """Fill the maps of one shard; returns what waiting for images and the forward passes took."""
    seconds = {"decode": 0.0, "forward": 0.0}
    source = iter_images(work.dataset, images, work.size, work.options.workers)
    launched: deque[tuple[int, int, Launched]] = deque()

    def take() -> None:
        start, n_images, activations = launched.popleft()
        for name, found in activations().items():
            if found.shape[1:] != maps[name].shape[1:]:
                got, expected = (" x ".join(map(str, shape)) for shape in (found.shape[1:], maps[name].shape[1:]))
                raise BadInput(f"layer {name}", f"activations of {got}", f"{expected} as at first", "check the model")
            maps[name][start : start + n_images] = found
        meter.advance(n_images)

    for start in range(0, len(images), work.network.batch_size):
        begin = time.perf_counter()
        batch = list(islice(source, work.network.batch_size))
        decoded = time.perf_counter()
        known = work.sampled.pop(tuple(images[start : start + len(batch)]), None)
        launched.append((start, len(batch), work.network.launch(batch) if known is None else partial(dict, known)))
        while len(launched) > work.network.n_ahead:
            take()
        seconds["decode"] += decoded - begin
        seconds["forward"] += time.perf_counter() - decoded
        control.check()
    begin = time.perf_counter()
    while launched:
        take()
    seconds["forward"] += time.perf_counter() - begin
    for what, took in (("waiting for images", "decode"), ("forward passes", "forward")):
        control.took(what, seconds[took])
    return seconds
