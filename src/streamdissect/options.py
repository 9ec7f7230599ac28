"""The options of every command as frozen objects, and how their texts are read. The one home of defaults."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from fractions import Fraction
from typing import TypeVar

from .errors import BadInput
from .granted import default_memory, default_shard, granted_threads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RUN = "run"
"""The run directory where none is named."""
SHIPPED_MODEL = "shipped"
SHIPPED_DATA = "synth"
SHIPPED_LAYERS = ("relu3", "relu4", "relu5")

AMP = ("off", "bf16", "fp16")
CODECS = ("auto", "none", "zstd", "lz4")
DTYPES = ("float16", "float32")
LAYOUTS = ("auto", "nchw", "nhwc", "tokens")
METHODS = ("exact", "histogram", "sketch")
DISTRIBUTIONS = ("full", "none")
BATCH = 32
"""Images in a forward pass, where the memory does."""
SPILLS = ("auto", "full", "candidates", "none")
UPSAMPLING = ("rf", "half_pixel", "corners")
MASK_TESTS = ("gt", "ge")
UNIONS = ("paper", "all-images", "mask-touch")
MULTIPLICITIES = ("set", "multiset")
UNLABELLED = ("negative", "ignore")
FOREIGN = ("voc", "coco-panoptic", "ade20k", "cityscapes")
"""Layouts of published datasets that `pack --from` reads."""
MOST_BLOCKS = 4096
BACKENDS = ("auto", "cython", "numba", "torch", "reference")


@dataclass(frozen=True)
class CommonOptions:
    """What every command that works on a run takes."""

    threads: int = field(default_factory=granted_threads)
    memory: int = field(default_factory=default_memory)
    """Bytes."""
    overwrite: bool = False
    shard: tuple[int, int] | None = field(default_factory=default_shard)
    """(worker, of how many), or None: whatever is unclaimed. By default that of this process's rank, if it has one."""

    @property
    def has_fellows(self) -> bool:
        """Whether the workers of the other shards were started together with this one, as the ranks of one job are."""
        return self.shard is not None and self.shard == default_shard()

    def __post_init__(self) -> None:
        check_number("threads", self.threads, 1)
        check_number("memory", self.memory, 1)
        if self.shard is not None:
            check_pair("shard", self.shard, 0)
            if not self.shard[0] < self.shard[1]:
                raise BadInput("shard", repr(self.shard), "(i, n) with i from 0 to n - 1", "correct it")


