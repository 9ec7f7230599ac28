"""Where a run may be made."""

from __future__ import annotations

import os

from ..errors import BadInput
from ..objects import place
from ..store.rundir import RunDir, size_of
from .control import Control
from .shards import require_alone


def refuse_other_content(out: str | os.PathLike[str]) -> None:
    """BadInput unless a run can be made here: in a new or empty directory, or one where another worker just made it."""
    path = place(out)
    if not path.exists():
        return
    # run.json may lie aside, where another worker is about to create it or was killed over it
    is_other = not path.is_dir() or any(not each.name.startswith("run.json") for each in path.iterdir())
    if is_other and not RunDir.exists(out):
        raise BadInput("--out", repr(os.fspath(out)), "a run, or a new or empty directory", "choose another --out")


def remove_run(out: str | os.PathLike[str], shard: tuple[int, int] | None, control: Control) -> None:
    """Make room for a run: remove the one that is there, of whatever format, after saying how much goes."""
    path = place(out)
    require_alone((path / "partial").glob("*/claims"), shard)
    if not RunDir.exists(out):
        refuse_other_content(out)
        return
    control.say(f"removing the run at {out}, {size_of(path) / 1e9:.3f} GB")
    RunDir.remove(path)
