"""Some images of a scored run, perturbed and counted: clean work is done once, for all perturbations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import ImageLabels
from ..errors import BadInput
from ..measure.perturbations import Draw, Image, Perturbation
from ..measure.planes import ImagePlanes, LabelRules, image_planes, resample
from ..measure.robustness import ImageCounts, RobustnessTally, SparseLabels, bits_of, map_sums
from ..measure.warps import PixelWarp, Warp
from ..perturboptions import PerturbOptions
from .control import Control, Meter
from .forward import Network, iter_images, torch_threads
from .perturb_work import Scored

MASK_PART = 4
"""Clean masks are kept in at most one part in so many of the memory, and made again beyond it."""

Thresholds = Mapping[str, NDArray[np.float32]]
Maps = dict[str, NDArray[Any]]
Pair = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""By layer, the clean and the perturbed maps (K, h, w) of one image."""


@dataclass(frozen=True, eq=False)
class GridLabels:
    """The labels of one image on its mask grid."""

    shape: tuple[int, int]
    layers: list[tuple[int, NDArray[np.uint16]]]
    whole: Sequence[tuple[int, int]]
    rules: LabelRules

    @classmethod
    def of(cls, labels: ImageLabels, shape: tuple[int, int], rules: LabelRules) -> GridLabels:
        """Brought to the mask grid by nearest neighbour."""
        layers = [(g, layer if layer.shape == shape else resample(layer, shape)) for g, layer in labels.layers]
        return cls(shape, layers, labels.whole, rules)

    def planes(self) -> Planes:
        """As they are counted."""
        image = image_planes(self.shape, self.layers, self.whole, self.rules)
        return Planes(image, SparseLabels.of(image))

    def moved(self, warp: PixelWarp, is_along: bool) -> Planes:
        """As they are counted where things have moved: with them or as they were, only where pixels are judged."""
        layers = [
            (g, warp.labels(layer) if is_along else np.where(warp.is_valid, layer, np.uint16(0)))
            for g, layer in self.layers
        ]
        whole = self.whole
        if not warp.is_everywhere:
            layers += [(g, np.where(warp.is_valid, np.uint16(number), np.uint16(0))) for g, number in whole]
            whole = ()
        return GridLabels(self.shape, layers, whole, self.rules).planes()


@dataclass(frozen=True, eq=False)
class Planes:
    """Label planes of one image."""

    image: ImagePlanes
    sparse: SparseLabels


Counted = tuple[Planes, Planes, dict[str, ImageCounts]]
"""One image: label planes of the perturbed masks, of the clean ones moved along, and counts by layer."""


@dataclass(frozen=True, eq=False)
class CleanImage:
    """What one clean image gives in one layer."""

    units: NDArray[np.int64]
    """(A,) units that are active on it."""
    masks: NDArray[np.uint64] | None
    """(A, H * words); None where memory does not hold them."""
    counted: NDArray[np.int64]
    """(rows, A) what they share with the labels."""


