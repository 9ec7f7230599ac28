"""Versions and kernels in use; with RUN, what is in a run and how far it got; with --unit, what a unit is like."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from . import arguments, output

UNIT = arguments.Option("--unit", "one unit of a scored run: its concepts and its activations", metavar="LAYER:UNIT")
OPTIONS = (UNIT, *arguments.COMMON)
N_IMAGES, DECADES = 3, (0.1, 0.01, 1e-3, 1e-4, 1e-5)
LEAST = 1e-6
"""Share that has no bar any more."""
BLOCKS = ("\N{FULL BLOCK}", "\N{LIGHT SHADE}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    if "run" in values or "unit" in values:
        from ..options import RUN
        from ..stages.upkeep import info

        facts = info(values.get("run") or os.environ.get("STREAMDISSECT_RUN", RUN), values.get("unit"))
    else:
        from .. import __version__
        from ..granted import cpu_count, default_memory
        from ..kernels import available_backends, build_info

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
    if "unit" in values:
        show_unit(facts)
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


def show_unit(facts: dict[str, Any]) -> None:
    """A unit on a page."""
    best = facts["best"]
    title = f"{best[0]['concept']} ({best[0]['category']}), IoU {best[0]['iou']:.3f}" if best else "no concept"
    scoring = "" if facts["scoring"] == "(main)" else f" [scoring {facts['scoring']}]"
    output.show(f"{facts['layer']}:{facts['unit']}  {title}{', a detector' if facts['detector'] else ''}{scoring}")
    for other in best[1:]:
        output.show(f"  then {other['concept']} ({other['category']}), IoU {other['iou']:.3f}")
    flags = f"; {', '.join(facts['flags'])}" if facts["flags"] else ""
    output.show(
        f"  threshold {facts['threshold']:.5g} at tail {facts['tail']}: "
        f"{facts['n_above']:,} of {facts['n']:,} activations above{flags}"
    )
    if facts["top_images"]:
        output.show(f"  top images: {', '.join(facts['top_images'][:N_IMAGES])}")
    found = facts["distribution"]
    if found is None:
        output.show("  no distribution: extracted with --distributions none")
        return
    ends = f"from {found['vmin']:.4g} to {found['vmax']:.4g}, "
    output.show(f"  {ends}mean {found['mean']:.4g}, standard deviation {found['std']:.4g}")
    if found["bins"]:
        output.show("")
        for line in draw_distribution(found, facts["threshold"]):
            output.show(line)
    output.show("")
    shown = [[share, value] for share, value in found["tail"] if share in DECADES]
    output.show("  share above   " + "".join(f"{share:>9.2g}" for share, _ in shown))
    output.show("  value         " + "".join(f"{value:>9.4g}" for _, value in shown))
    if found["quantile_error"]:
        output.show(f"  shares outside the far tail are sketched, to {100 * found['quantile_error']:.2g} %")


def draw_distribution(found: dict[str, Any], threshold: float) -> Iterator[str]:
    """Shares of the activations by size, bars by their logarithms, what lies above the threshold in a lighter ink."""
    solid, light = inks()
    yield "  activation share"
    if found["zero_share"]:
        yield bar("zero", found["zero_share"], solid if threshold >= 0 else light)
    for low, high, share in found["bins"]:
        yield bar(f"{low:.4g}", share, solid if high <= threshold else light)
    yield f"  {'':>10} {light} above the threshold; bars by logarithm, none below one in a million"


def inks() -> tuple[str, str]:
    """Block elements, or what a terminal that cannot show them can."""
    try:
        "".join(BLOCKS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#", "."
    return BLOCKS


def bar(label: str, share: float, ink: str) -> str:
    """One row."""
    width = max(10, min(48, shutil.get_terminal_size().columns - 24))
    length = round(width * (1 - math.log(max(share, LEAST)) / math.log(LEAST)))
    return f"  {label:>10} {ink * length}{' ' if length else ''}{100 * share:.3g} %".rstrip()
