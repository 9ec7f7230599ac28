"""Are concepts aligned with single units? Rotations of their space, scored anew from the stored activations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..alignmentoptions import CONTROLS, RotateOptions, parse_alphas
from . import arguments, output

if TYPE_CHECKING:
    from ..measure.rotationset import Rotations, RotationSummary

OPTIONS = (
    arguments.DATA,
    arguments.LABELS,
    arguments.Option("--layers", "names or globs of the run's layers [all]", metavar="NAME", words=-1),
    arguments.Option(
        "--alphas", "powers of the rotations: first:last:step, or by commas [0:1:0.2]", parse_alphas, metavar="A"
    ),
    arguments.Option("--seeds", "rotations at alpha 1 [10]", arguments.whole("--seeds", 1), metavar="N"),
    arguments.Option(
        "--seeds-between",
        "rotations at each alpha between, and of each control [5]",
        arguments.whole("--seeds-between", 1),
        metavar="N",
    ),
    arguments.Option("--control", f"by commas or repeated: {', '.join(CONTROLS)} [none]", metavar="NAME", words=-1),
    next(option for option in arguments.SCORE if option.flag == "--name"),
    arguments.SHARD,
    *arguments.RESOURCES,
    *arguments.COMMON,
)
HEAD = ["rotation", "alpha", "n", "detectors", "unique: top", "by category", "any", "drop", "p", "mean best IoU"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run, scored [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..stages.rotate import rotate

    aside = {"config", "json", "debug", "run", "data", "labels", "control"}
    options = RotateOptions(
        **{key: value for key, value in values.items() if key not in aside}, controls=values.get("control", ())
    )
    path = values.get("run", RUN)
    found = rotate(path, values.get("data"), labels=values.get("labels"), options=options, control=control)
    if found is None:
        output.note(f"{path}: this worker's rotations are counted; the worker that ends last writes the result")
        if values.get("json"):
            output.show_json({"run": path, "finished": False})
        return 0
    show_result(found, path, options.name, bool(values.get("json")))
    return 0


def show_result(found: Rotations, path: str, name: str | None, as_json: bool) -> None:
    """Print a table for each layer, or one object."""
    from ..stages.rotate import rows_of

    if as_json:
        output.show_json({"about": found.about, "summary": rows_of(found)})
        return
    rows = found.summary()
    for layer in found.layers:
        output.show(f"{layer}: mean and standard deviation over rotations; drop and p of unique detectors by category")
        output.show_table([HEAD, *lines_of([row for row in rows if row.layer == layer])])
        output.show("")
    folder = f"{path}/rotate" if name is None else f"{path}/scores/{name}/rotate"
    output.show(f"tables: {folder}/summary.csv; figures: {folder}/figures; everything: {folder}/rotate.h5")


def lines_of(rows: Sequence[RotationSummary]) -> list[list[str]]:
    """A line for each kind and value, its counts side by side."""
    found = []
    for kind, value in dict.fromkeys((row.kind, row.value) for row in rows):
        of = {row.count: row for row in rows if (row.kind, row.value) == (kind, value)}
        judged = of["unique_by_category"]
        cells = [spread(of[name].mean, of[name].std, ".1f") for name in tuple(of)[:-1]]
        best = spread(of["mean_best_iou"].mean, of["mean_best_iou"].std, ".4f")
        tail = [f"{100 * judged.drop:.0f} %", f"{judged.p:.3g}", best]
        found.append([kind, f"{value:g}", str(judged.n), *cells, *tail])
    return found


def spread(mean: float, std: float, form: str) -> str:
    """Mean, and deviation where there are several."""
    return f"{mean:{form}}" if std != std else f"{mean:{form}} ± {std:{form}}"
