"""Which images and layers a run takes, and of which size images enter the network."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..errors import BadInput
from ..options import ExtractOptions


def choose_images(data: Dataset, options: ExtractOptions) -> NDArray[np.int64]:
    """Indices of the images to take, ascending.

    A limit takes the images whose digest of (seed, name) is smallest: a sample spread over the dataset, which grows
    with the limit and does not depend on the order.
    """
    chosen = list(range(len(data)))
    if options.split is not None:
        chosen = [index for index in chosen if data.split(index) == options.split]
        if not chosen:
            splits = sorted({data.split(index) for index in range(len(data))} - {""})
            expected = f"one of {', '.join(splits)}" if splits else "nothing: the dataset has no splits"
            raise BadInput("--split", repr(options.split), expected, "leave it out to take all images")
    if options.labelled_only:
        chosen = [index for index in chosen if data.has_labels(index)]
        if not chosen:
            raise BadInput("--labelled-only", "no labelled image", "at least one", "leave it out, or check index.csv")
    if options.limit is not None and options.limit < len(chosen):
        if options.is_first:
            chosen = chosen[: options.limit]
        else:
            chosen = sorted(sorted(chosen, key=lambda i: spread(options.seed, data.names[i]))[: options.limit])
    if not chosen:
        raise BadInput("data", "no image", "at least one", "check the dataset")
    return np.array(chosen, np.int64)


def digest_names(data: Dataset, images: NDArray[np.int64]) -> str:
    """blake2b digest of the images chosen: the same options choose others where the dataset's tables change."""
    digest = blake2b(digest_size=16)
    for index in images.tolist():
        digest.update(f"{index}\0{data.names[index]}\0".encode())
    return digest.hexdigest()


def spread(seed: int, name: str) -> bytes:
    """A digest that sorts images at random, the same everywhere."""
    return blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def choose_input_size(data: Dataset, images: NDArray[np.int64], asked: tuple[int, int] | None) -> tuple[int, int]:
    """(rows, columns) the network sees: what was asked for, else the size that all images have."""
    if asked is not None:
        return asked
    first = data.image_size(int(images[0]))
    for index in images[1:].tolist():
        size = data.image_size(index)
        if size != first:
            raise BadInput(
                "images",
                f"{data.names[int(images[0])]} of {first[0]}x{first[1]} and {data.names[index]} of {size[0]}x{size[1]}",
                "images of one size",
                "give --input-size H W",
            )
    return first


def split_names(layers: Sequence[str] | str) -> list[str]:
    """Layer names from a sequence, or from one text with commas."""
    names = layers.split(",") if isinstance(layers, str) else layers
    return [name.strip() for name in names if name.strip()]
