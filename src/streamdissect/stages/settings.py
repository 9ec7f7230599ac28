"""What a scoring's result depends on: read from the options, kept beside its partials, compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..atomic import create_json, remove_tree
from ..data.labellers import Labeller
from ..errors import BadInput, IncompleteRun
from ..options import ScoreOptions, parse_mask_size
from ..store.rundir import RunDir, stage_of
from .shards import require_alone

SETTINGS_FILE = "settings.json"
PLAIN_SETTINGS = ("approximate", "union", "mask_test", "multiplicity", "unlabelled")


def scored_tail(run: RunDir, options: ScoreOptions) -> Fraction:
    """The tail asked for, else the first that was extracted."""
    return options.tail or Fraction(run.manifest["identity"]["tails"][0])


def options_to_settings(options: ScoreOptions, tail: Fraction, labellers: Sequence[Labeller]) -> dict[str, Any]:
    """What a scoring's result depends on, ready for JSON."""
    size = options.mask_size
    return {
        "labels": [labeller.identity for labeller in labellers],
        "tail": str(tail),
        "iou": str(options.iou),
        "upsample": options.upsample or "auto",
        "mask_size": size if isinstance(size, str) else f"{size[0]}x{size[1]}",
        **{name: getattr(options, name) for name in PLAIN_SETTINGS},
    }


def settings_to_options(settings: dict[str, Any], options: ScoreOptions) -> ScoreOptions:
    """Options with the settings a scoring was made with."""
    return replace(
        options,
        tail=Fraction(settings["tail"]),
        iou=Fraction(settings["iou"]),
        upsample=None if settings["upsample"] == "auto" else settings["upsample"],
        mask_size=parse_mask_size(settings["mask_size"]),
        **{name: settings[name] for name in PLAIN_SETTINGS},
    )


def saved_settings(run: RunDir, name: str | None) -> dict[str, Any] | None:
    """Settings of a scoring that was begun, or None."""
    file = run.ledger(stage_of(name)).folder / SETTINGS_FILE
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IncompleteRun(f"{file}: no JSON; score again with --overwrite") from error
    return found


def check_name(name: str | None) -> None:
    """A scoring's name is a plain file name."""
    if name is not None and (not name or name.startswith(".") or not all(c.isalnum() or c in "._-" for c in name)):
        raise BadInput("--name", repr(name), "letters, digits, dots, dashes and underscores", "choose another")


def check_upsampling(run: RunDir, mode: str | None) -> None:
    """`rf` by name needs every layer's field map."""
    if mode == "rf":
        for layer in run.manifest["layers"]:
            if layer["field"] is None:
                name = layer["array"]["name"]
                raise BadInput(
                    "--upsample", "'rf'", f"a known field map of layer {name}", "leave it out: half_pixel serves"
                )


def check_approximate(run: RunDir, options: ScoreOptions) -> None:
    """`approximate` is for thresholds that were sketched."""
    made = run.manifest["identity"]["thresholds"]
    if options.approximate and made != "sketch":
        got = f"a run extracted with --thresholds {made}"
        raise BadInput("--approximate", got, "one with --thresholds sketch", "leave it out: they are exact already")


def keep_settings(run: RunDir, options: ScoreOptions, settings: dict[str, Any]) -> None:
    """Write the settings of a scoring once, or check that they are the same."""
    folder, results = run.ledger(stage_of(options.name)).folder, run.results_path(options.name)
    if options.overwrite:
        require_alone([folder / "claims"], options.shard)
        forget_scoring(folder, results)
        remove_tree(run.planes_path)  # whoever starts anew may have changed labels in ways that no fingerprint shows
    run.ledger(stage_of(options.name)).create()
    if create_json(folder / SETTINGS_FILE, settings):
        return
    compare_settings(saved_settings(run, options.name) or {}, settings)


def compare_settings(made: dict[str, Any], settings: dict[str, Any]) -> None:
    """BadInput naming the first setting in which a scoring differs from what was asked for."""
    for key, value in settings.items():
        if made.get(key) != value:
            raise BadInput(
                "labels of the data (digest)" if key == "data" else f"--{key.replace('_', '-')}",
                show_setting(key, value),
                f"{show_setting(key, made.get(key))}, as this run was scored",
                "give another --name to keep both, or --overwrite",
            )


def show_setting(key: str, value: Any) -> str:
    """A setting in a message; labellers as they are named, with their digests."""
    if key == "labels":
        return ", ".join(f"{spec} ({digest})" for spec, digest in value or ()) or "none"
    return repr(value[:8] + "..." if key == "data" and value else value)


def forget_scoring(folder: Path, results: Path) -> None:
    """Remove a scoring: at no moment could half of it be taken for whole, or its counters for those of another."""
    (results / "summary.json").unlink(missing_ok=True)
    remove_tree(folder)
    remove_tree(results / "tables")
    (results / "dissection.h5").unlink(missing_ok=True)
