"""Rows of activations in the order in which images arrive, in one process or several, into whichever shards are free.

Whole shards are recorded as they fill up. What is left over when a process ends, less than a shard, lies in a file
beside the commits until nothing is missing; then the one that ended last puts all leftovers into the last shards. An
image that several processes brought counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..atomic import ASIDE
from ..errors import BadInput, IncompleteRun
from ..store.activations import empty_maps
from ..store.claims import Claims
from ..store.partials import Ledger, load_arrays, save_arrays, under_prefix, with_prefix
from ..store.rundir import RunDir
from .recording import Recorder, WorkerStates, layers_of, store_of

BLOCK = 1024
"""Images whose presence is kept in one integer."""
N_NAMED = 5
"""Missing images named in a message."""
AGAIN = "run the same loop again"
ANEW = "capture again with overwrite=True"
OVERLAP = f"give each image to one process (DistributedSampler does), and {ANEW}"


PRESENCE = "capturing"
"""Folder of the claims of those who are at work."""


class IndexSet:
    """A set of image indices, a bit for each."""

    def __init__(self, indices: Iterable[int] = ()) -> None:
        self._blocks: dict[int, int] = {}
        self._n = 0
        for index in indices:
            self.add(index)

    def __contains__(self, index: int) -> bool:
        return bool(self._blocks.get(index // BLOCK, 0) >> index % BLOCK & 1)

    def __len__(self) -> int:
        return self._n

    def add(self, index: int) -> None:
        """Put an index into it."""
        if index not in self:
            self._blocks[index // BLOCK] = self._blocks.get(index // BLOCK, 0) | 1 << index % BLOCK
            self._n += 1


class Arrivals:
    """Takes batches in any order and makes shards of them; a context that belongs to one process.

    Parameters
    ----------
    run : RunDir
        Of a capture.
    rank : (int, int), optional
        Which one of how many processes that capture into the run this is; none: the only one.

    Raises
    ------
    BadInput
        On entering, where another process is at work that should not be.
    """

    def __init__(self, run: RunDir, rank: tuple[int, int] | None) -> None:
        self.run, self._rank = run, rank
        self._ledger = run.ledger("extract")
        self._n_images = int(run.manifest["plan"]["n_images"])
        self._rows = len(run.rows(0))
        """In a whole shard."""
        self._stack, self._present = ExitStack(), ExitStack()
        self._buffer: dict[str, NDArray[Any]] = {}
        self._images: list[int] = []
        """Those of the rows in the buffer."""
        self._seconds = 0.0
        self._read: set[int] = set()
        """Shards whose commits were looked at, and those recorded here."""
        self._first_free = 0
        """All shards below are among them."""
        self.recorded = IndexSet()
        """Images that are in the run already, or lie in a file of leftovers."""

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            with self._stack, self._present:
                raise
        return self

    def _open(self) -> None:
        """Be seen at work, and learn what is there."""
        self._ledger.create()
        self._leftovers.mkdir(exist_ok=True)
        presence = self._ledger.folder / PRESENCE
        presence.mkdir(exist_ok=True)
        store_of(self.run).create()
        self._presence = self._present.enter_context(Claims(presence))
        if self._rank is not None:
            next(number for number in range(2**31) if self._presence.take(number))
            self._goodbye(self._rank[0]).unlink(missing_ok=True)
        elif not self._presence.take(0) or self._presence.living():
            got = f"{str(self.run.path)!r}, into which another process captures"
            remedy = "wait until it ends, or tell both that they share the run: shard=(rank, of how many)"
            raise BadInput("out", got, "a directory of its own", remedy)
        self._claims = self._stack.enter_context(Claims(self._ledger.claims_folder))
        self._states = WorkerStates(self._ledger)
        held = self._states.recover()
        self._recorder = Recorder(self.run, self._claims)
        if lost := [shard for shard in sorted(held) if not self._ledger.is_done(shard)]:
            raise IncompleteRun(f"{self._ledger.commit_path(lost[0])}: lost; {ANEW}")
        self._look_at_commits()
        for shard in sorted(self._read):
            commit = self._ledger.read(shard) or {"files": {}}
            for name, file in commit["files"].items():
                if damage := self._recorder.store.find_damage(name, shard, file, thorough=False):
                    raise IncompleteRun(f"{damage}; {ANEW}")
        for path in self._leftover_paths():
            for index in load_arrays(path, "images".__eq__)["images"].tolist():
                self.recorded.add(index)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack, self._present:
            try:
                self._recorder.flush()
            finally:
                if kind is not None or self._rank is not None:
                    self._save_leftover()
            self._present.close()
            if kind is not None:
                self._forget_goodbyes()
                return
            if self._rank is not None:
                self._goodbye(self._rank[0]).touch()
            self._finish()

    def add(self, images: Sequence[int], maps: Mapping[str, NDArray[Any]], seconds: float) -> None:
        """Rows of one batch: the dataset's index of each, activations (B, K, h, w) by layer, what they took.

        Raises
        ------
        BadInput
            A layer's activations are of another shape than at first.
        IncompleteRun
            All shards are taken: other processes brought the same images.
        """
        if not self._buffer:
            self._buffer = empty_maps(layers_of(self.run), self._rows)
        self._seconds += seconds
        done = 0
        while done < len(images):
            if len(self._images) == self._rows:  # not before another row comes: the last ones may be repeated elsewhere
                self._record_buffer()
            start = len(self._images)
            n = min(self._rows - start, len(images) - done)
            for name, buffer in self._buffer.items():
                if maps[name].shape[1:] != buffer.shape[1:]:
                    got, expected = maps[name].shape[1:], buffer.shape[1:]
                    raise BadInput(
                        f"layer {name}", f"activations {got}", f"{expected} as at first", "use one input size"
                    )
                buffer[start : start + n] = maps[name][done : done + n]
            self._images += images[done : done + n]
            done += n

    @property
    def _leftovers(self) -> Path:
        return self._ledger.folder / "leftover"

    def _leftover_paths(self) -> list[Path]:
        return sorted(path for path in self._leftovers.glob("*.npz") if ASIDE not in path.name)

    def _goodbye(self, rank: int) -> Path:
        """Says that a rank has ended its loop."""
        return self._leftovers / f"{rank}.ended"

    def _forget_goodbyes(self) -> None:
        for path in self._leftovers.glob("*.ended"):
            path.unlink(missing_ok=True)

    def _is_last(self, n_ranks: int) -> bool:
        """Whether nobody else is at work or still to come."""
        return not self._presence.living() and all(self._goodbye(rank).exists() for rank in range(n_ranks))

    def _look_at_commits(self) -> None:
        """Learn which images are recorded in commits that were not there before."""
        for shard in sorted(self._ledger.listed() - self._read):
            commit = self._ledger.read(shard)
            if commit is not None:
                self._read.add(shard)
                for index in commit["images"]:
                    self.recorded.add(index)

    def _record_buffer(self) -> None:
        """A whole shard into the run, unless other processes have recorded some of its images meanwhile."""
        if self._rank is not None:
            self._look_at_commits()
            fresh = [row for row, index in enumerate(self._images) if index not in self.recorded]
            if len(fresh) < self._rows:
                kept, self._images = [self._images[row] for row in fresh], []  # nothing, should it be interrupted here
                for buffer in self._buffer.values():
                    buffer[: len(fresh)] = buffer[fresh]
                self._images = kept
                return
        shard = next(filter(self._take, range(self._first_free, self.run.n_shards)), None)
        if shard is None:
            held = [number for number in self._claims.living() if number < self.run.n_shards]
            if held:
                raise IncompleteRun(f"capture: {self._claims.describe(held[0])} has shard {held[0]}; {AGAIN}")
            what = f"more than {self._n_images} images came, in several processes"
            raise IncompleteRun(f"capture: {what}; {OVERLAP}")
        while self._first_free in self._read:
            self._first_free += 1
        self._recorder.record(shard, self._buffer, self._images, {"forward": self._seconds})
        self._read.add(shard)
        for index in self._images:
            self.recorded.add(index)
        self._images, self._seconds = [], 0.0

    def _take(self, shard: int) -> bool:
        """Claim a shard of full length that nobody has recorded."""
        if shard in self._read or len(self.run.rows(shard)) < self._rows or not self._claims.take(shard):
            return False
        self._states.recover()  # who had it before may have died between its state and its commit
        if self._ledger.is_done(shard):
            self._claims.release(shard)
            return False
        return True

    def _save_leftover(self) -> None:
        """Rows that fill no shard, for whoever ends last."""
        if not self._images:
            return
        arrays = {"images": np.array(self._images, np.int64)}
        arrays |= with_prefix("maps", {name: buffer[: len(self._images)] for name, buffer in self._buffer.items()})
        save_arrays(self._leftovers / f"{self._claims.owner['token']}.npz", arrays)
        self._images = []

    def _finish(self) -> None:
        """Put all leftovers into the last shards, if nothing is missing and nobody else does."""
        committed = read_committed(self._ledger)
        found = IndexSet(index for images in committed.values() for index in images)
        if len(found) < sum(map(len, committed.values())):
            raise IncompleteRun(f"capture: {name_repeated(committed)}; {OVERLAP}")
        for path in self._leftover_paths():
            for index in load_arrays(path, "images".__eq__)["images"].tolist():
                found.add(index)
        for index in self._images:
            found.add(index)
        self.recorded = found
        if len(found) > self._n_images:
            got = f"{len(found)} different images came, {self._n_images} were announced"
            raise IncompleteRun(f"capture: {got}; {ANEW} and n_images of all processes together")
        if len(found) < self._n_images:
            self._save_leftover()
            if self._rank is None or self._is_last(self._rank[1]):
                self._forget_goodbyes()
                raise IncompleteRun(self._describe_missing())
        elif self._claims.take(self.run.n_shards):  # a number beside the shards': who fills them
            self._fill_shards(committed)
            self._claims.release(self.run.n_shards)

    def _describe_missing(self) -> str:
        """Which images have not come."""
        lacking = [index for index in range(self._n_images) if index not in self.recorded]
        named = ", ".join(map(str, lacking[:N_NAMED]))
        more = f" and {len(lacking) - N_NAMED} more" if len(lacking) > N_NAMED else ""
        which = f"; missing: {named}{more}" if len(lacking) + len(self.recorded) == self._n_images else ""
        return (
            f"capture: {len(self.recorded)} of {self._n_images} images came{which}; "
            f"what came is kept: run the same loop again, it goes on"
        )

    def _fill_shards(self, committed: Mapping[int, list[int]]) -> None:
        """Leftovers into the shards that are free, each image once."""
        placed = IndexSet(index for images in committed.values() for index in images)
        free = iter([shard for shard in range(self.run.n_shards) if shard not in committed])
        shard = next(free, -1)
        target = empty_maps(layers_of(self.run), self._rows)
        images: list[int] = []
        paths = self._leftover_paths()
        for index, row in self._iter_rows(paths):
            if index in placed:
                continue
            placed.add(index)
            for name, array in row.items():
                target[name][len(images)] = array
            images.append(index)
            rows = len(self.run.rows(shard))
            if len(images) == rows:
                if not self._claims.take(shard):
                    raise IncompleteRun(f"capture: {self._claims.describe(shard)} has shard {shard}; {AGAIN}")
                self._states.recover()
                if self._ledger.is_done(shard):
                    raise IncompleteRun(f"capture: shard {shard} was recorded by a process that died; {AGAIN}")
                self._recorder.record(shard, {name: array[:rows] for name, array in target.items()}, images, {})
                images, shard = [], next(free, -1)
        self._recorder.flush()
        self._forget_goodbyes()
        for path in paths:
            path.unlink(missing_ok=True)

    def _iter_rows(self, paths: Sequence[Path]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Images and activations (K, h, w) by layer: those in the buffer, then those in files."""
        for position, index in enumerate(self._images):
            yield index, {name: buffer[position] for name, buffer in self._buffer.items()}
        for path in paths:
            arrays = load_arrays(path)
            maps = under_prefix("maps", arrays)
            for position, index in enumerate(arrays["images"].tolist()):
                yield index, {name: array[position] for name, array in maps.items()}


def read_committed(ledger: Ledger) -> dict[int, list[int]]:
    """Images of every shard that is committed."""
    found = {}
    for shard in range(ledger.n_shards):
        commit = ledger.read(shard)
        if commit is not None:
            found[shard] = [int(index) for index in commit["images"]]
    return found


def name_repeated(committed: Mapping[int, list[int]]) -> str:
    """The first image that stands in two shards."""
    home: dict[int, int] = {}
    for shard, images in committed.items():
        for index in images:
            if index in home:
                return f"image {index} stands in shards {home[index]} and {shard}"
            home[index] = shard
    raise AssertionError("no image stands twice")
