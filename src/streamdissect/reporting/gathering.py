"""What is shown of each unit and of each concept, out of a run's results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..measure.dissection import Dissection, LayerDissection
from ..quantile import FLAG_NAMES
from .pictures import Picture, Pictures

MaskOf = tuple[str, int, int]
"""Layer, unit, row."""
ON_CARD = 3
"""Top images on a card."""
SECOND = 3
"""Concepts on a card beside the best."""
LISTED = 20
"""Concepts of a unit that its page lists at once."""
BEST_UNITS = 12
"""Units of a concept that are listed where fewer pass."""
FRAME = 4
"""Pixels by which the darkened area overhangs the picture, so that its own edge is out of sight."""


@dataclass(frozen=True)
class ConceptScore:
    """A concept of a unit, or a unit of a concept."""

    name: str
    category: str
    column: int
    iou: float
    lift: float
    """How many times larger the intersection is than without localisation; NaN where that is not known."""
    intersection: int
    detected: bool


@dataclass(frozen=True)
class Figure:
    """A picture with what is drawn on it."""

    name: str
    file: str
    """Empty: the image is missing."""
    width: int
    height: int
    box: str
    """The grid as an SVG view box; empty where nothing is drawn."""
    outside: str
    """Path of what is outside the mask, even-odd; empty without a mask."""
    label: str
    """Path of the label's outline; empty without one."""
    alt: str
    caption: str


@dataclass(frozen=True)
class UnitView:
    """A unit."""

    layer: str
    unit: int
    path: str
    best: ConceptScore | None
    others: tuple[ConceptScore, ...]
    """In descending order of IoU, those above 0."""
    is_detector: bool
    threshold: float
    n: int
    n_above: int
    active_maps: int
    flags: tuple[str, ...]
    figures: tuple[Figure, ...]

    @property
    def title(self) -> str:
        """`LAYER:UNIT`"""
        return f"{self.layer}:{self.unit}"


@dataclass(frozen=True)
class Shown:
    """A scoring with the pictures and masks that are shown of it."""

    result: Dissection
    pictures: Pictures
    n_images: int
    """Top images of a unit."""
    paths: Mapping[MaskOf, str] = field(repr=False)
    """Outlines of the masks."""
    n_pixels: Mapping[MaskOf, int] = field(repr=False)
    """Their pixels."""

    stems: dict[str, str] = field(init=False)
    """Layer -> beginning of the names of its units' pages."""
    grid_pixels: NDArray[np.float64] = field(init=False)
    """(G,) pixels of a mask grid, NaN where a category's images have several."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stems", url_stems(list(self.result.layers)))
        object.__setattr__(self, "grid_pixels", grid_pixels(self.result, self.pictures))

    def unit_path(self, layer: str, unit: int) -> str:
        """The page of a unit."""
        return f"units/{self.stems[layer]}-{unit}.html"

    def lifts(self, layer: LayerDissection, unit: int) -> NDArray[np.float64]:
        """(C,) intersection over the one to expect without localisation; NaN where that is 0 or not known."""
        expected = layer.chance[unit] / self.grid_pixels[self.result.concept_category]
        lifts = np.full(len(expected), np.nan)
        np.divide(layer.intersection[unit], expected, out=lifts, where=expected > 0)
        return lifts

    def scores(self, layer: LayerDissection, unit: int) -> list[ConceptScore]:
        """The concepts of a unit with an IoU above 0, largest first."""
        iou, lifts = layer.iou[unit], self.lifts(layer, unit)
        order = np.argsort(-iou, kind="stable")[: int(np.count_nonzero(iou > 0))].tolist()
        return [self.score(layer, unit, c, float(lifts[c])) for c in order]

    def score(self, layer: LayerDissection, unit: int, c: int, lift: float) -> ConceptScore:
        """A unit with one concept."""
        category = self.result.category_name[self.result.concept_category[c]]
        tau = share_of(layer.attributes["tau"])
        iou = float(layer.iou[unit, c])
        detected = (iou > tau) if c != layer.best_concept[unit] else bool(layer.is_detector[unit])
        return ConceptScore(
            self.result.concept_name[c], category, c, iou, lift, int(layer.intersection[unit, c]), detected
        )

    def unit(self, name: str, unit: int, n_images: int) -> UnitView:
        """All about a unit; with so many of its images at most."""
        layer = self.result.layers[name]
        scores = self.scores(layer, unit)
        best = int(layer.best_concept[unit])
        first = next((each for each in scores if each.column == best), None)
        rows = layer.top_image[unit, : min(n_images, self.n_images)].tolist()
        values = layer.top_value[unit].tolist()
        figures = [
            self.figure(name, unit, row, best, place + 1, values[place]) for place, row in enumerate(rows) if row >= 0
        ]
        return UnitView(
            layer=name,
            unit=unit,
            path=self.unit_path(name, unit),
            best=first,
            others=tuple(each for each in scores if each is not first),
            is_detector=bool(layer.is_detector[unit]),
            threshold=float(layer.threshold[unit]),
            n=int(layer.n[unit]),
            n_above=int(layer.n_above[unit]),
            active_maps=int(layer.active_maps[unit]),
            flags=tuple(text for bit, text in FLAG_NAMES.items() if layer.flags[unit] & bit),
            figures=tuple(figures),
        )

    def figure(self, layer: str, unit: int, row: int, concept: int, place: int, value: float) -> Figure:
        """A top image with the unit's mask and the label of its concept."""
        picture, key = self.pictures.of_row[row], (layer, unit, row)
        name = self.result.concept_name[concept] if concept >= 0 else ""
        path = self.paths.get(key)
        lit = f", {self.n_pixels[key]:,} pixels of its mask" if key in self.n_pixels else ""
        alt = f"{picture.name}, top image {place} of unit {unit} of {layer}{lit}"
        label = picture.labels.get(concept, "")
        if label and path is not None:
            alt += f", {name} labelled in it"
        return self.drawn(picture, path, label, alt, f"{picture.name}, largest activation {value:.4g}")

    def drawn(self, picture: Picture, path: str | None, label: str, alt: str, caption: str) -> Figure:
        """A picture with a mask, where there is one, and a label."""
        box = outside = ""
        if picture.grid is not None and (path is not None or label):
            height, width = picture.grid
            box = f"0 0 {width} {height}"
            across, down = width + 2 * FRAME, height + 2 * FRAME
            outside = "" if path is None else f"M-{FRAME} -{FRAME}h{across}v{down}h-{across}z{path}"
        return Figure(picture.name, picture.file, picture.width, picture.height, box, outside, label, alt, caption)

    def iter_units(self) -> Iterator[tuple[str, int]]:
        """Every unit of every layer."""
        for name, layer in self.result.layers.items():
            for unit in range(len(layer.n)):
                yield name, unit


