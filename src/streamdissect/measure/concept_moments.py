"""Mean and covariance of units over the samples of a concept, streamed in float64 (methods 6.2, 6.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays
from .products import one_thread

VERSION = 1


class ConceptMoments:
    """Weight, mean and sum of outer products about the mean of weighted samples of K units.

    Parameters
    ----------
    n_units : int
        K. Takes 8 K^2 bytes.

    Notes
    -----
    Parts join by n = n_a + n_b, d = mean_b - mean_a, mean = mean_a + d n_b / n and
    M2 = M2_a + M2_b + d d^T n_a n_b / n.
    Sums round, so equal states need equal parts in equal order: whoever fills them goes by the store's chunks.
    """

    def __init__(self, n_units: int) -> None:
        self.weight = 0.0
        """Sum of the samples' weights."""
        self.n_samples = 0
        self.n_images = 0
        """With samples."""
        self.mean = np.zeros(n_units)
        """(K,)"""
        self.m2 = np.zeros((n_units, n_units))
        """(K, K) sum of w (x - mean) (x - mean)^T."""

    def add(
        self,
        samples: NDArray[Any] | Sequence[NDArray[Any]],
        weights: NDArray[np.float64] | None = None,
        n_images: int = 1,
    ) -> None:
        """Take in samples (S, K), one array or several, of so many images; weights (S,) above 0, or all of them 1."""
        parts = [samples] if isinstance(samples, np.ndarray) else samples
        part = ConceptMoments.__new__(ConceptMoments)
        part.n_samples = sum(map(len, parts))
        if part.n_samples == 0:
            return
        import torch

        part.n_images = n_images
        values = torch.empty((part.n_samples, len(self.mean)), dtype=torch.float64)
        centred = values.numpy()
        np.concatenate(parts, out=centred)
        part.weight = float(part.n_samples if weights is None else weights.sum())
        if weights is None:
            part.mean = centred.sum(axis=0) / part.weight
        else:
            part.mean = (centred * weights[:, None]).sum(axis=0) / part.weight
        centred -= part.mean
        if weights is not None:
            centred *= np.sqrt(weights)[:, None]
        with one_thread():
            part.m2 = torch.mm(values.T, values).numpy()
        self.merge(part)

    def merge(self, other: ConceptMoments) -> None:
        """Take in another part's samples; ValueError if they are of other units."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {len(other.mean)} units cannot join those of {len(self.mean)}")
        if other.weight == 0:
            return
        total = self.weight + other.weight
        step = other.mean - self.mean
        self.m2 += other.m2
        if self.weight:
            self.m2 += np.outer(step, step) * (self.weight * other.weight / total)
        self.mean = self.mean + step * (other.weight / total)
        self.weight = total
        self.n_samples += other.n_samples
        self.n_images += other.n_images

    def copy(self) -> ConceptMoments:
        """An equal one of its own."""
        return ConceptMoments.from_arrays(self.to_arrays())

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(K, K) of the population; 0 without samples."""
        return self.m2 / self.weight if self.weight else np.zeros_like(self.m2)

    def to_arrays(self) -> Arrays:
        """The state."""
        return {
            "version": np.array(VERSION),
            "weight": np.array(self.weight),
            "counts": np.array([self.n_samples, self.n_images], np.int64),
            "mean": self.mean.copy(),
            "m2": self.m2.copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another version."""
        try:
            n_units = len(arrays["mean"])
            if int(arrays["version"]) != VERSION or arrays["m2"].shape != (n_units, n_units):
                raise ValueError("moments of another version or shape")
            moments = cls(n_units)
            moments.weight = float(arrays["weight"])
            moments.n_samples, moments.n_images = arrays["counts"].tolist()
            moments.mean[...], moments.m2[...] = arrays["mean"], arrays["m2"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"saved moments are cut: {error}") from error
        return moments
