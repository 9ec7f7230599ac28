"""One unit, a few, or a direction: fitted on half of the images, scored on the other (hypotheses 1 and 2)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..kernels import mask_maps
from ..measure.alignmentresult import Carriers
from ..measure.carriers import FIT, HELD, UnionCounts, best_union, candidates
from ..measure.directions import Directions
from ..measure.iou import score_counters
from ..tally import Arrays
from .control import Control
from .directed import DirectedPasses, count_directed, for_masks, iter_parts
from .scored_work import ScoredWork
from .scoring import MOST_CHUNK_BYTES

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
    work: ScoredWork, position: int, n_concepts: int, fitted: Fitted, half_of: NDArray[np.int64], control: Control
) -> tuple[Carriers, list[list[str]]]:
    """Of every concept what carries it, and the images where its direction is largest: three passes."""
    scoring, options = work.scoring, work.scoring.options
    layer, n_images = scoring.layers[position], len(scoring.recorded.images)
    carriers = no_carriers(n_concepts)
    top: list[list[str]] = [[] for _ in range(n_concepts)]
    if not fitted.places:
        return carriers, top
    control.say(f"layer {layer.name}: three passes over the activations for the concepts' directions as units")
    passes = DirectedPasses(scoring.maps, layer, n_images, options.memory, options.threads, control)
    whole, half = passes.thresholds([fitted.whole, fitted.half], [scoring.tail], TOP_IMAGES)
    for p, place in enumerate(fitted.places):
        rows = [row for row in whole.top[0][p].tolist() if row >= 0]
        top[place] = [work.result.image_name[row] for row in rows]
    thresholds = [scoring.used_thresholds(position), for_masks(half.thresholds[scoring.tail], options.mask_test)]
    sets = [Directions.identity(layer.n_units), fitted.half]
    units, directions = count_directed(scoring, position, sets, thresholds, control, halves=half_of)
    rule = scoring.data.concepts.category, options.iou, options.union
    of_units = [score_counters(each, *rule).iou for each in units]
    of_directions = [score_counters(each, *rule).iou for each in directions]
    pools = [candidates(of_units[FIT][:, c], fitted.loading[p]) for p, c in enumerate(fitted.columns)]
    united = count_unions(work, position, fitted.columns, pools, half_of, control)
    chosen = list(carriers.united)
    for p, (place, column) in enumerate(zip(fitted.places, fitted.columns, strict=True)):
        best = int(of_units[FIT][:, column].argmax())
        carriers.direction_iou[place] = of_directions[HELD][p, column]
        carriers.unit[place], carriers.unit_iou[place] = best, of_units[HELD][best, column]
        found = best_union(united[p], pools[p])
        chosen[place], carriers.united_iou[place] = found.units, found.held_iou
    return replace(carriers, united=tuple(chosen)), top


def no_carriers(n_concepts: int) -> Carriers:
    """As of concepts that are all absent."""
    unknown = np.full(n_concepts, np.nan)
    return Carriers(unknown, np.full(n_concepts, -1, np.int64), unknown.copy(), ((),) * n_concepts, unknown.copy())


def count_unions(
    work: ScoredWork,
    position: int,
    columns: list[int],
    pools: list[NDArray[np.int64]],
    half_of: NDArray[np.int64],
    control: Control,
) -> list[UnionCounts]:
    """Pixels of each concept and of its category, by which units of its pool are on there: one pass."""
    scoring, options = work.scoring, work.scoring.options
    layer, thresholds = scoring.layers[position], scoring.used_thresholds(position)
    category, n_concepts = scoring.data.concepts.category, scoring.rules.n_concepts
    found = [UnionCounts() for _ in columns]
    used, place_of = np.unique(np.concatenate(pools), return_inverse=True)
    ends = np.cumsum([0, *map(len, pools)])
    places = [place_of[begin:end] for begin, end in pairwise(ends.tolist())]
    for rows, images in iter_parts(scoring, control):
        for part, maps in scoring.maps.iter_chunks(layer.name, rows, MOST_CHUNK_BYTES):
            control.check()
            for i, row in enumerate(part):
                image = images[row - rows.start]
                masks = mask_maps(
                    np.ascontiguousarray(maps[i, used]),
                    thresholds[used],
                    *scoring.weights(position, image.shape),
                    or_equal=options.mask_test == "ge",
                    backend=options.backend,
                )
                for p, column in enumerate(columns):
                    is_judged = options.union == "all-images" or image.category_pixels[category[column]] > 0
                    if is_judged:
                        domain = None if options.union == "all-images" else n_concepts + int(category[column])
                        found[p].add(masks[places[p]], image, column, domain, int(half_of[row]))
    return found


def pack_carriers(carriers: Carriers, top: list[list[str]]) -> Arrays:
    """What `find_carriers` found, as arrays."""
    arrays: Arrays = {name: getattr(carriers, name) for name in CARRIER_ARRAYS}
    return arrays | {"texts": np.array(json.dumps([carriers.united, top]))}


def unpack_carriers(arrays: Arrays) -> tuple[Carriers, list[list[str]]]:
    """Inverse of `pack_carriers`."""
    united, top = json.loads(str(arrays["texts"]))
    found = {name: arrays[name] for name in CARRIER_ARRAYS}
    return Carriers(**found, united=tuple(tuple(units) for units in united)), top
