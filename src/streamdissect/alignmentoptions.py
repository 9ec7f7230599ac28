"""The options of `rotate` and `pca` as frozen objects: which rotations, which concepts, which samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from .errors import BadInput
from .options import CommonOptions, check_choice, check_number

CONTROLS = (
    "permutation",
    "signed-permutation",
    "scaling",
    "givens",
    "pca",
    "near-identity",
    "standardised",
    "relu-after",
)
SAMPLES = ("pixel", "weighted", "masked-mean", "image-max", "image-mean")
NULLS = ("analytic", "subsets")
PHI = "0.5"


@dataclass(frozen=True)
class RotateOptions(CommonOptions):
    """Options of `rotate`."""

    layers: tuple[str, ...] = ()
    """Names or globs; none: all layers of the run."""
    alphas: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seeds: int = 10
    """Rotations at alpha 1."""
    seeds_between: int = 5
    """Rotations at each alpha between 0 and 1, and of each control."""
    controls: tuple[str, ...] = ()
    """See CONTROLS."""
    name: str | None = None
    """Of the scoring."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", as_names(self.layers))
        object.__setattr__(self, "controls", as_names(self.controls))
        object.__setattr__(self, "alphas", as_alphas(self.alphas))
        for name in ("seeds", "seeds_between"):
            check_number(name, getattr(self, name), 1)
        for each in self.controls:
            check_choice("--control", each, CONTROLS)
        if len(set(self.controls)) < len(self.controls):
            raise BadInput("--control", ", ".join(self.controls), "each once", "drop the repeated one")


@dataclass(frozen=True)
class PcaOptions(CommonOptions):
    """Options of `pca`."""

    layers: tuple[str, ...] = ()
    """Names or globs; none: all layers of the run."""
    concepts: tuple[str, ...] = ("all",)
    samples: str = "pixel"
    phi: str = PHI
    """Share of a cell that the concept covers at least, for samples `pixel`; `0+`: any."""
    centred: bool = False
    """Whether the verdict, the tables and the pseudo-unit are of the centred variant."""
    null: str = "analytic"
    subsets: int = 200
    """Draws of the null `subsets`."""
    min_images: int = 10
    seed: int = 0
    """Of the subsets."""
    name: str | None = None
    """Of the scoring."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", as_names(self.layers))
        object.__setattr__(self, "concepts", as_names(self.concepts) or ("all",))
        check_choice("samples", self.samples, SAMPLES)
        check_choice("null", self.null, NULLS)
        object.__setattr__(self, "phi", as_phi(self.phi))
        if self.samples != "pixel" and self.phi != PHI:
            got, remedy = f"{self.phi} with --samples {self.samples}", "leave it out"
            raise BadInput("--phi", got, "no share where samples are not single cells (pixel)", remedy)
        for name in ("subsets", "min_images"):
            check_number(name, getattr(self, name), 1)
        check_number("seed", self.seed, 0)

    @property
    def least_cover(self) -> float:
        """Share of a cell from which on it is a sample; 0: above 0."""
        return 0.0 if self.phi == "0+" else float(self.phi)


def as_names(value: object) -> tuple[str, ...]:
    """Names given as a sequence, or in one text by commas."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(str(each).strip() for each in parts if str(each).strip())  # type: ignore[attr-defined]
    except TypeError as error:
        raise BadInput("names", repr(value), "names by commas", "correct it") from error


def parse_alphas(text: str) -> tuple[float, ...]:
    """`0:1:0.2` (first, last, step) or `0,0.5,1`."""
    try:
        if ":" in text:
            first, last, step = (Fraction(part) for part in text.split(":"))
            if step <= 0 or last < first:
                raise ValueError
            return as_alphas([float(first + i * step) for i in range(math.floor((last - first) / step) + 1)])
        return as_alphas([float(part) for part in text.split(",")])
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput("--alphas", repr(text), "0:1:0.2, or numbers by commas", "correct it") from error


def as_alphas(value: object) -> tuple[float, ...]:
    """Numbers from 0 to 1, ascending, each once; 0 is always among them, for the others are compared with it."""
    try:
        numbers = sorted({0.0, *(float(each) for each in value)})  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(0 <= each <= 1 for each in numbers):
        raise BadInput("--alphas", repr(value), "powers from 0 (no rotation) to 1 (the whole)", "correct it")
    return tuple(numbers)


def as_phi(value: object) -> str:
    """A share in (0, 1], or `0+`, as text."""
    text = str(value).strip()
    try:
        number = 1.0 if text == "0+" else float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise BadInput("--phi", repr(text), "a share of a cell above 0, up to 1, or 0+ for any overlap", "correct it")
    return text
