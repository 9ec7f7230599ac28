"""Four and sixteen times the images take no more memory, and as long for each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_broden.py"


def simulate(out, n_images):
    """Facts of a run of so many images; small maps, so that there can be many."""
    command = [sys.executable, SCRIPT, out, "--images", n_images, "--units", 16, "--grid", 7, 7, "--threads", 1]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("n_images", [400, pytest.param(6500, marks=pytest.mark.long)])
def test_memory_and_time_an_image_stay_flat(tmp_path, n_images):
    found = {times: simulate(tmp_path / "run", times * n_images) for times in (1, 4, 16)}
    peaks = {times: facts["peak_bytes"] for times, facts in found.items()}
    assert max(peaks.values()) <= 1.1 * peaks[1], peaks
    if n_images < 1000:
        return  # too short for times
    for stage, part in (("extract", "write"), ("extract", "thresholds"), ("score", "labels"), ("score", "count")):
        each = {times: facts["seconds"][stage][part] / facts["images"] for times, facts in found.items()}
        assert each[16] <= 1.25 * max(each[1], each[4]), (stage, part, each)
