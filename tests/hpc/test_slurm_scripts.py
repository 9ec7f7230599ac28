"""The scripts in examples/slurm, as far as they can be tried where there is no Slurm: srun is played by a script."""

import os
import re
import signal
import subprocess
import time

import pytest

from streamdissect.cli import build_parser

from .conftest import EXAMPLES

SLURM = EXAMPLES / "slurm"
SCRIPTS = sorted(path.name for path in SLURM.iterdir())
SRUN = """#!/bin/sh
# the one task of a step: what srun would start it with is left out
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$@" >>scontrol.txt
"""


@pytest.fixture(scope="module")
def batch(place):
    """`batch(script, *words)`: the environment of a batch job, and its process, begun."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    (place / "scratch").mkdir()

    def begin(script, *words, **variables):
        return subprocess.Popen(
            ["bash", SLURM / script, *words],
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=place.environment
            | {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1", "SLURM_TMPDIR": str(place / "scratch")}
            | variables,
        )

    yield begin
    for name in ("srun", "scontrol"):
        (place / "bin" / name).unlink()  # the tests of the real ones come here too


def finish(place, process, code=0):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, (out, errors)
    assert list((place / "scratch").iterdir()) == [], "the scratch is left as it was"
    return out, errors


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash_and_stop_at_an_error(script):
    subprocess.run(["bash", "-n", SLURM / script], check=True)
    text = (SLURM / script).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n") and re.search(r"^set -eu$", text, flags=re.M)
    assert os.access(SLURM / script, os.X_OK)
    if script.endswith(".sbatch"):
        assert "export NUMBA_CACHE_DIR=$scratch/numba" in text and "export SRUN_CPUS_PER_TASK=" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_in_the_scripts_exist(script):
    _, modules = build_parser()
    text = re.sub(r"\\\n\s*", "", (SLURM / script).read_text(encoding="utf-8"))
    called = re.findall(r"streamdissect (extract|score|report|pack) ?(.*)$", text, flags=re.M)
    for command, words in called:
        known = {option.flag for option in modules[command].OPTIONS}
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", words.split(")")[0])) <= known, words
    extract = {option.flag for option in modules["extract"].OPTIONS}
    for words in re.findall(r"^#   \S*(?:extract_array|one_node|many_nodes|pipeline)\S* (.*)$", text, flags=re.M):
        assert set(re.findall(r"--[a-z][a-z-]*", words)) <= extract, words


def test_an_array_extracts_and_scores_from_copies_on_the_node(batch, place, assert_same_run):
    for script, words in (
        ("extract_array.sbatch", ("scenes.h5", *place.extract, "--out", "staged")),
        ("score_array.sbatch", ("staged", "scenes.h5")),
    ):
        for task in range(3):
            array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "2"}
            finish(place, batch(script, *words, **array))
    assert_same_run("staged")


def test_torchrun_on_one_node(batch, place, assert_same_run):
    _, errors = finish(
        place, batch("one_node_gpus.sbatch", "scenes.h5", *place.extract, "--out", "node", SLURM_GPUS_ON_NODE="2")
    )
    assert "2 processes of torchrun share the work" in errors
    place.run("streamdissect", "score", "node", "--data", "scenes.h5")
    assert_same_run("node")


def test_a_copy_is_made_on_each_node(batch, place, assert_same_run):
    many = {"SLURM_JOB_NUM_NODES": "1"}
    finish(place, batch("many_nodes.sbatch", "scenes.h5", *place.extract, "--out", "nodes", **many))
    place.run("streamdissect", "score", "nodes", "--data", "scenes.h5")
    assert_same_run("nodes")


def test_a_job_whose_time_is_nearly_up_queues_itself_again(batch, place, assert_same_run):
    words = ("extract", *place.extract, "--data", "scenes.h5", "--out", "queued")
    process = batch("preemptible.sbatch", *words, PAUSE="0.5")
    deadline = time.monotonic() + 60
    while not list(place.folder.glob("queued/partial/extract/claims/000001.*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)  # to the shell alone, as --signal=B: sends it
    _, errors = finish(place, process, code=75)
    assert errors.count("SIGUSR1: stopping") == 1
    assert (place / "scontrol.txt").read_text() == "requeue 7\n"
    done = {path.name for path in place.folder.glob("queued/partial/extract/0*.json")}
    assert 0 < len(done) < 12
    finish(place, batch("preemptible.sbatch", *words))
    finish(place, batch("preemptible.sbatch", "score", "queued"))
    assert (place / "scontrol.txt").read_text() == "requeue 7\n", "what is done is not queued again"
    assert_same_run("queued")
