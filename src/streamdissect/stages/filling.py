"""Shards into a run, each by whoever claims it, recorded behind the making of the next; knows nothing of networks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

from numpy.typing import NDArray

from ..options import ExtractOptions
from ..store.activations import ActivationStore, empty_maps
from ..store.claims import Claims
from ..store.partials import Ledger
from ..store.rundir import RunDir
from .behind import Behind
from .control import Control, Meter
from .recording import Recorder, WorkerStates, layers_of, store_of
from .shards import await_fellows, iter_claimed, own_shards

Maps = dict[str, NDArray[Any]]
"""Activations (B, K, h, w) of a shard by layer."""
Make = Callable[[Maps, list[int], Meter], dict[str, float]]
"""Fills the maps of a shard's images, tells the meter of them, and returns what that took, by part."""


class ShardRoom:
    """Room for two shards, used by turns: one is filled while the other is recorded.

    With arrays of its own for each shard the process would grow all the same: what the allocator gets back from two
    threads it does not always give out again.
    """

    def __init__(self, run: RunDir) -> None:
        layers, n_images = layers_of(run), len(run.rows(0))
        self._turns = cycle([empty_maps(layers, n_images), empty_maps(layers, n_images)])

    def take(self, n_images: int) -> Maps:
        """The room that was taken before the last one, for so many images."""
        return {name: maps[:n_images] for name, maps in next(self._turns).items()}


def fill_shards(run: RunDir, images: NDArray[Any], make: Make, options: ExtractOptions, control: Control) -> None:
    """Do every shard that is this worker's, unclaimed and not finished.

    Parameters
    ----------
    images : int64 (N,)
        What each row is, in the terms of `make`.
    """
    ledger = run.ledger("extract")
    ledger.create()
    if run.is_spilled:
        store_of(run).create()
    states = WorkerStates(ledger)
    states.recover()
    total = sum(len(run.rows(shard)) for shard in own_shards(run.n_shards, options.shard))
    with Claims(ledger.claims_folder) as claims, control.metering("extract", total, "image") as meter:
        recorder, room = Recorder(run, claims, options.threads), ShardRoom(run)

        def is_done(shard: int) -> bool:
            return is_whole(ledger, recorder.store, shard)

        behind = Behind()

        def settle() -> None:
            behind.settle()
            recorder.flush()

        try:
            with behind:
                for shard, is_mine in iter_claimed(run.n_shards, options.shard, is_done, claims, control, settle):
                    advanced = 0
                    if is_mine:
                        rows = run.rows(shard)
                        these = images[rows.start : rows.stop].tolist()
                        advanced = fill_shard(recorder, behind, states, shard, these, make, room, meter)
                    meter.advance(len(run.rows(shard)) - advanced)
        finally:
            recorder.flush()
            control.took("waiting for the recording", behind.waited_seconds)
            for what, seconds in recorder.seconds.items():
                control.took(what, seconds)
        await_fellows(run.n_shards, options, is_done, claims, control)


def fill_shard(
    recorder: Recorder,
    behind: Behind,
    states: WorkerStates,
    shard: int,
    images: list[int],
    make: Make,
    room: ShardRoom,
    meter: Meter,
) -> int:
    """One shard under a claim: in full, or only its files or its commit where a worker's state holds it already.

    A shard in full is recorded behind the making of the next. Returns how many images the meter was told of.
    """
    held = states.recover()
    commit = recorder.ledger.read(shard)
    if commit is not None and is_whole(recorder.ledger, recorder.store, shard):
        return 0  # its process died between its state and its commit, which is made good now
    if commit is None and shard in held:
        behind.settle()
        recorder.commit_anew(shard, images)
        return 0
    maps = room.take(len(images))  # what was in it is recorded: one call is under way at most
    seconds = make(maps, images, meter)
    if commit is None:
        behind.call(recorder.record, shard, maps, images, seconds)
    else:
        behind.settle()
        recorder.repair(shard, maps, commit)
    return len(images)


def is_whole(ledger: Ledger, store: ActivationStore, shard: int) -> bool:
    """Whether a shard is committed and its files are there, of the right size."""
    commit = ledger.read(shard)
    if commit is None:
        return False
    return not any(store.find_damage(name, shard, file, thorough=False) for name, file in commit["files"].items())
