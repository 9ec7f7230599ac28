"""Masks of active maps, kept by `score --keep-masks` and read again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..kernels import AxisWeights, mask_maps, threshold_keys, words_of
from ..kernels.reference import unpack
from ..kernels.reference_tail import infinity_key, keys_of
from ..measure.planes import ImagePlanes, grid_runs
from ..options import RUN
from ..store.masks import MaskWriter, iter_masks
from ..store.rundir import RunDir, stage_of
from .recording import layers_of
from .settings import saved_settings

MOST_BYTES = 32 << 20
"""Of packed masks at once."""


def keep_masks(
    writer: MaskWriter,
    position: int,
    rows: range,
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    images: Sequence[ImagePlanes],
    weights: Mapping[tuple[int, int], tuple[AxisWeights, AxisWeights]],
    or_equal: bool,
    backend: str,
    device: str | None,
) -> None:
    """Write the masks of those maps (B, K, h, w) that have a value which passes."""
    # By their keys, as the kernels compare: subnormal values may be flushed to zero in this thread.
    _, keys, keys16 = threshold_keys(thresholds, or_equal)
    bits = maps.view(f"u{maps.itemsize}")
    own, values = (keys16 if maps.itemsize == 2 else keys), keys_of(bits)
    active = np.any((values > own[:, None, None]) & (values <= infinity_key(bits)), axis=(2, 3))
    for run in grid_runs(images):
        shape = images[run.start].shape
        for i in run:
            writer.add_image(position, rows[i], shape, int(active[i].sum()))
        image, unit = np.nonzero(active[run.start : run.stop])
        step = max(1, MOST_BYTES // (8 * shape[0] * words_of(shape[1])))
        for first in range(0, len(unit), step):
            k = unit[first : first + step]
            chosen = maps[run.start + image[first : first + step], k]
            bits = mask_maps(chosen, thresholds[k], *weights[shape], or_equal=or_equal, backend=backend, device=device)
            writer.append(position, k, bits)


def masks(
    run: RunDir | str | os.PathLike[str] = RUN, layer: str | None = None, *, name: str | None = None
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """The masks that `score(run, keep_masks=True)` kept, of one layer.

    Parameters
    ----------
    run : RunDir or path
    layer : str, optional
        May be left out where the run has one layer.
    name : str, optional
        Of the scoring.

    Yields
    ------
    row : int
        Of the result's `image_name`.
    unit : int
    mask : bool (H, W)
        On the image's mask grid. Ascending by row, then unit; what does not come is empty.

    Raises
    ------
    BadInput
        There is no such layer, or the scoring kept no masks.
    IncompleteRun
        Shards are not scored yet, or their masks are missing or damaged.
    """
    opened = run if isinstance(run, RunDir) else RunDir(run)
    names = [spec.name for spec in layers_of(opened)]
    if layer is None and len(names) == 1:
        layer = names[0]
    if layer not in names:
        raise BadInput("layer", repr(layer), f"one of {', '.join(names)}", "name one of them")
    settings = saved_settings(opened, name)
    if settings is None or not settings.get("keep_masks"):
        got = "not scored" if settings is None else "scored without --keep-masks"
        raise BadInput("run", f"{str(opened.path)!r}, {got}", "kept masks", "run: streamdissect score --keep-masks")
    opened.ledger(stage_of(name)).require_complete()
    return _read(opened, names.index(layer), name)


def _read(run: RunDir, position: int, name: str | None) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    for shard in range(run.n_shards):
        path = masks_path(run, name, shard)
        if not path.exists():
            raise IncompleteRun(f"{path}: gone, perhaps by clean; score again with --overwrite --keep-masks")
        for row, unit, shape, bits in iter_masks(path, position):
            yield row, unit, unpack(bits, shape)


def masks_path(run: RunDir, name: str | None, shard: int) -> Path:
    """Where a shard's masks lie."""
    return run.results_path(name) / "masks" / f"{shard:06d}.h5"
