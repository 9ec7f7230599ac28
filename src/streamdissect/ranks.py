"""Which of several processes this one is, as who started them says: the job's launcher, or the caller's own group."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

TASKS_PER_NODE = "SLURM_STEP_TASKS_PER_NODE"
LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", TASKS_PER_NODE),
)
"""Name, and variables of rank, world size, rank and number of ranks on this node.

The order matters: torchrun within srun has both, and its processes are the finer ones. Slurm's size is that of the
step: a batch script that asked for four tasks is itself one process, and only srun makes it four. PMIx gives ranks no
size in the environment; Open MPI and srun, which speak it, give theirs beside it.
"""


@dataclass(frozen=True)
class Rank:
    """One of several processes that a launcher started together."""

    index: int
    count: int
    launcher: str
    local_index: int
    """Among those of this machine."""
    local_count: int

    def __str__(self) -> str:
        return f"rank {self.index}/{self.count}"


def find_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """This process's rank; None for a process alone.

    A group that the caller opened in `torch.distributed` goes before what the environment says.
    """
    found = None
    for launcher, *names in LAUNCHERS:
        texts = {name: environment.get(name, "") for name in names}
        texts |= {name: here(text, environment) for name, text in texts.items() if name == TASKS_PER_NODE}
        index, count, local_index, local_count = map(whole, texts.values())
        if index is not None and count is not None and index < count:
            found = Rank(index, count, launcher, index if local_index is None else local_index, local_count or 1)
            break
    if (group := caller_group()) is not None:
        if found is None:
            found = Rank(*group, "torch.distributed", group[0], 1)
        else:  # who started them still says how they share a machine
            found = replace(found, index=group[0], count=group[1])
    return found if found is not None and found.count > 1 else None


def caller_group() -> tuple[int, int] | None:
    """Rank and world size of the group that the caller opened in this process, if it did."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)  # who opened a group has imported PyTorch
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def whole(text: str) -> int | None:
    """A whole number, if it is one."""
    return int(text) if text.isascii() and text.isdigit() else None


def here(text: str, environment: Mapping[str, str]) -> str:
    """This node's number out of those of all nodes, as Slurm writes them: `2(x3),8`."""
    each: list[str] = []
    for part in text.split(","):
        number, _, times = part.partition("(x")
        each += [number] * (whole(times.rstrip(")")) or 1)
    node = whole(environment.get("SLURM_NODEID", "")) or 0
    return each[node] if node < len(each) else each[0]
