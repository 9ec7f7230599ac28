"""A dataset whose images are labelled by callables, beside the labels of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..measure.planes import resample
from .csvtables import LARGEST_NUMBER
from .dataset import Concepts, Dataset, ImageLabels
from .labellers import COLORS, NONE, Labeller, Labels, open_labellers


class LabelledDataset(Dataset):
    """A dataset whose images have the labels of labellers, beside its own.

    Parameters
    ----------
    base : Dataset
        With or without labels.
    labellers : sequence of Labeller

    Raises
    ------
    BadInput
        Two categories have one name, or there are more than 65535 label numbers.

    Notes
    -----
    A labeller's numbers are moved above all that are taken. Its label maps are brought to the size of the base's label
    maps by nearest neighbour at pixel centres, as `--mask-size` does it; where the base has no concepts at all, to the
    size of the first one that the labellers return for the image.
    """

    def __init__(self, base: Dataset, labellers: Sequence[Labeller]) -> None:
        self.base, self.labellers = base_of(base), (*labellers_of(base), *labellers)
        self.spec, self.names = base.spec, base.names
        self.label_batch = max([base.label_batch, *(labeller.batch for labeller in self.labellers)])
        self.concepts, self._places = join_concepts(self.base.concepts, self.labellers)

    def split(self, index: int) -> str:
        """As of the base."""
        return self.base.split(index)

    def image(self, index: int) -> NDArray[np.uint8]:
        """As of the base."""
        return self.base.image(index)

    def encoded(self, index: int) -> bytes:
        """As of the base."""
        return self.base.encoded(index)

    def image_size(self, index: int) -> tuple[int, int]:
        """As of the base."""
        return self.base.image_size(index)

    def has_labels(self, index: int) -> bool:
        """True: the labellers are asked about every image."""
        return True

    def fingerprint(self) -> str:
        """blake2b hex digest of the base's and of the labellers' names, concepts and code."""
        return add_labellers(self.base.fingerprint(), self.labellers)

    def images_fingerprint(self) -> str:
        """As of the base."""
        return self.base.images_fingerprint()

    def labels(self, index: int) -> ImageLabels:
        """Labels of one image. BadInput where a labeller fails or returns what it may not."""
        return self.labels_of([index])[0]

    def labels_of(self, indices: Sequence[int]) -> list[ImageLabels]:
        """Labels of several images; images of one size go to a labeller together."""
        size = self.base.label_batch
        starts = range(0, len(indices), size)
        own = [labels for start in starts for labels in self.base.labels_of(indices[start : start + size])]
        images = [self.base.image(index) for index in indices]
        found: list[list[tuple[int, NDArray[np.uint16]]]] = [[] for _ in indices]
        for labeller, places in zip(self.labellers, self._places, strict=True):
            for group in iter_groups(images, labeller.batch):
                names = [self.names[indices[position]] for position in group]
                maps = labeller.label(np.stack([images[position] for position in group]), names)
                for category, stack in maps.items():
                    place, above = places[category]
                    moved = np.where(stack > 0, stack + np.uint16(above), np.uint16(0))
                    for position, layers in zip(group, moved, strict=True):
                        found[position] += [(place, layer) for layer in layers]
        return [self._join(labels, layers) for labels, layers in zip(own, found, strict=True)]

    def _join(self, own: ImageLabels, found: list[tuple[int, NDArray[np.uint16]]]) -> ImageLabels:
        """An image's own labels with those that were found, in one size."""
        is_free = not len(self.base.concepts) and found
        shape = (found[0][1].shape[0], found[0][1].shape[1]) if is_free else own.shape
        fitted = [(g, layer if layer.shape == shape else resample(layer, shape)) for g, layer in found]
        return ImageLabels(shape, (*own.layers, *fitted), own.whole)


def iter_groups(images: Sequence[NDArray[np.uint8]], most: int) -> Iterator[list[int]]:
    """Positions of images of one size, `most` at once."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(position)
    for positions in by_size.values():
        for start in range(0, len(positions), most):
            yield positions[start : start + most]


def join_concepts(base: Concepts, labellers: Sequence[Labeller]) -> tuple[Concepts, list[dict[str, tuple[int, int]]]]:
    """The concepts of a dataset and of labellers; and of each labeller, category -> (index, what its numbers gain)."""
    numbers, names, categories = base.number.tolist(), list(base.name), base.category.tolist()
    category_names = list(base.category_name)
    above = max([0, *numbers, *base.ignore.tolist()])
    places: list[dict[str, tuple[int, int]]] = []
    for labeller in labellers:
        places.append({})
        for category, known in labeller.concepts.items():
            if category in category_names:
                got = f"{labeller.spec!r}, whose category {category!r} is there already"
                rename = f"{COLORS}?category=NAME" if labeller.spec.startswith(COLORS) else "rename it in the labeller"
                remedy = f"{rename}, or leave one out; --labels {NONE} keeps the dataset's own"
                raise BadInput("labels", got, f"a category beside {', '.join(category_names)}", remedy)
            places[-1][category] = len(category_names), above
            if above + max(known) > LARGEST_NUMBER:
                got = f"{labeller.spec!r}, whose numbers come up to {above + max(known)} beside the others"
                raise BadInput("labels", got, f"at most {LARGEST_NUMBER} in all", "leave labels out")
            numbers += [above + number for number in known]
            names += known.values()
            categories += [len(category_names)] * len(known)
            category_names.append(category)
            above += max(known)
    concepts = Concepts(
        number=np.array(numbers, np.int32),
        name=tuple(names),
        category=np.array(categories, np.int32),
        category_name=tuple(category_names),
        ignore=np.append(base.ignore, np.zeros(len(category_names) - len(base.ignore), np.int32)),
    )
    return concepts, places


def add_labellers(fingerprint: str, labellers: Sequence[Labeller]) -> str:
    """The fingerprint of a dataset with labellers, from that of the dataset."""
    if not labellers:
        return fingerprint
    about = [fingerprint, [labeller.identity for labeller in labellers]]
    return blake2b(json.dumps(about).encode()).hexdigest()


def label_dataset(dataset: Dataset, labels: Labels | None) -> Dataset:
    """A dataset with the labels named instead of those that labellers gave it; None leaves it as it is."""
    if labels is None:
        return dataset
    base, labellers = base_of(dataset), open_labellers(labels)
    return LabelledDataset(base, labellers) if labellers else base


def base_of(dataset: Dataset) -> Dataset:
    """A dataset without labellers: what its images are, and its own labels."""
    return dataset.base if isinstance(dataset, LabelledDataset) else dataset


def labellers_of(dataset: Dataset) -> tuple[Labeller, ...]:
    """The labellers of a dataset."""
    return dataset.labellers if isinstance(dataset, LabelledDataset) else ()
