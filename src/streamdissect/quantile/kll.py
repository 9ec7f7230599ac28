"""KLL: the error of a rank is a share of all values, the same for all ranks."""

from __future__ import annotations

from typing import Any

from .keys import FLOAT32
from .sketch import Sketch

LEAST_LIMIT = 8


class KllSketch(Sketch):
    """The sketch of Karnin, Lang and Liberty: quantiles anywhere in the distribution, with equal error.

    The highest level has the limit k, each one below two thirds of the one above it; levels are compacted only when all
    together hold more keys than that. The standard error of a rank is

        0.89 n / k**0.9723,

    0.11 % of all values with k = 1024. For a far tail, where that is much, take `ReqSketch`.

    Parameters
    ----------
    n_units : int
        K.
    k : int
        Keys of the highest level, even, 8 to 65536. After 2.8 million values a unit takes 17 KiB with k = 1024, 7 KiB
        with k = 200.
    seed, dtype, backend, threads
        See `Sketch`.

    Notes
    -----
    Karnin, Lang, Liberty, Optimal Quantile Approximation in Streams, FOCS 2016 (arXiv 1603.05346), the sketch of its
    section 4 with limits falling by 2/3. Apache DataSketches fitted 2.296 / k**0.9723 to the 99 % point of its own
    KLL sketch; a normal error of that 99 % point has the standard error above. The tests hold this one to it. That a
    coin is turned over for the second of two compactions is from Ivkin, Liberty, Lang, Karnin, Braverman, Streaming
    Quantiles Algorithms with Small Space and Update Time, arXiv 1907.00236.
    """

    kind = "kll"

    def __init__(
        self, n_units: int, k: int = 1024, seed: int = 0, dtype: Any = FLOAT32, backend: str = "auto", threads: int = 1
    ) -> None:
        super().__init__(n_units, k, seed, dtype, backend, threads)

    def standard_error(self, tail: float) -> float:
        """Of a rank, as a share of all n values; the same for every `tail`: see the class."""
        error: float = 2.296 / 2.576 / self.k**0.9723
        return error

    def _limit(self, level: int) -> int:
        depth = len(self._fill) - 1 - level
        two_thirds: int = -(-self.k * 2**depth // 3**depth)
        return max(LEAST_LIMIT, two_thirds)

    def _protected(self, level: int) -> int:
        return 0

    def _capacity(self) -> int:
        return sum(self._limit(level) for level in range(len(self._fill)))
