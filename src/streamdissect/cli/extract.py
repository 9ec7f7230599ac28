"""Run a network over a labelled image set and store the activations of its layers, their thresholds and top images.

Without --model, --data and --layers it dissects the network that comes with the package, on built-in scenes.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import BadInput
from . import arguments, output
from .allocator import keep_freed_memory

OPTIONS = (*arguments.EXTRACT, *arguments.RESOURCES, *arguments.COMMON)
WHAT = ("model", "weights", "data", "layers", "out", "labels")
NAMES = {"tail": "tails"}
NOT_STORED = "no activations stored: score runs the network again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_options(parser, OPTIONS)


def split_values(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is extracted, and how: arguments of `extract`, fields of ExtractOptions."""
    what: dict[str, Any] = {key: values[key] for key in WHAT if key in values}
    aside = {"config", "json", "debug", "dry_run", "profile", *what}
    how = {NAMES.get(key, key): value for key, value in values.items() if key not in aside}
    if "limit" in how:
        how["limit"], how["is_first"] = how["limit"]
    missing = [f"--{key}" for key in ("model", "data", "layers") if key not in what]
    is_bare = len(missing) == 3 and "config" not in values and what.get("weights") in (None, "random")
    if missing and not is_bare:
        remedy = "give all three, or none of them and no --config for the network that comes with the package"
        if missing == ["--layers"]:
            remedy = "name some; streamdissect layers lists them"
        raise BadInput("options", f"no {' and no '.join(missing)}", "--model, --data and --layers together", remedy)
    return what, how


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    what, how = split_values(values)
    from ..options import RUN, SHIPPED_DATA, SHIPPED_LAYERS, SHIPPED_MODEL, ExtractOptions
    from ..stages import extract as stage
    from ..stages.upkeep import info

    options = ExtractOptions(**how)
    keep_freed_memory()
    model = what.get("model", SHIPPED_MODEL)
    if model != SHIPPED_MODEL and not model.endswith(".pt2") and "weights" not in what:
        output.note("extract: no --weights: the network is as its callable returns it, perhaps untrained")
    if "model" not in what:
        output.note(
            f"extract: the network that comes with the package, layers {', '.join(SHIPPED_LAYERS)}, on its scenes"
        )
        what = {"model": SHIPPED_MODEL, "data": SHIPPED_DATA, "layers": SHIPPED_LAYERS, **what}
    out = what.setdefault("out", RUN)
    if values.get("dry_run"):
        del what["out"]
        plan = stage.plan_extract(**what, options=options, control=control)
        output.show_json(plan.to_json()) if values.get("json") else output.show(plan.describe())
        return 0
    made = stage.extract(**what, options=options, control=control)
    facts = info(made.path)
    if values.get("json"):
        output.show_json(facts)
        return 0
    done, of = facts["shards_done"], facts["shards"]
    size = NOT_STORED if facts["spill"] == "none" else f"{facts['activation_bytes'] / 1e6:.1f} MB of activations"
    if facts["kept_share"] is not None:
        size += f", {100 * facts['kept_share']:.0f} % of the maps: those that may exceed a threshold"
    state = "done" if done == of else f"{done} of {of} shards done, the others belong to other workers"
    output.show(f"{out}: {facts['images']} images, {len(facts['layers'])} layers, {size}; {state}")
    if done == of:
        output.show(f"next: streamdissect score {out}")
    return 0