class PartCounter:
    """A part of the images, in batches; keeps what is clean while perturbations come and go.

    Parameters
    ----------
    scored : Scored
    network : Network
    layers : list of str
    options : PerturbOptions
    batches : list of list of int
        The dataset's indices of the images, a forward pass each.
    control : Control
    """

    def __init__(
        self,
        scored: Scored,
        network: Network,
        layers: list[str],
        options: PerturbOptions,
        batches: list[list[int]],
        control: Control,
    ) -> None:
        self.scored, self.network, self.layers, self.options = scored, network, layers, options
        self.indices = [index for batch in batches for index in batch]
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        self.batches = [range(a, b) for a, b in pairwise(starts)]
        self.control = control
        self.thresholds = {layer: scored.thresholds(layer) for layer in layers}
        self.pictures = list(iter_images(scored.data, self.indices, scored.input_size, network.options.workers))
        self.labels = self._read_labels()
        self.planes = [labels.planes() for labels in self.labels]
        self._clean: dict[int, Maps] = {}
        self._ascents: dict[int, list[NDArray[np.int8]]] = {}
        self._images: dict[tuple[str, int], CleanImage] = {}
        self._kept_bytes = 0

    def _read_labels(self) -> list[GridLabels]:
        """The labels of every image on its mask grid."""
        data, found, step = self.scored.data, [], self.scored.data.label_batch
        for start in range(0, len(self.indices), step):
            some = self.indices[start : start + step]
            for index, labels in zip(some, data.labels_of(some), strict=True):
                shape = self.scored.mask_shape(data.image_size(index), labels.shape)
                try:
                    found.append(GridLabels.of(labels, shape, self.scored.rules))
                except (ValueError, IndexError) as error:
                    where = f"labels of {data.names[index]}"
                    raise BadInput(where, str(error), "label maps of one size", "correct them") from error
        return found

    def draw(self, i: int, trial: int, ascent: Image | None = None) -> Draw:
        """What image i is perturbed with."""
        red, green, blue = (255 * each for each in self.network.options.mean)
        name = self.scored.data.names[self.indices[i]]
        return Draw(self.options.seed, trial, name, (red, green, blue), ascent)

    def forward(self, images: Sequence[NDArray[Any]]) -> Maps:
        """Maps of one batch by layer, on the run's threads."""
        self.control.check()
        with torch_threads(self.network.options.threads):
            return self.network.activations(images)

    def clean(self, batch: int) -> Maps:
        """Maps of a batch of clean images."""
        if batch not in self._clean:
            self._clean[batch] = self.forward([self.pictures[i] for i in self.batches[batch]])
        return self._clean[batch]

    def perturbed(self, batch: int, perturbation: Perturbation, trial: int, pool: ThreadPoolExecutor) -> Maps:
        """Maps of a batch of perturbed images."""
        rows = self.batches[batch]
        ascents = self._ascents_of(batch) if perturbation.needs_ascent else None

        def make(at: int) -> Image:
            ascent = None if ascents is None else ascents[at].astype(np.float32)
            draw = self.draw(rows[at], trial, ascent)
            return perturbation.image(self.pictures[rows[at]].astype(np.float32), draw)

        return self.forward(list(pool.map(make, range(len(rows)))))

    def _ascents_of(self, batch: int) -> list[NDArray[np.int8]]:
        """Signs of the gradient at the clean images of a batch, worked out once for all steps."""
        if batch not in self._ascents:
            with torch_threads(self.network.options.threads):
                found = self.network.ascents([self.pictures[i] for i in self.batches[batch]])
            self._ascents[batch] = [ascent.astype(np.int8) for ascent in found]
        return self._ascents[batch]

    def iter_perturbed(self, perturbation: Perturbation | None, trial: int) -> Iterator[tuple[range, Maps, Maps]]:
        """Rows of each batch, clean maps, perturbed maps; without a perturbation these are the clean ones."""
        with ThreadPoolExecutor(self.options.threads, thread_name_prefix="perturb") as pool:
            for batch, rows in enumerate(self.batches):
                clean = self.clean(batch)
                other = clean if perturbation is None else self.perturbed(batch, perturbation, trial, pool)
                yield rows, clean, other

    def count(
        self,
        perturbation: Perturbation | None,
        trial: int,
        thresholds: Thresholds | None = None,
        meter: Meter | None = None,
    ) -> dict[str, RobustnessTally]:
        """Counts of every layer over the part.

        Parameters
        ----------
        perturbation : Perturbation, optional
            None: the clean images, against themselves.
        thresholds : layer -> float32 (K,), optional
            Of the perturbed maps, where they are not the run's.
        """
        rules, used = self.scored.rules, thresholds or self.thresholds
        tallies = {
            layer: RobustnessTally(len(self.thresholds[layer]), rules.n_concepts, rules.n_categories)
            for layer in self.layers
        }
        with ThreadPoolExecutor(self.options.threads, thread_name_prefix="count") as pool:
            for rows, clean, other in self.iter_perturbed(perturbation, trial):

                def count_one(
                    at: int, rows: range = rows, clean: Maps = clean, other: Maps = other
                ) -> tuple[Counted, dict[str, tuple[int, NDArray[np.float64]]]]:
                    warp = None
                    if perturbation is not None:
                        warp = perturbation.warp(self.scored.input_size, self.draw(rows[at], trial))
                    pair = {layer: (clean[layer][at], other[layer][at]) for layer in self.layers}
                    return self.count_image(rows[at], pair, warp, used), self.compare_maps(pair, warp)

                for (planes, matched, counts), sums in pool.map(count_one, range(len(rows))):
                    for layer, tally in tallies.items():
                        tally.add(counts[layer])
                        tally.add_sums(*sums[layer])
                        tally.perturbed.add_labels([planes.image])
                        tally.matched.add_labels([matched.image])
                if meter is not None:
                    meter.advance(len(rows))
        return tallies

    def seconds_per_image(self) -> float:
        """What a forward pass and the counts take, from the second of two passes over the first batch."""
        rows = self.batches[0]
        pictures = [self.pictures[i].astype(np.float32) for i in rows]
        self.clean(0)  # a network's first pass takes longer than those that follow
        begin = time.perf_counter()
        maps = self.forward(pictures)

        def count_one(at: int) -> None:
            pair = {layer: (maps[layer][at], maps[layer][at]) for layer in self.layers}
            self.count_image(rows[at], pair, None, self.thresholds)
            self.compare_maps(pair, None)

        with ThreadPoolExecutor(self.options.threads) as pool:
            list(pool.map(count_one, range(len(rows))))
        return (time.perf_counter() - begin) / len(rows)

    def count_image(self, i: int, pair: Pair, warp: Warp | None, used: Thresholds) -> Counted:
        """The masks of image i under a warp: its label planes as perturbed and as matched, and counts by layer."""
        planes = matched = self.planes[i]
        pixels = None if warp is None else warp.on_pixels(self.labels[i].shape)
        is_along = self.options.labels_warp == "along"
        if pixels is not None:
            planes = self.labels[i].moved(pixels, is_along)
            if not pixels.is_permutation:
                matched = planes if is_along else self.labels[i].moved(pixels, True)
        counts = {
            layer: self._count_masks(i, layer, clean, other, planes, matched, pixels, used[layer])
            for layer, (clean, other) in pair.items()
        }
        return planes, matched, counts

    def compare_maps(self, pair: Pair, warp: Warp | None) -> dict[str, tuple[int, NDArray[np.float64]]]:
        """By layer, the cells of one image that are judged, and sums over them for the correlation."""
        found = {}
        for layer, (clean, other) in pair.items():
            x, y = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (clean, other))
            if warp is not None:
                cells = warp.on_cells(*self.scored.cells(layer))
                x, y = cells.clean(x), y[:, cells.chosen]
            found[layer] = x.shape[1], map_sums(x, y)
        return found

    def _count_masks(
        self,
        i: int,
        layer: str,
        clean: NDArray[Any],
        other: NDArray[Any],
        planes: Planes,
        matched: Planes,
        pixels: PixelWarp | None,
        thresholds: NDArray[np.float32],
    ) -> ImageCounts:
        """The masks of one image in one layer."""
        scored, shape = self.scored, self.labels[i].shape
        known = self._clean_image(i, layer, clean)
        is_active = scored.active_units(other, thresholds)
        was_active = np.zeros(len(is_active), np.bool_)
        was_active[known.units] = True
        units = np.flatnonzero(is_active | was_active)
        before, now = was_active[units], is_active[units]
        masks = known.masks if known.masks is not None else self._masks(layer, clean, known.units, shape)
        here = scored.masks(layer, other[units[now]], thresholds[units[now]], shape)
        moved = masks if pixels is None else pixels.masks(masks)
        if pixels is not None and not pixels.is_everywhere:
            here &= pixels.valid_words
        places = np.cumsum(before) - 1, np.cumsum(now) - 1
        both = before & now
        shared = np.zeros(len(units), np.int64)
        shared[both] = bits_of(moved[places[0][both]] & here[places[1][both]])
        areas = np.zeros((3, len(units)), np.int64)
        areas[0], areas[1, before], areas[2, now] = shared, bits_of(moved), bits_of(here)
        matched_counts = known.counted
        if pixels is not None and not pixels.is_permutation:
            matched_counts = matched.sparse.count(moved)
        counted = planes.sparse.count(here)
        return ImageCounts(
            units=units,
            labels=planes.sparse,
            counted=spread(counted, now),
            matched_labels=matched.sparse,
            matched=spread(matched_counts, before),
            areas=areas,
            is_active=now,
        )

    def _clean_image(self, i: int, layer: str, clean: NDArray[Any]) -> CleanImage:
        """What the clean image gives, worked out once."""
        key = layer, i
        if key not in self._images:
            thresholds, shape = self.thresholds[layer], self.labels[i].shape
            units = np.flatnonzero(self.scored.active_units(clean, thresholds))
            masks = self._masks(layer, clean, units, shape)
            counted = self.planes[i].sparse.count(masks)
            is_kept = self._kept_bytes + masks.nbytes <= self.options.memory // MASK_PART
            self._kept_bytes += masks.nbytes if is_kept else 0
            self._images[key] = CleanImage(units, masks if is_kept else None, counted)
        return self._images[key]

    def _masks(
        self, layer: str, clean: NDArray[Any], units: NDArray[np.int64], shape: tuple[int, int]
    ) -> NDArray[np.uint64]:
        return self.scored.masks(layer, clean[units], self.thresholds[layer][units], shape)


def spread(counted: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Columns (rows, n) at the places that are chosen among (rows, A), 0 elsewhere."""
    found = np.zeros((len(counted), len(chosen)), np.int64)
    found[:, chosen] = counted
    return found
