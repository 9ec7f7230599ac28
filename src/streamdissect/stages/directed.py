"""Several sets of directions at once over a run's activations: thresholds in one pass, counters in another."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteRun
from ..measure.counters import Counters
from ..measure.directions import Directions
from ..measure.planes import ImagePlanes
from ..measure.products import one_thread
from ..measure.topimages import TopImages
from ..quantile import (
    DEAD,
    SPARSE,
    BinnedTail,
    BufferedTail,
    Histogram,
    MissedBracket,
    Refinement,
    ReqSketch,
    Streams,
    Thresholds,
    find_thresholds,
    tail_rank,
)
from ..store.activations import LayerArray
from .candidates import Candidates
from .control import Control, Meter
from .counting import groups_of as image_groups
from .scoring import MOST_CHUNK_BYTES, Scoring
from .sources import Maps
from .thresholds import groups_of

STATE_PART, KEPT_PART, REFINED_PART, CHUNK_PART = 4, 4, 4, 16
"""Parts of the memory: state of all sets at once, maps kept, values gathered in a second pass, maps that are read."""
SKETCH_BYTES = 48 << 10
"""Of a direction, at most, in a sketch of k = 50: see `ReqSketch`."""


@dataclass(frozen=True)
class Found:
    """What a pass tells of a set of D directions."""

    thresholds: dict[Fraction, Thresholds]
    """By tail."""
    top: tuple[NDArray[np.int64], NDArray[np.float32]]
    """(D, T) rows of the store and map maxima; see `TopImages.read`."""
    candidates: Candidates | None = None
    """The maps that exceed them, and some more, where they were asked for and are worth keeping."""


class DirectedMaps:
    """Maps of directions in place of those of units: see `Maps`."""

    def __init__(
        self, maps: Maps, layers: Sequence[LayerArray], directions: Sequence[Directions], threads: int
    ) -> None:
        self._maps, self._threads = maps, threads
        self._of = {layer.name: (layer, each) for layer, each in zip(layers, directions, strict=True)}

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """See `Maps`; `most_bytes` of what is read and of what comes out."""
        spec, directions = self._of[layer]
        room = most_bytes // growth(spec, [directions])
        for part, maps in self._maps.iter_chunks(layer, rows, room):
            yield part, directions.apply(maps, self._threads)

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """See `Maps`."""
        return self._of[layer][1].apply(self._maps.read(layer, rows), self._threads)


def growth(layer: LayerArray, sets: Sequence[Directions]) -> int:
    """How many times larger than the stored maps those of directions are, and a few at a time."""
    stored = layer.n_units * np.dtype(layer.dtype).itemsize
    return max(1, -(-max(each.n_directions for each in sets) * 4 // stored))


def state_bytes(layer: LayerArray, directions: Directions, capacity: int) -> int:
    """Memory of the exact streams of a set."""
    if directions.dtype(layer.dtype) == "float16":
        return directions.n_directions * (16 << 10)  # bins of the largest values alone
    return BufferedTail.state_bytes(directions.n_directions, capacity)


def together(layer: LayerArray, sets: Sequence[Directions], capacity: int, memory: int) -> int:
    """How many neighbouring sets fit into the memory, one at least."""
    each = max(state_bytes(layer, directions, capacity) for directions in sets)
    sketched = max(directions.n_directions for directions in sets) * SKETCH_BYTES
    return max(1, memory // STATE_PART // min(each, sketched))


def for_all(sets: Sequence[int], threads: int, work: Callable[[int, int], None], pool: ThreadPoolExecutor) -> None:
    """Call `work(set, threads)` for each of some sets, several at once where there are several."""
    if len(sets) == 1 or threads == 1:
        for i in sets:
            work(i, threads)
    else:
        each = max(1, threads // len(sets))
        list(pool.map(lambda i: work(i, each), sets))


class Room:
    """Memory that maps of directions are put into again and again, by one thread at a time."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self._grid = grid
        self._free: list[NDArray[np.float32]] = []

    @contextmanager
    def lent(self, n_images: int, directions: Directions) -> Iterator[NDArray[np.float32] | None]:
        """Memory for the maps of so many images; none for units that are picked, which takes no sums."""
        if directions.picked is not None:
            yield None
            return
        shape = directions.n_directions, *self._grid
        found = self._free.pop() if self._free else np.empty((0, *shape), np.float32)
        if found.shape[1:] != shape or len(found) < n_images:
            found = np.empty((n_images, *shape), np.float32)
        yield found
        self._free.append(found)