@dataclass(frozen=True)
class ConceptView:
    """A concept: which units detect it, and where it is labelled."""

    column: int
    name: str
    category: str
    area: int
    """Pixels of its labels."""
    units: tuple[tuple[str, int, float, bool, bool], ...]
    """(layer, unit, IoU, whether it is the unit's best concept, whether the IoU passes): those that pass, or a few."""
    figures: tuple[Figure, ...]
    """Images where it is largest, of those in the report."""

    @property
    def path(self) -> str:
        """Its page."""
        return f"concepts/{self.column}.html"

    @property
    def n_detectors(self) -> int:
        """Units whose best concept it is, and that detect it."""
        return sum(is_best and passes for *_, is_best, passes in self.units)


def view_concept(shown: Shown, c: int) -> ConceptView:
    """All about a concept."""
    result, rows = shown.result, []
    for name, layer in result.layers.items():
        iou = layer.iou[:, c]
        tau = share_of(layer.attributes["tau"])
        chosen = np.argsort(-iou, kind="stable")[: max(BEST_UNITS, int(np.count_nonzero(iou > tau)))].tolist()
        rows += [
            (name, k, float(iou[k]), bool(layer.best_concept[k] == c), shown.score(layer, k, c, np.nan).detected)
            for k in chosen
            if iou[k] > 0
        ]
    rows.sort(key=lambda row: -row[2])
    n_listed = max(BEST_UNITS, sum(row[4] for row in rows))
    figures = []
    for row in shown.pictures.examples.get(c, []):
        picture = shown.pictures.of_row[row]
        alt = f"{picture.name}, in which {result.concept_name[c]} is labelled"
        figures.append(shown.drawn(picture, None, picture.labels.get(c, ""), alt, picture.name))
    return ConceptView(
        column=c,
        name=result.concept_name[c],
        category=result.category_name[result.concept_category[c]],
        area=int(max((int(layer.concept_area[c]) for layer in result.layers.values()), default=0)),
        units=tuple(rows[:n_listed]),
        figures=tuple(figures),
    )


def share_of(text: Any) -> float:
    """A share that is written as a fraction."""
    return float(Fraction(str(text)))


def grid_pixels(result: Dissection, pictures: Pictures) -> NDArray[np.float64]:
    """(G,) pixels of a mask grid, where all images of a category have the same; else NaN.

    All labelled pictures that are shown have one grid, and the category's pixels are so many times its images. Where
    pixels were left unjudged the second does not hold, and the number stays unknown.
    """
    grids = [picture.grid for picture in pictures.of_row.values() if picture.is_labelled and picture.grid is not None]
    sizes = {rows * columns for rows, columns in grids}
    found = np.full(len(result.category_name), np.nan)
    if len(sizes) == 1:
        size = sizes.pop()
        found[result.category_pixels == size * result.category_images] = size
    return found


def url_stems(layers: Sequence[str]) -> dict[str, str]:
    """Layers as parts of file names that need no quoting in a link; no two alike, whatever the case."""
    taken, stems = set[str](), {}
    for layer in layers:
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", layer).lstrip(".") or "_"
        while stem.casefold() in taken:
            stem += "_"
        taken.add(stem.casefold())
        stems[layer] = stem
    return stems
