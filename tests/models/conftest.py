"""Where the real networks lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_models():
    """The directory of real networks, in the one named by STREAMDISSECT_TEST_SHARED."""
    default = Path(__file__).resolve().parents[3] / "shared"
    path = Path(os.environ.get("STREAMDISSECT_TEST_SHARED", default)) / "models"
    if not path.is_dir():
        pytest.skip("no directory of shared networks")
    return path
