"""Write labelled scenes as a Broden directory, with facts.json, which tells what is planted in them."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OPTIONS = (
    arguments.Option("--images", "how many [256]", arguments.whole("--images", 1), metavar="N"),
    arguments.Option("--seed", "of the scenes [0]", arguments.whole("--seed"), metavar="N"),
    arguments.Option("--size", "rows and columns of an image, even [112]", arguments.whole("--size", 32), metavar="N"),
    *arguments.COMMON,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="a new or empty directory")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..stages.synth import synth

    given = {name: values[key] for key, name in (("images", "n"), ("seed", "seed"), ("size", "size")) if key in values}
    made = synth(values["out"], **given)
    if values.get("json"):
        output.show_json({"data": str(made), "facts": str(made / "facts.json")})
    else:
        output.show(f"{made}: images, labels, tables and facts.json; use it as --data {made}")
    return 0
