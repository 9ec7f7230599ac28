"""Join the partial results of many workers; safe to repeat. Leaves with 3 and names what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OPTIONS = (
    arguments.DATA,
    next(option for option in arguments.SCORE if option.flag == "--name"),
    *arguments.RESOURCES[:2],
    *arguments.COMMON,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN, ScoreOptions
    from ..stages.merge import merge

    options = ScoreOptions(**{key: values[key] for key in ("name", "threads", "memory") if key in values})
    result = merge(values.get("run", RUN), data=values.get("data"), options=options, control=control)
    output.show_scored(result, values.get("run", RUN), options.name, bool(values.get("json")))
    return 0
