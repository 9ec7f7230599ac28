"""Is a concept carried by one unit? The leading direction of its samples, and how near an axis it lies (methods 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .betas import critical_loading, loading_p
from .concept_moments import ConceptMoments
from .products import one_thread
from .rotations import sign_of_largest

KEPT = 10
"""Directions of each concept that are kept."""
SUBSPACE = 5
"""Directions that are looked at together where the first one is not well defined."""
VERDICTS = ("absent", "axis-aligned", "mixed", "distributed")
ALIGNED, RATIO = 0.5, 2.0
"""Least leading loading, and how many times the second it is, of what is aligned with an axis."""
LEVEL = 0.05
"""Chance at which a random axis has the critical loading."""


@dataclass(frozen=True)
class Spectrum:
    """The directions in which a concept's standardised samples are largest: r of them, over K units."""

    values: NDArray[np.float64]
    """(r,) eigenvalues, the largest first."""
    vectors: NDArray[np.float64]
    """(K, r) directions of length 1, the largest entry of each positive; 0 for units that are left out."""
    diagonal: NDArray[np.float64]
    """(K,) second moment of each unit itself."""
    trace: float

    @classmethod
    def of(cls, moment: NDArray[np.float64], n_kept: int = KEPT) -> Self:
        """Of a second moment or covariance (K, K)."""
        import torch

        n_kept = min(n_kept, len(moment))
        with one_thread():
            values, vectors = torch.linalg.eigh(torch.from_numpy(moment).clone())
        leading = vectors.numpy()[:, ::-1][:, :n_kept]
        leading = np.where(np.diag(moment)[:, None] > 0, leading, 0.0)  # of what does not vary there is rounding alone
        return cls(
            values.numpy()[::-1][:n_kept].copy(),
            leading * sign_of_largest(leading.T),
            np.diag(moment).copy(),
            float(np.trace(moment)),
        )


def standardised_moment(
    found: ConceptMoments, mean: NDArray[np.float64], inverse_std: NDArray[np.float64], *, is_centred: bool
) -> NDArray[np.float64]:
    """Second moment (K, K) of the standardised samples: about the dataset's mean, or about their own.

    The first mixes how the concept shifts units with how they vary within it; the second is their variation alone.
    """
    moment = found.covariance
    if not is_centred:
        shift = found.mean - mean
        moment = moment + np.outer(shift, shift)
    scaled: NDArray[np.float64] = moment * inverse_std[:, None] * inverse_std[None, :]
    return scaled


