"""The images on which each unit is most active: a tally."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..tally import Arrays

VERSION = 1
NOTHING = -(2**63)


class TopImages:
    """For each of K units the T rows of the store whose maps have the largest maxima; ties go to the smaller row."""

    def __init__(self, n_units: int, n_images: int) -> None:
        self._code = np.full((n_units, n_images), NOTHING, np.int64)
        """(K, T) key * 2**32 + (2**32 - 1 - row), descending: sorts by value, then by row."""

    def add(self, highest: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        """Take in the keys (B, K) of the maps' largest values and the rows (B,) of the images."""
        code = highest.astype(np.int64) * 2**32 + (2**32 - 1 - rows[:, None])
        code[highest == -(2**31)] = NOTHING  # a map of NaN alone
        self._keep(code.T)

    def _keep(self, code: NDArray[np.int64]) -> None:
        n_images = self._code.shape[1]
        joined = np.concatenate([self._code, code], axis=1)
        if joined.shape[1] > 2 * n_images > 0:
            joined = np.partition(joined, joined.shape[1] - n_images, axis=1)[:, -n_images:]
        self._code = np.sort(joined, axis=1)[:, ::-1][:, :n_images]

    def merge(self, other: Self) -> None:
        """Take in another part's images."""
        if self._code.shape != other._code.shape:
            raise ValueError(f"top images {other._code.shape} cannot join {self._code.shape}")
        self._keep(other._code)

    def read(self, values_of: Callable[[NDArray[np.int32]], NDArray[np.float32]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """int64 (K, T) rows, -1 where there are fewer images; float32 (K, T) values, NaN there."""
        is_image = self._code != NOTHING
        rows = np.where(is_image, 2**32 - 1 - (self._code & (2**32 - 1)), -1)
        values = values_of((self._code >> 32).astype(np.int32))
        return rows, np.where(is_image, values, np.float32(np.nan))

    def to_arrays(self) -> Arrays:
        """The state."""
        return {"version": np.array(VERSION), "code": self._code}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another version."""
        try:
            if int(arrays["version"]) != VERSION or arrays["code"].ndim != 2:
                raise ValueError("top images of another version")
            top = cls(*arrays["code"].shape)
            top._code[...] = arrays["code"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"saved top images are cut: {error}") from error
        return top
