"""Real activations, where the shared test data is: a layer of MobileNetV2 on street scenes, with their labels."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import zarr

import streamdissect as sd
from streamdissect.measure.planes import ImagePlanes, LabelRules, image_planes

SHARED = Path(os.environ.get("STREAMDISSECT_TEST_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MODEL, WEIGHTS = SHARED / "models" / "mobilenet.py", SHARED / "models" / "mobilenet_v2_imagenet.safetensors"
DATA, LAYER, SIZE, MIDDLE = SHARED / "data" / "camvid-broden", "features.14.expand.act", (240, 320), (128 / 255,) * 3


def is_there() -> bool:
    """Whether the network and the scenes are."""
    return MODEL.exists() and WEIGHTS.exists() and DATA.exists()


def record(n: int) -> tuple[np.ndarray, sd.Dataset]:
    """float16 (n, K, h, w) of the first n scenes, and the dataset."""
    with tempfile.TemporaryDirectory() as folder:
        named = {"input_size": SIZE, "mean": MIDDLE, "std": MIDDLE, "limit": n, "is_first": True, "threads": 1}
        sd.extract(f"{MODEL}:mobilenet_v2", DATA, [LAYER], folder, weights=str(WEIGHTS), **named)
        return zarr.open_group(Path(folder) / "activations.zarr", mode="r")[LAYER][:], sd.open_dataset(DATA)


def labels_of(data: sd.Dataset, n: int) -> tuple[list, list, LabelRules, list[ImagePlanes]]:
    """Label maps, image-level labels, rules and planes of the first n scenes."""
    concepts = data.concepts
    rules = LabelRules(concepts.number, concepts.category, len(concepts.category_name), concepts.ignore)
    found = [data.labels(i) for i in range(n)]
    layers, whole = [list(each.layers) for each in found], [list(each.whole) for each in found]
    return layers, whole, rules, [image_planes(each.shape, each.layers, each.whole, rules) for each in found]
