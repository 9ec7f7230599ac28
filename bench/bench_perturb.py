"""What counting perturbed masks costs beside the forward pass that makes them; nothing is asserted about time.

`forward` is a bare pass of the network over the images, decoded and in memory. `counters and consistency` are masks,
intersections and J of all layers; `correlations` the sums over maps; `images` the perturbed images themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.measure.perturbations import Noise, Perturbation, Rotation, ShuffleGrid
from streamdissect.perturboptions import PerturbOptions
from streamdissect.stages.control import Control
from streamdissect.stages.perturb_counting import PartCounter
from streamdissect.stages.perturb_work import open_network, open_scored

N_IMAGES = 16
STREET = ["features.7.expand.act", "features.14.expand.act", "features.18.conv"]
SETTINGS = (Noise(10), Rotation(10), Rotation(90), ShuffleGrid(4))
PARTS = ("forward", "counters and consistency", "correlations", "images")


def shared() -> Path:
    """The folder of real networks and images; skips where there is none."""
    path = Path(os.environ.get("STREAMDISSECT_TEST_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "models" / "mobilenet.py").exists():
        pytest.skip("no real networks among the shared test data")
    return path


@pytest.fixture(scope="module", params=["shipped network, 112 x 112", "MobileNetV2, 240 x 320"])
def counter(request, tmp_path_factory):
    """A part of a scored run, its clean work done."""
    run = tmp_path_factory.mktemp("perturb") / "run"
    if request.param.startswith("shipped"):
        sd.extract(out=run, limit=N_IMAGES, batch_size=N_IMAGES)
    else:
        middle, models = (128 / 255,) * 3, shared() / "models"
        sd.extract(f"{models / 'mobilenet.py'}:mobilenet_v2", shared() / "data" / "camvid-broden", STREET, run,
                   weights=str(models / "mobilenet_v2_imagenet.safetensors"), input_size=(240, 320), mean=middle,
                   std=middle, limit=N_IMAGES, batch_size=N_IMAGES)  # fmt: skip
    sd.score(run)
    options = PerturbOptions()
    scored = open_scored(run, None, None, None, options)
    layers = list(scored.result.layers)
    network = open_network(scored, layers, None, None, False, options)
    names = list(scored.data.names)
    images = [names.index(name) for name in scored.result.image_name]
    counter = PartCounter(scored, network, layers, options, [images], Control())
    counter.count(None, 0)
    return request.param, counter


def work_of(part: str, counter: PartCounter, perturbation: Perturbation) -> Callable[[], object]:
    """A part of what one perturbation of the images takes, on as many threads as the command uses."""
    rows, threads = range(N_IMAGES), counter.options.threads
    pictures = [picture.astype(np.float32) for picture in counter.pictures]
    size = counter.scored.input_size
    with ThreadPoolExecutor(threads) as pool:
        clean, other = counter.clean(0), counter.perturbed(0, perturbation, 0, pool)
    pairs = [{layer: (clean[layer][i], other[layer][i]) for layer in counter.layers} for i in rows]

    def shared_out(work: Callable[[int], object]) -> list[object]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, rows))

    def count(i: int) -> object:
        warp = perturbation.warp(size, counter.draw(i, 0))
        return counter.count_image(i, pairs[i], warp, counter.thresholds)

    def compare(i: int) -> object:
        return counter.compare_maps(pairs[i], perturbation.warp(size, counter.draw(i, 0)))

    return {
        "forward": lambda: counter.forward(pictures),
        "counters and consistency": lambda: shared_out(count),
        "correlations": lambda: shared_out(compare),
        "images": lambda: shared_out(lambda i: perturbation.image(pictures[i], counter.draw(i, 0))),
    }[part]


@pytest.mark.long
@pytest.mark.benchmark(min_rounds=3, max_time=0.5, warmup=False)
@pytest.mark.parametrize("perturbation", SETTINGS, ids=lambda each: each.text)
@pytest.mark.parametrize("part", PARTS)
def test_perturb(benchmark, counter, part, perturbation):
    place, opened = counter
    work = work_of(part, opened, perturbation)
    work()
    benchmark.group = f"{perturbation.text}, {place}"
    benchmark(work)
    note = f"{opened.options.threads} threads"
    benchmark.extra_info.update(contender=part, n=N_IMAGES, unit="image", note=note)
