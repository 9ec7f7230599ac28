"""REQ: the error of a rank is a share of the values above it, so the far tail is nearly exact."""

from __future__ import annotations

from math import isqrt, sqrt
from typing import Any

from .keys import FLOAT32
from .sketch import Sketch

SECTIONS = 3
"""Of half a level, at first."""
LEAST_SECTION = 2


class ReqSketch(Sketch):
    """Relative Error Quantiles with high-rank accuracy.

    Half of each level, its highest keys, is never compacted, and of the other half a varying number of sections: the
    higher a section lies the more rarely it is. With R of n values above a threshold, the standard error of R is

        0.131 R / k;

    there is none while R < 3 k. For a tail of 0.005 and k = 50 that is 0.0013 % of all values, 0.26 % of the tail.

    Parameters
    ----------
    n_units : int
        K.
    k : int
        Accuracy, even, 8 to 65536. After 2.8 million values a unit takes 33 KiB with k = 50, 20 KiB with k = 24.
    seed, dtype, backend, threads
        See `Sketch`.

    Notes
    -----
    Cormode, Karnin, Liberty, Thaler, Vesely, *Relative Error Streaming Quantiles*, PODS 2021 (arXiv 2004.01668): the
    compactor and its schedule, the proof that errors are relative, and merging, which keeps that. The paper's constants
    serve the proof. The one above, sqrt(0.0512 / 3), is what Apache DataSketches fitted to its own REQ sketch of the
    same k; the tests hold this one to it, in many orders of the values and after merging.

    Half a level has as many sections as its schedule has come to use, one more whenever its compactions double; all are
    then of length 3 k / sqrt(2 sections), so that a level grows with the square root of the logarithm of n.
    """

    kind = "req"

    def __init__(
        self, n_units: int, k: int = 50, seed: int = 0, dtype: Any = FLOAT32, backend: str = "auto", threads: int = 1
    ) -> None:
        super().__init__(n_units, k, seed, dtype, backend, threads)

    def standard_error(self, tail: float) -> float:
        """Of a rank, as a share of all n values, where the share `tail` lies above: see the class."""
        if tail * self.n_seen < 3 * self.k:
            return 0.0
        return sqrt(0.0512 / 3) * tail / self.k

    def _sections(self, level: int) -> tuple[int, int]:
        """How many sections half of a level has, and how long they are."""
        n_sections = max(SECTIONS, self._turn[level].bit_length() + 1)
        return n_sections, max(LEAST_SECTION, isqrt(9 * self.k**2 // (2 * n_sections)) & ~1)

    def _limit(self, level: int) -> int:
        n_sections, length = self._sections(level)
        return 2 * n_sections * length

    def _protected(self, level: int) -> int:
        n_sections, length = self._sections(level)
        turn = self._turn[level]
        n_compacted = (turn ^ (turn + 1)).bit_length()  # one more than the ones that the turn ends in
        return (2 * n_sections - n_compacted) * length
