"""PyTorch feeds the kernels of the host: maps with a value that passes leave its device, as they are or as masks.

The device looks through all maps and sends on those that count, in loads that fill one of two buffers. While the host
counts one load, the device prepares the next: with CUDA the buffers are pinned, copies have a stream of their own, and
the host waits for nothing but the load that it is about to count. Form `maps`: maps as they were stored, all the rest
is the host's. Form `bits`: masks, packed; those with a pixel in doubt, or that the filter does not cover, are made
again by the host, from the maps. So the counters are the host's, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import PlaneBatch, words_of
from .torch_masks import Filter, Masks, Passed, as_float32, fitting, host, iter_bands, packed, words_of_bytes

BUFFER_BYTES = 1 << 20
"""Of each buffer, or what a single map takes, if that is more: some 600 masks of 112 x 112 pixels. Small enough that a
batch fills several, large enough that starting the work of a load takes less time than the work."""

Count = Callable[[slice, Any, NDArray[np.int64], NDArray[np.int64]], None]
"""Counts some maps of a load, all of one image: which, the labels, counters and chance of these maps alone."""


@dataclass(frozen=True)
class Load:
    """What is on its way to the host, or there."""

    index: NDArray[np.int64]
    """(n,) which maps, ascending."""
    parts: list[NDArray[np.uint8]]
    """Of each map (n, bytes), several things; to be read once it has arrived."""
    arrived: torch.cuda.Event | None

    def wait(self) -> None:
        """Until it has arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()


class Carrier:
    """Two buffers on the host that take turns: one is filled from the device while the other is read."""

    def __init__(self, device: torch.device, n_bytes: int) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        self.stream, self.fetching = (
            torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        self.buffers = [torch.empty(n_bytes, dtype=torch.uint8, device="cpu", pin_memory=on_cuda) for _ in range(2)]

    def send(self, index: NDArray[np.int64], parts: list[Tensor]) -> Load:
        """Start to copy uint8 (n, bytes) tensors into the buffer whose turn it is; the load before the last is lost."""
        self.buffers.reverse()
        begin, rooms = 0, []
        for part in parts:
            rooms.append(self.buffers[0][begin : begin + part.numel()].view(part.shape))
            begin += part.numel()
        if self.stream is None:
            for room, part in zip(rooms, parts, strict=True):
                room.copy_(part)
            return Load(index, [room.numpy() for room in rooms], None)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for room, part in zip(rooms, parts, strict=True):
                room.copy_(part, non_blocking=True)
                part.record_stream(self.stream)  # its memory is not given to others before it is copied
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self.stream)
        return Load(index, [room.numpy() for room in rooms], arrived)

    def aside(self) -> AbstractContextManager[Any]:
        """For copies that do not wait until the device has done what it is at."""
        return nullcontext() if self.fetching is None else torch.cuda.stream(self.fetching)


@dataclass(frozen=True)
class Rows:
    """Rows that the images of a batch feed, numbered from 0 within each image."""

    number: NDArray[np.int32]
    """Of each entry."""
    row: NDArray[np.int64]
    """Those of one image after those of another, ascending within it."""
    start: NDArray[np.int64]
    """(B + 1,) into `row`."""

    @classmethod
    def of(cls, image: NDArray[np.int64], row: NDArray[np.int32], n_images: int) -> Rows:
        """Of entries, each an image and a row; a row may stand there several times."""
        n_rows = int(row.max(initial=0)) + 1
        keys, place = np.unique(image * n_rows + row, return_inverse=True)
        start = np.searchsorted(keys, np.arange(n_images + 1) * n_rows)
        return cls((place - start[image]).astype(np.int32), keys % n_rows, start)

    def of_image(self, image: int) -> NDArray[np.int64]:
        """Ascending."""
        return self.row[self.start[image] : self.start[image + 1]]


class ImageLabels(NamedTuple):
    """Labels of one image for the host's kernels, which count into no more rows than it feeds."""

    prepared: Any
    """As the host's kernels take them, rows numbered from 0."""
    rows: NDArray[np.int64]
    """Rows of the counters that those are."""
    present: NDArray[np.int64]
    """As much for the chance level."""


class LabelsByImage:
    """A batch's labels, to be counted one image at a time."""

    def __init__(self, planes: PlaneBatch) -> None:
        touches = planes.touch_row >= 0
        at_plane, at_whole, at_present = (
            np.repeat(np.arange(len(planes)), np.diff(pointer))
            for pointer in (planes.plane_ptr, planes.whole_ptr, planes.present_ptr)
        )
        images = np.concatenate([at_plane, at_plane[touches], at_whole])
        rows = np.concatenate([planes.plane_row, planes.touch_row[touches], planes.whole_row])
        self.rows = Rows.of(images, rows, len(planes))
        self.present = Rows.of(at_present, planes.present_row, len(planes))
        n_planes, n_whole = len(planes.plane_row), len(planes.whole_row)
        touch_row = np.full(n_planes, -1, np.int32)
        touch_row[touches] = self.rows.number[n_planes : len(rows) - n_whole]
        self.planes = replace(
            planes,
            plane_row=self.rows.number[:n_planes],
            touch_row=touch_row,
            whole_row=self.rows.number[len(rows) - n_whole :],
            present_row=self.present.number,
        )
        self.of_image = cache(self._of_image)

    def _of_image(self, image: int) -> ImageLabels:
        """Made when first asked for: an image may have no map that counts."""
        prepared = host.prepare(self.planes.part(image, image + 1))
        return ImageLabels(prepared, self.rows.of_image(image), self.present.of_image(image))


