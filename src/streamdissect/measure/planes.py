"""The labels of an image as bit planes, under the rules of counting (methods 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ..kernels import LabelTables, PlaneBatch, label_planes
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

    @cached_property
    def tables(self) -> LabelTables:
        """The rules as the kernels take them."""
        column_of = np.full(65536, -1, np.int32)
        column_of[self.number] = np.arange(self.n_concepts)
        return LabelTables(
            column_of=column_of,
            category=np.ascontiguousarray(self.category, np.int32),
            ignore=np.ascontiguousarray(self.ignore, np.int32),
            as_set=self.multiplicity == "set",
            touch=self.union == "mask-touch",
            labelled_only=self.unlabelled == "ignore",
        )


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
    backend: str = "auto",
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
    backend : str
        See `kernels.kernel_backend`.

    Notes
    -----
    A label holds at a pixel if any layer or image-level entry of any category gives it (set semantics); it counts in
    its primary category.
    """
    maps = [layer for _, layer in layers]
    if mask_shape is not None and mask_shape != shape:
        for layer in maps:
            if layer.shape != shape:
                raise ValueError(f"a label map of {layer.shape} among those of {shape}")
        maps, shape = [resample(layer, mask_shape) for layer in maps], mask_shape
    return ImagePlanes(
        shape, *label_planes(shape, maps, [number for _, number in whole], rules.tables, backend=backend)
    )


def with_both_unions(image: ImagePlanes, rules: LabelRules) -> ImagePlanes:
    """Planes made for the union `mask-touch`, to count `paper` at once.

    They feed counters of 2 G categories: the unit areas of the first G are the paper's, those of the others are taken
    where the mask touches a label.
    """
    n_concepts, n_categories = rules.n_concepts, rules.n_categories
    concepts = image.whole_row[image.whole_row < n_concepts]
    present = n_concepts + np.flatnonzero(image.category_pixels)
    rest = image.whole_row[image.whole_row >= n_concepts] + n_categories  # labels everywhere touch; all images
    return replace(
        image,
        touch_row=np.where(image.touch_row >= 0, image.touch_row + n_categories, -1).astype(np.int32),
        whole_row=np.concatenate([concepts, present, rest]).astype(np.int32),
        category_pixels=np.tile(image.category_pixels, 2),
    )


def grid_runs(images: Sequence[ImagePlanes]) -> Iterator[range]:
    """Neighbouring images of one mask grid."""
    begin = 0
    for i in range(1, len(images) + 1):
        if i == len(images) or images[i].shape != images[begin].shape:
            yield range(begin, i)
            begin = i


class LaidOut(Sequence[ImagePlanes]):
    """Images whose planes lie end to end, those of one mask grid together: parts of them need not be laid out again."""

    def __init__(self, images: Sequence[ImagePlanes]) -> None:
        self._images, self._within = list(images), range(len(images))
        self._batches = {run: plane_batch(images[run.start : run.stop]) for run in grid_runs(images)}

    def __len__(self) -> int:
        return len(self._within)

    @overload
    def __getitem__(self, index: int) -> ImagePlanes: ...
    @overload
    def __getitem__(self, index: slice) -> LaidOut: ...
    def __getitem__(self, index: int | slice) -> ImagePlanes | LaidOut:
        if isinstance(index, slice):
            part = copy(self)
            part._within = self._within[index]
            return part
        return self._images[self._within[index]]

    def batch(self) -> PlaneBatch:
        """Of all these images; ValueError where they are of several mask grids."""
        begin, end = self._within.start, self._within.stop
        for run, batch in self._batches.items():
            if run.start <= begin and end <= run.stop:
                return (
                    batch if (begin, end) == (run.start, run.stop) else batch.part(begin - run.start, end - run.start)
                )
        raise ValueError("images of several mask grids in one batch")


def plane_batch(images: Sequence[ImagePlanes]) -> PlaneBatch:
    """Lay images of one mask grid end to end."""
    if isinstance(images, LaidOut):
        return images.batch()
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
