"""Who is measured: ours, and what one would write without it. Each gets its favourite layout, outside the clock.

Every contender is prepared for a case and then called without arguments; it adds to int64 (C + G + 1, K), which exist
already, as they do for all images of a shard but the first, and returns them: what the masks share with each concept,
their area on the images of each category, and on all. Ours also adds up the chance level and the active maps. All run
in one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample, interpolate

from streamdissect.kernels import kernel_backend
from streamdissect.measure.counters import Counters

from .cases import Case, data_of

torch.set_num_threads(1)
UNITS = 256
"""Units that torch enlarges at a time: 13 MB of float32 at 112 x 112. All 2048 at once took half as long again."""


def kernels_of(contender: str) -> tuple[ModuleType, Callable[[], None]]:
    """The kernels of a contender, `numba` or Cython at a level, `cython avx2`; and what to call before they work.

    ImportError where there is no such thing.
    """
    name, _, level = contender.partition(" ")
    module = kernel_backend(name)
    if not level:
        return module, lambda: None
    if level not in module.levels():
        raise ImportError(f"cython has no level {level} here")
    return module, functools.partial(module.use_level, level)


def ours(case: Case, contender: str) -> Callable[[], np.ndarray]:
    """Counters.add on float16, labels as the cached planes."""
    _, take_level = kernels_of(contender)
    backend = contender.split()[0]
    data = data_of(case)
    counters = Counters(case.n_units, data.rules.n_concepts, data.rules.n_categories)

    def count() -> np.ndarray:
        take_level()
        counters.add(data.maps, data.thresholds, data.planes, data.weights, backend=backend)
        return counters.rows

    return count


def label_rows(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each image: rows of the result, and where each counts, uint8 (H * W, rows); the last is 1 everywhere."""
    data = data_of(case)
    out = []
    for layers, whole in zip(data.layers, data.whole, strict=True):
        stack = np.array([layer.ravel() for _, layer in layers])
        numbers = np.setdiff1d(stack, [0])
        planes = [(stack == number).any(axis=0) for number in numbers]
        everywhere = [n - 1 for _, n in whole]
        present = {int(data.rules.category[column]) for column in [*(numbers.astype(int) - 1), *everywhere]}
        n_concepts = data.rules.n_concepts
        rows = [
            *(numbers.astype(int) - 1),
            *everywhere,
            *(n_concepts + g for g in present),
            n_concepts + data.rules.n_categories,
        ]
        planes += [np.ones(stack.shape[1], bool)] * (len(rows) - len(planes))
        out.append((np.array(rows), np.array(planes, np.uint8).T.copy()))
    return out


def torch_matmul(case: Case, skips: bool) -> Callable[[], np.ndarray]:
    """interpolate, compare, and one float32 matrix product with the image's own labels.

    Among the ways to say it in torch (a bincount for each unit, one bincount over all, bfloat16, which also counts
    wrong) this was the fastest. `skips`: maps without a value above the threshold are dropped first.
    """
    data = data_of(case)
    maps, thresholds = torch.from_numpy(data.maps.astype(np.float32)), torch.from_numpy(data.thresholds)
    labels = [(torch.from_numpy(rows), torch.from_numpy(planes).float()) for rows, planes in label_rows(case)]
    counters = torch.zeros(data.rules.n_rows, case.n_units, dtype=torch.int64)

    def count() -> np.ndarray:
        for image, (rows, planes) in zip(maps, labels, strict=True):
            units = torch.arange(case.n_units)
            if skips:
                units = units[image.amax(dim=(1, 2)) > thresholds]
            for some in units.split(UNITS):
                surface = interpolate(image[some][None], case.mask, mode="bilinear", align_corners=False)[0]
                masks = (surface > thresholds[some, None, None]).float().flatten(1)
                shared = (masks @ planes).long()  # sums of ones below 2**24 are exact
                counters[rows[:, None], some] += shared.T
        return counters.numpy()

    return count


def grid_sampling(case: Case) -> Callable[[], np.ndarray]:
    """grid_sample for all units of an image, then a masked sum for each of its labels, as one published tool does."""
    data = data_of(case)
    maps, thresholds = torch.from_numpy(data.maps.astype(np.float32)), torch.from_numpy(data.thresholds)
    labels = [(rows, torch.from_numpy(planes.T.reshape(-1, *case.mask)).bool()) for rows, planes in label_rows(case)]
    places = [(2 * torch.arange(n) + 1) / n - 1 for n in case.mask]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)[None]
    counters = torch.zeros(data.rules.n_rows, case.n_units, dtype=torch.int64)

    def count() -> np.ndarray:
        for image, (rows, planes) in zip(maps, labels, strict=True):
            for some in torch.arange(case.n_units).split(UNITS):
                surface = grid_sample(image[some][None], grid, padding_mode="border", align_corners=False)[0]
                masks = surface > thresholds[some, None, None]
                for row, plane in zip(rows.tolist(), planes, strict=True):
                    counters[row, some] += (masks & plane).sum(dim=(1, 2))
        return counters.numpy()

    return count


def unit_loop(case: Case) -> Callable[[], np.ndarray]:
    """A loop over images and units as in the published tools: enlarge with PIL, threshold, tally the label numbers.

    Repeats of a label at a pixel are taken out of the layers beforehand, for the tally would count them twice.
    """
    data = data_of(case)
    maps = data.maps.astype(np.float32)
    width = data.rules.n_concepts + 1
    rows_everywhere, stacks = [], []
    for (rows, planes), layers in zip(label_rows(case), data.layers, strict=True):
        stack = np.array([layer.ravel() for _, layer in layers])
        for i in range(1, len(stack)):
            stack[i][(stack[i] == stack[:i]).any(axis=0)] = 0
        stacks.append(stack.reshape(len(stack), *case.mask))
        is_layer = np.isin(rows, np.setdiff1d(stack, [0]).astype(int) - 1)
        rows_everywhere.append(rows[planes.all(axis=0) & ~is_layer])
    counters = np.zeros((data.rules.n_rows, case.n_units), np.int64)

    def count() -> np.ndarray:
        for image, stack, everywhere in zip(maps, stacks, rows_everywhere, strict=True):
            for k in range(case.n_units):
                if image[k].max() <= data.thresholds[k]:
                    continue
                surface = Image.fromarray(image[k]).resize(case.mask[::-1], Image.Resampling.BILINEAR)
                mask = np.asarray(surface) > data.thresholds[k]
                tally = np.bincount(stack[:, mask].ravel(), minlength=width)
                counters[: width - 1, k] += tally[1:]
                counters[everywhere, k] += np.count_nonzero(mask)
        return counters

    return count


OURS = ("cython avx512", "cython avx2", "cython portable", "numba")
"""Cython at each level of its loops, fastest first, and Numba."""
CONTENDERS: dict[str, Callable[[Case], Callable[[], np.ndarray]]] = {
    **{name: functools.partial(ours, contender=name) for name in OURS},
    "torch": functools.partial(torch_matmul, skips=False),
    "torch, map skip": functools.partial(torch_matmul, skips=True),
    "unit loop": unit_loop,
}
