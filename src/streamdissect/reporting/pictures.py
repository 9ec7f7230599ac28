"""Small pictures of a run's images, each stored once, with the outlines of labels on them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ..errors import BadInput, StorageFailure
from ..kernels.reference import unpack
from ..measure.planes import ImagePlanes
from ..stages.control import Control
from .album import Album
from .outlines import outline
from .sizes import Plan

QUALITY = 72
BATCH = 64
"""Images at work at once."""
EXAMPLES = 4
"""Images of a concept: those where it is largest."""


@dataclass
class Picture:
    """One image of the run."""

    row: int
    name: str
    file: str = ""
    """In the report's folder; empty: the image is missing."""
    width: int = 0
    height: int = 0
    """Of the small picture."""
    grid: tuple[int, int] | None = None
    """(H, W) of its masks, where that is known."""
    is_labelled: bool = False
    """Whether it has any label."""
    labels: dict[int, str] = field(default_factory=dict)
    """Concept -> outline of its pixels on the grid, of those that are shown somewhere."""


@dataclass(frozen=True)
class Pictures:
    """All that are shown."""

    of_row: dict[int, Picture]
    examples: dict[int, list[int]]
    """Concept -> rows of pictures in which its label is largest, largest first."""

    @property
    def n_missing(self) -> int:
        """Images that could not be read."""
        return sum(not picture.file for picture in self.of_row.values())

    def grids(self) -> dict[int, tuple[int, int]]:
        """Mask grids by row."""
        return {row: picture.grid for row, picture in self.of_row.items() if picture.grid is not None}


def draw_pictures(
    album: Album,
    names: Sequence[str],
    plan: Plan,
    wanted: Mapping[int, set[int]],
    folder: Path,
    threads: int,
    control: Control,
) -> Pictures:
    """Write the small pictures and trace the labels.

    Parameters
    ----------
    names : sequence of str
        Of the images, by row.
    plan : Plan
        Which rows are shown, and how large.
    wanted : row -> concepts
        Whose labels are shown on it.
    folder : path
        The report's.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    heaps: dict[int, list[tuple[int, int]]] = {}
    found = Pictures({row: Picture(row, names[row]) for row in plan.rows}, {})
    with control.metering("images", len(plan.rows), "image") as meter:
        for batch in batches([row for row in plan.rows if row in album.index], BATCH):
            control.check()
            readable = []
            for row, size in draw_batch(album, batch, plan.side, folder, threads):
                readable.append(row)
                found.of_row[row].file = picture_path(row)
                found.of_row[row].width, found.of_row[row].height = size
            for row, planes in plane_batch(album, readable, threads):
                found.of_row[row].grid = planes.shape
                found.of_row[row].is_labelled = len(planes.present_row) > 0
                if album.is_as_scored:
                    trace_labels(found, heaps, row, planes, wanted)
            meter.advance(len(batch))
    for concept, heap in heaps.items():
        found.examples[concept] = [-row for _, row in sorted(heap, reverse=True)]
    return found


def trace_labels(
    found: Pictures,
    heaps: dict[int, list[tuple[int, int]]],
    row: int,
    planes: ImagePlanes,
    wanted: Mapping[int, set[int]],
) -> None:
    """Keep the outlines of the labels wanted on an image, and of those that are larger there than in most others."""
    for concept, area in zip(planes.present_row.tolist(), planes.present_area.tolist(), strict=True):
        entry, heap = (area, -row), heaps.setdefault(concept, [])
        heappush(heap, entry)
        smallest = heappop(heap) if len(heap) > EXAMPLES else None
        if smallest != entry or concept in wanted.get(row, ()):
            found.of_row[row].labels[concept] = outline(label_mask(planes, concept))
        if smallest is not None and smallest != entry and concept not in wanted.get(-smallest[1], ()):
            del found.of_row[-smallest[1]].labels[concept]


def label_mask(planes: ImagePlanes, concept: int) -> NDArray[np.bool_]:
    """(H, W) the pixels of a concept."""
    if concept in planes.whole_row:
        return np.ones(planes.shape, np.bool_)
    mask = np.zeros(planes.shape, np.bool_)
    for plane in np.flatnonzero(planes.plane_row == concept).tolist():
        mask |= unpack(np.ascontiguousarray(planes.words[:, plane]), planes.shape)
    return mask


def draw_batch(
    album: Album, rows: Sequence[int], side: int, folder: Path, threads: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Write some images; the row and size of those that could be read."""

    def draw(row: int) -> tuple[int, int] | None:
        assert album.data is not None
        try:
            pixels = album.data.image(album.index[row])
        except (BadInput, StorageFailure, OSError):
            return None
        small = shrink(pixels, side)
        save_small(small, folder / picture_path(row))
        return small.size

    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        for row, size in zip(rows, pool.map(draw, rows), strict=True):
            if size is not None:
                yield row, size


def plane_batch(album: Album, rows: Sequence[int], threads: int) -> Iterator[tuple[int, ImagePlanes]]:
    """The labels of some images; those that cannot be read are passed over."""
    planes, data = album.planes, album.data
    if planes is None or data is None:
        return

    def read(part: Sequence[int]) -> list[tuple[int, ImagePlanes]]:
        try:
            return list(zip(part, planes.of_images([album.index[row] for row in part]), strict=True))
        except (BadInput, StorageFailure, OSError):
            return [] if len(part) == 1 else [each for row in part for each in read([row])]

    with ThreadPoolExecutor(threads, thread_name_prefix="labels") as pool:
        for found in pool.map(read, batches(rows, data.label_batch)):
            yield from found


def batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many at once."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def shrink(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """An image whose longer side is at most so long."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = min(1.0, side / max(picture.size))
    width, height = (max(1, round(scale * each)) for each in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS) if scale < 1 else picture


def picture_path(row: int) -> str:
    """Of the picture of a row, in the report's folder."""
    return f"images/{row:06d}.{'webp' if features.check('webp') else 'jpg'}"


def save_small(picture: Image.Image, path: Path) -> None:
    """WebP, or JPEG where this Pillow has no WebP."""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP" if path.suffix == ".webp" else "JPEG", quality=QUALITY)
    path.write_bytes(buffer.getvalue())
