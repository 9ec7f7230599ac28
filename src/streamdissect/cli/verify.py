"""Read every file of a run and compare it with what was written; leaves with 3 where one is damaged or missing."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OPTIONS = arguments.COMMON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..stages.upkeep import verify

    path = values.get("run", RUN)
    n_whole = verify(path, control=control)
    if values.get("json"):
        output.show_json({"run": path, "whole": n_whole})
    else:
        output.show(f"{path}: {n_whole} files, all whole")
    return 0
