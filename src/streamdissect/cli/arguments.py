"""Options of the commands, each in one place: its flag, how its text is read, what it means.

A value comes from the flag, else from the variable STREAMDISSECT_OPTION, else from the table of the command in
--config, else from the default in `streamdissect.options`.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from ..errors import BadInput
from ..options import (
    AMP,
    BACKENDS,
    CODECS,
    DISTRIBUTIONS,
    DTYPES,
    LAYOUTS,
    MASK_TESTS,
    METHODS,
    MULTIPLICITIES,
    SPILLS,
    UNIONS,
    UNLABELLED,
    UPSAMPLING,
    as_three,
    is_whole,
    parse_block_by,
    parse_bytes,
    parse_limit,
    parse_mask_size,
    parse_shard,
    parse_share,
    parse_size,
    parse_tails,
    parse_width,
)

COMMANDS = (
    "extract",
    "score",
    "perturb",
    "rotate",
    "pca",
    "compare",
    "report",
    "show",
    "merge",
    "info",
    "verify",
    "layers",
    "pack",
    "synth",
    "demo",
    "clean",
)


@dataclass(frozen=True)
class Option:
    """One option of one or more commands."""

    flag: str
    help: str
    parse: Callable[[str], Any] = str
    """From its text; several words are joined by spaces."""
    choices: tuple[str, ...] | None = None
    metavar: str | tuple[str, ...] | None = None
    words: int = 1
    """0: a switch; 1: a word; 2, 3: so many words; -1: may be repeated, joined by commas."""

    @property
    def name(self) -> str:
        """In files, in the environment, and in the code."""
        return self.flag.lstrip("-").replace("-", "_")


def whole(thing: str, smallest: int = 0) -> Callable[[str], int]:
    """Reads a whole number."""

    def parse(text: str) -> int:
        if not is_whole(text) or int(text) < smallest:
            raise BadInput(thing, repr(text), f"a whole number from {smallest}", "correct it")
        return int(text)

    return parse


def three(thing: str, is_positive: bool) -> Callable[[str], tuple[float, float, float]]:
    """Reads three numbers."""
    return lambda text: as_three(thing, text.replace(",", " ").split(), is_positive)


COMMON = (
    Option("--config", "TOML file with a table for each command", metavar="FILE"),
    Option("--json", "print one JSON object", words=0),
    Option("--debug", "show where an error came from", words=0),
)
RESOURCES = (
    Option("--threads", "threads to use [the cores granted]", whole("--threads", 1), metavar="N"),
    Option(
        "--memory",
        "bound on this process's memory [4GiB or less]",
        lambda t: parse_bytes(t, "--memory"),
        metavar="SIZE",
    ),
    Option("--overwrite", "start anew where there is something already", words=0),
)
PROFILE = Option("--profile", "print what the time went into, and what bounded it", words=0)
SHARD = Option(
    "--shard",
    "i/n: do every n-th shard from i; array: as the Slurm array says; none: all [as torchrun, mpirun or srun says]",
    parse_shard,
    metavar="I/N",
)
MODEL = (
    Option("--model", "package.module:callable or path/file.py:callable, with ?key=value; FILE.pt2", metavar="MODEL"),
    Option("--weights", "checkpoint (.safetensors, .pt, .pth), or random", metavar="FILE"),
    Option("--trust-model", "read an exported program (.pt2), which can run code", words=0),
)
DATA = Option("--data", "a Broden directory, a folder with images/, a packed .h5 file, or synth", metavar="DATA")
LABELS = Option(
    "--labels",
    "what labels the images, beside their own labels: colors, package.module:callable or path/file.py:callable, with "
    "?key=value; several by commas or repeated; none",
    metavar="LABELS",
    words=-1,
)
INPUT_SIZE = Option("--input-size", "rows and columns the network sees", lambda t: parse_size(t, "--input-size"),
                    metavar=("H", "W"), words=2)  # fmt: skip
EXTRACT = (
    *MODEL,
    DATA,
    LABELS,
    Option("--layers", "names or globs, by commas or repeated", metavar="NAME", words=-1),
    Option("--out", "the run [./run]", metavar="RUN"),
    Option("--split", "images of this split only", metavar="NAME"),
    Option("--limit", "N images, spread by a seeded hash, or first:N", parse_limit, metavar="N"),
    Option("--seed", "seed of --limit's sample, --weights random and sketches [0]", whole("--seed"), metavar="N"),
    Option("--labelled-only", "leave out images without any label", words=0),
    INPUT_SIZE,
    Option("--mean", "subtracted from each channel [ImageNet's]", three("--mean", False), None, ("R", "G", "B"), 3),
    Option("--std", "each channel is divided by it [ImageNet's]", three("--std", True), None, ("R", "G", "B"), 3),
    Option("--device", "auto, cpu, cuda, cuda:1, mps [auto]", metavar="NAME"),
    Option("--amp", "autocast [off]", choices=AMP),
    Option("--compile", "torch.compile the network; its first batch is compared with the uncompiled one's", words=0),
    Option("--batch-size", "images per forward pass [32, or fewer by --memory]", whole("--batch-size", 1), metavar="N"),
    Option("--workers", "threads that decode images [2]", whole("--workers"), metavar="N"),
    Option("--dtype", "number format of the stored activations [float16]", choices=DTYPES),
    Option("--tail", "share of activations above the threshold, or several [1/200]", parse_tails, metavar="P[,P]"),
    Option("--thresholds", "exact; histogram or sketch: for any tail, sketch in least memory [exact]", choices=METHODS),
    Option("--distributions", "what each unit's values are like, for the results [full]", choices=DISTRIBUTIONS),
    Option("--top-images", "kept for each unit [20]", whole("--top-images", 1), metavar="N"),
    Option(
        "--spill",
        "store all activations, the maps that may exceed a threshold, or none and run the network again to score; "
        "auto: full, or what --max-disk allows [auto]",
        choices=SPILLS,
    ),
    Option("--codec", "compression of the store; auto measures each layer [auto]", choices=CODECS),
    Option("--shard-images", "images to a shard [about 64 MB]", whole("--shard-images", 1), metavar="N"),
    SHARD,
    Option("--layout", "order of the axes in the layers' tensors [auto]", choices=LAYOUTS),
    Option("--prefix-tokens", "class and register tokens before the grid's", whole("--prefix-tokens"), metavar="N"),
    Option(
        "--grid", "rows and columns of a token grid", lambda t: parse_size(t, "--grid"), metavar=("H", "W"), words=2
    ),
    Option("--allow-nonfinite", "store NaN and infinities instead of stopping", words=0),
    Option(
        "--max-disk", "store about so much at most: see --spill", lambda t: parse_bytes(t, "--max-disk"), metavar="SIZE"
    ),
    Option("--dry-run", "print the plan and stop", words=0),
    PROFILE,
)
SCORE = (
    *MODEL,
    DATA,
    LABELS,
    Option(
        "--tail",
        "an extracted tail, a smaller one, or any with one more pass",
        lambda t: parse_share(t, "--tail"),
        metavar="P",
    ),
    Option("--approximate", "leave sketched thresholds as they are: no pass to make them exact", words=0),
    Option("--iou", "a unit above it is a detector [0.04]", lambda t: parse_share(t, "--iou"), metavar="TAU"),
    Option(
        "--upsample",
        "from maps to masks [rf where field maps are known, else half_pixel]",
        choices=UPSAMPLING,
    ),
    Option("--mask-size", "label, image or HxW [label]", parse_mask_size, metavar="SIZE"),
    Option("--union", "on which images a unit's pixels count [paper]", choices=UNIONS),
    Option("--mask-test", "S > T, or S >= T [gt]", choices=MASK_TESTS),
    Option("--multiplicity", "a label in two layers of an image counts once or twice [set]", choices=MULTIPLICITIES),
    Option("--unlabelled", "what pixels without a label of the category are [negative]", choices=UNLABELLED),
    Option("--backend", "kernels; the results are the same [auto]", choices=BACKENDS),
    Option("--device", "where --backend torch counts: auto, cpu, cuda, cuda:1 [auto]", metavar="NAME"),
    Option(
        "--blocks", "keep counters of N blocks of images too, for intervals [none]", whole("--blocks", 2), None, "N"
    ),
    Option(
        "--block-by",
        "images of one name, prefix of it (to the first /, or N characters) or cell of a table stay together [name]",
        parse_block_by,
        metavar="name|prefix[:N]|FILE.csv:COLUMN",
    ),
    Option(
        "--until-stable",
        "stop once the interval of every unit's best IoU is narrower, shard by shard in order; 0: count all",
        parse_width,
        metavar="WIDTH",
    ),
    Option("--keep-masks", "keep the masks of active maps, in RUN/masks", words=0),
    PROFILE,
    Option("--audit", "how many detectors there are by other rules: a table of unions, upsamplings and tails", words=0),
    Option("--directions", "score the rows of a matrix (directions, units) as units: .npy, .safetensors", metavar="W"),
    Option("--bias", "a number added to each direction: .npy, .safetensors", metavar="B"),
    Option("--relu", "rectify directions", words=0),
    Option("--layer", "whose units the directions sum [the one of as many]", metavar="NAME"),
    Option("--name", "keep the results apart, in RUN/scores/NAME", metavar="NAME"),
    SHARD,
)


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and says what is wrong in one line."""

    def __init__(self, **named: Any) -> None:
        super().__init__(allow_abbrev=False, **named)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Leave where words are left that no option takes; names the nearest option."""
        if words:
            option = words[0].partition("=")[0]
            near = get_close_matches(option, list(self._option_string_actions), 1)
            is_word = not option.startswith("-")
            hint = f"; did you mean {near[0]}?" if near else "; several names go by commas" if is_word else ""
            self.error(f"unknown option or word {words[0]!r}{hint}")


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Declare options; they keep their texts until `resolve`."""
    for option in options:
        if option.words == 0:
            parser.add_argument(option.flag, help=option.help, action="store_true", default=None)
        else:
            many: dict[str, Any] = {1: {}, -1: {"action": "append"}}.get(option.words, {"nargs": option.words})
            metavar = option.metavar or (f"{{{','.join(option.choices)}}}" if option.choices else None)
            parser.add_argument(option.flag, help=option.help, metavar=metavar, default=None, **many)


