"""Scored runs side by side: checkpoints, layers, seeds; what they detect, and which concepts are gained and lost.

Each word is GROUP=RUN,RUN,... (say, the seeds of one kind of network) or a RUN, which is a group of its own; RUN@LAYER
is one layer of a run. Every group is compared with the first. The runs must have been scored by the same rules on the
same images.
An example: streamdissect compare plain=run-0,run-1,run-2 grouped=run-3,run-4,run-5
"""

from __future__ import annotations

import argparse
from typing import Any

from ..alignmentoptions import as_names
from . import arguments, output

OPTIONS = (
    arguments.Option("--layers", "names or globs of the runs' layers [all]", metavar="NAME", words=-1),
    arguments.Option("--name", "the scoring of that name in every run [the main one]", metavar="NAME"),
    arguments.Option("--out", "folder of the page and the tables [./compare]", metavar="OUT"),
    *arguments.COMMON,
)
HEAD = ["group", "layer", "runs", "units", "detectors", "unique: top", "by category", "any", "mean best IoU"]
SHOWN = ("detectors", "unique_top", "unique_by_category", "unique_any", "mean_best_iou")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="[GROUP=]RUN", help="runs, by groups; RUN@LAYER for one layer")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..measure.comparison import spread_text
    from ..reporting.comparison import compare
    from ..store.comparison import comparison_to_json

    out = values.get("out", "compare")
    layers = as_names(values.get("layers", ""))
    found = compare(values.get("words", []), layers=layers, name=values.get("name"), out=out, control=control)
    if values.get("json"):
        output.show_json({"out": out, **comparison_to_json(found)})
        return 0
    rows = [
        [row.group, row.layer, str(len(row.members)), row.units, *(spread_text(row.spread(name)) for name in SHOWN)]
        for row in found.rows
    ]
    output.show_table([HEAD, *rows])
    changes = found.concepts()
    for base, row in found.pairs():
        of = [
            each for each in changes if (each.group, each.layer, each.base_layer) == (row.group, row.layer, base.layer)
        ]
        for change in ("gained", "lost"):
            names = ", ".join(each.concept for each in of if each.change == change)
            output.show(f"{row.group} {row.layer}, {change} against {base.group}: {names or 'none'}")
    for note in found.notes:
        output.note(note)
    output.show(f"page: {out}/index.html; tables: {out}/compare.csv, runs.csv, differences.csv, concepts.csv")
    return 0
