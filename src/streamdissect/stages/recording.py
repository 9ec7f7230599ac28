"""Shards of activations into a run: the store, the thresholds' state, the top images, the commits."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteRun
from ..kernels import kernel_backend
from ..store.activations import ActivationStore, LayerArray
from ..store.claims import Claims
from ..store.partials import Ledger, load_arrays, name_shards, save_arrays, under_prefix, with_prefix
from ..store.rundir import RunDir
from ..tally import Arrays
from .gathering import LayerPlan, LayerTally
from .keeping import describe_kept, describe_stored, floors_in, floors_of, maxima, reaching

COMMIT_SECONDS = 15.0
"""What a kill may cost: shards are committed together with the state they went into, at least this often."""
MOST_PENDING = 1 << 14
"""Images whose shards wait for their commits, at the most: some 100 bytes of each are in memory meanwhile."""
STATE_SHARE = 20
"""The state is saved at most one part in so many of the time."""


def layers_of(run: RunDir) -> list[LayerArray]:
    """The layers of a run, in order."""
    return [LayerArray.from_json(layer["array"]) for layer in run.manifest["layers"]]


def store_of(run: RunDir) -> ActivationStore:
    """The activations of a run."""
    plan = run.manifest["plan"]
    return ActivationStore(run.activations_path, layers_of(run), int(plan["n_images"]), int(plan["shard_images"]))


def plans_of(run: RunDir) -> list[LayerPlan]:
    """What is gathered of each layer."""
    n_top = int(run.manifest["plan"]["top_images"])
    return [LayerPlan.from_json(layer, n_top) for layer in run.manifest["layers"]]


class Recorder:
    """Takes whole shards and commits them, with the tallies of this process.

    Parameters
    ----------
    run : RunDir
    claims : Claims
        Of the stage `extract`; shards are recorded only under a claim.
    threads : int
        That the tallies may use.
    """

    def __init__(self, run: RunDir, claims: Claims, threads: int = 1) -> None:
        self.run, self.claims = run, claims
        self.store, self.ledger = store_of(run), run.ledger("extract")
        self._layers, self._plans = layers_of(run), plans_of(run)
        self._tallies = [LayerTally(plan, threads) for plan in self._plans]
        self._floors = floors_of(run, self._layers)
        self._held: list[int] = []
        """Shards in this process's state."""
        self._pending: dict[int, dict[str, Any]] = {}
        """Commits of those that are not committed yet."""
        self._is_whole = True
        """False while a shard is half in the state: then the state is not to be saved."""
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        self.seconds = {"writing": 0.0, "thresholds": 0.0, "saving the state": 0.0}
        """What recording has taken."""

    def record(
        self, shard: int, maps: Mapping[str, NDArray[Any]], images: Sequence[int], seconds: Mapping[str, float]
    ) -> None:
        """Store one shard: maps (B, K, h, w) by layer, the dataset's index of each row, what it took so far."""
        if not self._is_whole:
            raise IncompleteRun(f"{self.run.path}: recording a shard was interrupted; run the same command again")
        begin = time.perf_counter()
        rows = np.array(self.run.rows(shard), np.int64)
        stored = self._layers if self.run.is_spilled else []
        kept: dict[str, tuple[NDArray[np.bool_], NDArray[np.int32]]] = {}
        if self._floors:  # what is written follows from what was seen, this shard included
            self._is_whole = False
            kept = self._choose(self._count(maps, rows))
        chosen = time.perf_counter()
        files = {
            spec.name: self.store.write(spec.name, shard, maps[spec.name], kept[spec.name][0] if kept else None)
            for spec in stored
        }
        written = time.perf_counter()
        if not self._floors:
            self._is_whole = False
            self._count(maps, rows)
        counting = chosen - begin + time.perf_counter() - written
        took = {**seconds, "write": written - chosen, "thresholds": counting}
        self.seconds["writing"] += written - chosen
        self.seconds["thresholds"] += counting
        commit = describe_shard(images, files, took)
        if kept:
            commit["kept"] = {name: describe_kept(*each) for name, each in kept.items()}
        if not self.run.is_spilled:
            commit["digests"] = {spec.name: digest_maps(maps[spec.name]) for spec in self._layers}
        self._held.append(shard)
        self._pending[shard] = commit
        self._is_whole = True  # last: a state that was interrupted before is not to be saved
        since = time.monotonic() - self._saved_at
        n_images = sum(len(each["images"]) for each in self._pending.values())
        if since > max(COMMIT_SECONDS, STATE_SHARE * self._save_seconds) or n_images >= MOST_PENDING:
            self.flush()

    def _count(self, maps: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Take a shard into the tallies; gives keys (B, K) of the maps' maxima, by layer."""
        layers = zip(self._layers, self._tallies, strict=True)
        return [tally.update(maps[spec.name], rows) for spec, tally in layers]

    def _choose(self, highest: Sequence[NDArray[np.int32]]) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.int32]]]:
        """Of each layer which maps (B, K) are kept, by the keys of their maxima, and the floors (K,) they reach."""
        found = {}
        for spec, tally, floors, keys in zip(self._layers, self._tallies, self._floors, highest, strict=True):
            risen = floors.rise(tally.streams)
            found[spec.name] = reaching(keys, risen), risen
        return found

    def repair(self, shard: int, maps: Mapping[str, NDArray[Any]], commit: dict[str, Any]) -> None:
        """Write a committed shard's files anew; they must come out as they were, since the state holds them already."""
        for spec, plan in zip(self._layers, self._plans, strict=True):
            kept = None
            if "kept" in commit:
                kept = reaching(maxima(plan, maps[spec.name]), floors_in(commit["kept"][spec.name]))
            written = self.store.write(spec.name, shard, maps[spec.name], kept)
            if written != commit["files"][spec.name]:
                path = self.store.file(spec.name, shard)
                path.unlink()  # of the right size, it would pass for the right one the next time
                raise IncompleteRun(f"{path}: came out different from its commit; extract again with --overwrite")

    def commit_anew(self, shard: int, images: Sequence[int]) -> None:
        """Commit a shard that some worker's state holds, but whose commit was lost, by the files that lie there.

        They are the ones the state has seen: a state is saved after its shards' files, and nobody writes a shard that a
        state holds. Computing them anew could give others.
        """
        files, kept = {}, {}
        for spec, plan in zip(self._layers, self._plans, strict=True) if self.run.is_spilled else ():
            try:
                maps = self.store.read(spec.name, self.run.rows(shard))  # each chunk has a checksum
                files[spec.name] = self.store.describe(spec.name, shard)
            except (FileNotFoundError, IncompleteRun) as error:
                path = self.store.file(spec.name, shard)
                raise IncompleteRun(f"{path}: lost together with its commit; extract again with --overwrite") from error
            if self._floors:
                kept[spec.name] = describe_stored(maxima(plan, maps), spec.dtype)
        commit = describe_shard(images, files, {})
        self.ledger.commit(shard, commit | {"kept": kept} if self._floors else commit)
        self.claims.forget(shard)

    def flush(self) -> None:
        """Save the state, then commit the shards it holds."""
        if not self._pending or not self._is_whole:
            return
        waiting = [shard for shard in self._pending if not self.ledger.is_done(shard)]  # a flush may be cut after some
        if lost := [shard for shard in waiting if not self.claims.holds(shard)]:
            raise IncompleteRun(
                f"{name_shards(lost, self.run.n_shards)} taken over by another process: this one was "
                "thought dead; run the same command again"
            )
        begin = time.monotonic()
        arrays: dict[str, NDArray[Any]] = {
            "held": np.array(self._held, np.int64),
            "commits": np.array(json.dumps(self._pending)),
            "peak_bytes": np.array(peak_bytes()),
        }
        for j, tally in enumerate(self._tallies):
            arrays |= with_prefix(f"layer{j}", tally.to_arrays())
        save_arrays(self.ledger.worker_path(self.claims.owner["token"]), arrays)
        for shard, content in self._pending.items():
            self.ledger.commit(shard, content)
            self.claims.forget(shard)
        self._pending = {}
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - begin
        self.seconds["saving the state"] += self._save_seconds


