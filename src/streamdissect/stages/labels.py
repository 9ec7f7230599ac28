"""Label planes of the images of a shard, kept in the run once they are built."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..data.dataset import Dataset, ImageLabels
from ..errors import BadInput
from ..measure.planes import ImagePlanes, LabelRules, image_planes
from ..store.rundir import RunDir
from .control import Control

VERSION = 3
FIELDS = tuple(field.name for field in fields(ImagePlanes))
CODEC = Zstd(level=3, checksum=True)
"""A seventh of the time of zlib here, and half the bytes."""


class LabelPlanes:
    """Builds and keeps the planes of a run's images under one set of rules.

    Parameters
    ----------
    run : RunDir
    data : Dataset
    fingerprint : str
        Of the dataset.
    rules : LabelRules
    mask_size : str or (H, W)
        `label`: the size of the label maps; `image`: that of the image.
    threads : int
        That decode label maps.
    """

    def __init__(
        self,
        run: RunDir,
        data: Dataset,
        fingerprint: str,
        rules: LabelRules,
        mask_size: str | tuple[int, int],
        threads: int,
    ) -> None:
        self._data, self._rules, self._mask_size, self._threads = data, rules, mask_size, threads
        digest = blake2b(digest_size=12)
        about = [VERSION, fingerprint, rules.union, rules.multiplicity, rules.unlabelled, mask_size]
        digest.update(json.dumps(about).encode())
        for array in (rules.number, rules.category, rules.ignore):
            digest.update(array.tobytes())
        self._folder = run.planes_path / digest.hexdigest()

    def of_part(self, shard: int, part: int, images: NDArray[np.int64], control: Control) -> list[ImagePlanes]:
        """Planes of the images (indices into the dataset) of a part of a shard's rows; may stop between batches."""
        path = self._folder / f"{shard:06d}-{part:04d}.npz.zst"
        if path.exists():
            with suppress(ValueError):  # what is damaged is built again
                return load_planes(path, images)
        indices, size = images.tolist(), self._data.label_batch
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        planes = []
        for found in self._iter_built(batches):
            control.check()
            planes += found
        with suppress(OSError):  # a run that cannot be written to serves as well without
            self._folder.mkdir(parents=True, exist_ok=True)
            save_planes(path, planes, images)
        return planes

    def _iter_built(self, batches: list[list[int]]) -> Iterator[list[ImagePlanes]]:
        """Planes by batch, in order."""
        if self._threads == 1 or len(batches) == 1:  # a thread more than was granted would wait for another process
            yield from map(self.of_images, batches)
            return
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="labels")
        try:
            yield from pool.map(self.of_images, batches)
        finally:
            pool.shutdown(cancel_futures=True)

    def of_image(self, index: int) -> ImagePlanes:
        """Planes of one image."""
        return self.of_images([index])[0]

    def of_images(self, indices: list[int]) -> list[ImagePlanes]:
        """Planes of some images, `label_batch` of them at most."""
        return [
            self._build(index, labels) for index, labels in zip(indices, self._data.labels_of(indices), strict=True)
        ]

    def _build(self, index: int, labels: ImageLabels) -> ImagePlanes:
        size = self._mask_size
        grid = None if size == "label" else self._data.image_size(index) if isinstance(size, str) else size
        try:
            return image_planes(labels.shape, labels.layers, labels.whole, self._rules, grid)
        except ValueError as error:
            raise BadInput(
                f"labels of {self._data.names[index]}", str(error), "label maps of one size", "correct them"
            ) from error


def save_planes(path: Path, planes: list[ImagePlanes], images: NDArray[np.int64]) -> None:
    """Save the planes of some images, compressed: mostly runs of zeros and ones. Not synced: they can be built again.

    Each field of all images end to end, with each image's shape of it: an array in a file of its own costs more than
    what is in it.
    """
    arrays: dict[str, NDArray[Any]] = {"images": images}
    for name in FIELDS:
        parts = [np.asarray(getattr(image, name)) for image in planes]
        arrays[name] = np.concatenate([part.ravel() for part in parts])
        arrays[f"{name}/shape"] = np.array([part.shape for part in parts], np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, CODEC.encode(buffer.getvalue()), is_synced=False)


def load_planes(path: Path, images: NDArray[np.int64]) -> list[ImagePlanes]:
    """Inverse of `save_planes`; ValueError for damaged files, other images or missing parts."""
    try:
        with np.load(io.BytesIO(CODEC.decode(path.read_bytes())), allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # zstd, zipfile and the parser of array headers raise about anything on damaged bytes
        raise ValueError(f"{path}: damaged") from error
    if "images" not in arrays or not np.array_equal(arrays["images"], images):
        raise ValueError("planes of other images")
    if arrays.keys() != {"images", *FIELDS, *(f"{name}/shape" for name in FIELDS)}:
        raise ValueError("planes are cut")
    split: dict[str, list[NDArray[Any]]] = {}
    for name in FIELDS:
        shapes = arrays[f"{name}/shape"]
        ends = np.cumsum(shapes.prod(axis=1))
        if len(shapes) != len(images) or ends[-1] != len(arrays[name]):
            raise ValueError("planes are cut")
        parts = np.split(arrays[name], ends[:-1])
        split[name] = [part.reshape(shape) for part, shape in zip(parts, shapes.tolist(), strict=True)]
    return [
        ImagePlanes(shape=tuple(split["shape"][i].tolist()), **{name: split[name][i] for name in FIELDS[1:]})
        for i in range(len(images))
    ]