class DirectedPasses:
    """Passes over one layer's activations, looked at along several sets of directions.

    Parameters
    ----------
    maps : Maps
        Of the units.
    layer : LayerArray
        As stored.
    n_images : int
    memory, threads : int
    """

    def __init__(
        self, maps: Maps, layer: LayerArray, n_images: int, memory: int, threads: int, control: Control
    ) -> None:
        self._maps, self._layer, self._n_images = maps, layer, n_images
        self._memory, self._threads, self._control = memory, threads, control

    def share(self, sets: Sequence[Directions]) -> tuple[int, bool]:
        """How many sets to look at together, and whether to keep their maps from one pass to the next.

        A product takes longer than reading what goes into it: maps are kept, of as many sets as there is memory for,
        unless those of a single one do not fit. Then all are looked at together, and multiplied twice.
        """
        cells = self._layer.grid[0] * self._layer.grid[1]
        largest = max(4 * self._n_images * each.n_directions * cells for each in sets)
        n_kept = self._memory // KEPT_PART // largest
        if not n_kept:
            return len(sets), False
        even = n_kept - n_kept % self._threads  # no thread waits for the last of an odd number
        return min(even or n_kept, len(sets)), True

    def each_chunk(
        self, sets: Sequence[Directions], work: Callable[[int, range, NDArray[Any]], None], meter: Meter | None = None
    ) -> None:
        """`work(position of the set, rows, maps of its directions)` for all images in order, sets in parallel."""
        most = min(MOST_CHUNK_BYTES, self._memory // CHUNK_PART) // growth(self._layer, sets)
        rows, room = range(self._n_images), Room(self._layer.grid)
        with one_thread(), ThreadPoolExecutor(self._threads, thread_name_prefix="sets") as pool:
            for part, maps in self._maps.iter_chunks(self._layer.name, rows, most):
                self._control.check()

                def look(i: int, threads: int, part: range = part, maps: NDArray[Any] = maps) -> None:
                    with room.lent(len(part), sets[i]) as out:
                        work(i, part, sets[i].apply(maps, threads, out))

                for_all(range(len(sets)), self._threads, look, pool)
                advance(meter, len(part) * len(sets))

    def thresholds(
        self,
        sets: Sequence[Directions],
        tails: Sequence[Fraction],
        n_top: int = 1,
        meter: Meter | None = None,
        *,
        keep_maps: Container[int] = (),
    ) -> list[Found]:
        """Exact thresholds of all directions and the images of their largest values.

        Of the sets at the positions `keep_maps` also the maps that may exceed them, to be counted.

        A pass over the activations for as many sets as the memory holds; where not even one set's largest values fit,
        they are sketched, and a second pass makes the thresholds exact.
        """
        n = self._n_images * self._layer.grid[0] * self._layer.grid[1]
        capacity = max(tail_rank(tail, n) for tail in tails) + 1
        found: list[Found] = []
        step = together(self._layer, sets, capacity, self._memory)
        for start in range(0, len(sets), step):
            some = sets[start : start + step]
            kept = [self._candidates(each, capacity) if i in keep_maps else None for i, each in enumerate(some, start)]
            found += self._gather(some, tails, capacity, n_top, meter, kept)
        return found

    def _gather(
        self,
        sets: Sequence[Directions],
        tails: Sequence[Fraction],
        capacity: int,
        n_top: int,
        meter: Meter | None,
        kept: Sequence[Candidates | None],
    ) -> list[Found]:
        streams = [self._streams(directions, capacity) for directions in sets]
        top = [TopImages(directions.n_directions, n_top) for directions in sets]

        def take(i: int, rows: range, maps: NDArray[Any]) -> None:
            highest = streams[i].update(maps)
            top[i].add(highest, np.array(rows, np.int64))
            if (candidates := kept[i]) is not None:
                candidates.add(rows, highest, maps, streams[i])

        self.each_chunk(sets, take, meter)
        found = []
        for i, each in enumerate(streams):
            if each.is_exact:
                thresholds = {tail: find_thresholds(each, tail) for tail in tails}
            else:
                thresholds = self._refine(sets[i], each, tails)
            found.append(Found(thresholds, top[i].read(each.values_of), kept[i]))
        return found

    def _candidates(self, directions: Directions, capacity: int) -> Candidates | None:
        """For maps that are worth keeping: sums, whose largest values are known exactly."""
        if directions.picked is not None or not isinstance(self._streams(directions, capacity), BufferedTail):
            return None
        return Candidates(directions.n_directions, self._layer.grid, capacity)

    def _streams(self, directions: Directions, capacity: int) -> Streams:
        """Exact ones where they fit, else a sketch."""
        n, dtype = directions.n_directions, directions.dtype(self._layer.dtype)
        if dtype == "float16":
            return BinnedTail(n, capacity, dtype)
        if BufferedTail.state_bytes(n, capacity) <= self._memory // STATE_PART:
            return BufferedTail(n, capacity, dtype)
        return ReqSketch(n, dtype=dtype, threads=self._threads)

    def _refine(
        self, directions: Directions, streams: Streams, tails: Sequence[Fraction]
    ) -> dict[Fraction, Thresholds]:
        """Exact thresholds from sketched ones: the values about each are gathered in another pass."""
        parts = []
        try:
            for units in groups_of(Refinement.state_bytes(streams, tails), self._memory // REFINED_PART):
                refinement = Refinement(streams, tails, units)
                self._feed(directions, refinement)
                parts.append(refinement.thresholds())
        except MissedBracket:
            histogram = Histogram(directions.n_directions, streams.dtype)
            self._feed(directions, histogram)
            return self._refine(directions, histogram, tails)
        except ValueError as error:
            raise IncompleteRun(f"layer {self._layer.name}: {error}; extract again with --overwrite") from error
        threshold, n_above = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
        return {tail: find_thresholds(streams, tail, (threshold[i], n_above[i])) for i, tail in enumerate(tails)}

    def _feed(self, directions: Directions, taker: Refinement | Histogram) -> None:
        """One pass for what takes in maps."""

        def take(_: int, rows: range, maps: NDArray[Any]) -> None:
            taker.update(maps)

        self.each_chunk([directions], take)


def for_masks(found: Thresholds, mask_test: str) -> NDArray[np.float32]:
    """(D,) thresholds for masks; NaN, an empty mask, where `>=` would light a DEAD or SPARSE direction everywhere."""
    if mask_test == "gt":
        return found.threshold
    return np.where(found.flags & (DEAD | SPARSE), np.float32(np.nan), found.threshold)


def iter_parts(work: Scoring, control: Control) -> Iterator[tuple[range, list[ImagePlanes]]]:
    """Rows of the store and their label planes, shard by shard, as the plain scoring goes."""
    for shard in range(work.run.n_shards):
        for part, rows in enumerate(image_groups(work.run.rows(shard))):
            control.check()
            yield rows, work.labels.of_part(shard, part, work.recorded.images[rows.start : rows.stop], control)


def count_directed(
    work: Scoring,
    position: int,
    sets: Sequence[Directions],
    thresholds: Sequence[NDArray[np.float32]],
    control: Control,
    meter: Meter | None = None,
    halves: NDArray[np.int64] | None = None,
    kept: Sequence[Candidates | None] = (),
) -> list[list[Counters]]:
    """Counters of each set of directions over all images, in one pass over the activations.

    Parameters
    ----------
    position : int
        Of the layer.
    thresholds : float32 (D,) of each set
        For masks.
    halves : int64 (N,), optional
        Of each row: which of several counters it goes into, from 0.
    kept : sequence of Candidates or None, optional
        Of each set: maps that need not be made again.

    Returns
    -------
    list of list of Counters
        Of each set; a list of one for all images, else one for each of the `halves`.
    """
    layer, options = work.layers[position], work.options
    kinds = np.zeros(len(work.recorded.images), np.int64) if halves is None else halves
    n_kinds = int(kinds.max(initial=0)) + 1
    sizes = work.rules.n_concepts, work.rules.n_categories
    counters = [[Counters(each.n_directions, *sizes) for _ in range(n_kinds)] for each in sets]
    remembered = {i: each for i, each in enumerate(kept) if each is not None}
    anew = [i for i in range(len(sets)) if i not in remembered]
    most = min(MOST_CHUNK_BYTES, options.memory // CHUNK_PART) // growth(layer, sets)
    room = Room(layer.grid)

    def count(i: int, part: range, directed: NDArray[Any], images: Sequence[ImagePlanes], threads: int) -> None:
        kind = kinds[part.start : part.stop]
        count_apart(work, position, counters[i], kind, directed, thresholds[i], images, threads)

    def count_anew(i: int, threads: int, part: range, maps: NDArray[Any], images: Sequence[ImagePlanes]) -> None:
        with room.lent(len(part), sets[i]) as out:
            count(i, part, sets[i].apply(maps, threads, out), images, threads)

    def count_kept(i: int, threads: int, part: range, images: Sequence[ImagePlanes]) -> None:
        count(i, part, remembered[i].maps_of(part), images, threads)

    with one_thread(), ThreadPoolExecutor(options.threads, thread_name_prefix="sets") as pool:
        for rows, images in iter_parts(work, control):
            for part, maps in work.maps.iter_chunks(layer.name, rows, most) if anew else ():
                control.check()
                planes = images[part.start - rows.start : part.stop - rows.start]
                for_all(anew, options.threads, partial(count_anew, part=part, maps=maps, images=planes), pool)
                advance(meter, len(part) * len(anew))
            step = max(1, most // (layer.grid[0] * layer.grid[1] * 4 * max(each.n_directions for each in sets)))
            for start in range(rows.start, rows.stop, step) if remembered else ():
                control.check()
                part = range(start, min(start + step, rows.stop))
                planes = images[part.start - rows.start : part.stop - rows.start]
                for_all(list(remembered), options.threads, partial(count_kept, part=part, images=planes), pool)
                advance(meter, len(part) * len(remembered))
    return counters


def count_apart(
    work: Scoring,
    position: int,
    counters: Sequence[Counters],
    kinds: NDArray[np.int64],
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    images: Sequence[ImagePlanes],
    threads: int,
) -> None:
    """Count maps (B, D, h, w), each image into the counters of its kind (B,)."""
    weights = {shape: work.weights(position, shape) for shape in {image.shape for image in images}}
    how = work.how() | {"backend": work.chooser(position), "device": None}
    for kind, into in enumerate(counters):
        chosen = np.flatnonzero(kinds == kind)
        if len(chosen):
            some = maps if len(chosen) == len(maps) else maps[chosen]
            into.add(some, thresholds, [images[j] for j in chosen.tolist()], weights, threads=threads, **how)


def advance(meter: Meter | None, n: int) -> None:
    """Tell a meter, where there is one."""
    if meter is not None:
        meter.advance(n)
