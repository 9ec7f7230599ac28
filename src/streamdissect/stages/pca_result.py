"""The result of `pca`, from what was kept of each concept; and what carries them, in a pass of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..measure.alignment import KEPT, AlignmentStatistics, Spectrum, absent, describe, exclusivity
from ..measure.alignmentresult import VARIANTS, Alignment, LayerAlignment, Variant
from ..measure.betas import benjamini_hochberg
from ..measure.carriers import FIT, HELD
from ..measure.counters import Counters
from ..measure.directions import Directions
from ..store.partials import Ledger, load_arrays, under_prefix
from ..tally import Arrays
from .control import Control
from .pca_carriers import Fitted, find_carriers, pack_carriers, pseudo_units, unpack_carriers
from .pca_experiment import Experiment, Item

LEADING = 3
"""Units of each concept whose top images are named."""


@dataclass(frozen=True)
class Looks:
    """What was kept of every concept of a layer, joined."""

    position: int
    """Of the layer."""
    saved: Arrays
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    shift: NDArray[np.float64]
    """(P, K) of each concept's mean, in deviations."""
    variants: dict[str, Variant]


def read_looks(experiment: Experiment, items: list[Item], ledger: Ledger, position: int) -> Looks:
    """The committed items of a layer, joined."""
    saved: Arrays = {}
    for item, (of, _) in enumerate(items):
        if of == position:
            saved |= load_arrays(ledger.data_path(item))
    n_concepts, mean, std = len(experiment.columns), saved["mean"], saved["std"]
    variants = {name: join_variant(name, saved, n_concepts, std) for name in VARIANTS}
    shift = np.stack([saved[f"{place}/shift"] for place in range(n_concepts)])
    return Looks(position, saved, mean, std, shift, variants)


def judge(experiment: Experiment, looks: Looks, control: Control) -> Arrays:
    """What carries each concept of a layer: a pass of its own, along the directions that were found."""
    fitted, n_concepts = fit_directions(experiment, looks), len(experiment.columns)
    units = [Counters.from_arrays(under_prefix(f"units/{half}", looks.saved)) for half in (FIT, HELD)]
    halves = experiment.half_of
    return pack_carriers(*find_carriers(experiment.work, looks.position, n_concepts, fitted, units, halves, control))


def layer_alignment(experiment: Experiment, looks: Looks, carried: Arrays) -> LayerAlignment:
    """Everything about one layer."""
    work, n_concepts = experiment.work, len(experiment.columns)
    scored = work.result.layers[work.scoring.layers[looks.position].name]
    found = looks.variants[experiment.chosen].statistics
    ranks, detects, is_best = np.zeros(n_concepts, np.int64), np.zeros(n_concepts, bool), np.zeros(n_concepts, bool)
    for place in np.flatnonzero(found.unit >= 0).tolist():
        unit, column = int(found.unit[place]), experiment.columns[place]
        iou = scored.iou[:, column]
        ranks[place] = 1 + int((iou > iou[unit]).sum())
        detects[place] = scored.best_concept[unit] == column
        is_best[place] = iou[unit] > 0 and unit == int(iou.argmax())
    carriers, top = unpack_carriers(carried)
    counts = np.stack([looks.saved[f"{place}/counts"] for place in range(n_concepts)])
    return LayerAlignment(
        samples=counts[:, 0],
        images=counts[:, 1],
        mean=looks.mean,
        std=looks.std,
        shift=looks.shift,
        variants=looks.variants,
        iou_rank=ranks,
        detects=detects,
        is_best_unit=is_best,
        carriers=carriers,
        top_images={"direction": top},
    )


def fit_directions(experiment: Experiment, looks: Looks) -> Fitted:
    """The directions that are scored."""
    saved, variant, mean, std = looks.saved, looks.variants[experiment.chosen], looks.mean, looks.std
    known = variant.statistics.unit >= 0
    present = [place for place in np.flatnonzero(known).tolist() if f"{place}/fit" in saved]
    columns = [experiment.columns[place] for place in present]
    if not present:
        nothing = Directions.identity(1)
        return Fitted([], [], nothing, nothing, np.zeros((0, len(mean))))
    standard = mean, np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    whole, _ = pseudo_units(variant.leading[present], looks.shift[present], *standard)
    leading = np.stack([saved[f"{place}/fit"] for place in present])
    fit_shift = np.stack([saved[f"{place}/fit_shift"] for place in present])
    half, signed = pseudo_units(leading, fit_shift, *standard)
    return Fitted(present, columns, whole, half, signed)


def join_variant(name: str, saved: Arrays, n_concepts: int, std: NDArray[np.float64]) -> Variant:
    """One variant of all concepts."""
    n_units, n_varying = len(std), int((std > 0).sum())
    kept = min(KEPT, n_units)
    values, vectors = np.zeros((n_concepts, kept)), np.zeros((n_concepts, n_units, kept))
    diagonal, subsets_p = np.zeros((n_concepts, n_units)), np.full(n_concepts, np.nan)
    rows = []
    for place in range(n_concepts):
        prefix = f"{place}/{name}"
        if f"{prefix}/values" not in saved or not saved[f"{prefix}/values"][0] > 0:
            rows.append(absent())
            continue
        spectrum = Spectrum(
            saved[f"{prefix}/values"], saved[f"{prefix}/vectors"], saved[f"{prefix}/diagonal"],
            float(saved[f"{prefix}/trace"]),
        )  # fmt: skip
        rows.append(describe(spectrum, n_varying))
        values[place], vectors[place], diagonal[place] = spectrum.values, spectrum.vectors, spectrum.diagonal
        if (drawn := saved.get(f"{prefix}/subsets")) is not None:
            subsets_p[place] = (1 + int((drawn >= rows[-1]["loading"]).sum())) / (len(drawn) + 1)
    statistics = AlignmentStatistics.join(rows)
    adjusted = np.full(n_concepts, np.nan)
    known = np.flatnonzero(np.isfinite(statistics.p))
    adjusted[known] = benjamini_hochberg(statistics.p[known])
    return Variant(
        values, vectors, diagonal, statistics, exclusivity(vectors[:, :, 0], statistics), adjusted, subsets_p
    )


def gather(experiment: Experiment, items: list[Item], ledger: Ledger) -> Alignment:
    """The result, from what was committed for every item."""
    work, concepts = experiment.work, experiment.work.scoring.data.concepts
    layers, top_units = {}, {}
    for place, position in enumerate(experiment.positions):
        name = work.scoring.layers[position].name
        carried = load_arrays(ledger.data_path(len(items) + place))
        layers[name] = layer_alignment(experiment, read_looks(experiment, items, ledger, position), carried)
        concepts_here = range(len(experiment.columns))
        loadings = (layers[name].top_loadings(experiment.chosen, c)[:LEADING] for c in concepts_here)
        units = {unit for each in loadings for unit, _ in each}
        images = work.result.layers[name].top_image
        top_units[name] = {
            unit: [work.result.image_name[row] for row in images[unit].tolist() if row >= 0] for unit in sorted(units)
        }
    about = {key: value for key, value in experiment.settings().items() if key != "together"}
    return Alignment(
        tuple(concepts.name[c] for c in experiment.columns),
        tuple(concepts.category_name[concepts.category[c]] for c in experiment.columns),
        np.array(experiment.columns, np.int64),
        layers,
        top_units,
        experiment.chosen,
        about | {"run": work.run.full_name, "fit_images": int((experiment.half_of == 0).sum())},
    )
