"""Every example runs as its docstring says, and prints or leaves what it promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import streamdissect as sd

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RUN_ELSEWHERE = {"label_with_network.py"}
"""Examples that the tests of their own subject run."""


def run(cwd, *words, **variables):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), **variables}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_call(tmp_path):
    out = run(tmp_path, EXAMPLES / "one_call.py", "synth:?n=32&size=64", "run")
    assert re.search(r"on scene-\d+.png unit \d+ of (stem|body) lights [1-9]\d* pixels", out)
    assert (tmp_path / "run" / "summary.json").exists()


def test_training_loop(tmp_path):
    out = run(tmp_path, EXAMPLES / "training_loop.py", "runs")
    right = [int(found) for found in re.findall(r"epoch \d: (\d+) of 64 right, detectors", out)]
    assert len(right) == 3 and right[2] > right[0]
    assert sd.RunDir(tmp_path / "runs" / "epoch2").manifest["identity"]["captured"]


def test_training_monitor(tmp_path):
    out = run(tmp_path, EXAMPLES / "training_monitor.py", "lines.jsonl")
    assert re.search(r"epoch 0: detectors unknown, as thresholds were only found\nepoch 1: detectors \{'2': \d+", out)
    assert re.search(r"a pass over 64 images: \d\.\d+ s alone, \d\.\d+ s watched", out)
    steps = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["thresholds"]["of_step"] for line in steps] == [None, 0, 1, 2, 3, 4, 4]
    moved = [line["layers"]["5"]["share_above"]["median"] for line in steps[4:]]
    assert moved[1:] == [moved[1], moved[1]] and moved[1] <= 1 / 200, "the network no longer changes"
    assert all(line["layers"]["5"]["detectors"] for line in steps[1:])


def test_capture_under_torchrun(tmp_path):
    """Twenty-five images on two processes, one padded; equal to one process in what it counts."""
    data = "synth:?n=25&size=64"
    for out, n in (("two", 2), ("one", 1)):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n]
        run(tmp_path, *launcher, EXAMPLES / "capture_ddp.py", data, out, OMP_NUM_THREADS="1")
    two, one = (sd.score(tmp_path / out, data) for out in ("two", "one"))
    assert sorted(two.image_name) == sorted(one.image_name) == [f"scene-{i:05d}.png" for i in range(25)]
    for name, layer in one.layers.items():
        # convolutions may round differently in batches of other images
        np.testing.assert_allclose(layer.arrays["threshold"], two.layers[name].arrays["threshold"], rtol=2e-3)
        np.testing.assert_array_equal(layer.arrays["n"], two.layers[name].arrays["n"])


def test_scoring_in_a_pool(tmp_path):
    sd.extract("shipped", "synth:?n=24", ["relu5"], tmp_path / "run", shard_images=4)
    whole = sd.score(tmp_path / "run")
    out = run(tmp_path, EXAMPLES / "score_in_pool.py", "run")
    assert str(whole) == out.strip()
    tables = [tmp_path / "run" / place / "tables" / "units.csv" for place in (".", "scores/pool")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_a_folder_of_ones_own(tmp_path):
    run(tmp_path, EXAMPLES / "make_folder.py", "shapes")
    data = sd.open_dataset(tmp_path / "shapes")
    assert data.concepts.name == ("disc", "square", "red", "blue")
    assert data.concepts.category_name == ("shape", "colour")
    labels = data.labels(0)
    assert {g for g, _ in labels.layers} == {0, 1} and (data.image(0)[labels.layers[0][1] == 0] == 235).all()
    sd.extract("shipped", data, ["relu3"], tmp_path / "run")
    result = sd.score(tmp_path / "run")
    assert set(result.units()["category"]) <= {"shape", "colour", ""}


def test_kernels_alone(tmp_path):
    out = run(tmp_path, EXAMPLES / "kernels_alone.py")
    shares = [float(found) for found in re.findall(r"T = \d\.\d+, (\d\.\d+)% of the pixels", out)]
    assert len(shares) == 8 and all(0 < share < 2 for share in shares)


def test_every_example_is_run():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    here = Path(__file__).read_text()
    untested = {name for name in names - RUN_ELSEWHERE if f'"{name}"' not in here}
    assert not untested
    assert names >= {"one_call.py", "training_loop.py", "capture_ddp.py"}
