"""The result: what each unit of each layer detects, with every count it follows from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..quantile import FLAG_NAMES, Distribution, Thresholds
from ..richtext import html_table
from ..tally import Arrays
from .bootstrap import BlockCounters
from .counters import Counters
from .iou import Scores, detectable_share, score_counters

UNIT_DTYPE = np.dtype(
    [
        ("layer", object),
        ("unit", np.int64),
        ("concept", object),
        ("category", object),
        ("iou", np.float64),
        ("intersection", np.int64),
        ("union", np.int64),
        ("threshold", np.float32),
        ("detector", np.bool_),
    ]
)
"""A row of `Dissection.units` and of tables/units.csv."""
SHOWN = 10
"""Detectors that a notebook shows."""


@dataclass(frozen=True, repr=False)
class LayerDissection:
    """One layer. K units, C concepts, G categories, P tails, T top images; named as in dissection.h5."""

    threshold: NDArray[np.float32]
    """(K,) T_k of the scored tail."""
    n: NDArray[np.int64]
    m: NDArray[np.int64]
    n_above: NDArray[np.int64]
    n_zero: NDArray[np.int64]
    n_nonfinite: NDArray[np.int64]
    vmin: NDArray[np.float32]
    vmax: NDArray[np.float32]
    flags: NDArray[np.uint8]
    """(K,) each: see `quantile.Thresholds`."""
    tails: NDArray[np.float64]
    """(P,) tails that were extracted."""
    thresholds: NDArray[np.float32]
    """(P, K) thresholds at those tails."""
    intersection: NDArray[np.int64]
    """(K, C) I"""
    concept_area: NDArray[np.int64]
    """(C,) G"""
    unit_area: NDArray[np.int64]
    """(K, G) A"""
    unit_area_all: NDArray[np.int64]
    """(K,)"""
    chance: NDArray[np.int64]
    """(K, C) sum over images of |M| |L_c|."""
    active_maps: NDArray[np.int64]
    """(K,) images on which the unit's map exceeds its threshold."""
    iou: NDArray[np.float64]
    """(K, C)"""
    best_concept: NDArray[np.int32]
    """(K,) column, or -1."""
    best_iou: NDArray[np.float64]
    """(K,)"""
    best_concept_by_category: NDArray[np.int32]
    """(K, G) column, or -1."""
    best_iou_by_category: NDArray[np.float64]
    """(K, G)"""
    is_detector: NDArray[np.bool_]
    """(K,)"""
    top_image: NDArray[np.int64]
    """(K, T) rows of the store, largest map maximum first; -1 where there are fewer."""
    top_value: NDArray[np.float32]
    """(K, T)"""
    distribution: Distribution | None = None
    """What the units' values are like; None where `extract` did not gather it."""
    blocks: BlockCounters | None = None
    """The counters of each block of images; None where they were not kept apart."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """tail, tau, union, mask_test, upsample, field map, mask size and the like, as text and numbers."""
    summary: dict[str, Any] = field(default_factory=dict)
    """See `summarise`."""

    def __repr__(self) -> str:
        n_concepts = self.iou.shape[1]
        return (
            f"<LayerDissection of {len(self.n)} units, {n_concepts} concepts: {int(self.is_detector.sum())} detectors>"
        )

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name; those of the distribution and the blocks aside."""
        return {name: getattr(self, name) for name in ARRAYS}

    @property
    def union(self) -> NDArray[np.int64]:
        """(K,) union of each unit with its best concept; 0 where it has none."""
        k, c = np.arange(len(self.best_concept)), self.best_concept
        if self.intersection.shape[1] == 0:
            return np.zeros(len(c), np.int64)
        shared, iou = self.intersection[k, c], self.iou[k, c]
        union = np.divide(shared, iou, out=np.zeros(len(c)), where=iou > 0)
        return np.where(c >= 0, np.rint(union), 0).astype(np.int64)  # I / (I / U) is within 2 ulp of U < 2**50


ASIDE = ("distribution", "blocks", "attributes", "summary")
ARRAYS = tuple(f.name for f in fields(LayerDissection) if f.name not in ASIDE)
"""Fields of `LayerDissection` that are arrays."""