@dataclass(frozen=True)
class AlignmentStatistics:
    """How near the leading direction of each of C concepts lies to one unit; arrays are (C,). See methods 6.4."""

    unit: NDArray[np.int64]
    """k*, the unit of the largest loading; -1 where the concept has too few images."""
    loading: NDArray[np.float64]
    """l = max |u_k|"""
    ratio: NDArray[np.float64]
    """l over the second largest."""
    participation: NDArray[np.float64]
    """1 / sum u^4: 1 for a single unit, q for q equal ones."""
    effective: NDArray[np.float64]
    """exp of the entropy of u^2."""
    efficiency: NDArray[np.float64]
    """Largest second moment of a unit over lambda_1, the largest of any direction."""
    explained: NDArray[np.float64]
    """lambda_1 over the trace."""
    gap: NDArray[np.float64]
    """(lambda_1 - lambda_2) / lambda_1; below about 0.1 the direction is not well defined."""
    leverage: NDArray[np.float64]
    """Share of unit k* in the leading SUBSPACE directions together, sum of u_ak^2."""
    critical: NDArray[np.float64]
    """The loading that a random axis reaches with chance LEVEL."""
    p: NDArray[np.float64]
    """Chance of such a loading for a random axis."""
    verdict: NDArray[np.int8]
    """Place in VERDICTS."""

    def to_arrays(self) -> Arrays:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def join(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """From what `describe` gives for each concept."""
        kinds: dict[str, Any] = {"unit": np.int64, "verdict": np.int8}
        return cls(
            **{f.name: np.array([row[f.name] for row in rows], kinds.get(f.name, np.float64)) for f in fields(cls)}
        )


def describe(spectrum: Spectrum, n_units: int) -> dict[str, Any]:
    """The statistics of one concept.

    Parameters
    ----------
    n_units : int
        That vary over the dataset: the others are left out.
    """
    share = np.square(spectrum.vectors)
    leading = np.abs(spectrum.vectors[:, 0])
    order = np.argsort(-leading, kind="stable")
    unit, loading = int(order[0]), float(leading[order[0]])
    second = float(leading[order[1]]) if len(leading) > 1 else 0.0
    positive = share[:, 0][share[:, 0] > 0]
    first = float(spectrum.values[0])
    critical = critical_loading(LEVEL, n_units) if n_units > 1 else 1.0
    ratio = loading / second if second > 0 else np.inf
    verdict = "mixed"
    if loading >= ALIGNED and ratio >= RATIO:
        verdict = "axis-aligned"
    elif loading < critical:
        verdict = "distributed"
    return {
        "unit": unit,
        "loading": loading,
        "ratio": ratio,
        "participation": float(1 / np.square(share[:, 0]).sum()),
        "effective": float(np.exp(-(positive * np.log(positive)).sum())),
        "efficiency": float(spectrum.diagonal.max() / first),
        "explained": first / spectrum.trace,
        "gap": float((first - spectrum.values[1]) / first) if len(spectrum.values) > 1 else 1.0,
        "leverage": float(share[unit, :SUBSPACE].sum()),
        "critical": critical,
        "p": loading_p(loading, n_units),
        "verdict": VERDICTS.index(verdict),
    }


def absent() -> dict[str, Any]:
    """The statistics of a concept without samples enough, or whose samples are all alike."""
    found: dict[str, Any] = {field.name: np.nan for field in fields(AlignmentStatistics)}
    return found | {"unit": -1, "verdict": VERDICTS.index("absent")}


@dataclass(frozen=True)
class Exclusivity:
    """Whether a concept's leading unit leads for it alone; arrays are (C,). See methods 6.5."""

    share: NDArray[np.float64]
    """E: l_k(c)^2 over its sum over concepts, k the leading unit of c; 1: exclusive."""
    next_loading: NDArray[np.float64]
    """The unit's largest |u_1k| for another concept."""
    next_concept: NDArray[np.int64]
    """Which one; -1 where there is none."""
    led: NDArray[np.int64]
    """Concepts that the unit leads by more than a random axis would."""
    is_exclusive: NDArray[np.bool_]
    """The unit leads this concept so, and no other, and its next loading is below the critical one."""


def exclusivity(leading: NDArray[np.float64], found: AlignmentStatistics) -> Exclusivity:
    """From the leading directions |u_1| (C, K) of all concepts, those of absent ones 0."""
    n_concepts = len(leading)
    result = Exclusivity(
        np.full(n_concepts, np.nan),
        np.full(n_concepts, np.nan),
        np.full(n_concepts, -1, np.int64),
        np.zeros(n_concepts, np.int64),
        np.zeros(n_concepts, bool),
    )
    leads = found.loading >= found.critical
    for c in np.flatnonzero(found.unit >= 0).tolist():
        column = np.abs(leading[:, found.unit[c]])
        others = np.where(np.arange(n_concepts) == c, -1.0, np.where(found.unit >= 0, column, -1.0))
        result.share[c] = column[c] ** 2 / np.square(column).sum()
        result.led[c] = int((leads & (found.unit == found.unit[c])).sum())
        if others.max() >= 0:
            result.next_concept[c], result.next_loading[c] = int(others.argmax()), float(others.max())
        is_small = not result.next_loading[c] >= found.critical[c]
        result.is_exclusive[c] = leads[c] and result.led[c] == 1 and is_small
    return result
