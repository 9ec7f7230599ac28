"""The regions that units detect in any image: a panel, or the masks."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import BadInput
from . import arguments, output
from .perturb import PERTURB, split_values

OPTIONS = (
    arguments.Option(
        "--units", "by commas or repeated [the strongest detector of each layer]", metavar="LAYER:UNIT", words=-1
    ),
    arguments.Option("--out", "a panel, FILE.png, or the masks, FILE.npz [show.png]", metavar="FILE"),
    *arguments.MODEL,
    arguments.DATA,
    arguments.LABELS,
    *PERTURB,
    *arguments.RESOURCES[:2],
    *arguments.COMMON,
)
OUT = "show.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="[RUN] IMAGE", help="the run [./run]; images of its data, or files")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN
    from ..perturboptions import ShowOptions
    from ..stages.show import show
    from ..store.rundir import RunDir

    images = list(values.pop("words", []))
    path = os.environ.get("STREAMDISSECT_RUN", RUN)
    if images and RunDir.exists(images[0]):
        path = images.pop(0)
    if not images:
        raise BadInput("image", "none", "[RUN] IMAGE...", "name an image of the dataset, or a file")
    what, how = split_values(values)
    out = values.get("out", OUT)
    shown = show(path, images, **what, out=out, options=ShowOptions(**how), control=control)
    pixels = [mask.sum((1, 2)).tolist() for mask in shown.masks]
    if values.get("json"):
        counts = [dict(zip(shown.units, each, strict=True)) for each in pixels]
        pictures = [
            {"image": image, "perturbation": label, "pixels": count}
            for (image, label), count in zip(shown.pictures, counts, strict=True)
        ]
        output.show_json({"out": out, "pictures": pictures})
        return 0
    rows = [[*picture, *map(str, each)] for picture, each in zip(shown.pictures, pixels, strict=True)]
    output.show_table([["image", "perturbation", *shown.units], *rows])
    output.show(f"pixels detected; drawn: {out}" if out.endswith(".png") else f"pixels detected; masks: {out}")
    return 0
