"""What is done to images, and where it moves what their labels name (methods 4).

A new kind is one class: what it makes of an image, and how it moves labels. It is passed to `perturb` as it is, or
given a line in `KINDS`.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from ..errors import BadInput
from ..perturboptions import FILLS, ShowOptions
from .warps import RotationWarp, Tiles, TileWarp, Warp, centres

Image = NDArray[np.float32]
"""(rows, columns, 3) RGB, 0..255, not rounded."""
Size = tuple[int, int]
"""(rows, columns)"""
TALL = 255.0


@dataclass(frozen=True)
class Draw:
    """What one image is perturbed with in one trial."""

    seed: int
    trial: int
    name: str
    """Of the image: draws depend on it, and on no order, batch or worker."""
    mean_colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """0..255, for what comes from outside the image."""
    ascent: Image | None = None
    """Signs of the loss's gradient at the image, for kinds that need them."""

    def generator(self, kind: str, is_same: bool = False) -> Generator:
        """Random numbers of (seed, kind, trial, image); with `is_same` one stream for all images."""
        about = f"{self.seed}\0{kind}\0{self.trial}\0{'' if is_same else self.name}"
        key = int.from_bytes(blake2b(about.encode(), digest_size=16).digest(), "little")
        return Generator(Philox(key=key))


class Perturbation(ABC):
    """One perturbation at one magnitude."""

    kind: ClassVar[str]
    """As on the command line."""
    is_random: ClassVar[bool] = False
    """Whether trials differ; what is not random has one."""
    needs_ascent: ClassVar[bool] = False
    """Whether it needs the signs of the loss's gradient."""

    magnitude: float
    """Its place on a chart's axis."""

    @classmethod
    def make(cls, magnitude: float, options: ShowOptions) -> Perturbation:
        """As the options of a command ask for it."""
        return cls(magnitude)  # type: ignore[call-arg]

    @property
    def text(self) -> str:
        """Its name in tables and files: equal texts are the same perturbation."""
        return f"{self.kind} {self.magnitude:.12g}"

    @property
    def label(self) -> str:
        """Its short name beside a picture."""
        return self.text

    def check(self, size: Size) -> None:  # noqa: B027 - most kinds take every size
        """BadInput where it cannot be done to images of a size."""

    @abstractmethod
    def image(self, image: Image, draw: Draw) -> Image:
        """The image perturbed; the image given stays as it is."""

    def warp(self, size: Size, draw: Draw) -> Warp | None:
        """How it moves labels and masks, and which places are judged; None: nothing moves, and all are."""
        return None


@dataclass(frozen=True)
class Clean(Perturbation):
    """Nothing at all: what the others are compared with."""

    magnitude: float = 0.0

    kind: ClassVar[str] = "clean"

    @property
    def text(self) -> str:
        return self.kind

    def image(self, image: Image, draw: Draw) -> Image:
        return image


@dataclass(frozen=True)
class Noise(Perturbation):
    """x + c U, U uniform in 0..1 for each pixel and channel; one field for all magnitudes (methods 4)."""

    magnitude: float
    is_centred: bool = False
    """Whether c / 2 is taken off, so that the image does not brighten."""
    is_clipped: bool = True
    """To 0..255."""
    is_grey: bool = False
    """Whether the three channels get the same."""

    kind: ClassVar[str] = "noise"
    is_random: ClassVar[bool] = True

    @classmethod
    def make(cls, magnitude: float, options: ShowOptions) -> Noise:
        return cls(magnitude, options.center, options.clip != "none", options.gray)

    @property
    def text(self) -> str:
        extras = " centred" * self.is_centred + " unclipped" * (not self.is_clipped) + " grey" * self.is_grey
        return f"noise {self.magnitude:.12g}{extras}"

    @property
    def label(self) -> str:
        return f"+{self.magnitude:.12g}"

    def image(self, image: Image, draw: Draw) -> Image:
        shape = (*image.shape[:2], 1 if self.is_grey else 3)
        field = draw.generator(self.kind).random(shape, np.float32)
        noisy = image + np.float32(self.magnitude) * (field - np.float32(0.5) if self.is_centred else field)
        return np.clip(noisy, 0, TALL) if self.is_clipped else noisy