def resolve(options: Sequence[Option], given: argparse.Namespace, command: str) -> dict[str, Any]:
    """Values of the options that were given, by flag, environment or file; the rest is left to the defaults."""
    config = getattr(given, "config", None) or os.environ.get("STREAMDISSECT_CONFIG")
    table = read_config(config, command, options) if config else {}
    values: dict[str, Any] = {}
    for option in options:
        flag = getattr(given, option.name, None)
        variable = os.environ.get(f"STREAMDISSECT_{option.name.upper()}")
        if flag is not None:
            found: Any = flag if option.words == 0 else join(flag, option)
        elif variable is not None:
            found = as_switch(variable, option) if option.words == 0 else variable
        elif option.name in table:
            found = table[option.name]
            found = as_switch(found, option) if option.words == 0 else join(found, option)
        else:
            continue
        values[option.name] = found if option.words == 0 else read(found, option)
    return values


def join(value: Any, option: Option) -> str:
    """Words or numbers as one text."""
    if isinstance(value, (list, tuple)):
        return ("," if option.words < 0 else " ").join(str(each) for each in value)
    return str(value)


def read(text: str, option: Option) -> Any:
    """A text's value. BadInput where it has none."""
    if option.choices is not None and text not in option.choices:
        near = get_close_matches(text, option.choices, 1)
        remedy = f"did you mean {near[0]}?" if near else "choose one of them"
        raise BadInput(option.flag, repr(text), "one of " + ", ".join(option.choices), remedy)
    return option.parse(text)


def as_switch(value: Any, option: Option) -> bool:
    """Whether a switch is on."""
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
        raise BadInput(option.flag, repr(value), "true or false", "correct it")
    return text in ("1", "true", "yes", "on")


def read_config(path: str, command: str, options: Sequence[Option]) -> Mapping[str, Any]:
    """The command's table of a TOML file, its keys checked, and that every table is one of a command."""
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise BadInput("--config", repr(path), "a TOML file", error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput("--config", repr(path), "a TOML file", str(error)) from error
    for key in content:
        if key not in COMMANDS:
            near = get_close_matches(key, COMMANDS, 1)
            remedy = f"did you mean [{near[0]}]?" if near else f"options stand in tables: {', '.join(COMMANDS)}"
            raise BadInput(f"--config {path}", repr(key), "a table of a command", remedy)
    table = content.get(command, {})
    if not isinstance(table, dict):
        raise BadInput(f"--config {path}", f"{command} = {table!r}", f"a table [{command}]", "correct it")
    names = [option.name for option in options if option.name != "config"]
    for key in table:
        if key not in names:
            near = get_close_matches(key, names, 1)
            remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(names))}"
            raise BadInput(f"--config {path}, [{command}]", repr(key), "an option of that command", remedy)
    return table
