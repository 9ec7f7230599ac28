"""Opponents that find a tail while the stream runs: Apache DataSketches, and a running quantile in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

FEW_UNITS = 8
"""Taken by sketches of one unit, one after the other: the time for each value does not depend on how many."""
SOME_UNITS = 64
"""Taken by what is done to all units at once, for the same reason."""
LENGTH = 2048
"""Values of a level of `TorchSketch`."""


@dataclass(frozen=True)
class Contender:
    """A stream is taken in, then thresholds are asked for."""

    take: Callable[[], Any]
    """What is told of the stream."""
    ask: Callable[[Any], np.ndarray]
    """What was told of it -> float32 thresholds, of the first units or all."""
    n: int
    """Values that are taken in."""

    def find(self) -> np.ndarray:
        """Both."""
        return self.ask(self.take())


def rows_of(values: np.ndarray, n_units: int | None = None) -> np.ndarray:
    """(N, K, h, w) -> (n_units, N * h * w) of the first units."""
    return np.ascontiguousarray(values[:, :n_units].swapaxes(0, 1)).reshape(values[:, :n_units].shape[1], -1)


def rank_errors(ascending: np.ndarray, thresholds: np.ndarray, tail: Fraction) -> Iterator[int]:
    """Ranks by which the thresholds of the first units miss the (m+1)-th largest value; 0 where they tie with it."""
    n = ascending.shape[1]
    m = n * tail.numerator // tail.denominator
    for row, t in zip(ascending, thresholds, strict=False):
        above, reached = (n - np.searchsorted(row, t, side) for side in ("right", "left"))
        yield max(above - m, m - (reached - 1), 0)


class TorchSketch:
    """Levels of `LENGTH` values of all units; a full one is sorted, and every other value goes to the next."""

    def __init__(self, n_units: int) -> None:
        self.n_units = n_units
        self.levels: list[torch.Tensor] = []
        self.fill: list[int] = []
        self.generator = torch.Generator().manual_seed(0)

    def add(self, values: torch.Tensor, level: int = 0) -> None:
        """values (K, n)"""
        while values.shape[1]:
            if level == len(self.levels):
                self.levels.append(torch.empty(self.n_units, LENGTH))
                self.fill.append(0)
            fill = self.fill[level]
            some = min(values.shape[1], LENGTH - fill)
            self.levels[level][:, fill : fill + some] = values[:, :some]
            self.fill[level] += some
            values = values[:, some:]
            if self.fill[level] == LENGTH:
                self.fill[level] = 0
                coin = int(torch.randint(2, (1,), generator=self.generator))
                self.add(self.levels[level].sort(dim=1).values[:, coin::2], level + 1)

    def threshold(self, tail: Fraction) -> np.ndarray:
        """float32 (K,)"""
        kept = [keys[:, :fill] for keys, fill in zip(self.levels, self.fill, strict=True)]
        weights = torch.cat([torch.full((part.shape[1],), 1 << level) for level, part in enumerate(kept)])
        keys, order = torch.cat(kept, dim=1).sort(dim=1, descending=True)
        m = int(weights.sum()) * tail.numerator // tail.denominator
        at = (weights[order].cumsum(dim=1) <= m).sum(dim=1, keepdim=True)
        return keys.gather(1, at)[:, 0].numpy()


def in_torch(batches: list[np.ndarray], tail: Fraction) -> Contender:
    """Units at once, float32."""
    tensors = [torch.from_numpy(np.ascontiguousarray(batch[:, :SOME_UNITS])) for batch in batches]

    def take() -> TorchSketch:
        sketch = TorchSketch(tensors[0].shape[1])
        for tensor in tensors:
            sketch.add(tensor.transpose(0, 1).reshape(sketch.n_units, -1))
        return sketch

    return Contender(take, lambda sketch: sketch.threshold(tail), sum(tensor.numel() for tensor in tensors))


def datasketches(kind: str, k: int, batches: list[np.ndarray], tail: Fraction) -> Contender:
    """REQ or KLL of one unit after the other, float32. Skips where the package is missing."""
    peers = pytest.importorskip("datasketches")
    make = {"REQ": lambda: peers.req_floats_sketch(k, True), "KLL": lambda: peers.kll_floats_sketch(k)}[kind]
    rows = [rows_of(batch, FEW_UNITS) for batch in batches]

    def take() -> list[Any]:
        sketches = [make() for _ in range(FEW_UNITS)]
        for unit, sketch in enumerate(sketches):
            for row in rows:
                sketch.update(row[unit])
        return sketches

    def ask(sketches: list[Any]) -> np.ndarray:
        return np.array([sketch.get_quantile(1 - float(tail)) for sketch in sketches], np.float32)

    return Contender(take, ask, sum(row.size for row in rows))