@dataclass(frozen=True)
class Rotation(Perturbation):
    """By degrees, counter-clockwise, bilinear; multiples of 90 on square images are transpositions (methods 4)."""

    magnitude: float
    fill: str = "mean"

    kind: ClassVar[str] = "rotate"

    @classmethod
    def make(cls, magnitude: float, options: ShowOptions) -> Rotation:
        return cls(magnitude, options.fill)

    @property
    def text(self) -> str:
        return f"rotate {self.magnitude:.12g}" + ("" if self.fill == "mean" else f" {self.fill}")

    @property
    def label(self) -> str:
        return f"{self.magnitude:.12g}\N{DEGREE SIGN}"

    def check(self, size: Size) -> None:
        if self.fill not in FILLS:
            raise BadInput("--fill", repr(self.fill), "one of " + ", ".join(FILLS), "choose one of them")

    def image(self, image: Image, draw: Draw) -> Image:
        cells, weight, is_outside = rotation_table(self.magnitude, image.shape[:2], self.fill == "reflect")
        flat = image.reshape(-1, 3)
        turned: Image = np.zeros_like(flat)
        for cell, share in zip(cells, weight, strict=True):
            turned += flat[cell] * share[:, None]
        if self.fill != "reflect":
            turned[is_outside] = draw.mean_colour if self.fill == "mean" else 0
        return turned.reshape(image.shape)

    def warp(self, size: Size, draw: Draw) -> Warp:
        return rotation_warp(size, self.magnitude)


@lru_cache(64)
def rotation_warp(size: Size, degrees: float) -> RotationWarp:
    """One object for all images, so that what is worked out for it serves all."""
    return RotationWarp(size, degrees)


