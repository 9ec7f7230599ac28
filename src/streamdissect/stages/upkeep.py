"""Looking after runs: what is in one, whether it is whole, what may go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..atomic import digest_file, remove_tree
from ..errors import BadInput, IncompleteRun
from ..objects import place
from ..options import RUN
from ..store.partials import Ledger, load_arrays
from ..store.results import load_dissection
from ..store.rundir import RunDir, size_of, stage_of
from .audit import load_audit
from .control import Control
from .experiments import experiments_of, verify_experiments
from .recording import layers_of, load_state, store_of
from .settings import audits, stage_of_audit
from .shards import require_alone
from .units import describe_unit


def info(run: str | os.PathLike[str] = RUN, unit: str | None = None) -> dict[str, Any]:
    """What a run is and how far it got, ready for JSON; or what is known of one unit, `LAYER:UNIT`, of a scored one.

    BadInput for no run or no such unit, IncompleteRun for a damaged one.
    """
    if unit is not None:
        return describe_unit(run, unit)
    opened = RunDir(run)
    manifest, ledger = opened.manifest, opened.ledger("extract")
    n_done = ledger.n_shards - len(ledger.missing())
    scorings = {}
    for name in opened.scorings():
        partial = opened.ledger(stage_of(name))
        scorings[name or "(main)"] = {
            "shards_done": partial.n_shards - len(partial.missing()),
            "finished": (opened.results_path(name) / "summary.json").exists(),
            "experiments": experiments_of(opened, name),
        }
    return {
        "run": opened.full_name,
        "model": {**manifest["model"], "weights": manifest["model"]["weights"] or "as the callable returns it"},
        "data": {**manifest["data"], "labels": manifest["data"].get("labels") or "the dataset's own"},
        "images": manifest["plan"]["n_images"],
        "shards": opened.n_shards,
        "shards_done": n_done,
        "layers": [
            {
                "name": spec.name,
                "units": spec.n_units,
                "grid": list(spec.grid),
                "dtype": spec.dtype,
                "codec": spec.codec,
                "field": layer["field"]["text"] if layer["field"] else None,
            }
            for spec, layer in zip(layers_of(opened), manifest["layers"], strict=True)
        ],
        "tails": manifest["identity"]["tails"],
        "spill": opened.spill,
        "kept_share": kept_share(opened),
        "activation_bytes": size_of(opened.activations_path),
        "scorings": scorings,
        "audits": [name or "(main)" for name in audits(opened)],
        "versions": manifest["versions"],
    }


def kept_share(run: RunDir) -> float | None:
    """Of a run that stores candidates, the share of the maps in it so far; None for others."""
    if run.spill != "candidates":
        return None
    commits = [commit for shard in range(run.n_shards) if (commit := run.ledger("extract").read(shard)) is not None]
    n_kept = sum(each["maps"] for commit in commits for each in commit["kept"].values())
    n_maps = sum(len(commit["images"]) for commit in commits) * sum(spec.n_units for spec in layers_of(run))
    return n_kept / n_maps if n_maps else None


def verify(run: str | os.PathLike[str] = RUN, *, control: Control | None = None) -> int:
    """Read every file that was committed and compare it with its commit.

    Returns
    -------
    int
        Files found whole.

    Raises
    ------
    IncompleteRun
        Some are missing or damaged: the message names each, and what to do.
    """
    opened, control = RunDir(run), control or Control()
    ledger, store = opened.ledger("extract"), store_of(opened)
    wrong: list[str] = []
    n_whole = 0
    is_cleaned = opened.is_spilled and is_scored(opened) and not opened.activations_path.exists()
    if is_cleaned:
        control.say("the activations were dropped by clean")
    with control.metering("verify", opened.n_shards, "shard") as meter:
        for shard in range(opened.n_shards):
            control.check()
            commit = ledger.read(shard)
            for name, expected in (commit["files"] if commit and not is_cleaned else {}).items():
                damage = store.find_damage(name, shard, expected, thorough=True)
                wrong += [damage] if damage else []
                n_whole += not damage
            meter.advance(1)
    remedies = ["delete what is damaged, then run the same extract again"] if wrong else []
    for path in ledger.worker_paths():
        try:
            load_state(path)  # each array in it has a checksum of its own
            n_whole += 1
        except IncompleteRun as error:
            wrong.append(str(error))
    for path in sorted([*ledger.folder.glob("thresholds-*.npz"), *ledger.folder.glob("distribution-*.npz")]):
        try:
            load_arrays(path)
            n_whole += 1
        except IncompleteRun as error:
            wrong.append(str(error))
    for name in opened.scorings():
        n_found, damaged = verify_scoring(opened, name)
        n_whole += n_found
        if damaged:
            option = f" --name {name}" if name else ""
            wrong += [*damaged, f"score again with --overwrite{option}"]
        n_found, damaged = verify_experiments(opened, name)
        n_whole += n_found
        if damaged:
            wrong += [*damaged, "make it again with --overwrite"]
    for name in audits(opened):
        n_found, damaged = verify_shards(opened.ledger(stage_of_audit(name)), None)
        try:
            load_audit(opened.results_path(name) / "audit.json")
        except IncompleteRun as error:
            damaged.append(str(error))
        n_whole += n_found
        if damaged:
            option = f" --name {name}" if name else ""
            wrong += [*damaged, f"audit again with score --audit --overwrite{option}"]
    if wrong:
        raise IncompleteRun("; ".join([*wrong, *remedies]))
    if missing := ledger.missing():
        raise IncompleteRun(
            f"what is there is whole ({n_whole} files), but {len(missing)} shards are not extracted yet"
        )
    return n_whole


def verify_scoring(run: RunDir, name: str | None) -> tuple[int, list[str]]:
    """Files of a scoring found whole, and what is wrong with the others."""
    results = run.results_path(name)
    n_whole, wrong = verify_shards(run.ledger(stage_of(name)), results / "masks")
    if (results / "summary.json").exists():
        try:
            load_dissection(results / "dissection.h5")
            n_whole += 1
        except (IncompleteRun, BadInput) as error:
            wrong.append(str(error))
    return n_whole, wrong


def verify_shards(ledger: Ledger, masks: Path | None) -> tuple[int, list[str]]:
    """Files found whole of the shards that a stage committed, and what is wrong with the others."""
    n_whole, wrong = 0, []
    for shard in range(ledger.n_shards):
        commit = ledger.read(shard)
        if commit is None:
            continue
        files = {ledger.data_path(shard): commit["file"]}
        if "masks" in commit and masks is not None and masks.exists():  # clean drops them all at once
            files[masks / f"{shard:06d}.h5"] = commit["masks"]
        for path, expected in files.items():
            is_whole = path.exists() and digest_file(path) == expected["blake2b"]
            n_whole += is_whole
            wrong += [] if is_whole else [f"{path}: its content is not what was written"]
    return n_whole, wrong


def disposable(run: str | os.PathLike[str] = RUN) -> dict[Path, int]:
    """What `clean` would remove, and its bytes. BadInput for a run without results."""
    opened = RunDir(run)
    if not is_scored(opened):
        raise BadInput(
            "run", f"{str(run)!r}, not scored", "a run with results", "score it first, or delete the directory"
        )
    kept_masks = [opened.results_path(name) / "masks" for name in (None, *opened.scorings())]
    paths = dict.fromkeys([opened.activations_path, opened.planes_path, *kept_masks])
    return {path: size_of(path) for path in paths if path.exists()}


def is_scored(run: RunDir) -> bool:
    """Whether any scoring is finished."""
    return any((run.results_path(name) / "summary.json").exists() for name in (None, *run.scorings()))


def clean(run: str | os.PathLike[str] = RUN) -> dict[Path, int]:
    """Remove the activations, the label planes and the masks of a scored run; the results stay.

    The same extract restores them; for a run that was captured nothing does. BadInput while others work on the run.
    """
    found = disposable(run)
    require_alone((place(run) / "partial").glob("*/claims"), None, "clean")
    for path in found:
        remove_tree(path)
    return found
