"""Whether this process is one of several, as those who started it say."""

from __future__ import annotations

import os

import torch.distributed


def find_rank() -> tuple[int, int] | None:
    """(rank, of how many) where torch.distributed runs or torchrun started this process; None for a process alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
        found = (int(rank), int(world)) if rank.isdigit() and world.isdigit() else (0, 1)
    return found if found[1] > 1 else None
