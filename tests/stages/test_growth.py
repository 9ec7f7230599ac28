"""Four and sixteen times the images take no more memory, and as long for each."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_broden.py"
PARTS = ("extract", "write"), ("extract", "thresholds"), ("score", "labels"), ("score", "count")
"""Stages and what takes their time."""


def simulate(out, n_images, n_units, grid):
    """Facts of a run of so many images."""
    layer = ["--units", n_units, "--grid", *grid]
    command = [sys.executable, SCRIPT, out, "--images", n_images, *layer, "--threads", 1]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def seconds_an_image(run, stage, part):
    """Of each whole shard of a run."""
    n_images = json.loads((run / "run.json").read_text())["plan"]["shard_images"]
    commits = sorted((run / "partial" / stage).glob("[0-9]*.json"))
    return [json.loads(path.read_text())["seconds"][part] / n_images for path in commits[:-1]]


def test_memory_stays_flat(tmp_path):
    found = {times: simulate(tmp_path / "run", times * 400, 16, (7, 7)) for times in (1, 4, 16)}
    peaks = {times: facts["peak_bytes"] for times, facts in found.items()}
    assert max(peaks.values()) <= 1.1 * peaks[1], peaks


@pytest.mark.long
def test_memory_and_time_an_image_stay_flat_up_to_a_hundred_thousand(tmp_path):
    """Of the layer that docs/scale.md has at Broden's size, the two shorter runs before and after the long one."""
    peaks, cpu, parts = {}, {}, {}
    for times in (1, 4, 16, 4, 1):
        facts = simulate(tmp_path / "run", times * 6500, 256, (13, 13))
        peaks.setdefault(times, []).append(facts["peak_bytes"])
        cpu.setdefault(times, []).append(facts["cpu_seconds"] / facts["images"])
        for each in PARTS:
            parts.setdefault((*each, times), []).extend(seconds_an_image(tmp_path / "run", *each))
    assert max(peaks[4] + peaks[16]) <= 1.1 * min(peaks[1]), peaks
    medians = {key: statistics.median(found) for key, found in parts.items()} | {
        ("all", "cpu", times): statistics.median(found) for times, found in cpu.items()
    }
    for each in (*PARTS, ("all", "cpu")):
        few, more, most = (medians[*each, times] for times in (1, 4, 16))
        assert max(more, most) <= 1.25 * few, (each, medians)
    print({" ".join(map(str, key)): f"{1e6 * value:.0f} us" for key, value in medians.items()}, peaks)
