"""Extraction, and scoring after it, against the bare forward passes over the same images; where the test data is."""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
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
    module, size = work.loaded.module, work.network.batch_size
    source = iter_images(work.dataset, work.images.tolist(), work.size, work.options.workers)
    with torch.inference_mode(), torch_threads(THREADS):
        while batch := list(itertools.islice(source, size)):
            module(work.network.prepare(batch).contiguous())


def extract(work, folder):
    return sd.extract(work.loaded.module, work.dataset, LAYERS, folder, options=options())


def extract_and_score(work, folder):
    return sd.score(extract(work, folder).path, threads=THREADS)


CONTENDERS = {"bare forward": bare, "extract": extract, "extract and score": extract_and_score}
ROUNDS = 3


def test_pipeline(benchmark):
    """By turns, since a machine is faster at one time than at another: what is told are medians, and of ratios."""
    work = model()
    seconds = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(ROUNDS + 1):
            for name, call in CONTENDERS.items():
                arguments = () if call is bare else (Path(place) / f"{turn} {name}",)
                begin = time.perf_counter()
                call(work, *arguments)
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - begin)
        benchmark.pedantic(bare, (work,), rounds=1)
    found = {name: np.array(each) for name, each in seconds.items()}
    lines = [f"{name} {np.median(each):.2f} s" for name, each in found.items()]
    for name in ("extract", "extract and score"):
        ratios = found[name] / found["bare forward"]
        lines.append(f"{name} / bare forward {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})")
        benchmark.extra_info[f"{name} / bare forward"] = float(np.median(ratios))
    print(f"\n{N_IMAGES} images of {SIZE}, two layers, {THREADS} threads: {'; '.join(lines)}")
