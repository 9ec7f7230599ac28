"""A run from activations that come as arrays, whoever computed them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..data.opening import open_dataset
from ..errors import BadInput
from ..options import BATCH, ExtractOptions, with_options
from ..store.rundir import RunDir
from .control import Control, Meter
from .filling import Maps, fill_shards
from .place import refuse_other_content, remove_run
from .planning import plain, plan_run, require_identity
from .selection import choose_images, digest_names

IDENTITY_OPTIONS = (
    "dtype",
    "batch_size",
    "split",
    "limit",
    "is_first",
    "seed",
    "labelled_only",
    "tails",
    "thresholds",
    "distributions",
    "allow_nonfinite",
    "top_images",
    "spill",
    "codec",
    "shard_images",
)
Compute = Callable[[list[int]], Mapping[str, NDArray[Any]]]


def record(
    compute: Compute,
    data: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str,
    options: ExtractOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> RunDir:
    """Record activations that another framework, or another program, computes.

    Parameters
    ----------
    compute : callable
        Called with a batch of the dataset's indices; returns a dict: layer -> its activations of these images, real
        (B, K, h, w) in order. The same images must give the same values: what was lost is computed again.
    data : Dataset, str or path
        See `open_dataset`.
    out : path
        The run. The same call again resumes it, or finds it finished; several processes may make it together.
    name : str
        Of what computes them, such as the network and its checkpoint; part of the run's identity.
    options : ExtractOptions, optional
    control : Control, optional
        Hears of progress and is asked whether to stop.
    **named
        Fields of `ExtractOptions`, over those of `options`; those that describe a forward pass do nothing and are
        refused.

    Returns
    -------
    RunDir
        For `score` and the others; receptive fields are not known, so masks are upsampled as `half_pixel`.

    Raises
    ------
    BadInput
        What `compute` gave cannot be stored, or the run at `out` is another one.
    Stopped
        `control` asked for it; the same call resumes.

    Notes
    -----
    Needs no PyTorch.
    """
    used = {*IDENTITY_OPTIONS, "memory", "max_disk", "overwrite", "shard", "threads"}
    if useless := sorted(named.keys() & ExtractOptions.__dataclass_fields__.keys() - used):
        raise BadInput(useless[0], repr(named[useless[0]]), "an option that bears on arrays", "leave it out")
    settings = with_options(options or ExtractOptions(), named)
    control = control or Control()
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    images = choose_images(dataset, settings)
    batch_size = settings.batch_size or BATCH

    def batch_of(indices: list[int]) -> dict[str, NDArray[Any]]:
        return {layer: checked(layer, maps, len(indices), settings) for layer, maps in compute(indices).items()}

    if settings.overwrite:
        remove_run(out, settings.shard, control)
    else:
        refuse_other_content(out)
    identity = {
        "model": name,
        "recorded": True,
        "data": dataset.images_fingerprint(),
        "which_images": digest_names(dataset, images),
        **{option: plain(getattr(settings, option)) for option in IDENTITY_OPTIONS},
        "batch_size": batch_size,
    }
    if RunDir.exists(out):
        run = RunDir(out)
    else:
        samples = batch_of(images[:batch_size].tolist())
        about = {
            "model": {"spec": name, "weights": None},
            "data": {"spec": dataset.spec, "images": len(dataset), "labels": []},
        }
        size = dataset.image_size(int(images[0]))
        fields = dict.fromkeys(samples)
        plan = plan_run(identity, about, samples, fields, len(images), size, settings, control)
        run = RunDir.create(out, plan.manifest)
    require_identity(run, identity)

    def make(maps: Maps, indices: list[int], meter: Meter) -> dict[str, float]:
        begin = time.perf_counter()
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            found = batch_of(batch)
            for layer, whole in maps.items():
                part = found.get(layer)
                if part is None or part.shape[1:] != whole.shape[1:]:
                    got = "none" if part is None else " x ".join(map(str, part.shape[1:]))
                    expected = f"{' x '.join(map(str, whole.shape[1:]))} for every image, as at first"
                    raise BadInput(f"layer {layer}", f"activations of {got}", expected, "check what computes them")
                whole[start : start + len(batch)] = part
            meter.advance(len(batch))
            control.check()
        return {"compute": time.perf_counter() - begin}

    fill_shards(run, images, make, settings, control)
    return run


def checked(layer: str, maps: NDArray[Any], n_images: int, options: ExtractOptions) -> NDArray[Any]:
    """Activations as they are stored: rounded to the dtype, -0.0 as +0.0. BadInput where that cannot be."""
    given = np.asarray(maps)
    if given.ndim != 4 or len(given) != n_images or given.dtype.kind not in "fiub":
        got = f"{given.dtype} of {' x '.join(map(str, given.shape))}"
        expected = f"real numbers of {n_images} images x units x rows x columns"
        raise BadInput(f"layer {layer}", got, expected, "return arrays (B, K, h, w)")
    with np.errstate(over="ignore"):
        stored = given.astype(options.dtype) + np.zeros((), options.dtype)  # -0.0 + 0.0 is +0.0
    finite = np.isfinite(stored)
    if not finite.all():
        overflowed = ~finite & np.isfinite(given)
        if overflowed.any() or not options.allow_nonfinite:
            at = np.argwhere(overflowed if overflowed.any() else ~finite)[0]
            remedy = "store it with dtype float32" if overflowed.any() else "check what computes them"
            value, expected = given[tuple(at)], f"a finite number of {options.dtype}"
            raise BadInput(f"layer {layer}, unit {at[1]}", f"the activation {value:g}", expected, remedy)
    return stored
