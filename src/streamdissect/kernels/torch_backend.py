"""The kernels in PyTorch, on the CPU or a GPU, behind the one calling convention that all backends share.

Masks that float32 cannot settle come from the host's kernels (see torch_masks); what has no pixels of units, label
planes and the largest values, is the host's altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import host_backend, torch_feed, torch_masks
from .geometry import AxisWeights, PlaneBatch, words_of
from .torch_masks import (
    Grid,
    Group,
    Masks,
    Source,
    fitting,
    iter_bands,
    packed,
    pixels_of,
    upload_words,
    words_of_bytes,
)

name = "torch"
host = host_backend()
label_planes = host.label_planes
update_bins = host.update_bins
update_buffer = host.update_buffer
update_histogram = host.update_histogram
collect = host.collect
update_sketch = host.update_sketch

LARGEST_SUM = 1 << 24
"""Pixels in one matrix product: float32 counts them exactly up to here."""


@contextmanager
def threads_and_precision(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """PyTorch on so many threads, in the formats that are asked for, whatever the caller has set; then as before."""
    before = torch.get_num_threads()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):  # it would round sums to bfloat16
        if threads is None:
            yield
            return
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def find_device(name: str) -> torch.device:
    """ValueError for a device that is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r}: {str(error).partition(chr(10))[0]}") from error
    return device


@dataclass(frozen=True)
class Labels:
    """A batch's label planes, and the device that counts, or looks through the maps."""

    planes: PlaneBatch
    device: torch.device

    @cached_property
    def words(self) -> Tensor:
        """int64 on the device, see PlaneBatch.words; as packed as they came, and brought there once for all units."""
        return upload_words(self.planes.words, self.device)

    def pixels(self, image: int, some: slice, begin: int, end: int) -> Tensor:
        """float32 (planes, (end - begin) * W) of 0 and 1: rows begin..end-1 of some of an image's planes."""
        height, width = self.planes.shape
        at = self.planes.word_ptr[image], self.planes.word_ptr[image + 1]
        words = self.words[at[0] : at[1]].view(height, words_of(width), -1)
        return pixels_of(words[begin:end, :, some].permute(2, 0, 1), width)

    def n_planes(self, image: int) -> int:
        """Of an image."""
        return int(self.planes.plane_ptr[image + 1] - self.planes.plane_ptr[image])


def prepare(planes: PlaneBatch, device: str = "cpu") -> Labels:
    """Label planes for a device. ValueError where it is not there."""
    return Labels(planes, find_device(device))


def mask_maps(
    maps: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    bits: NDArray[np.uint64],
    device: str = "cpu",
) -> None:
    """See kernels.mask_maps."""
    place = find_device(device)
    with threads_and_precision(place):
        masks = Masks(Source(maps), thresholds, keys, keys, or_equal, Grid.on(place, rows, columns), place)
        for group in masks.groups():
            doubtful = group.no_doubt()
            for begin, end in iter_bands(masks.grid.shape):
                part = slice(begin * words_of(columns.n_pixels), end * words_of(columns.n_pixels))
                on, doubt = group.filter.decide(masks.grid, begin, end)
                bits[group.index, part] = words_of_bytes(packed(on).cpu().numpy())
                doubtful |= doubt.flatten(1).amax(1) > 0
            open_maps = group.index[group.filter.undecided(masks.grid, doubtful).cpu().numpy()]
            for index in (open_maps, group.uncovered):
                bits[index] = masks.exact(index)


def count_maps(
    maps: NDArray[Any] | Tensor,
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    keys16: NDArray[np.int16],
    or_equal: bool,
    rows: AxisWeights,
    columns: AxisWeights,
    prepared: Labels,
    unit_begin: int,
    unit_end: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
    threads: int | None = None,
    form: str = "device",
) -> None:
    """See kernels.count_maps; units unit_begin..unit_end-1.

    `maps` may be a tensor, wherever it is. `threads` are PyTorch's own and those that count on the host; None: as many
    as PyTorch has, and one. `form` says who counts: the `device`, or the host, which is sent `bits` or `maps` (see
    torch_feed).
    """
    units = slice(unit_begin, unit_end)
    n_images, n_units = len(maps), unit_end - unit_begin
    source = Source(maps[:, units].reshape(n_images * n_units, *maps.shape[2:]))
    device = prepared.device
    with threads_and_precision(device, threads):
        masks = Masks(
            source,
            np.tile(thresholds[units], n_images),
            np.tile(keys[units], n_images),
            np.tile(keys16[units] if source.is_half else keys[units], n_images),
            or_equal,
            Grid.on(device, rows, columns),
            device,
        )
        targets = counters[:, units], chance[:, units], active[units]
        if form == "device":
            count_on_device(masks, prepared, n_units, *targets)
        else:
            torch_feed.count_on_host(masks, prepared.planes, n_units, form, threads or 1, *targets)


def count_on_device(
    masks: Masks,
    prepared: Labels,
    n_units: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
) -> None:
    """Masks of image i, unit k, at i * n_units + k: count them in matrix products."""
    for group in masks.groups():
        doubtful = group.no_doubt()

        def decided(begin: int, end: int, group: Group = group, doubtful: Tensor = doubtful) -> Tensor:
            on, doubt = group.filter.decide(masks.grid, begin, end)
            torch.logical_or(doubtful, doubt.flatten(1).amax(1) > 0, out=doubtful)
            return on.flatten(1)

        image, unit = np.divmod(group.index, n_units)
        shared = share_pixels(prepared, image, decided)
        is_open = group.filter.undecided(masks.grid, doubtful).cpu().numpy()
        add_shared(prepared.planes, image, unit, shared, ~is_open, counters, chance)
        exact = np.sort(np.concatenate([group.index[is_open], group.uncovered]))
        image, unit = np.divmod(exact, n_units)
        count_words(prepared, image, unit, masks.exact(exact), counters, chance)
        for index in (group.index, group.uncovered):
            active += np.bincount(index % n_units, minlength=n_units)


