"""Versions and kernels in use; with RUN, what is in a run and how far it got."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

from . import arguments, output

OPTIONS = arguments.COMMON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    if "run" in values:
        from ..stages.upkeep import info

        facts = info(values["run"])
    else:
        from .. import __version__
        from ..kernels import available_backends, build_info
        from ..options import cpu_count, default_memory

        facts = {
            "streamdissect": __version__,
            "python": platform.python_version(),
            "kernels": build_info(),
            "backends": available_backends(),
            "threads": cpu_count(),
            "memory": f"{default_memory() / (1 << 30):.1f} GiB",
        }
    if values.get("json"):
        output.show_json(facts)
        return 0
    if scorings := facts.get("scorings"):
        facts["scorings"] = [{"name": name, **state} for name, state in scorings.items()]
    for key, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            output.show(f"{key}:")
            for row in value:
                output.show("  " + ", ".join(f"{k} {plain(v)}" for k, v in row.items()))
        else:
            output.show(f"{key}: {plain(value)}")
    return 0


def plain(value: Any) -> str:
    """A value without the signs of JSON where it can do without."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        is_grid = len(value) == 2 and all(isinstance(each, int) for each in value)
        return ("x" if is_grid else ", ").join(map(plain, value)) or "none"
    if value is None or value == "":
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
