"""A small run whose names try to break pages, and its report."""

import pytest

import streamdissect as sd

from .reported import LAYERS, NETS, write_folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of images."""
    return write_folder(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="session")
def run(pictures, tmp_path_factory):
    """Scored, at a tail that lights something in most images."""
    out = tmp_path_factory.mktemp("reported") / "run"
    sd.extract(f"{NETS}:build?width=14", pictures, LAYERS, out, tails=("1/20", "1/50"), shard_images=6)
    sd.score(out)
    return out


@pytest.fixture(scope="session")
def made(run):
    """The report of it."""
    return sd.report(run)
