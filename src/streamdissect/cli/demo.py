"""Extract and score with the defaults: the network that comes with the package on built-in scenes."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OPTIONS = (*arguments.RESOURCES, *arguments.COMMON)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", nargs="?", metavar="OUT", help="the run [./demo]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import ExtractOptions
    from ..stages.demo import demo

    out = values.get("out", "demo")
    output.note(f"demo stands for:\n  streamdissect extract --out {out}\n  streamdissect score {out}")
    given = {key: values[key] for key in ("threads", "memory", "overwrite") if key in values}
    result = demo(out, options=ExtractOptions(**given), control=control)
    output.show_scored(result, out, None, bool(values.get("json")))
    return 0