@lru_cache(8)
def rotation_table(
    degrees: float, size: Size, is_reflected: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """(4, n) pixels about the source of each pixel, (4, n) their shares, (n,) whether it lies outside the image.

    Half a pixel within the edge the outermost pixels are repeated; further out, reflected or for the fill to hide.
    """
    n, m = size
    warp = RotationWarp(size, degrees)
    y, x = warp.unbounded(*np.broadcast_arrays(centres(n)[:, None], centres(m)[None, :]))
    is_outside = ~((y >= 0) & (y < 1) & (x >= 0) & (x < 1)).ravel()
    axes = []
    for at, count in ((y.ravel() * n, n), (x.ravel() * m, m)):
        if is_reflected:
            at = count - np.abs(np.mod(at, 2 * count) - count)
        place = np.clip(np.round(at - 0.5, 9), 0, count - 1)
        first = np.floor(place).astype(np.int64)
        axes.append((first, np.minimum(first + 1, count - 1), (place - first).astype(np.float32)))
    (top, below, q), (left, beside, r) = axes
    cells = np.stack([row * m + column for row in (top, below) for column in (left, beside)])
    one = np.float32(1)
    return cells, np.stack([(one - q) * (one - r), (one - q) * r, q * (one - r), q * r]), is_outside


class Shuffle(Perturbation):
    """Tiles that change places at random: the same pixels, another arrangement (methods 4)."""

    is_random: ClassVar[bool] = True
    is_deranged: bool
    is_same: bool

    @abstractmethod
    def tiles(self, size: Size) -> tuple[Tiles, Tiles]:
        """Of the rows and of the columns. BadInput where there are none."""

    def check(self, size: Size) -> None:
        rows, columns = self.tiles(size)
        if self.is_deranged and rows.count * columns.count < 2:
            raise BadInput("--derange", "a single tile", "at least two", "leave it out, or take smaller tiles")

    def image(self, image: Image, draw: Draw) -> Image:
        n, m = image.shape[:2]
        source = self.warp((n, m), draw).pixels((n, m)).ravel()
        source = np.where(source < 0, np.arange(n * m), source)  # a margin stays as it is
        moved: Image = image.reshape(-1, 3)[source].reshape(image.shape)
        return moved

    def warp(self, size: Size, draw: Draw) -> TileWarp:
        rows, columns = self.tiles(size)
        n = rows.count * columns.count
        generator = draw.generator(self.kind, self.is_same)
        order = generator.permutation(n)
        while self.is_deranged and (order == np.arange(n)).any():
            order = generator.permutation(n)
        return TileWarp(rows, columns, order)

    def extras(self) -> str:
        """What its text says beside the magnitude."""
        return " deranged" * self.is_deranged + " same" * self.is_same


@dataclass(frozen=True)
class ShuffleGrid(Shuffle):
    """g x g tiles."""

    magnitude: float
    is_deranged: bool = False
    """Whether no tile may stay."""
    is_same: bool = False
    """Whether all images get the same order."""

    kind: ClassVar[str] = "shuffle-grid"

    @classmethod
    def make(cls, magnitude: float, options: ShowOptions) -> ShuffleGrid:
        return cls(magnitude, options.derange, options.same_for_all)

    @property
    def text(self) -> str:
        return f"shuffle-grid {self.magnitude:.12g}{self.extras()}"

    @property
    def label(self) -> str:
        return f"{self.magnitude:.12g}x{self.magnitude:.12g}"

    def tiles(self, size: Size) -> tuple[Tiles, Tiles]:
        g = whole_magnitude(self, 1, min(size))
        return Tiles(size[0], 0, size[0], g), Tiles(size[1], 0, size[1], g)


@dataclass(frozen=True)
class ShufflePatch(Shuffle):
    """Tiles of so many pixels of the network's input."""

    magnitude: float
    is_deranged: bool = False
    is_same: bool = False
    is_cropped: bool = False
    """Whether a margin that fills no tile may stay where it is, and is not judged."""

    kind: ClassVar[str] = "shuffle-patch"

    @classmethod
    def make(cls, magnitude: float, options: ShowOptions) -> ShufflePatch:
        return cls(magnitude, options.derange, options.same_for_all, options.crop)

    @property
    def text(self) -> str:
        return f"shuffle-patch {self.magnitude:.12g}{self.extras()}{' cropped' * self.is_cropped}"

    @property
    def label(self) -> str:
        return f"{self.magnitude:.12g} px"

    def tiles(self, size: Size) -> tuple[Tiles, Tiles]:
        side = whole_magnitude(self, 1, min(size))
        if not self.is_cropped and (size[0] % side or size[1] % side):
            expected = f"a divisor of the input's {size[0]} rows and {size[1]} columns"
            raise BadInput("--shuffle-patch", f"{side}", expected, "choose one, or give --crop")
        rows, columns = ((n, (n % side) // 2, (n % side) // 2 + n // side * side, n // side) for n in size)
        return Tiles(*rows), Tiles(*columns)


@dataclass(frozen=True)
class Blur(Perturbation):
    """Gaussian, of a standard deviation in pixels of the input; cut at four of them, edges repeated."""

    magnitude: float
    kind: ClassVar[str] = "blur"

    def image(self, image: Image, draw: Draw) -> Image:
        radius = math.ceil(4 * self.magnitude)
        if radius == 0:
            return image
        share = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / self.magnitude))
        share = (share / share.sum()).astype(np.float32)
        for axis in (0, 1):
            n, padding = image.shape[axis], [(0, 0)] * 3
            padding[axis] = (radius, radius)
            wide = np.pad(image, padding, mode="edge")
            image = sum_of(wide.take(range(i, i + n), axis=axis) * part for i, part in enumerate(share))
        return image


@dataclass(frozen=True)
class Brightness(Perturbation):
    """Times a factor, clipped to 0..255."""

    magnitude: float
    kind: ClassVar[str] = "brightness"

    def image(self, image: Image, draw: Draw) -> Image:
        changed: Image = np.clip(image * np.float32(self.magnitude), 0, TALL)
        return changed


@dataclass(frozen=True)
class Jpeg(Perturbation):
    """Saved as JPEG of a quality and read again."""

    magnitude: float
    kind: ClassVar[str] = "jpeg"

    def check(self, size: Size) -> None:
        whole_magnitude(self, 1, 100)

    def image(self, image: Image, draw: Draw) -> Image:
        import PIL.Image  # the other kinds do without

        buffer = io.BytesIO()
        rounded = np.clip(np.rint(image), 0, TALL).astype(np.uint8)
        PIL.Image.fromarray(rounded).save(buffer, format="JPEG", quality=int(self.magnitude))
        with PIL.Image.open(buffer) as saved:
            return np.asarray(saved, np.float32)


@dataclass(frozen=True)
class Fgsm(Perturbation):
    """One step of so many units up the cross-entropy of the clean image's own first class (fast gradient sign)."""

    magnitude: float
    kind: ClassVar[str] = "fgsm"
    needs_ascent: ClassVar[bool] = True

    def image(self, image: Image, draw: Draw) -> Image:
        assert draw.ascent is not None, "the stage works it out"
        climbed: Image = np.clip(image + np.float32(self.magnitude) * draw.ascent, 0, TALL)
        return climbed


KINDS: dict[str, type[Perturbation]] = {
    cls.kind: cls for cls in (Noise, Rotation, ShuffleGrid, ShufflePatch, Blur, Brightness, Jpeg, Fgsm)
}


def whole_magnitude(perturbation: Perturbation, least: int, most: int) -> int:
    """A magnitude that counts something. BadInput for another."""
    value = perturbation.magnitude
    if value != int(value) or not least <= value <= most:
        expected = f"a whole number from {least} to {most}"
        raise BadInput(f"--{perturbation.kind}", f"{value:g}", expected, "correct it")
    return int(value)


def sum_of(parts: Iterable[Image]) -> Image:
    """The sum of arrays, one after the other."""
    iterator = iter(parts)
    total = next(iterator)
    for part in iterator:
        total += part
    return total
