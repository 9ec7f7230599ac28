"""Extract, score and report with the defaults: the network that comes with the package on built-in scenes."""

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
    from ..reporting.demo import demo

    out = values.get("out", "demo")
    stands = (f"extract --out {out}", f"score {out}", f"report {out}")
    output.note("demo stands for:" + "".join(f"\n  streamdissect {words}" for words in stands))
    given = {key: values[key] for key in ("threads", "memory", "overwrite") if key in values}
    result = demo(out, options=ExtractOptions(shard=None, **given), control=control)
    output.show_scored(result, out, None, bool(values.get("json")))
    if not values.get("json"):
        output.show(f"report: {out}/report/index.html")
    return 0
