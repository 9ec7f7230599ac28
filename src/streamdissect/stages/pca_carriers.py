"""One unit, a few, or a direction: fitted on half of the images, scored on the other (hypotheses 1 and 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import mask_maps
from ..measure.alignmentresult import Carriers
from ..measure.carriers import FIT, HELD, UnionCounts, best_union, candidates
from ..measure.counters import Counters
from ..measure.directions import Directions
from ..measure.iou import score_counters
from ..tally import Arrays
from .control import Control
from .directed import DirectedPasses, count_directed, for_masks, iter_parts
from .scored_work import ScoredWork
from .scoring import MOST_CHUNK_BYTES, Scoring

TOP_IMAGES = 10
CARRIER_ARRAYS = ("direction_iou", "unit", "unit_iou", "united_iou")


@dataclass(frozen=True)
class Fitted:
    """The leading directions of P present concepts of a layer, as weights of the units themselves."""

    places: list[int]
    """Of the concepts in the experiment."""
    columns: list[int]
    """Of the concepts in the dataset."""
    whole: Directions
    """From all images."""
    half: Directions
    """From the half that fits."""
    loading: NDArray[np.float64]
    """(P, K) in the second, signed towards the concept."""


def pseudo_units(
    leading: NDArray[np.float64],
    shift: NDArray[np.float64],
    mean: NDArray[np.float64],
    inverse_std: NDArray[np.float64],
) -> tuple[Directions, NDArray[np.float64]]:
    """Directions (P, K) of standardised units as directions of units, and as they are signed.

    The sign is that in which the concept's samples lie above the dataset's mean: what a threshold asks.
    """
    sign = np.where((leading * shift).sum(axis=1) < 0, -1.0, 1.0)
    signed = leading * sign[:, None]
    weight = signed * inverse_std
    return Directions(weight.astype(np.float32), (-weight @ mean).astype(np.float32)), signed


def find_carriers(
    work: ScoredWork,
    position: int,
    n_concepts: int,
    fitted: Fitted,
    units: Sequence[Counters],
    half_of: NDArray[np.int64],
    control: Control,
) -> tuple[Carriers, list[list[str]]]:
    """Of every concept what carries it, and the images where its direction is largest.

    One pass: thresholds of the directions, their maps that may exceed them, and unions of units; a second one counts
    the directions where their maps do not fit into the memory.

    Parameters
    ----------
    units : sequence of Counters
        Of the units, of each half of the images.
    """
    scoring, options = work.scoring, work.scoring.options
    layer, n_images = scoring.layers[position], len(scoring.recorded.images)
    carriers = no_carriers(n_concepts)
    top: list[list[str]] = [[] for _ in range(n_concepts)]
    if not fitted.places:
        return carriers, top
    control.say(f"layer {layer.name}: a pass over the activations for the concepts' directions as units")
    rule = scoring.data.concepts.category, options.iou, options.union
    of_units = [score_counters(each, *rule).iou for each in units]
    pools = [candidates(of_units[FIT][:, c], fitted.loading[p]) for p, c in enumerate(fitted.columns)]
    unions = Unions(scoring, position, fitted.columns, pools, half_of, control)
    passes = DirectedPasses(unions, layer, n_images, options.memory, options.threads, control)
    keeps = passes.share([fitted.half])[1]
    whole, half = passes.thresholds(
        [fitted.whole, fitted.half], [scoring.tail], TOP_IMAGES, keep_maps=(1,) if keeps else ()
    )
    for p, place in enumerate(fitted.places):
        rows = [row for row in whole.top[0][p].tolist() if row >= 0]
        top[place] = [work.result.image_name[row] for row in rows]
    cuts, kept = [for_masks(half.thresholds[scoring.tail], options.mask_test)], [half.candidates]
    (directions,) = count_directed(scoring, position, [fitted.half], cuts, control, halves=half_of, kept=kept)
    held_iou = score_counters(directions[HELD], *rule).iou
    chosen = list(carriers.united)
    for p, (place, column) in enumerate(zip(fitted.places, fitted.columns, strict=True)):
        best = int(of_units[FIT][:, column].argmax())
        carriers.direction_iou[place] = held_iou[p, column]
        carriers.unit[place], carriers.unit_iou[place] = best, of_units[HELD][best, column]
        found = best_union(unions.counts[p], pools[p])
        chosen[place], carriers.united_iou[place] = found.units, found.held_iou
    return replace(carriers, united=tuple(chosen)), top


def no_carriers(n_concepts: int) -> Carriers:
    """As of concepts that are all absent."""
    unknown = np.full(n_concepts, np.nan)
    return Carriers(unknown, np.full(n_concepts, -1, np.int64), unknown.copy(), ((),) * n_concepts, unknown.copy())


class Unions:
    """A run's maps for whoever reads them, counted on the way: by which units of its pool are on at a concept's pixels.

    Every row is counted once, however often it is read; see `Maps`.
    """

    def __init__(
        self,
        scoring: Scoring,
        position: int,
        columns: list[int],
        pools: list[NDArray[np.int64]],
        half_of: NDArray[np.int64],
        control: Control,
    ) -> None:
        self._scoring, self._position, self._columns, self._half_of = scoring, position, columns, half_of
        self._used, place_of = np.unique(np.concatenate(pools), return_inverse=True)
        ends = np.cumsum([0, *map(len, pools)])
        self._places = [place_of[begin:end] for begin, end in pairwise(ends.tolist())]
        self._thresholds = scoring.used_thresholds(position)[self._used]
        self._parts = iter_parts(scoring, control)
        self._rows, self._images = next(self._parts)
        self._n_counted = 0
        self.counts = [UnionCounts() for _ in columns]
        """Of each concept."""

    def iter_chunks(self, layer: str, rows: range, most_bytes: int) -> Iterator[tuple[range, NDArray[Any]]]:
        """See `Maps`."""
        for part, maps in self._scoring.maps.iter_chunks(layer, rows, most_bytes):
            for row in part:
                if row == self._n_counted:
                    self._count(row, maps[row - part.start])
            yield part, maps

    def read(self, layer: str, rows: range) -> NDArray[Any]:
        """See `Maps`."""
        return np.concatenate([maps for _, maps in self.iter_chunks(layer, rows, MOST_CHUNK_BYTES)])

    def _count(self, row: int, maps: NDArray[Any]) -> None:
        """The next image: its maps (K, h, w)."""
        if row >= self._rows.stop:
            self._rows, self._images = next(self._parts)
        self._n_counted += 1
        scoring, options = self._scoring, self._scoring.options
        image = self._images[row - self._rows.start]
        masks = mask_maps(
            np.ascontiguousarray(maps[self._used]),
            self._thresholds,
            *scoring.weights(self._position, image.shape),
            or_equal=options.mask_test == "ge",
            backend=options.backend,
        )
        category, n_concepts = scoring.data.concepts.category, scoring.rules.n_concepts
        for p, column in enumerate(self._columns):
            if options.union == "all-images" or image.category_pixels[category[column]] > 0:
                domain = None if options.union == "all-images" else n_concepts + int(category[column])
                self.counts[p].add(masks[self._places[p]], image, column, domain, int(self._half_of[row]))


def pack_carriers(carriers: Carriers, top: list[list[str]]) -> Arrays:
    """What `find_carriers` found, as arrays."""
    arrays: Arrays = {name: getattr(carriers, name) for name in CARRIER_ARRAYS}
    return arrays | {"texts": np.array(json.dumps([carriers.united, top]))}


def unpack_carriers(arrays: Arrays) -> tuple[Carriers, list[list[str]]]:
    """Inverse of `pack_carriers`."""
    united, top = json.loads(str(arrays["texts"]))
    found = {name: arrays[name] for name in CARRIER_ARRAYS}
    return Carriers(**found, united=tuple(tuple(units) for units in united)), top
