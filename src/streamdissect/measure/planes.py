"""The labels of an image as bit planes, under the rules of counting (methods 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import PlaneBatch, count_numbers, fill_planes, words_of
from ..options import MULTIPLICITIES, UNIONS, UNLABELLED


@dataclass(frozen=True)
class LabelRules:
    """How labels turn into counters: the dataset's concepts and the choices of methods 3.8."""

    number: NDArray[np.int32]
    """(C,) label numbers, ascending."""
    category: NDArray[np.int32]
    """(C,) primary category of each concept."""
    n_categories: int
    ignore: NDArray[np.int32]
    """(G,) label number not judged for the category's concepts, 0 = none."""
    union: str = "paper"
    multiplicity: str = "set"
    unlabelled: str = "negative"

    def __post_init__(self) -> None:
        for name, choices in (("union", UNIONS), ("multiplicity", MULTIPLICITIES), ("unlabelled", UNLABELLED)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(choices)}")
        if self.union == "mask-touch" and (self.unlabelled == "ignore" or self.ignore.any()):
            raise ValueError("union mask-touch counts whole masks: it goes with neither ignored nor unlabelled pixels")

    @property
    def n_concepts(self) -> int:
        return len(self.number)

    @property
    def n_rows(self) -> int:
        """Rows of the counters: concepts, categories, and one for all images."""
        return self.n_concepts + self.n_categories + 1

    def columns(self) -> NDArray[np.int32]:
        """(65536,) column of each label number, -1 where it is no concept."""
        lookup = np.full(65536, -1, np.int32)
        lookup[self.number] = np.arange(self.n_concepts)
        return lookup


@dataclass(frozen=True)
class ImagePlanes:
    """One image's part of a PlaneBatch, and what it adds to the counts that no unit has a part in."""

    shape: tuple[int, int]
    words: NDArray[np.uint64]
    """(H * words, n_planes)"""
    plane_row: NDArray[np.int32]
    touch_row: NDArray[np.int32]
    whole_row: NDArray[np.int32]
    present_row: NDArray[np.int32]
    """Concepts in the image, each once."""
    present_area: NDArray[np.int64]
    """Their pixels (with `multiset`, as often as they are labelled)."""
    category_pixels: NDArray[np.int64]
    """(G,) pixels judged for the category, 0 where the image lacks it."""


