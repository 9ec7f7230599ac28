"""Pages that show what units detect and where, in a folder that opens by a double click."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OPTIONS = (
    arguments.DATA,
    arguments.LABELS,
    arguments.Option("--name", "the scoring kept under this name", metavar="NAME"),
    arguments.Option("--out", "the folder [RUN/report]", metavar="DIR"),
    arguments.Option(
        "--images",
        "top images of a unit, fewer where they are too many [10]",
        arguments.whole("--images", 1),
        metavar="N",
    ),
    arguments.Option("--figures", "write the charts as PDF and PNG too, for a paper", metavar="DIR"),
    *arguments.RESOURCES,
    *arguments.COMMON,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a scored run [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..reporting.choices import ReportOptions
    from ..reporting.writing import report

    aside = {"config", "json", "debug", "run", "data", "labels", "out", "figures"}
    options = ReportOptions(**{key: value for key, value in values.items() if key not in aside})
    what = {key: values.get(key) for key in ("data", "labels", "out", "figures")}
    made = report(values.get("run", RUN), options=options, control=control, **what)
    if values.get("json"):
        output.show_json(
            {"path": str(made.path), "pages": made.pages, "bytes": made.bytes, "seconds": round(made.seconds, 3)}
        )
        return 0
    output.show(f"{made.pages} pages, {made.bytes / 1e6:.1f} MB, {made.seconds:.1f} s; open: {made.path}")
    return 0
