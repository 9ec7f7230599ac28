"""A layer that a monitor watches: what is counted of it, in one process and in the several of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..kernels import AxisWeights, Chooser
from ..measure.counters import Counters
from ..quantile import Streams
from ..store.activations import LayerArray
from .group import Group

Batch = tuple[list[int], dict[str, NDArray[Any]]]
"""Images and their maps (B, K, h, w) by layer."""


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


def share_images(group: Group, step: int, indices: Sequence[int], held: Sequence[int]) -> tuple[list[int], int]:
    """Whose images are whose, where a sampler repeats some so that all processes have equally many.

    An image belongs to the first process that has it. A process can leave out what it has not counted yet.

    Parameters
    ----------
    step : int
        Which all of them have to have come to; see `tell_failure`.
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
    IncompleteRun
        In every process but the one that failed.
    """
    everyone = group.gather((step, np.array(indices, np.int64), np.array(held, np.int64)))
    require_all(step, [each[0] for each in everyone])
    taken: set[int] = set()
    mine: list[int] = []
    for rank, (_, came, waiting) in enumerate(everyone):
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


def settle_images(
    group: Group, step: int, indices: Sequence[int], held: Batch, take_in: Callable[[list[int], dict[str, Any]], None]
) -> int:
    """Have this process's part of the last batch counted; gives how many different images came to all processes.

    As `share_images`; what `take_in` raises in one process ends the step in all.
    """
    images, maps = held
    mine, n_images = share_images(group, step, indices, images)
    done: int | None = None
    try:
        take_in([images[place] for place in mine], {name: batch[mine] for name, batch in maps.items()})
        done = step
    finally:
        all_done = group.gather(done)
    require_all(step, all_done)
    return n_images


def tell_failure(group: Group) -> None:
    """Take the place of `share_images` in a process whose step failed, so that no other takes its next one for it."""
    group.gather((None, np.zeros(0, np.int64), np.zeros(0, np.int64)))


def require_all(step: int, steps: Sequence[int | None]) -> None:
    """IncompleteRun unless every process has come to the same step."""
    for rank, other in enumerate(steps):
        if other != step:
            what = "failed" if other is None else f"is at step {other}"
            raise IncompleteRun(f"step {step}: the process of rank {rank} {what}; nothing is written")


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