def count_masks(
    masks: NDArray[np.uint64], n_rows: int, prepared: Labels, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    """See kernels.count_masks."""
    n_images, n_units, n_words = masks.shape
    image, unit = np.divmod(np.arange(n_images * n_units), n_units)
    with threads_and_precision(prepared.device):
        count_words(prepared, image, unit, masks.reshape(-1, n_words), counters, chance)


@dataclass(frozen=True)
class Shared:
    """What n masks hold, images in ascending order."""

    area: Tensor
    """int64 (n,) their pixels."""
    parts: list[tuple[int, slice, Tensor]]
    """(image, its masks, int64 (masks, planes) pixels shared with each of its planes)"""


def share_pixels(labels: Labels, image: NDArray[np.int64], masks_of: Callable[[int, int], Tensor]) -> Shared:
    """Count what masks share with the planes of their images.

    `image` (n,), ascending; `masks_of(begin, end)` gives float32 (n, (end - begin) * W) of 0 and 1.
    """
    device, shape = labels.device, labels.planes.shape
    parts = []
    for first, last in pairwise(np.flatnonzero(np.diff(image, prepend=-1, append=len(labels.planes))).tolist()):
        i = int(image[first])
        total = torch.zeros((last - first, labels.n_planes(i)), dtype=torch.int64, device=device)
        parts.append((i, slice(first, last), total))
    area = torch.zeros(len(image), dtype=torch.int64, device=device)
    for begin, end in iter_bands(shape) if parts else ():
        masks = masks_of(begin, end)
        area += pixels_in_both(masks, torch.ones_like(masks[:1]))[:, 0]
        together = fitting(device, torch_masks.PIXEL_BYTES * masks.shape[1])
        for i, part, total in parts:
            for first in range(0, total.shape[1], together):
                some = slice(first, first + together)
                total[:, some] += pixels_in_both(masks[part], labels.pixels(i, some, begin, end))
    return Shared(area, parts)


def pixels_in_both(masks: Tensor, planes: Tensor) -> Tensor:
    """float32 (n, pixels) and (p, pixels) of 0 and 1 -> int64 (n, p).

    Sums of ones are exact in float32 up to 2**24, in any order; 0 and 1 are exact in every format that a product may
    be asked to round its factors to, TF32 and bfloat16 among them.
    """
    total = torch.zeros((len(masks), len(planes)), dtype=torch.int64, device=masks.device)
    for first in range(0, masks.shape[1], LARGEST_SUM):
        part = slice(first, first + LARGEST_SUM)
        total += (masks[:, part] @ planes[:, part].T).to(torch.int64)
    return total


def count_words(
    labels: Labels,
    image: NDArray[np.int64],
    unit: NDArray[np.int64],
    words: NDArray[np.uint64],
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
) -> None:
    """Count masks (n, H * words) of units (n,) on images (n,), ascending."""
    height, width = labels.planes.shape
    step = fitting(labels.device, torch_masks.PIXEL_BYTES * width * torch_masks.band_rows(labels.planes.shape))
    for first in range(0, len(words), step):
        part = slice(first, first + step)
        packed = upload_words(words[part], labels.device).view(-1, height, words_of(width))

        def unpacked(begin: int, end: int, packed: Tensor = packed) -> Tensor:
            return pixels_of(packed[:, begin:end], width)

        shared = share_pixels(labels, image[part], unpacked)
        add_shared(labels.planes, image[part], unit[part], shared, np.ones(len(packed), bool), counters, chance)


def add_shared(
    planes: PlaneBatch,
    image: NDArray[np.int64],
    unit: NDArray[np.int64],
    shared: Shared,
    kept: NDArray[np.bool_],
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
) -> None:
    """Add what the masks that are kept hold to the counters of their units (methods 3.4)."""
    every_area = shared.area.cpu().numpy()
    for i, part, total in shared.parts:
        mine = kept[part]
        units, area, pixels = unit[part][mine], every_area[part][mine], total.cpu().numpy()[mine]
        p, w, c = (slice(at[i], at[i + 1]) for at in (planes.plane_ptr, planes.whole_ptr, planes.present_ptr))
        add_rows(counters, planes.plane_row[p], units, pixels.T)
        touch = planes.touch_row[p]
        for row in np.unique(touch[touch >= 0]):
            counters[row, units] += np.where(pixels[:, touch == row].any(axis=1), area, 0)
        add_rows(counters, planes.whole_row[w], units, area[None])
        add_rows(chance, planes.present_row[c], units, planes.present_area[c][:, None] * area)


def add_rows(
    counters: NDArray[np.int64], rows: NDArray[np.int32], units: NDArray[np.int64], gain: NDArray[np.int64]
) -> None:
    """counters[rows[i], units] += gain[i]; a row may stand there twice, a unit does not."""
    for row, count in zip(rows, np.broadcast_to(gain, (len(rows), len(units))), strict=True):
        counters[row, units] += count
