"""Is a concept carried by one unit? Leading directions of concepts, and whether they lie along units."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..alignmentoptions import NULLS, SAMPLES, PcaOptions, as_phi
from . import arguments, output

if TYPE_CHECKING:
    from ..measure.alignmentresult import Alignment

OPTIONS = (
    arguments.DATA,
    arguments.LABELS,
    arguments.Option("--layers", "names or globs of the run's layers [all]", metavar="NAME", words=-1),
    arguments.Option("--concepts", "names by commas or repeated, or all [all]", metavar="NAME", words=-1),
    arguments.Option("--samples", "what a concept's samples are [pixel]", choices=SAMPLES),
    arguments.Option("--phi", "of a cell, covered, to be a pixel sample; 0+: any [0.5]", as_phi, metavar="PHI"),
    arguments.Option("--centred", "about the concept's own mean, not the dataset's", words=0),
    arguments.Option("--null", "a random axis; subsets: random images too, B passes or so [analytic]", choices=NULLS),
    arguments.Option("--subsets", "random subsets of each concept [200]", arguments.whole("--subsets", 1), metavar="B"),
    arguments.Option("--seed", "of the subsets [0]", arguments.whole("--seed"), metavar="N"),
    arguments.Option(
        "--min-images", "images that a concept needs [10]", arguments.whole("--min-images", 1), metavar="N"
    ),
    next(option for option in arguments.SCORE if option.flag == "--name"),
    arguments.SHARD,
    *arguments.RESOURCES,
    *arguments.COMMON,
)
HEAD = ["concept", "samples", "verdict", "unit", "loading", "ratio", "PR", "adj. p", "exclusive", "IoU rank",
        "IoU unit", "units", "direction", "carrier"]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run, scored [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..stages.pca import pca

    aside = {"config", "json", "debug", "run", "data", "labels"}
    options = PcaOptions(**{key: value for key, value in values.items() if key not in aside})
    path = values.get("run", RUN)
    found = pca(path, values.get("data"), labels=values.get("labels"), options=options, control=control)
    if found is None:
        output.note(f"{path}: this worker's concepts are done; the worker that ends last writes the result")
        if values.get("json"):
            output.show_json({"run": path, "finished": False})
        return 0
    show_result(found, path, options.name, bool(values.get("json")))
    return 0


def show_result(found: Alignment, path: str, name: str | None, as_json: bool) -> None:
    """Print the tables of each layer, or one object."""
    if as_json:
        output.show_json({"about": found.about, "concepts": found.rows()})
        return
    for layer in found.layers:
        show_layer(found, layer)
    folder = f"{path}/pca" if name is None else f"{path}/scores/{name}/pca"
    output.show(f"table: {folder}/pca.csv; figures: {folder}/figures; everything: {folder}/pca.h5")


def show_layer(found: Alignment, layer: str) -> None:
    """A table of concepts, the most aligned first, and their largest loadings."""
    rows = [row for row in found.rows() if row["layer"] == layer]
    rows.sort(key=lambda row: -row["loading"] if row["unit"] >= 0 else 1.0)
    present = [row for row in rows if row["unit"] >= 0]
    output.show(f"{layer}: {len(present)} of {len(rows)} concepts on images enough, {found.chosen}")
    output.show_table([HEAD, *(line_of(row) for row in present)])
    output.show("")
    for row in present:
        output.show(f"  {row['concept']:<14} {row['top_loadings']}")
    won = {name: sum(row["carrier"] == name for row in present) for name in ("unit", "units", "direction", "none")}
    output.show("")
    output.show(
        f"best on held-out images: one unit {won['unit']}, up to four units {won['units']}, a direction "
        f"{won['direction']}, none {won['none']}; the direction beats the best unit for "
        f"{sum(row['direction_iou'] > row['unit_iou'] for row in present)} of {len(present)} concepts"
    )


def line_of(row: dict[str, Any]) -> list[str]:
    """A concept in the table."""
    iou = [f"{row[name]:.3f}" for name in ("unit_iou", "united_iou", "direction_iou")]
    return [
        row["concept"],
        str(row["samples"]),
        row["verdict"],
        str(row["unit"]),
        *(f"{row[name]:.2f}" for name in ("loading", "ratio")),
        f"{row['participation']:.1f}",
        f"{row['adjusted_p']:.2g}",
        "yes" if row["exclusive"] else "no",
        str(row["iou_rank"]),
        *iou,
        row["carrier"],
    ]
