"""Pack a labelled image set into one HDF5 file: pictures as the bytes they were, label maps compressed.

--data then takes the file. With --from, DATA is the directory of a dataset as it was published.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..options import FOREIGN
from . import arguments, output

OPTIONS = (
    arguments.Option("--from", "layout of DATA, where it is none of this package's", choices=FOREIGN),
    arguments.LABELS,
    arguments.Option("--overwrite", "replace a file of that name", words=0),
    *arguments.COMMON,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATA", help="a Broden directory, a folder with images/, synth")
    parser.add_argument("out", metavar="OUT.h5", help="the file to write")
    arguments.add_options(parser, OPTIONS)


def run(values: dict[str, Any], control: output.TerminalControl) -> int:
    from ..stages.packing import pack

    how = {"layout": values.get("from"), "labels": values.get("labels"), "overwrite": values.get("overwrite", False)}
    made = pack(values["source"], values["out"], **how, control=control)
    size = made.stat().st_size
    if values.get("json"):
        output.show_json({"data": str(made), "bytes": size})
    else:
        output.show(f"{made}: {size / 1e6:.1f} MB; use it as --data {made}")
    return 0
