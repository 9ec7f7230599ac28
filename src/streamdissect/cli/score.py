"""Thresholds, IoU counters and tables from the activations that `extract` stored."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from . import arguments, output

OPTIONS = (*arguments.SCORE, *arguments.RESOURCES, *arguments.COMMON)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN, ScoreOptions
    from ..stages.audit import audit
    from ..stages.score import score
    from ..store.rundir import RunDir

    network: dict[str, Any] = {name: values[name] for name in ("model", "weights", "trust_model") if name in values}
    aside = {"config", "json", "debug", "profile", "run", "data", "labels", "audit", *network}
    if values.get("backend") != "torch" and values.get("device") == os.environ.get("STREAMDISSECT_DEVICE"):
        aside.add("device")  # the variable is meant for extract as well
    options = ScoreOptions(**{key: value for key, value in values.items() if key not in aside})
    path = values.get("run", RUN)
    if values.get("audit") and str(values.get("blocks")) == os.environ.get("STREAMDISSECT_BLOCKS"):
        options = replace(options, blocks=None)
    if RunDir.exists(path) and RunDir(path).is_spilled:
        network = {name: given for name, given in network.items() if not is_from_environment(name, given)}
    given: dict[str, Any] = {"labels": values.get("labels"), "options": options, "control": control, **network}
    rows = audit(path, values.get("data"), **given) if values.get("audit") else None
    if rows is not None:
        output.show_audit(rows, path, options.name, bool(values.get("json")))
        return 0
    result = None if values.get("audit") else score(path, values.get("data"), **given)
    if result is None:
        output.note(f"{path}: this worker's shards are counted; the worker that ends last writes the result")
        if values.get("json"):
            output.show_json({"run": path, "finished": False})
        return 0
    output.show_scored(result, path, options.name, bool(values.get("json")))
    return 0


def is_from_environment(name: str, value: Any) -> bool:
    """Whether an option's value may be that of its variable, which is then meant for extract."""
    variable = os.environ.get(f"STREAMDISSECT_{name.upper()}")
    return variable is not None and (value is True or str(value) == variable)
