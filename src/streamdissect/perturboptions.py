"""The options of `perturb` and `show` as frozen objects: what is done to images, and how it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import BadInput
from .options import CommonOptions, as_three, check_choice, check_number

PERTURBATIONS = {
    "noise": "largest number that is added, on a scale of 0 to 255",
    "rotate": "degrees, counter-clockwise",
    "shuffle_grid": "so many tiles a side change places",
    "shuffle_patch": "tiles of so many pixels change places",
    "blur": "standard deviation of a Gaussian, in pixels",
    "brightness": "factor",
    "jpeg": "quality, 1 to 100",
    "fgsm": "step along the signs of the loss's gradient, on a scale of 0 to 255",
}
"""Kinds of perturbations, each an option that takes magnitudes, and what those are."""
DEFAULT_PERTURBATIONS = {"noise": (1.0, 5.0, 10.0, 100.0), "rotate": (10.0, 45.0, 90.0), "shuffle_grid": (4.0, 8.0)}
FILLS = ("mean", "black", "reflect")
CLIPS = ("0..255", "none")
THRESHOLDS_FROM = ("clean", "recompute")
LABELS_WARPS = ("along", "fixed")


@dataclass(frozen=True)
class ShowOptions(CommonOptions):
    """Options of `show`: what is done to the images, and which scoring serves."""

    noise: tuple[float, ...] = ()
    rotate: tuple[float, ...] = ()
    shuffle_grid: tuple[float, ...] = ()
    shuffle_patch: tuple[float, ...] = ()
    blur: tuple[float, ...] = ()
    brightness: tuple[float, ...] = ()
    jpeg: tuple[float, ...] = ()
    fgsm: tuple[float, ...] = ()
    """Magnitudes of each kind of perturbation; see PERTURBATIONS."""
    center: bool = False
    """Noise of mean zero."""
    clip: str = "0..255"
    """What noise is clipped to."""
    gray: bool = False
    """The same noise in the three channels."""
    fill: str = "mean"
    """What a rotation lets in from outside the image."""
    derange: bool = False
    """No tile stays in its place."""
    same_for_all: bool = False
    """One order of the tiles for all images."""
    crop: bool = False
    """Tiles of `shuffle_patch` need not fill the image."""
    seed: int = 0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """Of the preprocessing, for a run of `capture`, which does not know what its loop did."""
    name: str | None = None
    """Of the scoring."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PERTURBATIONS:
            object.__setattr__(self, name, as_magnitudes(f"--{name.replace('_', '-')}", getattr(self, name)))
        check_choice("clip", self.clip, CLIPS)
        check_choice("fill", self.fill, FILLS)
        check_number("seed", self.seed, 0)
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_three(name, getattr(self, name), is_positive=name == "std"))


@dataclass(frozen=True)
class PerturbOptions(ShowOptions):
    """Options of `perturb`."""

    layers: tuple[str, ...] = ()
    """Names or globs; none: all layers of the run."""
    trials: int = 3
    limit: int | None = None
    is_first: bool = False
    """Whether `limit` takes the first images, not a sample."""
    thresholds_from: str = "clean"
    labels_warp: str = "along"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("trials", self.trials, 1)
        if self.limit is not None:
            check_number("limit", self.limit, 1)
        check_choice("thresholds_from", self.thresholds_from, THRESHOLDS_FROM)
        if self.limit is not None and self.thresholds_from == "recompute":
            got, expected = f"recompute with --limit {self.limit}", "clean, or all images of the run"
            raise BadInput("--thresholds-from", got, expected, "leave one out: thresholds belong to all images")
        check_choice("labels_warp", self.labels_warp, LABELS_WARPS)
        layers = self.layers.split(",") if isinstance(self.layers, str) else self.layers
        object.__setattr__(self, "layers", tuple(each.strip() for each in layers if each.strip()))


def as_magnitudes(name: str, value: object) -> tuple[float, ...]:
    """Finite numbers from 0, each once; one number, or several."""
    try:
        numbers = tuple(float(each) for each in (value if isinstance(value, (tuple, list)) else (value,)))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(math.isfinite(each) and (each >= 0 or name == "--rotate") for each in numbers):
        raise BadInput(name, repr(value), "numbers from 0, by commas", "correct it")
    if len(set(numbers)) < len(numbers):
        raise BadInput(name, repr(value), "each number once", "drop the repeated one")
    return numbers
