"""Drop the activations of a scored run and keep its results; says what goes, and how much, first."""

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
    from ..stages.upkeep import clean, disposable

    path = values.get("run", RUN)
    found = disposable(path)
    for entry, size in found.items():
        output.note(f"removing {entry}, {size / 1e9:.3f} GB")
    clean(path)
    freed = sum(found.values())
    if values.get("json"):
        output.show_json({"run": path, "freed_bytes": freed})
    else:
        output.show(f"{path}: {freed / 1e9:.3f} GB freed; the results stay")
    return 0