def resample(layer: NDArray[np.uint16], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Nearest neighbour in exact integers: pixel j takes source floor((2 j + 1) n / (2 N))."""
    index = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(shape, layer.shape, strict=True)]
    return layer[np.ix_(*index)]


def image_planes(
    shape: tuple[int, int],
    layers: Sequence[tuple[int, NDArray[np.uint16]]],
    whole: Iterable[tuple[int, int]],
    rules: LabelRules,
    mask_shape: tuple[int, int] | None = None,
) -> ImagePlanes:
    """Planes and counter rows of one image.

    Parameters
    ----------
    shape : (H, W)
        Of its label maps.
    layers : sequence of (category, uint16 (H, W))
        Label numbers, 0 = none.
    whole : iterable of (category, number)
        Labels that hold at every pixel.
    mask_shape : (H, W), optional
        Mask grid, where it is not the labels' own: they are resampled by nearest neighbour.

    Notes
    -----
    A label holds at a pixel if any layer or image-level entry of any category gives it (set semantics); it counts in
    its primary category.
    """
    for _, layer in layers:
        if layer.shape != shape:
            raise ValueError(f"a label map of {layer.shape} among those of {shape}")
    if mask_shape is not None and mask_shape != shape:
        layers = [(category, resample(layer, mask_shape)) for category, layer in layers]
        shape = mask_shape
    whole = list(whole)
    n_concepts, as_set = rules.n_concepts, rules.multiplicity == "set"
    n_words, n_pixels = shape[0] * words_of(shape[1]), shape[0] * shape[1]
    column_of = rules.columns()
    whole_columns = [int(column_of[number]) for _, number in whole if column_of[number] >= 0]
    if as_set:
        whole_columns = sorted(set(whole_columns))

    found = [(layer, _numbers(layer)) for _, layer in layers]
    columns: list[int] = []  # of each plane
    tables: list[NDArray[np.int32]] = []  # per layer: label number -> plane
    for _, numbers in found:
        plane_of = tables[0] if as_set and tables else np.full(65536, -1, np.int32)
        for number in numbers.tolist():
            column = int(column_of[number])
            if column >= 0 and plane_of[number] < 0 and not (as_set and column in whole_columns):
                plane_of[number] = len(columns)
                columns.append(column)
        tables.append(plane_of)
    planes = np.zeros((n_words, len(columns)), np.uint64)
    if columns:
        for (layer, _), plane_of in zip(found, tables, strict=True):
            fill_planes(layer, plane_of, planes)

    plane_column = np.array(columns, np.int32)
    plane_category = rules.category[plane_column] if columns else np.zeros(0, np.int32)
    ignored = _ignored_pixels(found, whole, rules, shape)
    for category, ignore in ignored.items():
        planes[:, plane_category == category] &= ~ignore[:, None]
    area = np.bitwise_count(planes).sum(axis=0, dtype=np.int64)
    kept = area > 0
    planes, plane_column, plane_category, area = planes[:, kept], plane_column[kept], plane_category[kept], area[kept]

    order = np.argsort(plane_category, kind="stable")  # planes of a category stand together
    planes, plane_column, plane_category, area = (
        planes[:, order],
        plane_column[order],
        plane_category[order],
        area[order],
    )
    every = _every_pixel(shape)
    for column in [c for c in whole_columns if int(rules.category[c]) in ignored]:  # no longer at every pixel
        judged = every & ~ignored[int(rules.category[column])]
        planes = np.column_stack([planes, judged])
        plane_column = np.append(plane_column, np.int32(column))
        plane_category = np.append(plane_category, rules.category[column])
        area = np.append(area, np.bitwise_count(judged).sum(dtype=np.int64))
    whole_columns = [c for c in whole_columns if int(rules.category[c]) not in ignored]

    present: dict[int, int] = {}
    by_plane = zip(plane_column.tolist(), area.tolist(), strict=True)
    for column, pixels in [*by_plane, *((c, n_pixels) for c in whole_columns)]:
        present[column] = present.get(column, 0) + pixels
    whole_categories = {int(rules.category[c]) for c in whole_columns}
    categories = sorted({int(rules.category[c]) for c in present})
    plane_row = plane_column.copy()
    touch_row = np.full(len(plane_column), -1, np.int32)
    whole_row = [*whole_columns, n_concepts + rules.n_categories]
    category_pixels = np.zeros(rules.n_categories, np.int64)
    for category in categories:
        row = n_concepts + category
        domain = every & ~ignored[category] if category in ignored else every
        if rules.unlabelled == "ignore" and category not in whole_categories:
            of_category = planes[:, : len(plane_category)][:, plane_category == category]
            domain = domain & np.bitwise_or.reduce(of_category, axis=1)
        category_pixels[category] = np.bitwise_count(domain).sum(dtype=np.int64)
        if category_pixels[category] < n_pixels:  # the unit's area counts on part of the image only
            planes = np.column_stack([planes, domain])
            plane_row, touch_row = np.append(plane_row, np.int32(row)), np.append(touch_row, np.int32(-1))
        elif rules.union == "mask-touch" and category not in whole_categories:
            touch_row[: len(plane_category)][plane_category == category] = row
        else:
            whole_row.append(row)
    return ImagePlanes(
        shape=shape,
        words=np.ascontiguousarray(planes),
        plane_row=plane_row.astype(np.int32),
        touch_row=touch_row.astype(np.int32),
        whole_row=np.array(whole_row, np.int32),
        present_row=np.array(list(present), np.int32),
        present_area=np.array(list(present.values()), np.int64),
        category_pixels=category_pixels,
    )


def _numbers(layer: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The numbers in a label map, ascending. All 65536 counts took 80 us to look through."""
    return np.flatnonzero(count_numbers(layer)[: int(layer.max()) + 1])


def _every_pixel(shape: tuple[int, int]) -> NDArray[np.uint64]:
    """(H * words,) plane with every pixel on, padding off."""
    line = np.full(words_of(shape[1]), ~np.uint64(0), np.uint64)
    if shape[1] % 64:
        line[-1] = np.uint64((1 << int(shape[1]) % 64) - 1)
    return np.tile(line, shape[0])


def _ignored_pixels(
    found: Sequence[tuple[NDArray[np.uint16], NDArray[np.int64]]],
    whole: Iterable[tuple[int, int]],
    rules: LabelRules,
    shape: tuple[int, int],
) -> dict[int, NDArray[np.uint64]]:
    """Category -> plane of the pixels not judged for it, where there are any."""
    ignored: dict[int, NDArray[np.uint64]] = {}
    for category in np.flatnonzero(rules.ignore).tolist():
        number = int(rules.ignore[category])
        plane_of = np.full(65536, -1, np.int32)
        plane_of[number] = 0
        plane = np.zeros((shape[0] * words_of(shape[1]), 1), np.uint64)
        for layer, numbers in found:
            if number in numbers:
                fill_planes(layer, plane_of, plane)
        if any(number == other for _, other in whole):
            plane[:, 0] = _every_pixel(shape)
        if plane.any():
            ignored[category] = plane[:, 0]
    return ignored


def plane_batch(images: Sequence[ImagePlanes]) -> PlaneBatch:
    """Lay images of one mask grid end to end."""
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"images of {len(shapes)} mask grids in one batch")

    def pointer(lengths: Iterable[int]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int64)

    def joined(arrays: Iterable[NDArray[np.int32]]) -> NDArray[np.int32]:
        return np.concatenate(list(arrays)).astype(np.int32)

    return PlaneBatch(
        shape=shapes.pop(),
        words=np.concatenate([image.words.ravel() for image in images]),
        word_ptr=pointer(image.words.size for image in images),
        plane_ptr=pointer(len(image.plane_row) for image in images),
        plane_row=joined(image.plane_row for image in images),
        touch_row=joined(image.touch_row for image in images),
        whole_ptr=pointer(len(image.whole_row) for image in images),
        whole_row=joined(image.whole_row for image in images),
        present_ptr=pointer(len(image.present_row) for image in images),
        present_row=joined(image.present_row for image in images),
        present_area=np.concatenate([image.present_area for image in images]).astype(np.int64),
    )
