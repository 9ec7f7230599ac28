"""Who does which shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import BadInput, IncompleteRun
from ..options import CommonOptions
from ..store.claims import BEAT_SECONDS, STALE_SECONDS, Claims
from ..store.partials import name_shards
from .control import Control

WAIT_SECONDS = 0.5
"""Between two looks at shards that another process has."""
SILENT_SECONDS = 3 * BEAT_SECONDS
"""After which an owner on another machine is worth waiting for: it has probably died."""


def own_shards(n_shards: int, shard: tuple[int, int] | None) -> list[int]:
    """Shards of worker i of n: every n-th one; without a worker all of them, as far as they are unclaimed."""
    worker, n_workers = shard or (0, 1)
    return list(range(worker, n_shards, n_workers))


def iter_claimed(
    n_shards: int,
    shard: tuple[int, int] | None,
    is_done: Callable[[int], bool],
    claims: Claims,
    control: Control,
    settle: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, bool]]:
    """The shards of a worker: each with whether this process is to do it, now, under its claim.

    Shards that another process is at work on are left to it. Two kinds are waited for, until they are done or their
    claims are stale: those of a worker that was given shards of its own, for whoever claimed them was this worker
    before it was stopped; and those whose owner, on another machine, has missed several beats. Before it waits it calls
    `settle`, which commits what is done: two processes may wait for each other's.
    """
    left = own_shards(n_shards, shard)
    is_told = False
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
        left = [each for each in elsewhere if shard is not None or claims.silence(each) > SILENT_SECONDS]
        for each in elsewhere:
            if each not in left:
                control.say(f"shard {each} is left to {claims.describe(each)}")
                yield each, False
        if left:
            settle()
        if left and not is_told:
            control.say(f"waiting for shard {left[0]}, claimed by {claims.describe(left[0])}")
            is_told = True
        if left:
            time.sleep(WAIT_SECONDS)


def iter_until_whole(
    shards: Sequence[int], is_done: Callable[[int], bool], claims: Claims, control: Control
) -> Iterator[int]:
    """The shards that this process is to do, now, under its claims, until every one of `shards` is done.

    For a pass that the next one rests on. What nobody has claimed is taken, whoever's part it was, for its worker may
    never begin: so nobody is waited for but those who are at work.
    """
    left, is_told = list(shards), False
    while left := [each for each in left if not is_done(each)]:
        n_taken = 0
        for each in left:
            control.check()
            if claims.take(each):
                n_taken += 1
                if is_done(each):  # finished between the two looks
                    claims.release(each)
                else:
                    yield each
        if not n_taken:
            if not is_told:
                control.say(f"waiting for shard {left[0]}, claimed by {claims.describe(left[0])}")
                is_told = True
            time.sleep(WAIT_SECONDS)


def own_first(n_shards: int, shard: tuple[int, int] | None) -> list[int]:
    """All shards: those of a worker, then the others from the end, whose workers may have begun at the front."""
    own = own_shards(n_shards, shard)
    return [*own, *sorted(set(range(n_shards)) - set(own), reverse=True)]


def await_fellows(
    n_shards: int, options: CommonOptions, is_done: Callable[[int], bool], claims: Claims, control: Control
) -> None:
    """Wait until the ranks that were started together with this one have finished their shards too.

    So all of them go on with the whole, as after a barrier, but by the commits: a collective would hang where a rank
    has died. Workers that are no ranks of one job are not waited for: those of an array may not have begun.

    Raises
    ------
    IncompleteRun
        Nobody has been seen at work for STALE_SECONDS; it names the shards.
    """
    if not options.has_fellows:
        return
    left, heard = list(range(n_shards)), time.monotonic()
    while True:
        control.check()
        still = [shard for shard in left if not is_done(shard)]
        if not still:
            return
        now = time.monotonic()
        if len(still) < len(left) or claims.living():
            heard = now
        elif now - heard > STALE_SECONDS:
            which = name_shards(still, n_shards)
            alone = "with --shard none (shard=None) where this process is to work alone"
            raise IncompleteRun(
                f"{which} not finished, and no other rank is at work; run the same command again, {alone}"
            )
        left = still
        time.sleep(WAIT_SECONDS)


def require_alone(folders: Iterable[Path], shard: tuple[int, int] | None, option: str = "--overwrite") -> None:
    """BadInput where removing something would take away the work of others; `folders` hold the stages' claims."""
    if shard is not None and shard[1] > 1:
        got = f"together with --shard {shard[0]}/{shard[1]}"
        remedy = "remove the old one in a process of its own, then start the workers without it"
        raise BadInput("--overwrite", got, "one process", remedy)
    for folder in folders:
        if living := Claims(folder).living():
            got = f"shard {living[0]}, which another process is at work on"
            raise BadInput(option, got, "a run that is left alone", "wait for that process or stop it first")