class Feed(ABC):
    """Maps with a value that passes, load by load, and how the host counts a load."""

    def __init__(self, masks: Masks, each_bytes: int, most: int) -> None:
        self.masks = masks
        self.size = max(1, min(most, BUFFER_BYTES // each_bytes))
        """Maps in a load."""
        self.carrier = Carrier(masks.device, self.size * each_bytes)

    def loads(self) -> Iterator[Load]:
        """In the order of the maps, each given out when the next one is under way already."""
        before = None
        for passed in self.masks.passed():
            for maps in passed.parts(self.size):
                load = self.carrier.send(maps.index, self.parts(maps))
                if before is not None:
                    yield before
                before = load
        if before is not None:
            yield before

    @abstractmethod
    def parts(self, maps: Passed) -> list[Tensor]:
        """uint8 (n, bytes), of as many bytes in all as were said: what the host is sent."""

    @abstractmethod
    def counting(self, load: Load) -> Count:
        """Of a load that has arrived."""


class MapFeed(Feed):
    """The form `maps`: maps as they are stored."""

    def __init__(self, masks: Masks) -> None:
        self.shape = masks.grid.rows.n_source, masks.grid.columns.n_source
        self.is_half = masks.source.is_half
        super().__init__(masks, (2 if self.is_half else 4) * self.shape[0] * self.shape[1], len(masks.source))

    def parts(self, maps: Passed) -> list[Tensor]:
        """See Feed."""
        return [maps.bits.flatten(1).view(torch.uint8)]

    def counting(self, load: Load) -> Count:
        """See Feed."""
        masks, index = self.masks, load.index
        maps = load.parts[0].view(np.float16 if self.is_half else np.float32).reshape(1, len(index), *self.shape)
        thresholds, keys, own = masks.thresholds[index], masks.keys[index], masks.own_keys[index]
        keys16 = own if self.is_half else np.zeros(len(index), np.int16)  # which float32 has no use for

        def count(part: slice, labels: Any, counters: NDArray[np.int64], chance: NDArray[np.int64]) -> None:
            bounds = thresholds[part], keys[part], keys16[part]
            n = part.stop - part.start
            added = counters, chance, np.zeros(n, np.int64)
            axes = masks.grid.rows, masks.grid.columns
            host.count_maps(maps[:, part], *bounds, masks.or_equal, *axes, labels, 0, n, *added)

        return count


class BitFeed(Feed):
    """The form `bits`: masks, and which of them are in doubt.

    A doubt is not looked at closely, as it is where the device counts: the host settles it in less time than the device
    would take to enlarge the map once more, and to be waited for.
    """

    def __init__(self, masks: Masks) -> None:
        height, width = masks.grid.shape
        super().__init__(masks, 8 * height * words_of(width) + 1, fitting(masks.device, masks.grid.map_bytes))

    def parts(self, maps: Passed) -> list[Tensor]:
        """Masks, the lowest byte of a word first; a byte, 1 where the mask is in doubt."""
        found, covered = Filter.of(as_float32(maps.bits), maps.thresholds, maps.keys)
        doubtful, bands = ~covered, []
        for begin, end in iter_bands(self.masks.grid.shape):
            on, doubt = found.decide(self.masks.grid, begin, end)
            bands.append(packed(on))
            doubtful |= doubt.flatten(1).amax(1) > 0
        return [torch.cat(bands, 1), doubtful.view(torch.uint8)[:, None]]

    def counting(self, load: Load) -> Count:
        """See Feed."""
        words, doubtful = words_of_bytes(load.parts[0]), load.parts[1][:, 0] != 0
        with self.carrier.aside():
            words[doubtful] = self.masks.exact(load.index[doubtful])

        def count(part: slice, labels: Any, counters: NDArray[np.int64], chance: NDArray[np.int64]) -> None:
            host.count_masks(words[None, part], self.masks.grid.shape[0], labels, counters, chance)

        return count


FEEDS = {"bits": BitFeed, "maps": MapFeed}


def count_on_host(
    masks: Masks,
    planes: PlaneBatch,
    n_units: int,
    form: str,
    threads: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
) -> None:
    """Maps of image i, unit k, at i * n_units + k: count them on the host, in so many threads.

    The maps of an image in a load are counted by themselves, into as many columns as they are and as many rows as the
    image feeds. One thread adds these up.
    """
    labels = LabelsByImage(planes)
    feed: Feed = FEEDS[form](masks)
    with ThreadPoolExecutor(threads) as pool:
        for load in feed.loads():
            load.wait()
            image, unit = np.divmod(load.index, n_units)
            edges = np.flatnonzero(np.diff(image, prepend=-1, append=len(planes))).tolist()
            runs = [Run(labels.of_image(int(image[first])), slice(first, last)) for first, last in pairwise(edges)]
            gains = partial(gains_of, feed.counting(load))
            for run, (shared, expected) in zip(runs, (map if threads == 1 else pool.map)(gains, runs), strict=True):
                units = unit[run.part]
                counters[run.labels.rows[:, None], units] += shared
                chance[run.labels.present[:, None], units] += expected
            active += np.bincount(unit, minlength=n_units)


class Run(NamedTuple):
    """The maps of one image in a load."""

    labels: ImageLabels
    part: slice


def gains_of(count: Count, run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What they add to the counters and to the chance level, (rows, maps) each."""
    n_maps = run.part.stop - run.part.start
    shared, expected = (np.zeros((len(rows), n_maps), np.int64) for rows in (run.labels.rows, run.labels.present))
    count(run.part, run.labels.prepared, shared, expected)
    return shared, expected
