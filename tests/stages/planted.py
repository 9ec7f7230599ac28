"""A run whose activations are made up: units that carry concepts of synthetic scenes as one likes."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

import streamdissect as sd
from streamdissect.data.synthetic import SyntheticScenes

N_IMAGES, N_UNITS, GRID = 40, 24, 16
SINGLE, MIXED = 3, (6, 7, 8, 9)
"""The unit that carries `cloud` alone, and those that carry `tree` together."""


def scenes():
    """The dataset."""
    return SyntheticScenes(N_IMAGES, seed=5, size=64)


def covers(data, index, name):
    """(GRID, GRID) share of each cell that a concept covers."""
    labels, number = data.labels(index), data.concepts.number[data.concepts.name.index(name)]
    pixels = np.any([layer == number for _, layer in labels.layers], axis=0)
    size = pixels.shape[0] // GRID
    return pixels.reshape(GRID, size, GRID, size).mean(axis=(1, 3))


def planted_maps(data, order=None, strength=10.0):
    """float32 (N, K, h, w): noise, and concepts in the units that carry them; `order` permutes the units."""
    maps = np.random.default_rng(0).normal(size=(N_IMAGES, N_UNITS, GRID, GRID))
    for index in range(N_IMAGES):
        maps[index, SINGLE] += strength * (covers(data, index, "cloud") >= 0.5)
        maps[index, list(MIXED)] += strength * (covers(data, index, "tree") >= 0.5)
    maps = maps.astype(np.float32)
    return maps if order is None else maps[:, order]


def store_maps(maps, data, out, **named):
    """A run with these activations, scored."""
    net = nn.Sequential(OrderedDict(act=nn.Identity())).eval()
    settings = {"dtype": "float32", "tails": ("1/20",), "shard_images": 12} | named
    with sd.capture(net, layers=["act"], out=out, n_images=len(maps), data=data, **settings) as cap:
        for start in range(0, len(maps), 4):
            index = range(start, start + 4)
            with cap.images(index), torch.inference_mode():
                net(torch.from_numpy(maps[start : start + 4]))
    return sd.score(out, data)
