"""Directions in the space of a layer's units, looked at as if each were a unit (methods 5.1, 5.5)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .products import one_thread


@dataclass(frozen=True, eq=False)
class Directions:
    """D weighted sums of K units: r = W a + b at every position, rectified where that is asked for.

    Parameters
    ----------
    weight : float32 (D, K)
        Finite.
    bias : float32 (D,), optional
    relu : bool
        Whether values below 0 become 0.

    Raises
    ------
    ValueError
        The shapes do not fit, or a number is not finite.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    relu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", np.ascontiguousarray(self.weight, np.float32))
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise ValueError(f"weights of shape {self.weight.shape}, expected (directions, units)")
        if self.bias is not None:
            object.__setattr__(self, "bias", np.ascontiguousarray(self.bias, np.float32))
            if self.bias.shape != (len(self.weight),):
                raise ValueError(f"a bias of shape {self.bias.shape}, expected ({len(self.weight)},)")
        if not np.isfinite(self.weight).all() or (self.bias is not None and not np.isfinite(self.bias).all()):
            raise ValueError("a weight or bias that is not a finite number of float32")

    @classmethod
    def identity(cls, n_units: int) -> Directions:
        """The units themselves."""
        return cls(np.eye(n_units, dtype=np.float32))

    @property
    def n_directions(self) -> int:
        return len(self.weight)

    @cached_property
    def picked(self) -> NDArray[np.int64] | None:
        """(D,) the unit that each direction is a multiple of; None where one is a sum of several, or of none."""
        if np.any(np.count_nonzero(self.weight, axis=1) != 1):
            return None
        return np.asarray((self.weight != 0).argmax(axis=1), np.int64)

    @cached_property
    def keeps_values(self) -> bool:
        """Whether every direction is a unit as it is: then nothing is computed, and nothing rounded."""
        return self.picked is not None and bool(np.all(self.weight.sum(axis=1) == 1)) and self.bias is None and (
            not self.relu
        )  # fmt: skip

    def dtype(self, stored: str) -> str:
        """What the maps are held in: as stored where they are units as they are, else float32."""
        return stored if self.keeps_values else "float32"

    def apply(self, maps: NDArray[Any], threads: int = 1, out: NDArray[np.float32] | None = None) -> NDArray[Any]:
        """Maps (B, K, h, w) -> (B, D, h, w); see `dtype`.

        The result is the same for any `threads` and any division of the images among calls. Units that are merely
        picked, in whatever order, are not computed; multiples of single units are exact to one rounding. Sums are put
        into the first B of `out` (B or more, D, h, w) where it is given: fresh memory takes a fifth of the time.
        """
        if self.picked is not None:
            if self.keeps_values:
                is_in_place = np.array_equal(self.picked, np.arange(maps.shape[1]))
                return maps if is_in_place else maps[:, self.picked]
            weight = self.weight[np.arange(self.n_directions), self.picked]
            scaled = maps[:, self.picked].astype(np.float32) * weight[:, None, None]
            return self._finish(scaled)
        return self._multiply(maps, threads, out)

    def _finish(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the bias; without one 0, which makes -0 to 0."""
        sums += np.float32(0) if self.bias is None else self.bias[:, None, None]
        return np.maximum(sums, np.float32(0), out=sums) if self.relu else sums

    def _multiply(self, maps: NDArray[Any], threads: int, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Of each image a product of its own; see `products`."""
        import torch

        n_images, n_units, h, w = maps.shape
        n_cells = h * w
        found = np.empty((n_images, self.n_directions, h, w), np.float32) if out is None else out[:n_images]
        weight = self._weight
        added = torch.zeros(1) if self.bias is None else torch.from_numpy(self.bias)[:, None]

        def multiply(images: range) -> None:
            with one_thread():
                values, sums = torch.empty(n_units, n_cells), torch.empty(self.n_directions, n_cells)
                for image in images:
                    values.numpy()[...] = maps[image].reshape(n_units, n_cells)
                    torch.mm(weight, values, out=sums)
                    into = torch.from_numpy(found[image].reshape(self.n_directions, n_cells))
                    torch.add(sums, added, out=into)
                    if self.relu:
                        into.clamp_(min=0)

        shares = [range(start, n_images, threads) for start in range(min(threads, n_images))]
        with workers(len(shares)) as pool:
            for _ in pool.map(multiply, shares) if pool is not None else map(multiply, shares):
                pass
        return found

    @cached_property
    def _weight(self) -> Any:
        """The weights as a tensor of PyTorch's own memory."""
        import torch

        return torch.from_numpy(self.weight).clone()


@contextmanager
def workers(n: int) -> Iterator[ThreadPoolExecutor | None]:
    """A pool of threads, where more than one is asked for."""
    if n < 2:
        yield None
        return
    with ThreadPoolExecutor(n, thread_name_prefix="directions") as pool:
        yield pool
