"""Jobs really submitted, to the Slurm of one node that scripts/start_slurm.sh starts; results equal one process's.

Nothing is ever submitted to another Slurm.
"""

import shutil
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from .conftest import EXAMPLES

pytestmark = pytest.mark.slurm
CLUSTER = "dissecttest"
"""Its name in scripts/start_slurm.sh."""
SLURM = EXAMPLES / "slurm"
JOB_SECONDS = 120
SHARDS = 12


class Slurm:
    """Jobs in `place`, and what became of them."""

    def __init__(self, place):
        self.place = place

    def submit(self, script, *words, options=(), **variables):
        """Number of the job."""
        command = ["sbatch", "--parsable", *options, script, *words]
        return self.place.run(*command, **variables).strip()

    def control(self, *words):
        return self.place.run("scontrol", *words)

    def fields(self, job):
        """What Slurm tells of a job: a dictionary for each task of an array."""
        lines = self.control("--oneliner", "show", "job", job).strip().splitlines()
        return [dict(word.partition("=")[::2] for word in line.split()) for line in lines]

    def log(self, job):
        """What a job, or every task of an array, printed."""
        return "\n".join(path.read_text() for path in sorted(self.place.folder.glob(f"slurm-{job}[._]*")))

    def await_that(self, is_so, job):
        deadline = time.monotonic() + JOB_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, (self.fields(job), self.log(job))
            time.sleep(0.1)

    def finish(self, job, state="COMPLETED", code="0:0"):
        """Wait until a job is over, all tasks in a state and with an exit code."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        self.await_that(lambda: all(task["JobState"] in over for task in self.fields(job)), job)
        ends = {(task["JobState"], task["ExitCode"]) for task in self.fields(job)}
        assert ends == {(state, code)}, self.log(job)
        return self.log(job)

    def await_shards(self, run, job, shards):
        """Wait until shards are in the store; they need not be committed."""
        stored = [self.place / run / f"activations.zarr/act/c/{shard}/0/0/0" for shard in shards]
        self.await_that(lambda: all(path.exists() for path in stored), job)

    def commits(self, run):
        """Shard -> when its commit was written."""
        folder = self.place / run / "partial" / "extract"
        return {int(path.stem): path.stat().st_mtime_ns for path in folder.glob("0*.json")}


@pytest.fixture(scope="module")
def slurm(place):
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch: see CONTRIBUTING.md, Slurm")
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60, check=False)
    if shown.returncode:
        pytest.skip("no Slurm answers: see CONTRIBUTING.md, Slurm")
    if f"ClusterName             = {CLUSTER}\n" not in shown.stdout:
        pytest.skip("this is somebody's Slurm, not the one of scripts/start_slurm.sh")
    return Slurm(place)


def test_an_array_of_four(slurm, assert_same_run):
    job = slurm.submit(SLURM / "extract_array.sbatch", "scenes.h5", *slurm.place.extract, "--out", "array")
    slurm.finish(job)
    job = slurm.submit(SLURM / "score_array.sbatch", "array", "scenes.h5")
    assert slurm.finish(job).count("tables: array/tables/units.csv") == 1, "the last one alone has the result"
    assert_same_run("array")


def test_what_a_killed_task_left_is_done_by_another_number_of_tasks(slurm, assert_same_run):
    words = ("scenes.h5", *slurm.place.extract, "--out", "killed")
    job = slurm.submit(SLURM / "extract_array.sbatch", *words, options=["--array=0-2"], PAUSE="1")
    slurm.await_shards("killed", job, [1])
    slurm.place.run("scancel", "--signal=KILL", f"{job}_1")
    slurm.await_that(lambda: {task["JobState"] for task in slurm.fields(job)} == {"COMPLETED", "CANCELLED"}, job)
    before = slurm.commits("killed")
    assert {shard for shard in range(SHARDS) if shard % 3 != 1} <= set(before) and len(before) < SHARDS
    slurm.finish(slurm.submit(SLURM / "extract_array.sbatch", *words, options=["--array=1-8:7"]))
    after = slurm.commits("killed")
    assert set(after) == set(range(SHARDS)) and before.items() <= after.items(), "what was finished is left alone"
    slurm.place.run("streamdissect", "score", "killed", "--data", "scenes.h5")
    assert_same_run("killed")


def test_tasks_of_a_step_know_their_ranks(slurm, assert_same_run):
    words = "srun -n2 streamdissect"
    extract = f"{words} extract {' '.join(slurm.place.extract)} --data scenes.h5 --out ranks"
    script = f"#!/bin/bash\nset -e\n{extract}\n{words} score ranks\n"
    (slurm.place / "ranks.sbatch").write_text(script)
    log = slurm.finish(slurm.submit("ranks.sbatch", options=["--ntasks=2"]))
    assert "[rank 0/2] streamdissect extract: 2 processes of srun share the work" in log
    assert log.count("tables: ranks/tables/units.csv") == 1, "rank 0 alone prints the result"
    assert_same_run("ranks")


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_task_that_is_told_to_stop_leaves_with_75(slurm, assert_same_run, name):
    run = f"stopped-{name}"
    words = ("scenes.h5", *slurm.place.extract, "--out", run)
    options = ["--array=0-1"]
    job = slurm.submit(SLURM / "extract_array.sbatch", *words, options=options, PAUSE="1")
    slurm.await_shards(run, job, [0, 1])
    slurm.place.run("scancel", f"--signal={name}", job)
    log = slurm.finish(job, "FAILED", "75:0")
    assert log.count("stopped; the same command resumes") == 2
    before = slurm.commits(run)
    assert {0, 1} <= set(before) and len(before) < SHARDS
    slurm.finish(slurm.submit(SLURM / "extract_array.sbatch", *words, options=options))
    assert before.items() <= slurm.commits(run).items()
    slurm.place.run("streamdissect", "score", run, "--data", "scenes.h5")
    assert_same_run(run)


@pytest.mark.parametrize("cause", ["time", "preemption"])
def test_a_job_queues_itself_again_and_goes_on(slurm, assert_same_run, cause):
    """Slurm holds what it queued again for two minutes; here the hold is taken away."""
    run = f"queued-{cause}"
    words = ("extract", *slurm.place.extract, "--data", "scenes.h5", "--out", run)
    job = slurm.submit(SLURM / "preemptible.sbatch", *words, PAUSE="1")
    slurm.await_shards(run, job, range(4))
    if cause == "time":
        slurm.place.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@120 sends
    else:
        options = ["--partition=urgent", "--exclusive", "--wrap=true"]
        urgent = slurm.place.run("sbatch", "--parsable", *options).strip()
        slurm.finish(urgent)
    slurm.await_that(lambda: slurm.fields(job)[0]["Restarts"] == "1", job)
    before = slurm.commits(run)
    assert len(before) < SHARDS
    assert set(range(4)) <= set(before), "what was in the store is committed before the job ends"
    slurm.control("update", f"JobId={job}", "StartTime=now")
    slurm.finish(job)
    assert before.items() <= slurm.commits(run).items()
    slurm.finish(slurm.submit(SLURM / "preemptible.sbatch", "score", run))
    assert_same_run(run)


def test_gpus_of_a_node_by_torchrun(slurm, assert_same_run):
    job = slurm.submit(SLURM / "one_node_gpus.sbatch", "scenes.h5", *slurm.place.extract, "--out", "gpus")
    assert "4 processes of torchrun share the work" in slurm.finish(job)
    slurm.place.run("streamdissect", "score", "gpus", "--data", "scenes.h5")
    assert_same_run("gpus")


def test_a_task_for_each_gpu(slurm, assert_same_run):
    words = ("scenes.h5", *slurm.place.extract, "--out", "tasks")
    job = slurm.submit(SLURM / "many_nodes.sbatch", *words, options=["--nodes=1"])
    assert "4 processes of srun share the work" in slurm.finish(job)
    slurm.place.run("streamdissect", "score", "tasks", "--data", "scenes.h5")
    assert_same_run("tasks")


def test_a_pipeline(slurm, assert_same_run):
    """From a folder: it is packed first."""
    printed = slurm.place.run(SLURM / "pipeline.sh", "scenes", "pipeline", *slurm.place.extract, WORKERS="2")
    extract, score, report = printed.split()
    assert len(slurm.fields(extract)) <= 2
    slurm.finish(report)
    slurm.finish(extract)
    slurm.finish(score)
    assert_same_run("pipeline")
    assert (slurm.place / "pipeline" / "report" / "index.html").exists()


def test_a_pipeline_ends_where_a_job_of_it_fails(slurm):
    words = ("--model", "net.py:absent", "--layers", "act")
    extract, score, report = slurm.place.run(SLURM / "pipeline.sh", "scenes.h5", "broken", *words, WORKERS="1").split()
    slurm.finish(extract, "FAILED", "2:0")
    for job in (score, report):
        slurm.finish(job, "CANCELLED", "0:0")
    assert not (slurm.place / "broken").exists()


@pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason='no dask_jobqueue: pip install -e ".[cluster-test]"')
def test_dask_workers_are_jobs(slurm, assert_same_results):
    shutil.rmtree(slurm.place / "whole/scores/dask", ignore_errors=True)
    slurm.place.run(sys.executable, EXAMPLES / "hpc" / "dask_cluster.py", "whole", "--slurm")
    assert_same_results("whole/scores/dask")


@pytest.mark.skipif(find_spec("submitit") is None, reason='no submitit: pip install -e ".[cluster-test]"')
def test_submitit_submits(slurm, assert_same_results):
    shutil.rmtree(slurm.place / "whole/scores/submitit", ignore_errors=True)
    slurm.place.run(sys.executable, EXAMPLES / "hpc" / "submitit_score.py", "whole")
    assert_same_results("whole/scores/submitit")
