"""List the layers of a model that can be dissected, with the shapes of their outputs and their field maps."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import BadInput
from . import arguments, output

OPTIONS = (*arguments.MODEL, arguments.DATA, arguments.INPUT_SIZE, *arguments.COMMON)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    if "model" not in values:
        raise BadInput("--model", "nothing", "a model", "give --model package.module:callable, or --model shipped")
    from ..stages.listing import layers

    rows = layers(
        values["model"],
        values.get("weights"),
        values.get("data"),
        values.get("input_size"),
        values.get("trust_model", False),
    )
    if values.get("json"):
        output.show_json({"layers": rows})
        return 0
    head = ["layer", "module", "output", "field (offset,size,step)"]
    lines = [
        [row["layer"], row["module"], " x ".join(map(str, row["shape"])), row["field"] or "unknown"] for row in rows
    ]
    output.show_table([head, *lines])
    return 0
