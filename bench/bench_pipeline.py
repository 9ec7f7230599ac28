"""Extraction, and scoring after it, against the bare forward passes over the same images; where the test data is."""

import itertools
import tempfile
from pathlib import Path

import pytest
import torch

import streamdissect as sd
from streamdissect.options import ExtractOptions
from streamdissect.stages.extract import prepare
from streamdissect.stages.forward import iter_images, torch_threads

from .street import DATA, MIDDLE, MODEL, SIZE, WEIGHTS, is_there

LAYERS = ["features.14.expand.act", "features.18.conv"]
N_IMAGES, THREADS = 367, 2
"""All of them. The last is also the number of decoding workers' default."""

pytestmark = [pytest.mark.long, pytest.mark.skipif(not is_there(), reason="no shared test data")]


def options():
    """As a user would have them."""
    return ExtractOptions(
        input_size=SIZE, mean=MIDDLE, std=MIDDLE, limit=N_IMAGES, is_first=True, threads=THREADS, memory=4 << 30
    )


def model():
    """The network, read once."""
    return prepare(f"{MODEL}:mobilenet_v2", str(DATA), LAYERS, str(WEIGHTS), options())


def bare(work):
    """Decode, normalise, forward: nothing is kept of it."""
    module, size = work.loaded.module, work.options.batch_size
    source = iter_images(work.dataset, work.images.tolist(), work.size, work.options.workers)
    with torch.inference_mode(), torch_threads(THREADS):
        while batch := list(itertools.islice(source, size)):
            module(work.network.prepare(batch).contiguous())


def extract(work, folder):
    return sd.extract(work.loaded.module, work.dataset, LAYERS, folder, options=options())


def extract_and_score(work, folder):
    return sd.score(extract(work, folder).path, threads=THREADS)


@pytest.mark.benchmark(min_rounds=2, max_time=1, warmup=False)
@pytest.mark.parametrize("contender", ["extract", "bare forward", "extract and score"])
def test_pipeline(benchmark, contender):
    work = model()
    folders = itertools.count()
    with tempfile.TemporaryDirectory() as place:
        if contender == "bare forward":
            call = lambda: bare(work)  # noqa: E731
        else:
            function = extract if contender == "extract" else extract_and_score
            call = lambda: function(work, Path(place) / str(next(folders)))  # noqa: E731
        call()
        benchmark.group = "pipeline"
        benchmark(call)
    benchmark.extra_info.update(
        contender=contender, n=N_IMAGES, unit="image", note=f"MobileNetV2 at {SIZE}, two layers, {THREADS} threads"
    )
