"""A layer that a monitor watches: what is counted of it, in one process and in the several of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..kernels import AxisWeights, Chooser
from ..measure.counters import Counters
from ..quantile import Streams
from ..store.activations import LayerArray
from .group import Group


@dataclass
class Watched:
    """One layer: what stays from step to step, and what is counted in one."""

    array: LayerArray
    field_map: dict[str, Any] | None
    """As run.json has it."""
    chooser: Chooser
    used: NDArray[np.float32] | None = None
    """(K,) thresholds for masks in this step; None: there are none yet."""
    counters: Counters | None = None
    streams: Streams | None = None
    """What the next thresholds come from."""
    n_above: NDArray[np.int64] | None = None
    """(K,) values of this step above the thresholds used."""
    weights: dict[tuple[int, int], tuple[AxisWeights, AxisWeights]] = field(default_factory=dict)
    """By mask grid."""


def share_images(group: Group, indices: Sequence[int], held: Sequence[int]) -> tuple[list[int], int]:
    """Whose images are whose, where a sampler repeats some so that all processes have equally many.

    An image belongs to the first process that has it. A process can leave out what it has not counted yet.

    Parameters
    ----------
    indices, held : sequence of int
        All images that came here, and those of the last batch, which is not counted yet.

    Returns
    -------
    list of int, int
        Which of those held, by their place, are to be counted here; and how many different images came in all.

    Raises
    ------
    BadInput
        In every process: one that was counted before belongs to another, or none came at all.
    """
    everyone = group.gather((np.array(indices, np.int64), np.array(held, np.int64)))
    taken: set[int] = set()
    mine: list[int] = []
    for rank, (came, waiting) in enumerate(everyone):
        if not len(came):
            raise BadInput("monitor", f"no image in rank {rank}", "some in each", "use fewer processes")
        counted = np.setdiff1d(came, waiting)
        if twice := sorted(taken.intersection(counted.tolist())):
            remedy = "share the images out, as DistributedSampler does"
            raise BadInput("images", f"image {twice[0]} in several processes", "each image in one", remedy)
        if rank == group.rank:
            mine = [place for place, index in enumerate(held) if index not in taken]
        taken.update(came.tolist())
    return mine, len(taken)


def join_layers(group: Group, layers: Mapping[str, Watched]) -> None:
    """Give every process what all of them counted in this step: integers, and values that are kept exactly."""
    for each in layers.values():
        if each.counters is not None and each.n_above is not None:
            each.counters.add_up(group.add_up)
            group.add_up(each.n_above)
        if (streams := each.streams) is not None:
            for rank, arrays in enumerate(group.gather(streams.to_arrays())):
                if rank != group.rank:
                    streams.merge(type(streams).from_arrays(arrays))
