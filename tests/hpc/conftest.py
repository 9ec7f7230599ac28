"""A small packed set, a network that takes as long as it is told, and runs compared."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

import streamdissect as sd
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.synthetic import SyntheticScenes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NET = """
import os
import time

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.act = nn.Conv2d(3, 8, 5, stride=4), nn.ReLU()

    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return self.act(self.conv(x))
"""


class Place:
    """A folder with net.py, scenes and scenes.h5, where `streamdissect` and Python's scripts are on the path."""

    extract = ("--model", "net.py:Net", "--layers", "act", "--batch-size", "2", "--shard-images", "2")
    """Of 24 images in 12 shards; --data and --out are still to come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net.py").write_text(NET)
        write_broden(SyntheticScenes(24, size=48), folder / "scenes")
        sd.pack(folder / "scenes", folder / "scenes.h5")
        (folder / "bin").mkdir()
        script = folder / "bin" / "streamdissect"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamdissect "$@"\n')
        script.chmod(0o755)
        path = os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        # what others' packages warn of is theirs
        self.environment = {
            **os.environ,
            "PATH": path,
            "STREAMDISSECT_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def run(self, *words, code=0, **variables):
        """Run a command here; its stdout."""
        done = subprocess.run(
            [*map(str, words)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.environment | variables,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """See `Place`; it holds the run `whole`, which one process made and scored."""
    place = Place(tmp_path_factory.mktemp("cluster"))
    place.run("streamdissect", "extract", *place.extract, "--data", "scenes.h5", "--out", "whole")
    place.run("streamdissect", "score", "whole")
    return place


def read_results(folder):
    """Every table, and every number of dissection.h5, as bytes."""
    found = {path.name: path.read_bytes() for path in folder.glob("tables/*.csv")}
    with h5py.File(folder / "dissection.h5") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: (item.shape, str(item.dtype), str(item[()].tolist()))})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def read_store(run):
    """Every file of the store."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in (run / "activations.zarr").rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="session")
def assert_same_results(place):
    """The results in a folder of `place` are those of one process, bit for bit."""

    def compare(name):
        expected, found = read_results(place / "whole"), read_results(place / name)
        assert len(expected) > 20 and "units.csv" in expected
        assert found == expected

    return compare


@pytest.fixture(scope="session")
def assert_same_run(place, assert_same_results):
    """As `assert_same_results`, and the files of the store are the same too."""

    def compare(name):
        stored = read_store(place / "whole")
        assert len(stored) >= 12
        assert read_store(place / name) == stored
        assert_same_results(name)

    return compare
