"""What is measured: activations and labels made up to resemble those of real layers on Broden.

ReLU layers are smooth, sparse (four values of five are 0), of different gain per image and scale per unit; signed ones
are rougher and have no zeros. Images carry six label maps (objects twice, parts twice, materials, speckled colours) of
about 16 labels, out of 1197, and at times a scene or a texture as a whole. It is the share of maps with a value above
the threshold that decides the speed: it is printed with every result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from streamdissect.measure.planes import ImagePlanes, LabelRules, image_planes
from streamdissect.measure.upsample import axis_weights

from . import street

CATEGORIES = {"object": 584, "part": 234, "material": 32, "color": 11, "scene": 288, "texture": 48}
OBJECT, PART, MATERIAL, COLOR, SCENE, TEXTURE = range(6)
FIRST = np.concatenate([[1], 1 + np.cumsum(list(CATEGORIES.values()))])
"""First label number of each category, and one past the last."""
SAMPLE = 64
"""Images that the thresholds come from."""


@dataclass(frozen=True)
class Case:
    """One layer: its geometry, and how its activations look."""

    name: str
    n_images: int
    n_units: int
    grid: tuple[int, int]
    mask: tuple[int, int] = (112, 112)
    kind: str = "relu"
    tail: Fraction = Fraction(1, 200)

    def __str__(self) -> str:
        return self.name

    @property
    def n_maps(self) -> int:
        return self.n_images * self.n_units


@dataclass(frozen=True)
class Data:
    """The arrays of a case."""

    maps: np.ndarray
    """float16 (N, K, h, w)"""
    thresholds: np.ndarray
    """float32 (K,)"""
    layers: list[list[tuple[int, np.ndarray]]]
    """Of each image: (category, uint16 (H, W))."""
    whole: list[list[tuple[int, int]]]
    rules: LabelRules
    planes: list[ImagePlanes]
    weights: dict
    active_share: float


CASES = [
    Case("sparse 256 x 13x13", 16, 256, (13, 13)),
    Case("sparse 2048 x 7x7", 4, 2048, (7, 7)),
    Case("signed 256 x 14x14", 16, 256, (14, 14), kind="signed"),
    Case("dense 256 x 13x13", 8, 256, (13, 13), kind="smooth", tail=Fraction(1, 2)),
]


STREET = Case("street scenes, MobileNetV2 576 x 15x20", 6, 576, (15, 20), mask=(180, 240), kind="street")
"""Real activations and labels, where they are to be had."""


@functools.cache
def data_of(case: Case) -> Data:
    """Made once, the same in every run."""
    if case.kind == "street":
        return street_scenes(case)
    maps = activations(case.kind, SAMPLE, case.n_units, *case.grid)
    thresholds = thresholds_of(maps, case.tail)
    maps = maps[: case.n_images].copy()
    drawn = [draw_labels(np.random.default_rng((7, i)), *case.mask) for i in range(case.n_images)]
    rules = LabelRules(
        number=np.arange(1, FIRST[-1], dtype=np.int32),
        category=np.repeat(np.arange(6, dtype=np.int32), list(CATEGORIES.values())),
        n_categories=6,
        ignore=np.zeros(6, np.int32),
    )
    return Data(
        maps=maps,
        thresholds=thresholds,
        layers=[layers for layers, _ in drawn],
        whole=[whole for _, whole in drawn],
        rules=rules,
        planes=[image_planes(case.mask, *labels, rules) for labels in drawn],
        weights={
            case.mask: tuple(axis_weights("half_pixel", n, m, m) for n, m in zip(case.grid, case.mask, strict=True))
        },
        active_share=float((maps > thresholds[:, None, None]).any(axis=(2, 3)).mean()),
    )


def street_scenes(case: Case) -> Data:
    """See `street`."""
    maps, dataset = street.record(case.n_images)
    layers, whole, rules, planes = street.labels_of(dataset, case.n_images)
    thresholds = thresholds_of(maps, case.tail)
    return Data(
        maps=maps,
        thresholds=thresholds,
        layers=layers,
        whole=whole,
        rules=rules,
        planes=planes,
        weights={
            case.mask: tuple(axis_weights("half_pixel", n, m, m) for n, m in zip(case.grid, case.mask, strict=True))
        },
        active_share=float((maps > thresholds[:, None, None]).any(axis=(2, 3)).mean()),
    )


def activations(kind: str, n: int, n_units: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    """float16 (n, n_units, h, w) of kind `relu`, `signed` or `smooth`."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 1, (n_units, 1, 1))).astype(np.float32)
    bias = rng.uniform(0.3, 1.6, (n_units, 1, 1)).astype(np.float32)
    out = np.empty((n, n_units, h, w), np.float16)
    for i in range(n):
        gain = rng.standard_normal((n_units, 1, 1), dtype=np.float32)
        if kind == "relu":
            x = np.maximum(0.75 * smooth(rng, n_units, h, w, 1.0) + 0.75 * gain - bias, 0) ** 1.4
        elif kind == "signed":
            rough = rng.standard_normal((n_units, h, w), dtype=np.float32)
            x = 0.7 * smooth(rng, n_units, h, w, 0.8) + 0.5 * rough + 0.5 * gain
            x = 0.5 * x * (1 + np.tanh(0.798 * (x + 0.0447 * x**3)))  # GELU
        else:
            x = smooth(rng, n_units, h, w, 1.5)
        out[i] = x * scale
    return out + np.float16(0)  # no -0.0, as in the store