@dataclass(frozen=True)
class ExtractOptions(CommonOptions):
    """Options of `extract` and `capture`."""

    split: str | None = None
    limit: int | None = None
    is_first: bool = False
    """Whether `limit` takes the first images, not a sample."""
    seed: int = 0
    labelled_only: bool = False
    input_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    device: str = "auto"
    amp: str = "off"
    compile: bool = False
    """Whether whole batches go through the network as `torch.compile` makes it."""
    batch_size: int | None = None
    """None: BATCH, or as many as `memory` allows; it is settled when a run is made."""
    workers: int = 2
    dtype: str = "float16"
    tails: tuple[Fraction, ...] = (Fraction(1, 200),)
    thresholds: str = "exact"
    distributions: str = "full"
    top_images: int = 20
    spill: str = "auto"
    """What is stored of the activations: all, or with `candidates` the maps that may exceed a threshold; with `none`
    scoring runs the network again. `auto`: all, or what fits into `max_disk`."""
    codec: str = "auto"
    shard_images: int | None = None
    layout: str = "auto"
    prefix_tokens: int | None = None
    grid: tuple[int, int] | None = None
    allow_nonfinite: bool = False
    max_disk: int | None = None
    trust_model: bool = False
    """Whether an exported program (.pt2) may be read, which can run code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("amp", AMP), ("dtype", DTYPES), ("thresholds", METHODS),
                              ("distributions", DISTRIBUTIONS), ("spill", SPILLS), ("codec", CODECS),
                              ("layout", LAYOUTS)):  # fmt: skip
            check_choice(name, getattr(self, name), choices)
        for name, value, remedy in (
            ("thresholds", "sketch", "a sketch tells no certain bound: take exact or histogram"),
            ("codec", "none", "left out maps take no room once they are compressed: take auto"),
        ):
            if self.spill == "candidates" and getattr(self, name) == value:
                raise BadInput(f"--{name}", f"{value!r} with --spill candidates", "another", remedy)
        check_number("top_images", self.top_images, 1)
        check_number("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise BadInput("seed", str(self.seed), "a whole number below 2**63", "choose another")
        check_number("workers", self.workers, 0)
        for name in ("batch_size", "limit", "shard_images", "max_disk"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1)
        if self.prefix_tokens is not None:
            check_number("prefix_tokens", self.prefix_tokens, 0)
        for name in ("input_size", "grid"):
            if getattr(self, name) is not None:
                check_pair(name, getattr(self, name), 1)
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "mean", as_three("mean", self.mean))
        object.__setattr__(self, "std", as_three("std", self.std, is_positive=True))
        tails = self.tails if isinstance(self.tails, (tuple, list)) else (self.tails,)
        object.__setattr__(self, "tails", tuple(as_share(tail, "tails") for tail in tails))
        if not self.tails or len(set(self.tails)) < len(self.tails):
            given = ", ".join(map(str, tails))
            raise BadInput("tails (--tail)", given or "none", "at least one, each tail once", "drop the repeated one")


@dataclass(frozen=True)
class ScoreOptions(CommonOptions):
    """Options of `score`."""

    tail: Fraction | None = None
    """None: the first of the tails that `extract` was given."""
    approximate: bool = False
    """Take the thresholds of a sketch as they are, without the pass that makes them exact."""
    iou: Fraction = Fraction(1, 25)
    upsample: str | None = None
    """None: `rf` for layers whose field map is known, else `half_pixel`."""
    mask_size: str | tuple[int, int] = "label"
    union: str = "paper"
    mask_test: str = "gt"
    multiplicity: str = "set"
    unlabelled: str = "negative"
    backend: str = "auto"
    device: str | None = None
    """Where the backend `torch` counts. None, or `auto`: CUDA, else the CPU."""
    blocks: int | None = None
    """Blocks of images whose counters are kept apart too; None: of no blocks."""
    block_by: str = "name"
    """What puts an image into its block: a hash of its `name`, part of it, or a table's cell; see `parse_block_by`."""
    keep_masks: bool = False
    """Whether the masks of active maps are kept."""
    until_stable: Fraction | None = None
    """Stop once the interval of every unit's best IoU is narrower. None: all images are counted."""
    directions: str | None = None
    """A file with directions that are scored in place of units; see `score`."""
    bias: str | None = None
    """A file with a number for each direction, added to it."""
    relu: bool = False
    """Whether directions are rectified."""
    layer: str | None = None
    """Whose units the directions sum; None: the one layer of as many."""
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("union", UNIONS), ("mask_test", MASK_TESTS), ("multiplicity", MULTIPLICITIES),
                              ("unlabelled", UNLABELLED), ("backend", BACKENDS)):  # fmt: skip
            check_choice(name, getattr(self, name), choices)
        if self.device is not None and self.backend != "torch":
            got, expected = f"{self.device!r} with backend {self.backend}", "the backend torch beside it"
            raise BadInput("--device", got, expected, "leave it out: other backends count on the CPU")
        beside = [flag for flag in ("bias", "relu", "layer") if getattr(self, flag)]
        if beside and self.directions is None:
            got = "given without directions"
            raise BadInput(f"--{beside[0]}", got, "--directions beside it", "name the file of the directions")
        for name in ("directions", "bias"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        if self.blocks is not None:
            check_number("blocks", self.blocks, 2)
            if self.blocks > MOST_BLOCKS:
                raise BadInput("blocks", str(self.blocks), f"at most {MOST_BLOCKS}", "64 serve for intervals")
        elif self.block_by != "name":
            raise BadInput("--block-by", repr(self.block_by), "--blocks beside it", "say how many, such as --blocks 64")
        object.__setattr__(self, "block_by", parse_block_by(self.block_by))
        if self.upsample is not None:
            check_choice("upsample", self.upsample, UPSAMPLING)
        if self.until_stable is not None:
            object.__setattr__(self, "until_stable", parse_width(str(self.until_stable)))
            if self.has_fellows:  # one of them does it: what comes next depends on what was counted before
                object.__setattr__(self, "shard", None)
            for name, flag in (("shard", "--shard"), ("keep_masks", "--keep-masks")):
                if getattr(self, name):
                    raise BadInput(
                        "--until-stable", f"together with {flag}", "a plain scoring by one worker", "leave one out"
                    )
        if not isinstance(self.mask_size, str):
            check_pair("mask_size", self.mask_size, 1)
        elif self.mask_size not in ("label", "image"):
            object.__setattr__(self, "mask_size", parse_mask_size(self.mask_size))
        object.__setattr__(self, "iou", as_share(self.iou, "iou"))
        if self.tail is not None:
            object.__setattr__(self, "tail", as_share(self.tail, "tail"))


OptionsT = TypeVar("OptionsT", bound=CommonOptions)


def with_options(options: OptionsT, named: Mapping[str, object]) -> OptionsT:
    """Options with some fields named anew. BadInput for a name that is no option."""
    known = [each.name for each in fields(options)]
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise BadInput("options", f"{name!r}", "the name of an option", remedy)
    return replace(options, **named)  # type: ignore[arg-type]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """BadInput for a value that is none of the choices."""
    if value not in choices:
        raise BadInput(name, repr(value), "one of " + ", ".join(choices), "choose one of them")


def check_number(name: str, value: object, smallest: int) -> None:
    """BadInput for what is no whole number, or too small."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < smallest:
        raise BadInput(name, repr(value), f"a whole number from {smallest}", "correct it")


def check_pair(name: str, value: object, smallest: int) -> None:
    """BadInput for what is no pair of whole numbers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise BadInput(name, repr(value), "two whole numbers", "correct it")
    for number in value:
        check_number(name, number, smallest)


def as_three(name: str, value: object, is_positive: bool = False) -> tuple[float, float, float]:
    """Three finite numbers, for red, green and blue."""
    try:
        red, green, blue = (float(each) for each in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        red = green = blue = math.nan
    if not all(map(math.isfinite, (red, green, blue))) or (is_positive and min(red, green, blue) <= 0):
        numbers = "positive numbers" if is_positive else "numbers"
        expected = f"three {numbers}, for red, green and blue on a scale of 0 to 1"
        raise BadInput(name, repr(value), expected, "correct it")
    return red, green, blue


def as_share(value: object, name: str) -> Fraction:
    """A share given as a Fraction, a text, or a float, which means what it prints."""
    return parse_share(str(value), name)


def is_whole(text: str) -> bool:
    """Whether a text consists of the digits 0 to 9."""
    return text.isascii() and text.isdigit()


def parse_share(text: str, thing: str) -> Fraction:
    """A rational in (0, 1): `1/200` or `0.005`, exactly as written."""
    try:
        value = Fraction(text) if "/" in text else Fraction(Decimal(text))
    except (ValueError, InvalidOperation, ZeroDivisionError, OverflowError):
        value = Fraction(0)
    if not 0 < value < 1:
        raise BadInput(thing, repr(text), "a share between 0 and 1, such as 1/200 or 0.005", "correct it")
    if max(value.numerator, value.denominator) >= 2**31:
        raise BadInput(thing, repr(text), "a share of less than 2**31 in numerator and denominator", "round it")
    return value


def parse_width(text: str) -> Fraction:
    """A rational from 0 to below 1, for `--until-stable`."""
    is_zero = re.fullmatch(r"0+(\.0*)?", text.strip()) is not None
    return Fraction(0) if is_zero else parse_share(text, "--until-stable")


def parse_tails(text: str) -> tuple[Fraction, ...]:
    """`1/200,1/100`: the first is the default of `score`."""
    return tuple(parse_share(part.strip(), "--tail") for part in text.split(","))


def parse_bytes(text: str, thing: str) -> int:
    """`4GiB`, `500MB`, `1e9`: a number of bytes, at least 1."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) ?([kmgt]?)(i?)b?", text.strip().lower())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or not (1 <= number < 2**60):
        raise BadInput(thing, repr(text), "a number of bytes, such as 4GiB or 500MB", "correct it")
    return int(number * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))


def parse_size(text: str, thing: str) -> tuple[int, int]:
    """`112x112`: rows and columns."""
    match = re.fullmatch(r"(\d{1,5})[x ](\d{1,5})", text.strip())
    if match is None or not (int(match[1]) and int(match[2])):
        raise BadInput(thing, repr(text), "rows x columns, such as 112x112", "correct it")
    return int(match[1]), int(match[2])


def parse_mask_size(text: str) -> str | tuple[int, int]:
    """`label`, `image` or HxW."""
    return text if text in ("label", "image") else parse_size(text, "--mask-size")


def parse_block_by(text: str) -> str:
    """What blocks go by, checked; the path of a table is made absolute.

    `name`; `prefix`: its text up to the first `/`; `prefix:N`: its first N characters; `FILE.csv:COLUMN`: a column of a
    table that has one named `image` beside it.
    """
    if isinstance(text, str):
        if re.fullmatch(r"name|prefix(:[1-9][0-9]{0,3})?", text):
            return text
        file, colon, column = text.rpartition(":")
        if colon and column and file.endswith(".csv"):
            return f"{os.path.abspath(file)}:{column}"
    expected = "name, prefix, prefix:N with N from 1, or FILE.csv:COLUMN"
    raise BadInput("--block-by", repr(text), expected, "correct it")


def parse_limit(text: str) -> tuple[int, bool]:
    """`500` (a seeded sample) or `first:500`: the number, and whether it means the first."""
    head, colon, number = text.rpartition(":")
    if head not in ("", "first") or (colon and not head) or not is_whole(number) or int(number) < 1:
        raise BadInput("--limit", repr(text), "a number of images, or first:NUMBER", "correct it")
    return int(number), head == "first"


def parse_shard(text: str) -> tuple[int, int] | None:
    """`0/4`: worker 0 of 4; `array`: this task of a Slurm array; `none`: one process for all, whatever its rank."""
    if text == "none":
        return None
    if text == "array":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")
        found = [os.environ.get(name, "1" if name.endswith("STEP") else "") for name in names]
        if not all(value.isdigit() for value in found):
            remedy = "submit with sbatch --array=0-3, or give --shard i/n"
            raise BadInput("--shard", "'array'", "a task of a Slurm array (SLURM_ARRAY_TASK_ID)", remedy)
        task, first, last, step = map(int, found)
        return (task - first) // step, (last - first) // step + 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 0 <= int(match[1]) < int(match[2]):
        raise BadInput("--shard", repr(text), "i/n with i from 0 to n - 1, array or none", "correct it")
    return int(match[1]), int(match[2])
