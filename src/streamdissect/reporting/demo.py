"""The shipped network on the built-in scenes, dissected and shown."""

from __future__ import annotations

import os

from ..measure.dissection import Dissection
from ..options import ExtractOptions, ScoreOptions
from ..stages.control import Control
from ..stages.extract import extract
from ..stages.score import score
from .choices import ReportOptions
from .writing import report


def demo(
    out: str | os.PathLike[str] = "demo", *, options: ExtractOptions | None = None, control: Control | None = None
) -> Dissection:
    """Extract and score with the defaults, and write the report.

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
        As `extract`, `score` and `report`.
    """
    options = options or ExtractOptions()
    run = extract(out=out, options=options, control=control)
    common = ScoreOptions(**{name: getattr(options, name) for name in ("threads", "memory", "overwrite", "shard")})
    result = score(run, options=common, control=control)
    assert result is not None, "one process does all shards"
    report(run, options=ReportOptions(threads=options.threads, memory=options.memory), control=control)
    return result
