"""Noise, rotation, rearranged images: which detectors survive, and is a concept parts or statistics?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..options import parse_limit
from ..perturboptions import CLIPS, FILLS, LABELS_WARPS, PERTURBATIONS, THRESHOLDS_FROM, as_magnitudes
from . import arguments, output
from .allocator import keep_freed_memory

if TYPE_CHECKING:
    from ..measure.composition import Robustness


def magnitudes(flag: str) -> Callable[[str], tuple[float, ...]]:
    """Reads numbers by commas."""
    return lambda text: as_magnitudes(flag, [each for each in text.split(",") if each.strip()] or text)


PERTURB = (
    *(
        arguments.Option(
            f"--{name.replace('_', '-')}",
            f"{what}; several by commas",
            magnitudes(f"--{name.replace('_', '-')}"),
            metavar="N[,N]",
        )
        for name, what in PERTURBATIONS.items()
    ),
    arguments.Option("--center", "noise of mean zero", words=0),
    arguments.Option("--clip", "what noise is clipped to [0..255]", choices=CLIPS),
    arguments.Option("--gray", "the same noise in the three channels", words=0),
    arguments.Option("--fill", "what a rotation lets in from outside [mean]", choices=FILLS),
    arguments.Option("--derange", "no tile stays in its place", words=0),
    arguments.Option("--same-for-all", "one order of the tiles for all images", words=0),
    arguments.Option("--crop", "tiles of --shuffle-patch need not fill the image", words=0),
    arguments.Option("--seed", "of noise, shuffles and --limit's sample [0]", arguments.whole("--seed"), metavar="N"),
    *(option for option in arguments.EXTRACT if option.flag in ("--mean", "--std")),
    next(option for option in arguments.SCORE if option.flag == "--name"),
)
OPTIONS = (
    *arguments.MODEL,
    arguments.DATA,
    arguments.LABELS,
    *PERTURB,
    arguments.Option("--trials", "of what is random [3]", arguments.whole("--trials", 1), metavar="N"),
    arguments.Option("--layers", "names or globs of the run's layers [all]", metavar="NAME", words=-1),
    arguments.Option("--limit", "N of the run's images, spread by a seeded hash, or first:N", parse_limit, metavar="N"),
    arguments.Option(
        "--thresholds-from", "clean images, or found anew, in one more pass [clean]", choices=THRESHOLDS_FROM
    ),
    arguments.Option(
        "--labels-warp", "labels move along with pixels, or stay, as a control [along]", choices=LABELS_WARPS
    ),
    arguments.Option("--panel", "draw this image of the dataset, or file, under every perturbation", metavar="IMAGE"),
    arguments.Option(
        "--units",
        "of the panel, by commas or repeated [the strongest detector of each layer]",
        metavar="LAYER:UNIT",
        words=-1,
    ),
    arguments.SHARD,
    *arguments.RESOURCES,
    *arguments.COMMON,
)
COLUMNS = ("survival", "same_top", "retention", "consistency", "firing_ratio", "correlation", "spearman")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run, scored [./run]")
    arguments.add_options(parser, OPTIONS)


def split_values(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the stage, and fields of its options."""
    what: dict[str, Any] = {
        key: values[key] for key in ("data", "labels", "model", "weights", "trust_model") if key in values
    }
    if "units" in values:
        what["units"] = [text.strip() for text in values["units"].split(",") if text.strip()]
    aside = {"config", "json", "debug", "run", "images", "out", "panel", *what}
    how = {key: value for key, value in values.items() if key not in aside}
    if "limit" in how:
        how["limit"], how["is_first"] = how["limit"]
    return what, how


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..perturboptions import PerturbOptions
    from ..stages.perturb import perturb

    what, how = split_values(values)
    path = values.get("run", RUN)
    keep_freed_memory()
    found = perturb(path, panel=values.get("panel"), **what, options=PerturbOptions(**how), control=control)
    if found is None:
        output.note(
            f"{path}: this worker's images are done; the worker that ends last writes the result; where "
            "that one was asked for other perturbations, run this again when it has ended"
        )
        if values.get("json"):
            output.show_json({"run": path, "finished": False})
        return 0
    show_result(found, path, how.get("name"), bool(values.get("json")))
    return 0


def show_result(found: Robustness, path: str, name: str | None, as_json: bool) -> None:
    """Print a table for each layer and one of composition, or one object."""
    summary, composition = found.summary(), found.composition()
    if as_json:
        output.show_json({"about": found.about, "summary": nulls(summary), "composition": nulls(composition)})
        return
    for layer in found.outcomes:
        rows = [row for row in summary if row["layer"] == layer]
        n = int(found.result.layers[layer].is_detector.sum())
        output.show(f"{layer}: {n} detectors, {len(found.image_name)} images")
        head = ["setting", *COLUMNS, "detectors", "unique_top"]
        output.show_table([head, *([row["setting"], *(cell(row, name) for name in head[1:])] for row in rows)])
        output.show("")
    if composition:
        output.show("composition: IoU that detectors keep while tiles change places")
        head = list(composition[0])
        output.show_table([head, *([plain(row[name]) for name in head] for row in composition)])
        output.show("")
    folder = f"{path}/perturb" if name is None else f"{path}/scores/{name}/perturb"
    output.show(f"tables: {folder}/summary.csv; figures: {folder}/figures; everything: {folder}/perturb.h5")


def cell(row: dict[str, Any], name: str) -> str:
    """Mean and, where there were several trials, deviation."""
    mean, std = row[name], row[f"{name}_std"]
    return plain(mean) if std != std else f"{plain(mean)} ± {std:.2g}"


def plain(value: Any) -> str:
    """A value of a table; what is no number is a dash."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}"
    return str(value)


def nulls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON has them: null for what is no number."""
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]