def smooth(rng: np.random.Generator, n: int, h: int, w: int, sigma: float) -> np.ndarray:
    """float32 (n, h, w): white noise blurred by a Gaussian, of variance 1."""
    reach = 4
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    noise = rng.standard_normal((n, h + 2 * reach, w + 2 * reach), dtype=np.float32)
    blur = [
        sum(k * np.eye(size, size + 2 * reach, j, dtype=np.float32) for j, k in enumerate(kernel)) for size in (h, w)
    ]
    return np.matmul(np.matmul(blur[0].astype(np.float32), noise), blur[1].T.astype(np.float32))


def thresholds_of(maps: np.ndarray, tail: Fraction) -> np.ndarray:
    """float32 (K,) the (m+1)-th largest value of each unit, by sorting."""
    values = np.sort(maps.swapaxes(0, 1).reshape(maps.shape[1], -1), axis=1)
    n = values.shape[1]
    return values[:, n - 1 - n * tail.numerator // tail.denominator].astype(np.float32)


def draw_labels(rng: np.random.Generator, n_rows: int, n_columns: int) -> tuple[list, list]:
    """Label maps and image-level labels of one image."""
    source = rng.choice(["scene", "object", "material", "texture"], p=[0.35, 0.16, 0.37, 0.12])
    layers, whole = [], []
    if source in ("scene", "object"):
        for category, n_regions, share in ((OBJECT, 11, 1), (OBJECT, 14, 0.12), (PART, 30, 0.3), (PART, 30, 0.05)):
            layers.append((category, patchwork(rng, n_rows, n_columns, category, n_regions, share)))
    if source in ("object", "material"):
        layers.append((MATERIAL, patchwork(rng, n_rows, n_columns, MATERIAL, 6, 0.7)))
    speckled = smooth(rng, 1, n_rows, n_columns, 4)[0] + 0.3 * smooth(rng, 1, n_rows, n_columns, 0.7)[0]
    palette = FIRST[COLOR] + rng.permutation(CATEGORIES["color"])[:7]
    layers.append((COLOR, palette[np.clip(speckled * 1.5 + 3.5, 0, 6).astype(int)].astype(np.uint16)))
    if source == "scene":
        whole.append((SCENE, int(rng.integers(FIRST[SCENE], FIRST[SCENE + 1]))))
    if source == "texture":
        whole.append((TEXTURE, int(rng.integers(FIRST[TEXTURE], FIRST[TEXTURE + 1]))))
    return layers, whole


def patchwork(
    rng: np.random.Generator, n_rows: int, n_columns: int, category: int, n_regions: int, share: float
) -> np.ndarray:
    """uint16 (H, W): winding regions around random points, a share of them labelled, common labels more often."""
    y, x = np.mgrid[:n_rows, :n_columns] + 10 * smooth(rng, 2, n_rows, n_columns, 3)
    at = rng.uniform(0, (n_rows, n_columns), (n_regions, 2))
    region = np.argmin((y - at[:, 0, None, None]) ** 2 + (x - at[:, 1, None, None]) ** 2, axis=0)
    number = FIRST[category] + rng.zipf(1.3, n_regions) % (FIRST[category + 1] - FIRST[category])
    return np.where(rng.random(n_regions) < share, number, 0)[region].astype(np.uint16)
