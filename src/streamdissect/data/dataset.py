"""What every labelled image set offers, whatever it is stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..richtext import html_table
from .imagefiles import encode_png

SHOWN = 10
"""Concepts of a category that a notebook shows."""


@dataclass(frozen=True)
class Concepts:
    """The concepts of a dataset and their categories (methods 3.3).

    Column j of every counter is the j-th concept: label numbers ascending, whether they occur or not.
    """

    number: NDArray[np.int32]
    """(C,) label numbers > 0, ascending, gaps allowed."""
    name: tuple[str, ...]
    """C names."""
    category: NDArray[np.int32]
    """(C,) index of the primary category: the one in which the label covers most; ties go to the later category."""
    category_name: tuple[str, ...]
    """G names, in the dataset's order."""
    ignore: NDArray[np.int32]
    """(G,) label number whose pixels are not judged for the concepts of that category; 0 = none."""

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image (methods 3.2)."""

    shape: tuple[int, int]
    """(H, W) rows and columns of the label maps."""
    layers: tuple[tuple[int, NDArray[np.uint16]], ...]
    """(category index, (H, W) label numbers), 0 = no label; a category may have several layers."""
    whole: tuple[tuple[int, int], ...]
    """(category index, label number) of labels that hold at every pixel."""


class Dataset(ABC):
    """Images with dense labels. Picklable: files are opened on first use in each process, handles never travel."""

    spec: str = ""
    """What `open_dataset` was given: a path, made absolute, or the name of a built-in set. Empty: an object alone."""
    names: Sequence[str]
    """N image names, unique."""
    concepts: Concepts
    label_batch: int = 1
    """Images whose labels are best asked for together."""

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec!r}: {len(self)} images, {len(self.concepts)} concepts>"

    def _repr_html_(self) -> str:
        """For notebooks: the categories and some of their concepts."""
        concepts, rows = self.concepts, []
        for g, category in enumerate(concepts.category_name):
            names = [concepts.name[c] for c in np.flatnonzero(concepts.category == g)]
            more = ", ..." if len(names) > SHOWN else ""
            rows.append((category, len(names), ", ".join(names[:SHOWN]) + more))
        return html_table(f"{self.spec}: {len(self)} images", ("category", "concepts", "such as"), rows)

    @abstractmethod
    def split(self, index: int) -> str:
        """The split an image belongs to: `train`, `val` or an empty string."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) uint8 RGB; EXIF orientation is not applied. BadInput where the file cannot be decoded."""

    def encoded(self, index: int) -> bytes:
        """The image as the content of a file, from which `image` comes: as it is stored, else a PNG file's."""
        return encode_png(self.image(index))

    @abstractmethod
    def image_size(self, index: int) -> tuple[int, int]:
        """(rows, columns) of an image, from the tables or the file's header, without decoding it."""

    @abstractmethod
    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput for a map of the wrong size or a number without an entry."""

    def labels_of(self, indices: Sequence[int]) -> list[ImageLabels]:
        """Labels of several images, `label_batch` at most."""
        return [self.labels(index) for index in indices]

    @abstractmethod
    def has_labels(self, index: int) -> bool:
        """Whether the tables list any label for the image; decodes nothing."""

    @abstractmethod
    def fingerprint(self) -> str:
        """blake2b hex digest that changes when tables, file names or file sizes change."""

    def images_fingerprint(self) -> str:
        """The same of the images alone, which is all that activations depend on; labels may change beside them."""
        return self.fingerprint()