def digest_maps(maps: NDArray[Any]) -> str:
    """Of the values of a shard's maps, whatever becomes of them."""
    return blake2b(np.ascontiguousarray(maps).view(np.uint8).reshape(-1).data, digest_size=20).hexdigest()


def describe_shard(
    images: Sequence[int], files: Mapping[str, dict[str, Any]], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Content of a shard's commit."""
    return {
        "images": [int(index) for index in images],
        "files": dict(files),
        "seconds": {key: round(value, 6) for key, value in seconds.items()},
    }


class WorkerStates:
    """What the states of all workers hold, read again only where a state has changed.

    Parameters
    ----------
    ledger : Ledger
        Of the stage `extract`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._held: set[int] = set()

    def recover(self) -> set[int]:
        """Commit the shards whose process died between saving its state and saying so; all shards that states hold."""
        for path in self._ledger.worker_paths():
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino  # objects tell whole seconds, and a tag as this
            if self._seen.get(path) == stamp:
                continue
            state = load_state(path, ("commits", "held").__contains__)
            try:
                pending = json.loads(str(state["commits"]))
                self._held.update(state["held"].tolist())
            except (KeyError, ValueError) as error:
                raise damaged_state(path, error) from error
            for shard, content in pending.items():
                if not self._ledger.is_done(int(shard)):
                    self._ledger.commit(int(shard), content)
            self._seen[path] = stamp
        return self._held


def load_state(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Arrays:
    """A worker's state. What it held is known nowhere else: where it is damaged, the run has to be made anew."""
    try:
        return load_arrays(path, is_wanted)
    except IncompleteRun as error:
        raise damaged_state(path, error.__cause__ or error) from error


def damaged_state(path: Path, reason: BaseException) -> IncompleteRun:
    """The refusal of a worker's state."""
    return IncompleteRun(f"{path}: damaged ({reason}); extract again with --overwrite")


@dataclass(frozen=True)
class Recorded:
    """The merged state of all workers, and the commits of all shards."""

    tallies: list[LayerTally]
    top: list[tuple[NDArray[np.int64], NDArray[np.float32]]]
    """(K, T) rows of the store and map maxima, by layer; see `TopImages.read`."""
    images: NDArray[np.int64]
    """(N,) the dataset's index of each row."""
    seconds: dict[str, float]
    peak_bytes: int


def read_recorded(run: RunDir) -> Recorded:
    """Merge what the workers left. IncompleteRun where shards are missing, damaged or held twice."""
    kernel_backend()  # one that is not to be had is no damage
    ledger = run.ledger("extract")
    WorkerStates(ledger).recover()
    if run.is_captured and (missing := ledger.missing()):
        raise IncompleteRun(f"{name_shards(missing, run.n_shards)} not finished; run the same capture loop again")
    store = store_of(run)
    if run.is_spilled and not run.activations_path.exists():
        remedy = "nothing restores those of a capture" if run.is_captured else "the same extract restores them"
        raise IncompleteRun(f"{run.activations_path}: dropped by clean; {remedy}")
    images: list[NDArray[np.int64]] = []
    seconds: dict[str, float] = {}
    for shard, commit in enumerate(ledger.commits()):  # each let go again: a list of a million images is large
        images.append(np.array(commit["images"], np.int64))
        for key, value in commit["seconds"].items():
            seconds[key] = seconds.get(key, 0.0) + float(value)
        for name, expected in commit["files"].items():
            if damage := store.find_damage(name, shard, expected, thorough=False):
                remedy = "capture again with overwrite=True" if run.is_captured else "run the same extract again"
                raise IncompleteRun(f"{damage}; {remedy}")
    plans, tallies = plans_of(run), list[LayerTally]()
    held: list[int] = []
    peak = 0
    for path in ledger.worker_paths():
        arrays = load_state(path)
        try:
            held += arrays["held"].tolist()
            peak = max(peak, int(arrays["peak_bytes"]))
            found = [LayerTally.restore(plan, under_prefix(f"layer{j}", arrays)) for j, plan in enumerate(plans)]
            for mine, other in zip(tallies or found, found, strict=True):
                if mine is not other:
                    mine.merge(other)
            tallies = tallies or found
        except (ValueError, KeyError) as error:
            raise damaged_state(path, error) from error
    if sorted(held) != list(range(run.n_shards)):
        wrong = [shard for shard in range(run.n_shards) if held.count(shard) != 1]
        which = name_shards(wrong, run.n_shards)
        raise IncompleteRun(f"{which}: not held by exactly one worker's state; extract again with --overwrite")
    top = [tally.top.read(tally.streams.values_of) for tally in tallies]
    return Recorded(tallies, top, np.concatenate(images), seconds, peak)


def peak_bytes() -> int:
    """The largest resident memory of this process so far.

    Linux keeps it for the program in execution; what `getrusage` tells may be that of the one which started this one.
    """
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
