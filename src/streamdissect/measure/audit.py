"""How much a count of detectors owes to the rules: the same masks under every union (methods 3.8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .counters import Counters
from .iou import areas_of, score_table


@dataclass(frozen=True)
class AuditRow:
    """Detectors of one layer under one set of rules."""

    layer: str
    upsample: str
    tail: str
    """As a fraction."""
    union: str
    units: int
    detectors: int
    unique_top: int
    unique_by_category: int
    unique_any: int
    """See methods 3.5."""
    mean_best_iou: float


def audit_rows(
    counters: Counters,
    category: NDArray[np.int32],
    tau: Fraction,
    unions: Sequence[str],
    layer: str,
    upsample: str,
    tail: Fraction,
) -> Iterator[AuditRow]:
    """A row for each union.

    Parameters
    ----------
    counters : Counters
        Of 2 G categories, as `planes.with_both_unions` feeds them, where `mask-touch` is among the unions; else of G.
    category : int32 (C,)
        Primary category of each concept.
    """
    n_categories = counters.n_categories // 2 if "mask-touch" in unions else counters.n_categories
    shared = counters.intersection
    for union in unions:
        part = slice(n_categories, None) if union == "mask-touch" else slice(n_categories)
        area = areas_of(counters.unit_area[:, part], counters.unit_area_all, category, union)
        scores = score_table(shared, area + counters.concept_area - shared, category, n_categories, tau)
        yield AuditRow(
            layer=layer,
            upsample=upsample,
            tail=str(tail),
            union=union,
            units=counters.n_units,
            detectors=int(scores.is_detector.sum()),
            unique_top=scores.unique_top(),
            unique_by_category=int(scores.unique_by_category().sum()),
            unique_any=scores.unique_any(),
            mean_best_iou=float(scores.best_iou.mean()),
        )
