"""Moments of units over the samples of concepts, from the stored activations, chunk by chunk (methods 6.2, 6.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alignmentoptions import PcaOptions
from ..measure.concept_moments import ConceptMoments
from ..measure.concept_samples import ROUNDING, cell_overlap, concept_cover, draw_samples
from ..measure.counters import Counters
from ..measure.fieldmap import AxisField
from ..measure.planes import ImagePlanes
from ..quantile import Moments
from ..quantile.thresholds import NONFINITE
from .control import Control, Meter
from .counting import PLANES_TOGETHER
from .directed import count_apart, iter_parts
from .scored_work import ScoredWork

CHUNKS_AT_ONCE = 4
"""As stored: read ahead, decoded and handed out."""
ANALYSIS_MATRICES = 10
"""Float64 matrices in memory while a concept's directions are found."""

Drawn = tuple[int, NDArray[np.float64] | None]
"""Cells of an image that a concept drew, and their weights."""


@dataclass
class Gathered:
    """What one pass tells of some concepts of a layer."""

    moments: list[tuple[ConceptMoments, ConceptMoments]]
    """Of each concept: over the half of the images that fits, and over the other."""
    units: Moments
    """Of all positions of all images."""
    drawn: list[dict[int, Drawn]] = field(default_factory=list)
    """Of each concept: row of the store -> what it drew there."""
    counters: list[Counters] = field(default_factory=list)
    """Of the units, of each half of the images; none where they were not asked for."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the concepts of a layer share reads of its activations."""

    together: int
    """Concepts of one read."""
    threads: int
    working_bytes: int
    """Beside the concepts' moments."""


def moments_bytes(n_units: int) -> int:
    """Of a concept: of both halves of the images."""
    return 2 * 8 * n_units**2


