"""What a scoring's result depends on: read from the options, kept beside its partials, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..atomic import ASIDE, create_json, remove_tree
from ..data.labellers import Labeller
from ..errors import BadInput, IncompleteRun
from ..options import ScoreOptions, parse_mask_size
from ..store.partials import Ledger
from ..store.rundir import RunDir, stage_of
from ..store.tables import AUDIT_TABLE
from .blocks import digest_column
from .directionfiles import directions_to_setting, setting_to_fields
from .shards import require_alone

SETTINGS_FILE = "settings.json"
PLAIN_SETTINGS = ("approximate", "union", "mask_test", "multiplicity", "unlabelled")
BESIDE_SETTINGS = {"blocks": None, "block_by": None, "keep_masks": False}
"""What is kept beside the results, and what a scoring made without a word of it kept."""
SCORED = "scored: "
"""Before the names of those that a perturbation rests on, among its own."""
DIGESTS = {"data": "labels of the data (digest)", "block_table": "table of --block-by (digest)"}
"""Settings that are digests, and what of."""
AUDITED = ("tail", "upsample", "union", *BESIDE_SETTINGS)
"""Settings that an audit goes through, or has none of."""


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
        "blocks": options.blocks,
        "block_by": options.block_by if options.blocks else None,
        **({"block_table": table} if options.blocks and (table := digest_column(options.block_by)) else {}),
        "keep_masks": options.keep_masks,
        "directions": directions_to_setting(options),
    }


def settings_to_options(settings: dict[str, Any], options: ScoreOptions) -> ScoreOptions:
    """Options with the settings a scoring was made with."""
    beside = {name: settings.get(name, default) for name, default in BESIDE_SETTINGS.items()}
    return replace(
        options,
        **beside | {"block_by": beside["block_by"] or "name"},
        **setting_to_fields(settings.get("directions")),
        tail=Fraction(settings["tail"]),
        iou=Fraction(settings["iou"]),
        upsample=None if settings["upsample"] == "auto" else settings["upsample"],
        mask_size=parse_mask_size(settings["mask_size"]),
        **{name: settings[name] for name in PLAIN_SETTINGS},
    )


def saved_settings(run: RunDir, name: str | None) -> dict[str, Any] | None:
    """Settings of a scoring that was begun, or None."""
    return settings_in(run.ledger(stage_of(name)))


def settings_in(ledger: Ledger) -> dict[str, Any] | None:
    """Settings beside the partials of a stage, or None."""
    file = ledger.folder / SETTINGS_FILE
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IncompleteRun(f"{file}: no JSON; score again with --overwrite") from error
    return found


def stage_of_audit(name: str | None) -> str:
    """The stage of an audit."""
    return "audit" if name is None else f"audit-{name}"


def audits(run: RunDir) -> list[str | None]:
    """Names of the audits that were begun; None is the main one."""
    stages = sorted(path.name for path in (run.path / "partial").glob("audit*") if ASIDE not in path.name)
    return [stage.partition("-")[2] or None for stage in stages]


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
    keep_in(run, run.ledger(stage_of(options.name)), options, settings, forget_scoring)


def keep_in(
    run: RunDir,
    ledger: Ledger,
    options: ScoreOptions,
    settings: dict[str, Any],
    forget: Callable[[Path, Path], None],
) -> None:
    """As `keep_settings`, of a stage; `forget` removes what one made anew replaces, given its partials and results."""
    if options.overwrite:
        require_alone([ledger.claims_folder], options.shard)
        forget(ledger.folder, run.results_path(options.name))
        remove_tree(run.planes_path)  # whoever starts anew may have changed labels in ways that no fingerprint shows
    ledger.create()
    if create_json(ledger.folder / SETTINGS_FILE, settings):
        return
    compare_settings(settings_in(ledger) or {}, settings)


def compare_settings(made: dict[str, Any], settings: dict[str, Any]) -> None:
    """BadInput naming the first setting in which a scoring differs from what was asked for."""
    for key, value in settings.items():
        known = made.get(key, BESIDE_SETTINGS.get(key))
        if known != value:
            raise BadInput(
                DIGESTS.get(key, f"--{key.replace('_', '-')}"),
                show_setting(key, value),
                f"{show_setting(key, known)}, as this run was scored",
                "give another --name to keep both, or --overwrite",
            )


def show_setting(key: str, value: Any) -> str:
    """A setting in a message; labellers as they are named, with their digests."""
    if key == "labels":
        return ", ".join(f"{spec} ({digest})" for spec, digest in value or ()) or "none"
    if key == "directions":
        return f"{value['file']} ({value['digest'][:8]})" if value else "none"
    return repr(value[:8] + "..." if key in DIGESTS and value else value)


def forget_scoring(folder: Path, results: Path) -> None:
    """Remove a scoring: at no moment could half of it be taken for whole, or its counters for those of another."""
    (results / "summary.json").unlink(missing_ok=True)
    remove_tree(folder)
    remove_tree(results / "masks")
    for table in (results / "tables").glob("*.csv"):
        if table.name != AUDIT_TABLE:
            table.unlink()
    (results / "dissection.h5").unlink(missing_ok=True)


def forget_audit(folder: Path, results: Path) -> None:
    """Remove an audit."""
    (results / "audit.json").unlink(missing_ok=True)
    remove_tree(folder)
    (results / "tables" / AUDIT_TABLE).unlink(missing_ok=True)