@dataclass(frozen=True)
class Dissection:
    """The result of `score`."""

    image_name: tuple[str, ...]
    """N names: row i of every layer's activations belongs to image i."""
    concept_number: NDArray[np.int32]
    concept_name: tuple[str, ...]
    concept_category: NDArray[np.int32]
    """(C,) index of the primary category."""
    category_name: tuple[str, ...]
    category_images: NDArray[np.int64]
    """(G,) images having the category."""
    category_pixels: NDArray[np.int64]
    """(G,) their judged pixels."""
    layers: dict[str, LayerDissection]
    summary: dict[str, Any] = field(default_factory=dict)
    """Content of summary.json."""
    make_mask: Callable[[int | str, str, int], NDArray[np.bool_]] | None = field(
        default=None, compare=False, repr=False
    )
    """How `mask` finds the activations."""

    def __repr__(self) -> str:
        parts = [f"{name}: {int(layer.is_detector.sum())} of {len(layer.n)}" for name, layer in self.layers.items()]
        return f"<Dissection of {self._n_counted} images; detectors {', '.join(parts)}>"

    @property
    def _n_counted(self) -> int:
        """Images that were counted: fewer than there are where a scoring stopped early."""
        return int(self.summary.get("images", len(self.image_name)))

    def _repr_html_(self) -> str:
        """For notebooks: the layers in numbers, and the strongest detectors."""
        columns = ("units", "detectors", "unique_top", "unique_by_category", "unique_any", "upsample")
        layers = [(name, *(layer.summary.get(key, "") for key in columns)) for name, layer in self.layers.items()]
        caption = f"Dissection of {self._n_counted} images, {len(self.concept_name)} concepts"
        best = self.detectors()[:SHOWN]
        names = ("layer", "unit", "concept", "category", "iou")
        rows = [tuple(row[name].item() if name == "iou" else row[name] for name in names) for row in best]
        strongest = html_table(f"The strongest of {len(self.detectors())} detectors", names, rows)
        return html_table(caption, ("layer", *columns), layers) + strongest

    def to_dataframe(self) -> Any:
        """`units` as a pandas DataFrame. BadInput where pandas is not installed."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            remedy = "install pandas; units() gives the same rows as a NumPy array"
            raise BadInput("to_dataframe", f"no pandas ({error})", "pandas", remedy) from error
        units = self.units()
        return pandas.DataFrame({name: units[name] for name in UNIT_DTYPE.names or ()})

    def layer(self, name: str | None = None) -> LayerDissection:
        """A layer by name; without one, the only layer. KeyError where there is none such."""
        if name is None:
            if len(self.layers) != 1:
                raise KeyError(f"name one of the layers: {', '.join(self.layers)}")
            return next(iter(self.layers.values()))
        if name not in self.layers:
            raise KeyError(f"layer {name!r}: this run has {', '.join(self.layers)}")
        return self.layers[name]

    @property
    def iou(self) -> dict[str, NDArray[np.float64]]:
        """(K, C) by layer."""
        return {name: layer.iou for name, layer in self.layers.items()}

    @property
    def thresholds(self) -> dict[str, NDArray[np.float32]]:
        """(K,) by layer."""
        return {name: layer.threshold for name, layer in self.layers.items()}

    def units(self) -> NDArray[np.void]:
        """A row for each unit of each layer, in order: layer, unit, concept, category, iou, ... (`UNIT_DTYPE`)."""
        rows = []
        for name, layer in self.layers.items():
            union = layer.union
            for k, c in enumerate(layer.best_concept.tolist()):
                concept = self.concept_name[c] if c >= 0 else ""
                category = self.category_name[self.concept_category[c]] if c >= 0 else ""
                shared = int(layer.intersection[k, c]) if c >= 0 else 0
                rows.append(
                    (
                        name,
                        k,
                        concept,
                        category,
                        layer.best_iou[k],
                        shared,
                        union[k],
                        layer.threshold[k],
                        layer.is_detector[k],
                    )
                )
        return np.array(rows, UNIT_DTYPE)

    def detectors(self) -> NDArray[np.void]:
        """The rows of `units` that are detectors, best first."""
        units = self.units()
        chosen = units[units["detector"]]
        ordered: NDArray[np.void] = chosen[np.argsort(-chosen["iou"], kind="stable")]
        return ordered

    def mask(self, image: int | str, layer: str, unit: int) -> NDArray[np.bool_]:
        """(H, W) where a unit exceeds its threshold on an image, on that image's mask grid.

        The image is a name, or a row of `image_name`: after `capture` rows are in the order in which images came.
        """
        if self.make_mask is None:
            raise ValueError("masks need the activations: open the run with score() or load_dissection()")
        return self.make_mask(image, layer, unit)


def dissect_layer(
    thresholds: Mapping[Fraction, Thresholds],
    tail: Fraction,
    counters: Counters,
    top: tuple[NDArray[np.int64], NDArray[np.float32]],
    distribution: Distribution | None,
    blocks: Arrays | None,
    category: NDArray[np.int32],
    category_name: tuple[str, ...],
    tau: Fraction,
    union: str,
    attributes: dict[str, Any],
) -> LayerDissection:
    """Everything about one layer, from its thresholds and its counters.

    Parameters
    ----------
    thresholds : tail -> Thresholds
        Of the tails extracted, and of `tail`.
    top : int64 (K, T), float32 (K, T)
        Top images and their maxima.
    blocks : arrays, optional
        The counters of each block, as `sum_blocks` gives them.
    category : int32 (C,)
        Primary category of each concept.
    """
    scores = score_counters(counters, category, tau, union)
    found = thresholds[tail]
    return LayerDissection(
        **{f.name: getattr(found, f.name) for f in fields(Thresholds)},
        tails=np.array([float(p) for p in thresholds], np.float64),
        thresholds=np.stack([each.threshold for each in thresholds.values()]),
        intersection=np.ascontiguousarray(counters.intersection),
        concept_area=counters.concept_area,
        unit_area=np.ascontiguousarray(counters.unit_area),
        unit_area_all=counters.unit_area_all,
        chance=np.ascontiguousarray(counters.chance.T),
        active_maps=counters.active_maps,
        iou=scores.iou,
        best_concept=scores.best_concept,
        best_iou=scores.best_iou,
        best_concept_by_category=scores.best_concept_by_category,
        best_iou_by_category=scores.best_iou_by_category(),
        is_detector=scores.is_detector,
        top_image=top[0],
        top_value=top[1],
        distribution=distribution,
        blocks=BlockCounters(blocks, category, union) if blocks is not None else None,
        attributes=attributes,
        summary=summarise(found, counters, scores, category_name, tau, attributes),
    )


def summarise(
    found: Thresholds,
    counters: Counters,
    scores: Scores,
    category_name: tuple[str, ...],
    tau: Fraction,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """A layer in a few numbers (methods 3.4, 3.5), ready for JSON."""
    n_units = counters.n_units
    by_category = scores.unique_by_category()
    mask_share = counters.unit_area_all / max(counters.n_pixels, 1)
    least, most = detectable_share(tau, float(np.median(mask_share)))
    n_maps = counters.n_images * n_units
    return {
        "units": n_units,
        "detectors": int(scores.is_detector.sum()),
        "unique_top": scores.unique_top(),
        "unique_by_category": int(by_category.sum()),
        "unique_by_each_category": dict(zip(category_name, by_category.tolist(), strict=True)),
        "unique_any": scores.unique_any(),
        "mean_best_iou": float(scores.best_iou.mean()),
        "mask_share": float(np.median(mask_share)),
        "detectable_share": [least, most],
        "active_map_share": float(counters.active_maps.sum() / n_maps) if n_maps else 0.0,
        "flags": {name: int(np.count_nonzero(found.flags & bit)) for bit, name in FLAG_NAMES.items()},
        **{name: attributes[name] for name in ("tail", "tau", "union", "mask_test", "upsample") if name in attributes},
    }
