"""What a stage has finished: tallies as files, and a commit for each shard, written last."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import ASIDE, describe_file, replacing, write_json
from ..errors import IncompleteRun
from ..tally import Arrays

TRIES = 20
"""To read an object that its owner goes on replacing."""


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Save arrays as .npz; returns what a commit says of the file.

    It goes to the disk as it is made: in memory, a state of many units would be there three times.
    """
    with replacing(path) as aside:
        with open(aside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return describe_file(aside)


def load_arrays(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Arrays:
    """Load what `save_arrays` saved, or the arrays of some names.

    IncompleteRun where the file is missing or damaged; never runs code.
    """
    for _ in range(TRIES - 1):
        try:
            return read_arrays(path, is_wanted)
        except IncompleteRun as error:
            if not was_replaced(error):
                raise
    return read_arrays(path, is_wanted)


def was_replaced(error: BaseException | None) -> bool:
    """Whether it failed because an object, unlike a file that is open, was replaced while it was read."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ESTALE:
            return True
        error = error.__context__  # zipfile makes a damaged file of it
    return False


def read_arrays(path: Path, is_wanted: Callable[[str], bool]) -> Arrays:
    """As `load_arrays`, by one try."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {name: file[name] for name in file if is_wanted(name)}
    except FileNotFoundError as error:
        raise IncompleteRun(f"{path}: the file is missing; run the same command again") from error
    except Exception as error:  # zipfile, zlib and the parser of array headers raise about anything on damaged bytes
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ESTALE):
            raise
        reason = "no .npz file" if "allow_pickle" in str(error) else error  # NumPy's advice is to trust it
        raise IncompleteRun(f"{path}: damaged ({reason}); delete it, then run the same command again") from error


def with_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Arrays of one tally under names of their own."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def under_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Inverse of `with_prefix`."""
    start = f"{prefix}/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}


class Ledger:
    """The commits of one stage: `partial/STAGE/SHARD.json`.

    Parameters
    ----------
    folder : Path
        `partial/STAGE`.
    n_shards : int
        Of the run.
    """

    def __init__(self, folder: Path, n_shards: int) -> None:
        self.folder, self.n_shards = folder, n_shards

    def create(self) -> None:
        """Make the folders."""
        for name in ("claims", "workers"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def claims_folder(self) -> Path:
        return self.folder / "claims"

    def commit_path(self, shard: int) -> Path:
        """Where a shard's commit lies."""
        return self.folder / f"{shard:06d}.json"

    def data_path(self, shard: int) -> Path:
        """Where a shard's tallies lie."""
        return self.folder / f"{shard:06d}.npz"

    def worker_path(self, token: str) -> Path:
        """Where a worker's cumulative tallies lie."""
        return self.folder / "workers" / f"{token}.npz"

    def worker_paths(self) -> list[Path]:
        """The cumulative tallies of all workers."""
        return sorted(path for path in (self.folder / "workers").glob("*.npz") if ASIDE not in path.name)

    def commit(self, shard: int, content: dict[str, Any]) -> None:
        """Declare a shard finished."""
        write_json(self.commit_path(shard), {"shard": shard, **content})

    def read(self, shard: int) -> dict[str, Any] | None:
        """A shard's commit; None where it is not finished. IncompleteRun where the file is damaged."""
        path = self.commit_path(shard)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise IncompleteRun(f"{path}: no JSON; delete it, then run the same command again") from error
        if not isinstance(content, dict) or content.get("shard") != shard:
            raise IncompleteRun(f"{path}: no commit of shard {shard}; delete it, then run the same command again")
        return content

    def is_done(self, shard: int) -> bool:
        """Whether a shard is committed, and its tallies, where it has some of its own, are there."""
        commit = self.read(shard)
        if commit is None:
            return False
        if "file" not in commit:
            return True
        try:
            return bool(self.data_path(shard).stat().st_size == commit["file"]["bytes"])
        except FileNotFoundError:
            return False

    def listed(self) -> set[int]:
        """Shards whose commits a look at the folder finds."""
        names = (path.stem for path in self.folder.glob("[0-9]*.json") if ASIDE not in path.name)
        return {int(name) for name in names if name.isdigit()}

    def missing(self) -> list[int]:
        """Shards that are not committed."""
        return [shard for shard in range(self.n_shards) if not self.is_done(shard)]

    def require_complete(self) -> None:
        """IncompleteRun naming the shards that are not finished."""
        if missing := self.missing():
            which = name_shards(missing, self.n_shards)
            stage = self.folder.name
            raise IncompleteRun(f"{stage}: {which} not finished; run the same {stage.partition('-')[0]} again")

    def load(self, shard: int, prefix: str) -> Arrays:
        """Arrays of a shard's file that `with_prefix` put under a prefix."""
        return under_prefix(prefix, load_arrays(self.data_path(shard), lambda name: name.startswith(f"{prefix}/")))

    def commits(self) -> Iterator[dict[str, Any]]:
        """Every commit, by shard. IncompleteRun naming those that are missing."""
        self.require_complete()
        for shard in range(self.n_shards):
            content = self.read(shard)
            assert content is not None
            yield content


def name_shards(shards: list[int], n_shards: int) -> str:
    """`shards 0, 3, 4 of 8`, the first ten of many."""
    listed = ", ".join(map(str, shards[:10])) + (f" and {len(shards) - 10} more" if len(shards) > 10 else "")
    return f"shard{'s' if len(shards) > 1 else ''} {listed} of {n_shards}"
