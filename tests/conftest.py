"""Settings that hold for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.load_profile("default")


@pytest.fixture(scope="session")
def shared():
    """The directory with `data/` and `models/` that tests on real data use, named by STREAMDISSECT_TEST_SHARED."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("STREAMDISSECT_TEST_SHARED", default))
    if not path.is_dir():
        pytest.skip("no directory of shared test data")
    return path
