"""Join the partial results of many workers; safe to repeat. Leaves with 3 and names what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from . import arguments, output

OF = ("score", "perturb", "rotate", "pca")
OPTIONS = (
    arguments.Option("--of", "what its workers did [score]", choices=OF),
    arguments.DATA,
    next(option for option in arguments.SCORE if option.flag == "--name"),
    *arguments.RESOURCES[:2],
    *arguments.COMMON,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run [./run]")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..options import RUN

    path, as_json = values.get("run", RUN), bool(values.get("json"))
    given: dict[str, Any] = {key: values[key] for key in ("name", "threads", "memory") if key in values}
    of = values.get("of", "score")
    if of != "score":
        join_experiment(of, path, values.get("data"), given, control, as_json)
        return 0
    from ..options import ScoreOptions
    from ..stages.merge import merge

    options = ScoreOptions(**given)
    output.show_scored(
        merge(path, data=values.get("data"), options=options, control=control), path, options.name, as_json
    )
    return 0


def join_experiment(
    of: str, path: str, data: str | None, given: dict[str, Any], control: output.TerminalControl, as_json: bool
) -> None:
    """Join the parts of an experiment, and print what its own command prints."""
    from ..alignmentoptions import PcaOptions, RotateOptions
    from ..perturboptions import PerturbOptions
    from . import pca, perturb, rotate

    name = given.get("name")
    if of == "perturb":
        from ..stages.perturb import merge_robustness

        perturb.show_result(merge_robustness(path, data, PerturbOptions(**given)), path, name, as_json)
    elif of == "rotate":
        from ..stages.rotate import merge_rotations

        rotate.show_result(merge_rotations(path, data, RotateOptions(**given), control), path, name, as_json)
    else:
        from ..stages.pca import merge_alignment

        pca.show_result(merge_alignment(path, data, PcaOptions(**given), control), path, name, as_json)
