"""Four and sixteen times the images take no more memory, and as long for each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_broden.py"


def simulate(out, n_images, n_units, grid):
    """Facts of a run of so many images."""
    layer = ["--units", n_units, "--grid", *grid]
    command = [sys.executable, SCRIPT, out, "--images", n_images, *layer, "--threads", 1]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


SMALL, BRODEN = (400, 16, (7, 7)), (6500, 256, (13, 13))
"""N, units and grid: of a second or two, and the layer that docs/scale.md has at Broden's size."""


@pytest.mark.parametrize(("n_images", "n_units", "grid"), [SMALL, pytest.param(*BRODEN, marks=pytest.mark.long)])
def test_memory_and_time_an_image_stay_flat(tmp_path, n_images, n_units, grid):
    found = {times: simulate(tmp_path / "run", times * n_images, n_units, grid) for times in (1, 4, 16)}
    peaks = {times: facts["peak_bytes"] for times, facts in found.items()}
    assert max(peaks.values()) <= 1.1 * peaks[1], peaks
    if n_images < 1000:
        return  # too short for times
    for stage, part in (("extract", "write"), ("extract", "thresholds"), ("score", "labels"), ("score", "count")):
        each = {times: facts["seconds"][stage][part] / facts["images"] for times, facts in found.items()}
        assert each[16] <= 1.25 * max(each[1], each[4]), (stage, part, each)
