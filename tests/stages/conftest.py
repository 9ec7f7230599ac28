"""A small network, a small dataset, and runs of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from streamdissect.data.broden_writer import write_broden
from streamdissect.data.synthetic import SyntheticScenes

NETS = Path(__file__).with_name("nets.py")


@pytest.fixture(scope="session")
def nets():
    """Path of the file with the test networks."""
    return NETS


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A Broden directory of 20 images of 64 x 64."""
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_broden(SyntheticScenes(20, seed=5, size=64), path)
    return path


@pytest.fixture(scope="session")
def command():
    """`command("extract", ...)`: run the command line; stdout, stderr and returncode of the process."""

    def call(*arguments, check=None, cwd=None, **variables):
        done = subprocess.run(
            [sys.executable, "-m", "streamdissect", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **variables},
        )
        if check is not None:
            assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
        return done

    return call


def read_everything(run):
    """Arrays of dissection.h5 and of the store by name, the tables as text: what must not depend on how it was made."""
    found = {}
    run = Path(run)
    if (run / "dissection.h5").exists():
        with h5py.File(run / "dissection.h5") as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
            for name in file["layers"]:
                found.update({f"{name}@{key}": value for key, value in file["layers"][name].attrs.items()})
    for path in sorted((run / "tables").glob("*.csv")):
        found[path.name] = path.read_text()
    if (run / "activations.zarr").exists():
        group = zarr.open_group(run / "activations.zarr", mode="r")
        found.update({f"zarr {name}": array[:] for name, array in group.arrays()})
    return found


@pytest.fixture(scope="session")
def everything():
    """See `read_everything`."""
    return read_everything


@pytest.fixture(scope="session")
def assert_same_runs():
    """Two runs hold the same arrays, attributes and tables."""

    def compare(first, second):
        one, other = read_everything(first), read_everything(second)
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, other[name], err_msg=name)
            else:
                assert np.all(value == other[name]), name

    return compare


SLOW_NETS = """
import time
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("real_nets", {path!r})
real = module_from_spec(spec)
spec.loader.exec_module(real)


def build():
    net = real.build()
    net.register_forward_pre_hook(lambda *_: time.sleep(0.15))
    return net
"""


@pytest.fixture
def slow_nets(nets, tmp_path):
    """The same network, slow enough to be stopped in the middle."""
    path = tmp_path / "nets.py"
    path.write_text(SLOW_NETS.format(path=str(nets)))
    return path
