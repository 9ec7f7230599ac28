"""The shipped network on the built-in scenes; built-in scenes as a Broden directory."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.broden_writer import write_broden
from ..data.synthetic import SyntheticScenes
from ..measure.dissection import Dissection
from ..options import ExtractOptions, ScoreOptions
from .control import Control
from .extract import extract
from .score import score


def demo(
    out: str | os.PathLike[str] = "demo", *, options: ExtractOptions | None = None, control: Control | None = None
) -> Dissection:
    """Extract and score with the defaults.

    Parameters
    ----------
    out : path
        The run.
    options : ExtractOptions, optional
    control : Control, optional

    Returns
    -------
    Dissection

    Raises
    ------
    BadInput, IncompleteRun, Stopped
        As `extract` and `score`.
    """
    options = options or ExtractOptions()
    run = extract(out=out, options=options, control=control)
    common = ScoreOptions(threads=options.threads, memory=options.memory, overwrite=options.overwrite)
    result = score(run, options=common, control=control)
    assert result is not None, "one process does all shards"
    return result


def synth(out: str | os.PathLike[str], n: int = 256, seed: int = 0, size: int = 112) -> Path:
    """Write built-in scenes as a Broden directory, with `facts.json`, which tells what is planted in them.

    Parameters
    ----------
    out : path
        New or empty.
    n, seed, size : int
        See `SyntheticScenes`.

    Returns
    -------
    Path
        Of the directory.

    Raises
    ------
    BadInput
        A number is out of range, or the directory holds something.
    StorageFailure
        A file cannot be written.
    """
    write_broden(SyntheticScenes(n, seed, size), out)
    return Path(out)
