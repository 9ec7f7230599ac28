"""Where the real networks lie."""

import pytest


@pytest.fixture(scope="session")
def shared_models(shared):
    """The directory of real networks among the shared test data."""
    path = shared / "models"
    if not path.is_dir():
        pytest.skip("no directory of shared networks")
    return path
