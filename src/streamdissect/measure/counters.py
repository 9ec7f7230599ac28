"""The counters of one layer: what its units' masks share with each concept (methods 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels import AxisWeights, Chooser, count_maps
from ..tally import Arrays
from .planes import ImagePlanes, grid_runs, plane_batch

VERSION = 1
DENSE = ("concept_area", "category_images", "category_pixels", "active_maps")
"""Counts that are saved as they are."""


class Counters:
    """int64 sums over images: the same for any batch, thread, shard and order."""

    def __init__(self, n_units: int, n_concepts: int, n_categories: int) -> None:
        self.n_units, self.n_concepts, self.n_categories = n_units, n_concepts, n_categories
        self.rows = np.zeros((n_concepts + n_categories + 1, n_units), np.int64)
        """Concept-major, as the kernels count."""
        self.chance = np.zeros((n_concepts, n_units), np.int64)
        """(C, K) sum over images of |M| |L_c|."""
        self.concept_area = np.zeros(n_concepts, np.int64)
        """(C,) G[c] = sum over images of |L_c|."""
        self.category_images = np.zeros(n_categories, np.int64)
        """(G,) images with a label of the category."""
        self.category_pixels = np.zeros(n_categories, np.int64)
        """(G,) their judged pixels."""
        self.n_images = 0
        self.n_pixels = 0
        self.active_maps = np.zeros(n_units, np.int64)
        """(K,) maps with a value above the threshold."""

    @property
    def intersection(self) -> NDArray[np.int64]:
        """(K, C) I[k, c] = sum over images of |M_k & L_c|."""
        return self.rows[: self.n_concepts].T

    @property
    def unit_area(self) -> NDArray[np.int64]:
        """(K, G) A[k, g] = sum over images with category g of |M_k|."""
        return self.rows[self.n_concepts : -1].T

    @property
    def unit_area_all(self) -> NDArray[np.int64]:
        """(K,) sum over all images of |M_k|."""
        area: NDArray[np.int64] = self.rows[-1]
        return area

    def add(
        self,
        maps: NDArray[Any],
        thresholds: NDArray[np.float32],
        images: Sequence[ImagePlanes],
        weights: Mapping[tuple[int, int], tuple[AxisWeights, AxisWeights]],
        *,
        or_equal: bool = False,
        threads: int = 1,
        backend: str | Chooser = "auto",
        device: str | None = None,
    ) -> None:
        """Count the maps (B, K, h, w) of B images.

        Parameters
        ----------
        thresholds : float32 (K,)
        images : B ImagePlanes
        weights : mask grid -> (row weights, column weights)
        or_equal, threads, backend, device
            As for `kernels.count_maps`.
        """
        if len(maps) != len(images):
            raise ValueError(f"maps of {len(maps)} images, labels of {len(images)}")
        for run in grid_runs(images):
            rows, columns = weights[images[run.start].shape]
            count_maps(
                maps[run.start : run.stop],
                thresholds,
                rows,
                columns,
                plane_batch(images[run.start : run.stop]),
                self.rows,
                self.chance,
                self.active_maps,
                or_equal=or_equal,
                threads=threads,
                backend=backend,
                device=device,
            )
        self.add_labels(images)

    def add_labels(self, images: Sequence[ImagePlanes]) -> None:
        """Count what no unit has a part in."""
        listed = list(images)  # all at once: the interpreter's time here is time that a reading thread waits
        if listed:
            rows, areas = ([getattr(image, name) for image in listed] for name in ("present_row", "present_area"))
            np.add.at(self.concept_area, np.concatenate(rows), np.concatenate(areas))
            pixels = np.stack([image.category_pixels for image in listed])
            self.category_images += np.count_nonzero(pixels, axis=0)
            self.category_pixels += pixels.sum(axis=0)
            self.n_pixels += sum(image.shape[0] * image.shape[1] for image in listed)
        self.n_images += len(listed)

    def merge(self, other: Counters) -> None:
        """Add another part's counts."""
        if self.rows.shape != other.rows.shape or self.n_concepts != other.n_concepts:
            raise ValueError(f"counters of {other.rows.shape} cannot join counters of {self.rows.shape}")
        for name in ("rows", "chance", *DENSE):
            getattr(self, name)[...] += getattr(other, name)
        self.n_images += other.n_images
        self.n_pixels += other.n_pixels

    def add_up(self, add: Callable[..., None]) -> None:
        """Make this the sum of the parts of several processes: `add` replaces the int64 arrays it is given by sums."""
        scalars = np.array([self.n_images, self.n_pixels], np.int64)
        add(self.rows, self.chance, *(getattr(self, name) for name in DENSE), scalars)
        self.n_images, self.n_pixels = scalars.tolist()

    def to_arrays(self) -> Arrays:
        """The state; intersections and chance as the entries that are not zero, since most concepts are rare."""
        sparse = {}
        for name in ("rows", "chance"):
            flat = getattr(self, name).ravel()
            index = np.flatnonzero(flat)
            sparse[f"{name}_index"], sparse[f"{name}_count"] = index, flat[index]
        scalars = [VERSION, self.n_units, self.n_concepts, self.n_categories]
        return sparse | {
            "shape": np.array(scalars, np.int64),
            "totals": np.array([self.n_images, self.n_pixels], np.int64),
            **{name: getattr(self, name) for name in DENSE},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError where arrays are missing, damaged or of another version."""
        try:
            version, *sizes = whole_numbers(arrays, "shape", (4,)).tolist()
            if version != VERSION:
                raise ValueError(f"counters of version {version}, expected {VERSION}")
            n_units, n_concepts, n_categories = sizes
            expected = {"active_maps": (n_units,), "concept_area": (n_concepts,)}
            expected |= dict.fromkeys(("category_images", "category_pixels"), (n_categories,))
            dense = {name: whole_numbers(arrays, name, shape) for name, shape in expected.items()}
            counters = cls(n_units, n_concepts, n_categories)  # the sizes are those of arrays that exist
            for name, array in dense.items():
                getattr(counters, name)[...] = array
            for name in ("rows", "chance"):
                flat = getattr(counters, name).ravel()
                index = whole_numbers(arrays, f"{name}_index", (-1,))
                count = whole_numbers(arrays, f"{name}_count", index.shape)
                if np.any(np.diff(index) <= 0) or np.any(index < 0) or np.any(index >= flat.size):
                    raise ValueError(f"saved counters are damaged: {name}_index must ascend within 0..{flat.size - 1}")
                flat[index] = count
            counters.n_images, counters.n_pixels = whole_numbers(arrays, "totals", (2,)).tolist()
        except KeyError as error:
            raise ValueError(f"saved counters are cut: no {error}") from error
        return counters


def whole_numbers(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The saved array of that name, int64 and of that shape; -1: any length."""
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != np.int64 or not fits:
        raise ValueError(f"saved counters are damaged: {name} is {array.dtype} {array.shape}, expected int64 {shape}")
    return array
