"""Scoring by two processes against one, beside a loop of arithmetic shared out alike; and merging what many left.

The second says what the machine gives two processes: two cores that share a clock and a memory are not two machines.
"""

import functools
import multiprocessing
import resource
import runpy
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.atomic import remove_tree

N_IMAGES, SHARD_IMAGES, N_UNITS, GRID = 20480, 256, 256, (13, 13)
N_PARTS, PART_IMAGES, PART_UNITS = 64, 64, 2048
LOOPS = 960
"""Of arithmetic: some seconds."""

pytestmark = pytest.mark.long


@functools.cache
def simulation():
    """The generated labels of Broden's number, and activations."""
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "simulate_broden.py"))


@functools.cache
def place():
    return tempfile.TemporaryDirectory()


@functools.cache
def recorded():
    """A run that is to be scored."""
    data, compute = simulation()["Generated"](N_IMAGES), simulation()["Activations"](N_UNITS, GRID)
    run = sd.record(compute, data, Path(place().name) / "run", name="generated", shard_images=SHARD_IMAGES)
    return run.path, data


@functools.cache
def counted():
    """A run of many shards, all of them counted."""
    data, compute = simulation()["Generated"](N_PARTS * PART_IMAGES), simulation()["Activations"](PART_UNITS, (7, 7))
    run = sd.record(compute, data, Path(place().name) / "parts", name="generated", shard_images=PART_IMAGES)
    sd.score(run, data)
    return run.path, data


def score_part(path, data, shard):
    sd.score(path, data, threads=1, shard=shard)


def arithmetic(n_loops):
    values = np.random.default_rng(0).random(50_000)
    for _ in range(n_loops):
        np.sort(values)


def worker(ready, function, arguments):
    """Call it once all processes are there."""
    ready.wait()
    function(*arguments)


def together(function, all_arguments):
    """Seconds in which processes made beforehand do their parts."""
    context = multiprocessing.get_context("fork")  # what they need is loaded
    ready = context.Barrier(len(all_arguments) + 1)
    processes = [context.Process(target=worker, args=(ready, function, each)) for each in all_arguments]
    for process in processes:
        process.start()
    ready.wait()
    begin = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - begin
    assert not any(process.exitcode for process in processes)
    return seconds


def anew(path):
    """As it was before it was scored, labels too."""
    for name in ("partial/score", "tables"):
        remove_tree(path / name)
    for name in ("summary.json", "dissection.h5"):
        (path / name).unlink(missing_ok=True)
    remove_tree(sd.RunDir(path).planes_path)


def scoring(n_processes):
    path, data = recorded()
    anew(path)
    return together(score_part, [(path, data, (i, n_processes)) for i in range(n_processes)])


def looping(n_processes):
    return together(arithmetic, [(LOOPS // n_processes,)] * n_processes)


def test_two_processes(benchmark):
    """Medians of three, one and two by turns; the ratios are printed, and kept beside the timing."""
    found = {(call, n): [] for call in (scoring, looping) for n in (1, 2)}
    scoring(1)
    for _ in range(3):
        for call, n in found:
            found[call, n].append(call(n))
    gains = {call.__name__: np.median(found[call, 1]) / np.median(found[call, 2]) for call in (scoring, looping)}
    print(f"\n{N_IMAGES} images, one process {np.median(found[scoring, 1]):.2f} s;",
          "two processes gain", ", ".join(f"{name} {gain:.2f}x" for name, gain in gains.items()))  # fmt: skip
    benchmark.extra_info.update({name: float(gain) for name, gain in gains.items()})
    benchmark.pedantic(scoring, (2,), rounds=1)


def merge_alone(path, data, results):
    """In a process of its own, for its memory's sake."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    sd.merge(path, data=data)
    results.put((time.perf_counter() - begin, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def test_merge(benchmark):
    """The counters of 64 shards, of 2048 units and 1,197 concepts, joined into the result's files."""
    path, data = counted()
    context = multiprocessing.get_context("fork")
    found = []

    def merge():
        results = context.Queue()
        process = context.Process(target=merge_alone, args=(path, data, results))
        process.start()
        found.append(results.get())
        process.join()

    benchmark.pedantic(merge, rounds=3)
    seconds, before, after = (sorted(values)[1] for values in zip(*found, strict=True))
    n_bytes = sum(file.stat().st_size for file in (path / "partial" / "score").glob("*.npz"))
    print(f"\n{N_PARTS} parts of {PART_UNITS} x 1197, {n_bytes / 1e6:.0f} MB: merged in {seconds:.2f} s,",
          f"memory {before / 1e3:.0f} MB before, {after / 1e3:.0f} MB at most")  # fmt: skip
