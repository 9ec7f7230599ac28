"""What the processes of a group tell each other, where the caller opened one in `torch.distributed`."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")


class Group:
    """All processes of the caller's group; what they tell each other lies in main memory, whatever its own backend.

    Where that is gloo the group itself serves. Every process makes one, and calls the same methods in the same order.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self._group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value, group=self._group)
        return found

    def add_up(self, *arrays: NDArray[np.int64]) -> None:
        """Replace each array by the sum of all processes'."""
        for array in arrays:
            dist.all_reduce(torch.from_numpy(array), group=self._group)
