"""The result of `pca`: of every concept its leading directions, what they say, and what carries it (methods 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alignment import VERDICTS, AlignmentStatistics, Exclusivity

VARIANTS = ("uncentred", "centred")
"""About the dataset's mean, or about the concept's own."""
TOP_LOADINGS = 10


@dataclass(frozen=True)
class Variant:
    """One way to look at the C concepts of a layer: r directions over K units."""

    values: NDArray[np.float64]
    """(C, r) eigenvalues."""
    vectors: NDArray[np.float64]
    """(C, K, r) directions; 0 for absent concepts."""
    diagonal: NDArray[np.float64]
    """(C, K) second moment of each unit."""
    statistics: AlignmentStatistics
    exclusivity: Exclusivity
    adjusted_p: NDArray[np.float64]
    """(C,) p of the statistics, adjusted for the number of concepts (Benjamini and Hochberg)."""
    subsets_p: NDArray[np.float64]
    """(C,) chance of such a loading for as many cells of images drawn without regard to the concept; NaN: not drawn."""

    @property
    def leading(self) -> NDArray[np.float64]:
        """(C, K) u_1 of each concept."""
        return self.vectors[:, :, 0]


@dataclass(frozen=True)
class Carriers:
    """What carries each of C concepts best: chosen on one half of the images, judged by IoU on the other."""

    direction_iou: NDArray[np.float64]
    """(C,) of the leading direction of the first half's samples, with a threshold of its own."""
    unit: NDArray[np.int64]
    """(C,) the best unit on the first half."""
    unit_iou: NDArray[np.float64]
    """(C,) on the second."""
    united: tuple[tuple[int, ...], ...]
    """The few units that are best together on the first half."""
    united_iou: NDArray[np.float64]
    """(C,) on the second."""

    def winner(self, c: int) -> str:
        """`unit`, `units`, `direction`, the plainer among equals; `none` where all miss it; empty: absent concept."""
        if not np.isfinite(self.direction_iou[c]):
            return ""
        found = {"unit": self.unit_iou[c], "units": self.united_iou[c], "direction": self.direction_iou[c]}
        if max(found.values()) == 0:
            return "none"
        return max(found, key=lambda name: float(found[name]))


@dataclass(frozen=True, repr=False)
class LayerAlignment:
    """One layer: C concepts, K units."""

    samples: NDArray[np.int64]
    """(C,)"""
    images: NDArray[np.int64]
    """(C,) with samples."""
    mean: NDArray[np.float64]
    """(K,) over all positions of all images."""
    std: NDArray[np.float64]
    """(K,) of the population; 0: the unit is left out."""
    shift: NDArray[np.float64]
    """(C, K) mean of the standardised samples."""
    variants: dict[str, Variant]
    """By VARIANTS."""
    iou_rank: NDArray[np.int64]
    """(C,) place of the leading unit among all units by IoU with the concept, from 1; 0 for absent concepts."""
    detects: NDArray[np.bool_]
    """(C,) the concept is the leading unit's best."""
    is_best_unit: NDArray[np.bool_]
    """(C,) the leading unit is the concept's best by IoU."""
    carriers: Carriers
    top_images: dict[str, list[list[str]]]
    """`direction`: of each concept the images where its direction is largest."""

    def __repr__(self) -> str:
        return f"<LayerAlignment of {len(self.samples)} concepts over {len(self.mean)} units>"

    def top_loadings(self, variant: str, c: int) -> list[tuple[int, float]]:
        """(unit, loading) of a concept, the largest first."""
        leading = self.variants[variant].leading[c]
        order = np.argsort(-np.abs(leading), kind="stable")[:TOP_LOADINGS]
        return [(int(k), float(leading[k])) for k in order if leading[k] != 0]


@dataclass(frozen=True, repr=False)
class Alignment:
    """The result of `pca`."""

    concept_name: tuple[str, ...]
    concept_category: tuple[str, ...]
    concept_column: NDArray[np.int64]
    """(C,) columns of `dissection.h5`."""
    layers: dict[str, LayerAlignment]
    top_unit_images: dict[str, dict[int, list[str]]]
    """By layer: images where a leading unit is largest."""
    chosen: str = VARIANTS[0]
    """The variant of the tables."""
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Alignment of {len(self.concept_name)} concepts in {', '.join(self.layers)}>"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each concept of each layer."""
        return [self.row(name, c) for name in self.layers for c in range(len(self.concept_name))]

    def row(self, name: str, c: int) -> dict[str, Any]:
        """One concept of one layer: the chosen variant, and the verdict of the other."""
        layer = self.layers[name]
        variant = layer.variants[self.chosen]
        (other,) = (each for each in VARIANTS if each != self.chosen)
        found, exclusive, carriers = variant.statistics, variant.exclusivity, layer.carriers
        following = int(exclusive.next_concept[c])
        loadings = " ".join(f"{unit}:{loading:.3f}" for unit, loading in layer.top_loadings(self.chosen, c))
        return {
            "layer": name,
            "concept": self.concept_name[c],
            "category": self.concept_category[c],
            "samples": int(layer.samples[c]),
            "images": int(layer.images[c]),
            "verdict": VERDICTS[int(found.verdict[c])],
            "unit": int(found.unit[c]),
            **{
                key: float(getattr(found, key)[c])
                for key in ("loading", "ratio", "participation", "effective", "efficiency", "explained", "gap",
                            "leverage", "critical", "p")
            },
            "adjusted_p": float(variant.adjusted_p[c]),
            "subsets_p": float(variant.subsets_p[c]),
            "exclusive": bool(exclusive.is_exclusive[c]),
            "exclusive_share": float(exclusive.share[c]),
            "next_concept": self.concept_name[following] if following >= 0 else "",
            "next_loading": float(exclusive.next_loading[c]),
            "iou_rank": int(layer.iou_rank[c]),
            "unit_detects_it": bool(layer.detects[c]),
            "is_best_unit": bool(layer.is_best_unit[c]),
            f"{other}_verdict": VERDICTS[int(layer.variants[other].statistics.verdict[c])],
            f"{other}_loading": float(layer.variants[other].statistics.loading[c]),
            "direction_iou": float(carriers.direction_iou[c]),
            "best_unit": int(carriers.unit[c]),
            "unit_iou": float(carriers.unit_iou[c]),
            "united": " ".join(map(str, carriers.united[c])),
            "united_iou": float(carriers.united_iou[c]),
            "carrier": carriers.winner(c),
            "top_loadings": loadings,
        }  # fmt: skip
