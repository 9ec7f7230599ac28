"""Who does which shards."""

from __future__ import annotations


def own_shards(n_shards: int, shard: tuple[int, int] | None) -> list[int]:
    """Shards of worker i of n: every n-th one; without a worker all of them, as far as they are unclaimed."""
    worker, n_workers = shard or (0, 1)
    return list(range(worker, n_shards, n_workers))
