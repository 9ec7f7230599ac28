"""Drawn scenes with labels that are known exactly, made in memory as they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from ..errors import BadInput
from .canvas import GROUPS, PARTS, TEXTURES, THINGS, Canvas
from .dataset import Concepts, Dataset, ImageLabels
from .scenes import SCENES, draw_scene, let_it_snow

CATEGORIES = ("object", "part", "color", "texture", "scene")
OBJECT, PART, COLOR, TEXTURE, SCENE = range(5)

TONES = {
    "black-c": [(22, 24, 36), (44, 46, 58)],
    "blue-c": [(40, 90, 190), (56, 124, 176), (90, 160, 228), (140, 180, 226), (184, 214, 240), (40, 50, 96)],
    "brown-c": [(112, 74, 44), (146, 92, 58), (170, 122, 76)],
    "green-c": [(52, 128, 56), (128, 176, 88), (28, 92, 68), (140, 178, 136)],
    "grey-c": [(100, 102, 110), (128, 132, 146), (166, 172, 182), (196, 194, 190)],
    "orange-c": [(236, 132, 36), (250, 156, 72)],
    "pink-c": [(236, 132, 176), (222, 170, 190), (214, 156, 150)],
    "purple-c": [(136, 66, 164), (98, 58, 128)],
    "red-c": [(208, 46, 46), (166, 44, 44), (190, 66, 48)],
    "white-c": [(248, 248, 246), (226, 230, 236)],
    "yellow-c": [(246, 208, 62), (255, 226, 116), (226, 206, 150)],
}
"""What the colour names look like; a pixel has the name of the nearest tone."""
COLORS = {name: number for number, name in enumerate(TONES, start=50)}

SPEC_FORM = "synth or synth:?n=256&seed=0&size=112"
VERSION = 1
"""Goes into the fingerprint; another drawing, another number."""


class Scene(NamedTuple):
    """One drawn image."""

    name: str
    image: NDArray[np.uint8]
    """(size, size, 3)"""
    maps: NDArray[np.uint16]
    """(4, size/2, size/2) things, groups, parts, textures"""
    has_snow: bool


class SyntheticScenes(Dataset):
    """Drawn scenes with exact labels: houses, boats, cars, trees and the like, in five kinds of places.

    Parameters
    ----------
    n : int
        Number of images, at least 1.
    seed : int
        0 to 2**64 - 1. Image i depends on the seed and on i alone, whatever `n` is.
    size : int
        Pixels along each side, even, 32 to 1024. Label maps are half that size.

    Raises
    ------
    BadInput
        A number is out of range.

    Notes
    -----
    Category `object` has two layers, things and groups of things; `part` and `texture` one, and only in images that
    show one; `color` one, missing in every third image (i % 3 == 2); `scene` holds at every pixel and is missing where
    i % 7 == 3. Falling snow gives a texture that holds at every pixel. Images i % 64 == 63 have no label at all. Where
    a thing lies over another it hides that one's labels. `bird` and its group `animal` cover the same pixels.

    >>> SyntheticScenes(n=2).image(1).shape
    (112, 112, 3)
    """

    def __init__(self, n: int = 256, seed: int = 0, size: int = 112) -> None:
        check_number("n", n, 1, 10**7)
        check_number("seed", seed, 0, 2**64 - 1)
        check_number("size", size, 32, 1024)
        if size % 2:
            raise BadInput("synthetic scenes, size", str(size), "an even number", "label maps have half the size")
        self.seed, self.size = seed, size
        self.spec = f"synth:?n={n}&seed={seed}" + (f"&size={size}" if size != 112 else "")
        self.names = tuple(f"scene-{index:05d}.png" for index in range(n))
        self.concepts = list_concepts()

    @classmethod
    def from_spec(cls, spec: str) -> SyntheticScenes:
        """The dataset a text such as `synth` or `synth:?n=64&seed=1` names. BadInput where it names none."""
        head, mark, query = spec.partition(":?")
        if head != "synth" or (mark and not query):
            raise BadInput("data", repr(spec), SPEC_FORM, "correct the name")
        given: dict[str, int] = {}
        for entry in query.split("&") if query else ():
            key, _, text = entry.partition("=")
            if key not in ("n", "seed", "size") or key in given:
                raise BadInput("data", repr(spec), f"n, seed and size once each, as in {SPEC_FORM}", f"see {entry!r}")
            if not (text.isascii() and text.isdigit()):
                raise BadInput(f"data, {key}", repr(text), "a whole number", f"write it as in {SPEC_FORM}")
            given[key] = int(text)
        return cls(**given)

    def split(self, index: int) -> str:
        """Three images of four are `train`, the fourth `val`."""
        self._check(index)
        return "val" if index % 4 == 3 else "train"

    def image(self, index: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB."""
        return self._draw(index).image.copy()

    def image_size(self, index: int) -> tuple[int, int]:
        """(size, size)"""
        self._check(index)
        return self.size, self.size

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image, layers in the order of the categories."""
        scene = self._draw(index)
        layers: list[tuple[int, NDArray[np.uint16]]] = []
        whole: list[tuple[int, int]] = []
        if self.has_labels(index):
            thing, group, part, texture = scene.maps.copy()
            layers += [(OBJECT, thing), (OBJECT, group)]
            if part.any():
                layers.append((PART, part))
            if index % 3 != 2:
                layers.append((COLOR, name_colors(scene.image)))
            if texture.any():
                layers.append((TEXTURE, texture))
            if scene.has_snow:
                whole.append((TEXTURE, TEXTURES["speckled"]))
            if index % 7 != 3:
                whole.append((SCENE, SCENES[scene.name]))
        return ImageLabels((self.size // 2, self.size // 2), tuple(layers), tuple(whole))

    def has_labels(self, index: int) -> bool:
        """False for one image in 64."""
        self._check(index)
        return index % 64 != 63

    def fingerprint(self) -> str:
        """blake2b hex digest of the spec, the concepts and the first image, as it is drawn on this machine."""
        digest = blake2b(f"{VERSION} {self.spec} {self.concepts.name} {self.concepts.number.tolist()}".encode())
        scene = self._draw(0)
        digest.update(scene.image.tobytes() + scene.maps.tobytes())
        return digest.hexdigest()

    def planted_facts(self) -> dict[str, Any]:
        """What is in the images, counted from the label maps; takes about 10 ms an image.

        Returns
        -------
        dict
            Ready for JSON. `images`: for each its `name`, `scene` (also where the label is missing), `pixels` of each
            concept present by name, and the categories it `lacks`. `concepts`: for each its `number`, `name`,
            `category`, `images`, `pixels` and `share` of the pixels of the images having its category. `same_pixels`:
            names that cover the same pixels in every image. `contained`: [inner, outer] where all pixels of the one
            are pixels of the other, image-level labels aside. `lacking`: image indices by category; `unlabelled`: those
            without any label.
        """
        concepts = self.concepts
        together = np.zeros((len(concepts), len(concepts)), np.int64)
        n_images = np.zeros(len(concepts), np.int64)
        lacking: dict[str, list[int]] = {name: [] for name in CATEGORIES}
        images = []
        for index, name in enumerate(self.names):
            planes = self._planes(index)
            area = planes.sum(axis=1)
            flat = planes.astype(np.float32)  # counts up to 2**24 are exact
            together += (flat @ flat.T).astype(np.int64)
            n_images += area > 0
            lacks = [c for g, c in enumerate(CATEGORIES) if not area[concepts.category == g].any()]
            for category in lacks:
                lacking[category].append(index)
            pixels = {concepts.name[j]: int(area[j]) for j in np.flatnonzero(area)}
            images.append({"name": name, "scene": self._draw(index).name, "pixels": pixels, "lacks": lacks})
        area = together.diagonal()
        per_image = (self.size // 2) ** 2
        judged = np.array([per_image * (len(self) - len(lacking[name])) for name in CATEGORIES])[concepts.category]
        share = np.divide(area, judged, out=np.zeros(len(concepts)), where=judged > 0)
        return {
            "spec": self.spec,
            "size": [self.size, self.size],
            "label_size": [self.size // 2, self.size // 2],
            "images": images,
            "concepts": [
                {
                    "number": int(concepts.number[j]),
                    "name": name,
                    "category": CATEGORIES[concepts.category[j]],
                    "images": int(n_images[j]),
                    "pixels": int(area[j]),
                    "share": float(share[j]),
                }
                for j, name in enumerate(concepts.name)
            ],
            **related(concepts, together),
            "lacking": lacking,
            "unlabelled": [index for index in range(len(self)) if not self.has_labels(index)],
        }

    def _planes(self, index: int) -> NDArray[np.bool_]:
        """(C, pixels) where each concept is."""
        labels = self.labels(index)
        number = self.concepts.number[:, None]
        planes = np.zeros((len(self.concepts), labels.shape[0] * labels.shape[1]), bool)
        for _, layer in labels.layers:
            planes |= layer.reshape(1, -1) == number
        for _, label in labels.whole:
            planes |= number == label
        return planes

    def _draw(self, index: int) -> Scene:
        self._check(index)
        return draw(self.seed, index, self.size)

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self.names):
            raise IndexError(f"image {index} of {len(self.names)}")


@functools.lru_cache(maxsize=4)  # image and labels of one index are usually asked for one after the other
def draw(seed: int, index: int, size: int) -> Scene:
    """Image `index` of the scenes of a seed; its arrays are shared, not to be written."""
    rng = Generator(Philox(key=np.array([seed, index], np.uint64)))
    canvas = Canvas(size)
    name, has_snow = draw_scene(canvas, rng)
    image = canvas.image()
    if has_snow:
        let_it_snow(image, rng)
    image = develop(image, rng)
    return Scene(name, image, canvas.maps(), has_snow)


def develop(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """The image as on paper: its own exposure and tint, uneven washes, and grain.

    Flat paint would make the brightest thing stand out for any filter, and give the units of a network equal values.
    """
    side = image.shape[0]
    light = np.exp(0.08 * rng.standard_normal() + 0.04 * rng.standard_normal((1, 1, 3)))
    for cells in (3, 14, 28):
        place = (np.arange(side) + 0.5) * (cells / side)
        weight = np.clip(1 - np.abs(place[:, None] - np.arange(cells + 1)), 0, 1)  # (side, cells + 1), two in a row
        light = light * (1 + weight @ rng.uniform(-0.06, 0.06, (cells + 1, cells + 1)) @ weight.T)[:, :, None]
    grain = rng.uniform(1, 6) * rng.standard_normal(image.shape)
    return np.clip(image * light + grain + 0.5, 0, 255).astype(np.uint8)


def name_colors(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(H, W) numbers of the colour names of an image, at half its size."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    pixels = image.reshape(rows, 2, columns, 2, 3).sum(axis=(1, 3), dtype=np.int32)  # four times the mean
    tones = np.array([tone for family in TONES.values() for tone in family], np.int32) * 4
    numbers = np.array([COLORS[name] for name, family in TONES.items() for _ in family], np.uint16)
    distance = ((pixels[:, :, None] - tones) ** 2).sum(axis=-1)
    nearest: NDArray[np.uint16] = numbers[distance.argmin(axis=-1)]
    return nearest


def list_concepts() -> Concepts:
    """The concepts, numbers ascending; between the categories some numbers are left out."""
    tables: Sequence[Mapping[str, int]] = ({**THINGS, **GROUPS}, PARTS, COLORS, TEXTURES, SCENES)
    entries = sorted((number, name, g) for g, table in enumerate(tables) for name, number in table.items())
    return Concepts(
        number=np.array([number for number, _, _ in entries], np.int32),
        name=tuple(name for _, name, _ in entries),
        category=np.array([g for _, _, g in entries], np.int32),
        category_name=CATEGORIES,
        ignore=np.zeros(len(CATEGORIES), np.int32),
    )


def related(concepts: Concepts, together: NDArray[np.int64]) -> dict[str, list[list[str]]]:
    """Concepts that cover the same pixels, and concepts that lie within others, from (C, C) pixels in common."""
    area = together.diagonal()
    within = (together == area[:, None]) & (area[:, None] > 0)  # (inner, outer)
    is_scene = concepts.category == SCENE
    names = concepts.name
    same = within & within.T
    contained = within & ~same & ~is_scene[:, None] & ~is_scene[None]
    return {
        "same_pixels": [[names[i], names[j]] for i, j in np.argwhere(same).tolist() if i < j],
        "contained": [[names[i], names[j]] for i, j in np.argwhere(contained).tolist()],
    }


def check_number(name: str, value: int, smallest: int, largest: int) -> None:
    """Refuse a number out of range."""
    if not smallest <= value <= largest:
        raise BadInput(
            f"synthetic scenes, {name}", str(value), f"{smallest} to {largest}", f"write it as in {SPEC_FORM}"
        )
