"""A run of Broden's size through the real store, from generated activations: time, disk and memory.

    python scripts/simulate_broden.py OUT --units 256 --grid 13 13
    python scripts/simulate_broden.py OUT --units 2048 --grid 7 7 --memory 2GiB

63,305 images of 112x112 label pixels with some 16 labels each, of 1,197 concepts in six categories. Activations are
like those of a layer behind ReLU: blobs, four fifths zeros, scaled by unit. Nothing of Broden itself is needed, nor
PyTorch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import streamdissect as sd
from streamdissect.options import parse_bytes
from streamdissect.stages.recording import peak_bytes

CATEGORIES = {"object": 584, "part": 234, "material": 32, "texture": 47, "scene": 468, "color": 11}
N_LABELS, SIDE, POOL = 1197, 112, 256
LAYERS = (("object", 2), ("part", 2), ("material", 1), ("color", 1))
"""Categories with label maps, and how many maps an image has of each."""
WHOLE = ("scene", "texture")
TILES = 3
"""Regions along each side of a label map."""


class Generated(sd.Dataset):
    """Label maps of rectangles; image i has those of its number in a pool, under labels of its own."""

    spec = "generated"
    label_batch = 64

    def __init__(self, n_images: int) -> None:
        draw = np.random.default_rng(0)
        names = list(CATEGORIES)
        sizes = np.array(list(CATEGORIES.values())) * N_LABELS // sum(CATEGORIES.values())
        sizes[0] += N_LABELS - sizes.sum()
        ends = np.cumsum(sizes)
        self._first = {name: int(end - size) + 1 for name, size, end in zip(names, sizes, ends, strict=True)}
        self._size = {name: int(size) for name, size in zip(names, sizes, strict=True)}
        self.names = tuple(f"{i:06d}" for i in range(n_images))
        number = np.arange(1, N_LABELS + 1, dtype=np.int32)
        self.concepts = sd.Concepts(
            number=number,
            name=tuple(f"concept {i}" for i in number),
            category=np.repeat(np.arange(len(names), dtype=np.int32), sizes),
            category_name=tuple(names),
            ignore=np.zeros(len(names), np.int32),
        )
        edges = np.sort(draw.integers(0, SIDE, (POOL, 2, TILES - 1)), axis=2)
        self._tiles = np.zeros((POOL, SIDE, SIDE), np.uint8)
        for tile, (rows, columns) in zip(self._tiles, edges, strict=True):
            tile[:] = np.add.outer(TILES * np.searchsorted(rows, range(SIDE)), np.searchsorted(columns, range(SIDE)))

    def split(self, index: int) -> str:
        return ""

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)

    def image_size(self, index: int) -> tuple[int, int]:
        return 2 * SIDE, 2 * SIDE

    def labels(self, index: int) -> sd.ImageLabels:
        draw = np.random.default_rng(index)
        layers, whole = [], []
        for g, name in enumerate(self.concepts.category_name):
            first, size = self._first[name], self._size[name]
            for layer in range(dict(LAYERS).get(name, 0)):
                few = draw.integers(first, first + size, 3).astype(
                    np.uint16
                )  # labels of this map, over its nine regions
                numbers = np.append(few, [0] * (TILES * TILES - 3)).astype(np.uint16)
                layers.append((g, draw.permutation(numbers)[self._tiles[(index + layer) % POOL]]))
            if name in WHOLE:
                whole.append((g, int(draw.integers(first, first + size))))
        return sd.ImageLabels((SIDE, SIDE), tuple(layers), tuple(whole))

    def has_labels(self, index: int) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"generated {len(self)}"


class Activations:
    """Maps of a pool of images; image i has those of its number in the pool, with the units in another order."""

    def __init__(self, n_units: int, grid: tuple[int, int]) -> None:
        draw = np.random.default_rng(1)
        shape = (POOL, n_units, *grid)
        rough = draw.normal(size=shape).astype(np.float32)
        for axis in (2, 3):
            rough = (rough + np.roll(rough, 1, axis) + np.roll(rough, -1, axis)) / 3
        rough += 0.3 * draw.normal(size=(POOL, n_units, 1, 1)).astype(np.float32)
        scale = draw.lognormal(size=(n_units, 1, 1)).astype(np.float32)
        self._maps = (np.maximum(rough - 0.45, 0) * scale).astype(np.float16)

    def __call__(self, images: list[int]) -> dict[str, NDArray[np.float16]]:
        # within 64 units only, so that a unit keeps its kind of distribution, though not its images
        return {"layer": np.stack([np.roll(self._maps[i % POOL], 1 + i // POOL % 7, axis=1) for i in images])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the run; it is removed first")
    parser.add_argument("--images", type=int, default=63_305)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--grid", type=int, nargs=2, default=(13, 13))
    parser.add_argument("--memory", type=lambda text: parse_bytes(text, "--memory"), default=2 << 30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codec", default="auto")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    data, compute = Generated(given.images), Activations(given.units, tuple(given.grid))
    compute_began = time.perf_counter()
    for start in range(0, 2048, 32):
        compute(list(range(start, start + 32)))
    generating = (time.perf_counter() - compute_began) / 2048 * given.images
    named = {"memory": given.memory, "threads": given.threads}
    began, cpu_began = time.perf_counter(), time.process_time()
    run = sd.record(compute, data, given.out, name="generated", codec=given.codec, **named)
    recorded = time.perf_counter()
    peak_recorded = peak_bytes()
    result = sd.score(run, data, **named)
    scored = time.perf_counter()
    cpu_seconds = time.process_time() - cpu_began
    n_values = given.images * given.units * given.grid[0] * given.grid[1]
    stored = sum(file.stat().st_size for file in (given.out / "activations.zarr").rglob("*") if file.is_file())
    facts = {
        "images": given.images,
        "units": given.units,
        "grid": list(given.grid),
        "codec": run.manifest["layers"][0]["array"]["codec"],
        "generating_seconds": round(generating, 1),
        "record_seconds": round(recorded - began, 1),
        "score_seconds": round(scored - recorded, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "seconds": result.summary["seconds"],
        "store_bytes": stored,
        "bytes_per_activation": round(stored / n_values, 3),
        "float64_memmap_bytes": 8 * n_values,
        "run_bytes": sum(file.stat().st_size for file in given.out.rglob("*") if file.is_file()),
        "peak_recording_bytes": peak_recorded,
        "peak_bytes": peak_bytes(),
        "active_map_share": result.summary["layers"]["layer"]["active_map_share"],
        "detectors": result.summary["layers"]["layer"]["detectors"],
    }
    json.dump(facts, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
