"""Who does which shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import BadInput
from ..store.claims import Claims
from .control import Control

WAIT_SECONDS = 0.5
"""Between two looks at shards that another process has."""


def own_shards(n_shards: int, shard: tuple[int, int] | None) -> list[int]:
    """Shards of worker i of n: every n-th one; without a worker all of them, as far as they are unclaimed."""
    worker, n_workers = shard or (0, 1)
    return list(range(worker, n_shards, n_workers))


def iter_claimed(
    n_shards: int, shard: tuple[int, int] | None, is_done: Callable[[int], bool], claims: Claims, control: Control
) -> Iterator[tuple[int, bool]]:
    """The shards of a worker: each with whether this process is to do it, now, under its claim.

    Shards that another process has are left to it. Only a worker that was given shards of its own waits for them: they
    have no other owner, so whoever claimed them was this worker before it was stopped, and its claim will go stale.
    """
    left = own_shards(n_shards, shard)
    while left:
        elsewhere = []
        for each in left:
            control.check()
            if is_done(each):
                yield each, False
            elif not claims.take(each):
                elsewhere.append(each)
            elif is_done(each):  # finished between the two looks
                claims.release(each)
                yield each, False
            else:
                yield each, True
        if shard is None:
            yield from ((each, False) for each in elsewhere)
            return
        if elsewhere:
            time.sleep(WAIT_SECONDS)
        left = elsewhere


def require_alone(folders: Iterable[Path], shard: tuple[int, int] | None) -> None:
    """BadInput where starting anew would take away the work of others; `folders` hold the claims of the stages."""
    if shard is not None and shard[1] > 1:
        got = f"together with --shard {shard[0]}/{shard[1]}"
        remedy = "remove the old one in a process of its own, then start the workers without it"
        raise BadInput("--overwrite", got, "one process", remedy)
    for folder in folders:
        if living := Claims(folder).living():
            got = f"shard {living[0]}, which another process is at work on"
            raise BadInput("--overwrite", got, "a run that is left alone", "wait for that process or stop it first")
