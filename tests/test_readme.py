"""The README's recipes, run as they stand."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
MODEL = """
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.act = nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1, self.block2 = Block(3, 6), Block(6, 8)

    def forward(self, x):
        return self.block2(nn.functional.max_pool2d(self.block1(x), 2)).mean((2, 3))


def build():
    return Net()
"""
SBATCH = '''#!/usr/bin/env python3
"""Runs the tasks of an array one after the other, as Slurm would on one node."""
import os, re, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
script = open(words[0]).read()
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", script).groups())
for task in range(first, last + 1):
    names = {"ID": task, "MIN": first, "MAX": last, "COUNT": last - first + 1}
    variables = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}
    done = subprocess.run(["bash", *words], env={**os.environ, **variables}, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
print(1234)
'''


def blocks(heading):
    """Fenced blocks below a heading: (language, text)."""
    section = re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.M)
    (body,) = [part for part in section if part.startswith(heading)]
    return re.findall(r"^```(\w+)\n(.*?)^```", body, flags=re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with my_model.py, my_weights.safetensors and my_data, and the console script on the path."""
    import torch
    from safetensors.torch import save_file

    from streamdissect.data.broden_writer import write_broden
    from streamdissect.data.synthetic import SyntheticScenes

    folder = tmp_path_factory.mktemp("recipes")
    (folder / "my_model.py").write_text(MODEL)
    write_broden(SyntheticScenes(24, size=48), folder / "my_data")
    namespace: dict = {}
    exec(MODEL, namespace)
    torch.manual_seed(0)
    save_file(namespace["build"]().state_dict(), folder / "my_weights.safetensors")
    (folder / "bin").mkdir()
    for name, text in (
        ("sbatch", SBATCH),
        ("streamdissect", f'#!/bin/sh\nexec "{sys.executable}" -m streamdissect "$@"\n'),
    ):
        path = folder / "bin" / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def run(place, words, **variables):
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, env={**os.environ, "PATH": path, **variables}
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_own_model_and_own_data(place):
    ((language, text),) = blocks("Your own model")
    assert language == "bash"
    printed = run(place, ["bash", "-euc", text])
    assert "block2.act" in printed and "detectors" in printed
    assert (place / "my_run" / "tables" / "units.csv").exists()


def test_folders_published_sets_and_colours(place):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (tree, recipe) = (text for _, text in blocks("Data"))
    for name in [*re.findall(r"^  (\S+\.(?:jpg|png))", tree, flags=re.M), "images/dog.jpg"]:
        path = place / "my_folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (48, 48, 3) if "images" in name else (24, 24)
        Image.fromarray(rng.integers(0, 256 if "images" in name else 3, shape, np.uint8)).save(path)
    (header,) = re.findall(r"labels\.csv +(\S+)$", tree, flags=re.M)
    lines = [header, "1,cat,object", "2,dog,object", "1,fur,material", "2,grass,material"]
    (place / "my_folder" / "labels.csv").write_text("\n".join(lines))
    voc = place / "VOCdevkit" / "VOC2012"
    for folder, name, shape in (("JPEGImages", "a.jpg", (9, 9, 3)), ("SegmentationClass", "a.png", (9, 9))):
        (voc / folder).mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(voc / folder / name)
    printed = run(place, ["bash", "-euc", recipe])
    assert "labels: colors, beside the dataset's own" in printed and "material" in printed
    assert (place / "voc.h5").exists()


def test_a_loop_that_exists_already(place):
    ((language, text),) = blocks("In a loop")
    assert language == "python"
    run(place, [sys.executable, "-c", text])
    assert (place / "loop_run" / "summary.json").exists()


def test_six_lines_of_slurm(place):
    (_, script), (_, submission) = blocks("On a Slurm cluster")
    assert len(script.splitlines()) == 6
    (place / "dissect.sh").write_text(script)
    run(place, ["bash", "-euc", submission])
    summary = json.loads((place / "array_run" / "summary.json").read_text())
    assert summary["images"] == 24


def test_the_commands_of_try_it_are_the_ones_ci_runs():
    first, second, demo = (text for _, text in blocks("Try it"))
    assert first.strip().endswith("-m streamdissect demo") and second.strip().endswith("-m pytest")
    assert len(first.strip().splitlines()) == len(second.strip().splitlines()) == 1
    assert [line.split()[1] for line in demo.splitlines()] == ["extract", "score", "report"]


def test_every_option_the_readme_names_exists():
    from streamdissect.cli import build_parser

    known = {"--help", "--parsable", "--dependency", "--array", "--cpus-per-task", "--mem", "--requeue"}
    _, modules = build_parser()
    known |= {option.flag for module in modules.values() for option in module.OPTIONS}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text(encoding="utf-8")))
    assert named <= known, named - known


def test_options_in_a_file(place):
    blocks_of_options = dict(blocks("Options, environment"))
    (place / "run.toml").write_text(blocks_of_options["toml"])
    run(place, [sys.executable, "-m", "streamdissect", "extract", "--config", "run.toml", "--out", "config_run"])
    run(place, [sys.executable, "-m", "streamdissect", "score"], STREAMDISSECT_RUN="config_run")
    assert (place / "config_run" / "summary.json").exists()


def test_every_section_the_code_refers_to_exists():
    root = README.parent
    text = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    sources = [*root.glob("src/**/*.py"), *root.glob("csrc/*")]
    for path in sources:
        for numbers in re.findall(r"methods ((?:\d\.?\d?(?:, | and )?)+)", path.read_text(encoding="utf-8")):
            for number in re.findall(r"\d\.\d", numbers):
                assert f"**{number} " in text, f"{path.name}: methods {number}"
