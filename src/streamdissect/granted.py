"""What the machine, Slurm or the launcher grants this process: cores, memory, a part of the work."""

from __future__ import annotations

import os
from pathlib import Path

from .ranks import find_rank


def cpu_count() -> int:
    """Cores this process may use: what Slurm granted its task, else the CPU affinity; shared with ranks beside it."""
    rank = find_rank()
    n_sharing = rank.local_count if rank is not None else 1
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        # srun and mpirun make a rank of each task; torchrun makes several within one
        return max(1, int(granted) // (n_sharing if rank is not None and rank.launcher == "torchrun" else 1))
    n_all = os.cpu_count() or 1
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else n_all
    if rank is not None and rank.launcher == "torchrun":  # which binds no process to cores
        return max(1, n_cores // n_sharing)
    return max(1, min(n_cores, n_all // n_sharing))  # several may be bound to the same cores


class Granted(int):
    """A number of threads that nobody asked for: as many as there are cores."""


def granted_threads() -> Granted:
    """The threads of whoever says nothing of them."""
    return Granted(cpu_count())


def default_memory() -> int:
    """Bytes: the smaller of 4 GiB and half of what the control group, Slurm or the machine grants this rank."""
    rank = find_rank()
    shared = []
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm) > 0:
        shared.append(int(slurm) << 20)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            shared.append(int(text))
    if hasattr(os, "sysconf"):
        shared.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    grants = [8 << 30, *(grant // (rank.local_count if rank is not None else 1) for grant in shared)]
    slurm = os.environ.get("SLURM_MEM_PER_CPU", "")
    if slurm.isdigit() and int(slurm) > 0:
        grants.append((int(slurm) << 20) * cpu_count())
    return min(grants) // 2


def default_shard() -> tuple[int, int] | None:
    """A rank does its part of the shards."""
    rank = find_rank()
    return None if rank is None else (rank.index, rank.count)
