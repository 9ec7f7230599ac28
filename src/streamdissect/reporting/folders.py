"""Folders that are replaced whole, and only where everything in them was written here."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from ..atomic import ASIDE, write_json
from ..errors import BadInput
from ..objects import require_local

MARKER = "made-by-streamdissect.json"
"""Tells what made a folder, and the names of all that it put there."""


def check_folder(folder: str | os.PathLike[str], maker: str, overwrite: bool) -> Path:
    """Where a folder really lies that `maker` is to write.

    Raises
    ------
    BadInput
        There is a file of that name; or the folder holds something that `maker` did not write, unless that may be
        overwritten; or it holds a run, or is one in which the caller works, which is never replaced.
    """
    require_local(folder, "--out", "a folder")
    place = Path(folder).resolve()
    if not place.exists():
        return place
    if not place.is_dir():
        raise BadInput("--out", f"{str(folder)!r}, a file", "a folder", "name another")
    if not any(place.iterdir()):
        return place
    here = Path.cwd().resolve()
    if place == here or place in here.parents:
        raise BadInput("--out", f"{str(folder)!r}, where this runs", "a folder of its own", "name another")
    if is_ours(place, maker):
        return place
    if not overwrite:
        remedy = "name another" if maker == "compare" else "name another; --overwrite replaces it with all it holds"
        expected = f"a new or empty folder, or one with nothing in it but what {maker} wrote"
        raise BadInput("--out", repr(str(folder)), expected, remedy)
    if run := next(place.rglob("run.json"), None):
        raise BadInput("--out", f"{str(folder)!r}, which holds the run {run.parent}", "no run in it", "name another")
    return place


def is_ours(folder: Path, maker: str) -> bool:
    """Whether everything at the top of a folder was put there by `maker`."""
    try:
        said = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return said["made_by"] == maker and {each.name for each in folder.iterdir()} <= {MARKER, *said["names"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def replacing_folder(folder: Path, maker: str) -> Iterator[Path]:
    """A folder to write to; on leaving without an exception it takes the place of one that `check_folder` gave.

    What was there is kept until the new one stands in its place.
    """
    token = secrets.token_hex(4)
    aside, before = (folder.with_name(f"{folder.name}{ASIDE}{token}{end}") for end in ("", "-before"))
    aside.mkdir(parents=True)
    try:
        yield aside
        write_json(aside / MARKER, {"made_by": maker, "names": sorted(each.name for each in aside.iterdir())})
        if folder.exists():
            os.rename(folder, before)
        try:
            os.rename(aside, folder)
        except BaseException:
            if before.exists():
                os.rename(before, folder)
            raise
    except BaseException:
        rmtree(aside, ignore_errors=True)
        raise
    rmtree(before, ignore_errors=True)