def plan_memory(work: ScoredWork, position: int, threads: int) -> MemoryPlan:
    """As many threads, and then as many concepts to a read, as the memory holds; BadInput where it holds not even one.

    Beside the moments there are chunks as stored, label planes, and of each thread the samples of a chunk, gathered as
    stored and joined as float64, with their products; afterwards, of each thread the matrices of an analysis.
    """
    layer = work.scoring.layers[position]
    matrix, concept = 8 * layer.n_units**2, moments_bytes(layer.n_units)
    stored = layer.chunk_images * layer.map_bytes
    joined = 8 * layer.chunk_images * layer.n_units * layer.grid[0] * layer.grid[1]
    image = work.scoring.labels.of_image(int(work.scoring.recorded.images[0]))
    planes = PLANES_TOGETHER * (image.words.nbytes + 8 * image.shape[0] * image.shape[1] // 64)
    shared = CHUNKS_AT_ONCE * stored + planes
    each = max(stored + joined + 3 * matrix, ANALYSIS_MATRICES * matrix)
    work.require_memory(shared + each + concept, f"one concept of {layer.n_units} units on one thread")
    n = max(1, min(threads, (work.memory - shared - concept) // each))
    return MemoryPlan((work.memory - shared - n * each) // concept, n, shared + n * each)


class Grid:
    """The cells of a layer on mask grids of any size."""

    def __init__(self, work: ScoredWork, position: int) -> None:
        self._work, self._position = work, position
        self._overlap: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def overlap(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of the cells' rows (h, H) and columns (w, W)."""
        if shape not in self._overlap:
            scoring, position = self._work.scoring, self._position
            mode, known = scoring.upsampling(position), scoring.run.manifest["layers"][position]["field"]
            found = []
            for axis, name in enumerate(("rows", "columns")):
                is_known = known is not None and mode == "rf"
                at = AxisField.from_json(known[name]) if is_known else None
                n_input = int(scoring.run.manifest["plan"]["input_size"][axis])
                found.append(cell_overlap(mode, scoring.layers[position].grid[axis], shape[axis], n_input, at))
            self._overlap[shape] = found[0], found[1]
        return self._overlap[shape]


def left_out(work: ScoredWork, position: int) -> NDArray[np.int64]:
    """Units with values that are not finite."""
    layer = work.result.layers[work.scoring.layers[position].name]
    return np.flatnonzero(layer.flags & NONFINITE)


def iter_chunks(
    work: ScoredWork, position: int, control: Control
) -> Iterator[tuple[range, NDArray[Any], NDArray[Any], list[ImagePlanes]]]:
    """Rows, their maps, the same as (B, K, cells) with 0 for units that are left out, label planes; fixed chunks."""
    layer, excluded = work.scoring.layers[position], left_out(work, position)
    for rows, images in iter_parts(work.scoring, control):
        for part, maps in work.scoring.maps.iter_chunks(layer.name, rows, 1):
            control.check()
            values = maps.reshape(len(maps), layer.n_units, -1)
            if len(excluded):
                values = values.copy()
                values[:, excluded] = 0
            yield part, maps, values, images[part.start - rows.start : part.stop - rows.start]


def gather_moments(
    work: ScoredWork,
    position: int,
    concepts: Sequence[int],
    half_of: NDArray[np.int64],
    options: PcaOptions,
    threads: int,
    control: Control,
    meter: Meter,
    *,
    counts_units: bool = False,
) -> Gathered:
    """Moments of some concepts of a layer and, if asked for, counters of its units by half, in one pass."""
    layer, grid, rules = work.scoring.layers[position], Grid(work, position), work.scoring.rules
    found = Gathered(
        [(ConceptMoments(layer.n_units), ConceptMoments(layer.n_units)) for _ in concepts],
        Moments(layer.n_units),
        [{} for _ in concepts],
        [Counters(layer.n_units, rules.n_concepts, rules.n_categories) for _ in range(2 * counts_units)],
    )
    thresholds = work.scoring.used_thresholds(position)
    with ThreadPoolExecutor(threads, thread_name_prefix="concepts") as pool:
        for rows, maps, values, images in iter_chunks(work, position, control):
            covers = list(pool.map(lambda image: concept_cover(image, concepts, *grid.overlap(image.shape)), images))

            def add(
                place: int,
                rows: range = rows,
                values: NDArray[Any] = values,
                covers: list[dict[int, NDArray[np.float64]]] = covers,
            ) -> None:
                for half in (0, 1):
                    samples, weights = [], []
                    for i, row in enumerate(rows):
                        if half_of[row] == half and concepts[place] in covers[i]:
                            cover = covers[i][concepts[place]].ravel()
                            drawn, of = draw_samples(values[i], cover, options.samples, options.least_cover)
                            if len(drawn):
                                samples.append(drawn)
                                weights.append(of)
                                if options.samples == "masked-mean":  # of which cells, for random ones in their place
                                    of = cover[cover > ROUNDING]
                                    found.drawn[place][row] = len(of), of
                                else:
                                    found.drawn[place][row] = len(drawn), of
                    add_together(found.moments[place][half], samples, weights)

            tasks = [pool.submit(add, place) for place in range(len(concepts))]
            found.units.update(maps)
            for task in tasks:
                task.result()
            halves = half_of[rows.start : rows.stop]
            count_apart(work.scoring, position, found.counters, halves, maps, thresholds, images, threads)
            meter.advance(len(rows))
    return found


def add_together(
    moments: ConceptMoments, samples: list[NDArray[Any]], weights: list[NDArray[np.float64] | None]
) -> None:
    """The samples of several images as one part."""
    if samples:
        known = [each for each in weights if each is not None]
        moments.add(samples, np.concatenate(known) if known else None, len(samples))


def draw_subset(seed: int, number: int, trial: int, n_images: int, drawn: dict[int, Drawn]) -> dict[int, Drawn]:
    """As many random images as a concept has, each with the cells of one of the concept's images (methods 6.6)."""
    random = np.random.default_rng((seed, number, trial))
    rows = random.choice(n_images, len(drawn), replace=False).tolist()
    layouts = [drawn[row] for row in sorted(drawn)]
    return {row: layouts[i] for row, i in zip(rows, random.permutation(len(layouts)).tolist(), strict=True)}


def subset_samples(
    values: NDArray[Any], layout: Drawn, samples: str, random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """The samples of an image (K, cells) from random cells, as many and of such weights as the layout says."""
    n, weights = layout
    if samples == "image-max":
        return values.max(axis=1)[None, :], None
    if samples == "image-mean":
        return values.mean(axis=1, dtype=np.float64)[None, :], None
    cells = random.choice(values.shape[1], n, replace=False)
    if samples == "masked-mean" and weights is not None:
        return ((values[:, cells] * weights).sum(axis=1) / weights.sum())[None, :], None
    return values[:, cells].T, weights


def gather_subsets(
    work: ScoredWork,
    position: int,
    subsets: Sequence[tuple[int, int, dict[int, Drawn]]],
    options: PcaOptions,
    threads: int,
    control: Control,
) -> list[ConceptMoments]:
    """Moments of random subsets, (concept number, trial, its images) each, in one pass."""
    layer = work.scoring.layers[position]
    found = [ConceptMoments(layer.n_units) for _ in subsets]
    with ThreadPoolExecutor(threads, thread_name_prefix="subsets") as pool:
        for rows, _, values, _ in iter_chunks(work, position, control):

            def add(i: int, rows: range = rows, values: NDArray[Any] = values) -> None:
                number, trial, images = subsets[i]
                samples, weights = [], []
                for place, row in enumerate(rows):
                    if row in images:
                        random = np.random.default_rng((options.seed, number, trial, row))
                        drawn, of = subset_samples(values[place], images[row], options.samples, random)
                        samples.append(drawn)
                        weights.append(of)
                add_together(found[i], samples, weights)

            for _ in pool.map(add, range(len(subsets))):
                pass
    return found
