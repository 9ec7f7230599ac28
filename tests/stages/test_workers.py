"""Interruption, resumption and many workers: the content is that of one undisturbed process."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import streamdissect as sd
from streamdissect import atomic

LAYERS = "block1.act,block2.conv"
EXTRACT = ["--layers", LAYERS, "--batch-size", "2", "--shard-images", "2", "--threads", "1"]


def in_long(*values):
    """Parameters of the long form."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


@pytest.fixture(scope="module")
def undisturbed(nets, scenes, command, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    command("extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT, check=0)
    command("score", out, "--threads", "1", check=0)
    return out


def started(*arguments, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "streamdissect", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, *in_long(signal.SIGTERM, signal.SIGUSR1)])
def test_a_stopped_extract_resumes(number, slow_nets, scenes, command, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    call = ["extract", "--model", f"{slow_nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    process = started(*call)
    for _ in range(400):
        if list((out / "partial" / "extract").glob("0*.json")) or (out / "activations.zarr").exists():
            break
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (75 if number != signal.SIGKILL else -9), errors
    if number != signal.SIGKILL:
        assert "stopped; the same command resumes" in errors
        assert not list((out / "partial" / "extract" / "claims").glob("*"))
    incomplete = command("score", out)
    assert incomplete.returncode == 3 and "not finished" in incomplete.stderr
    assert command("verify", out).returncode == 3
    command(*call, check=0)
    assert "done" in command(*call, check=0).stdout
    command("score", out, "--threads", "1", check=0)
    assert_same_runs(undisturbed, out)


def test_a_second_sigterm_is_passed_over(slow_nets, scenes, command, tmp_path):
    """Launchers send it twice, to the group and each to its own: what is in the store is committed all the same."""
    out = tmp_path / "run"
    process = started("extract", "--model", f"{slow_nets}:build", "--data", scenes, "--out", out, *EXTRACT)
    while not list((out / "activations.zarr").rglob("c/0/0/0/0")):
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.count("SIGTERM: stopping") == 1 and "once more" not in errors
    assert 1 <= sd.info(out)["shards_done"] < 10


@pytest.mark.parametrize("delay", [0.8, *in_long(0.0, 0.4, 1.5)])
def test_a_kill_at_any_time_of_either_stage(delay, nets, scenes, command, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    score = ["score", out, "--threads", "1"]
    for call in (extract, score):
        for _ in range(2):
            process = started(*call)
            time.sleep(delay + (1.0 if call is extract else 0.2))
            process.kill()
            process.communicate()
        command(*call, check=0)
    assert_same_runs(undisturbed, out)


def test_two_workers_at_once_and_a_merge(nets, scenes, command, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    workers = [started(*extract, "--shard", f"{i}/2") for i in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    first = command("score", out, "--shard", "1/2", check=0)
    assert "writes the result" in first.stderr and not (out / "summary.json").exists()
    incomplete = command("merge", out)
    assert incomplete.returncode == 3 and "shards 0, 2, 4, 6, 8 of 10" in incomplete.stderr
    command("score", out, "--shard", "0/2", check=0)
    assert_same_runs(undisturbed, out)
    (out / "dissection.h5").unlink()
    command("merge", out, check=0)
    assert_same_runs(undisturbed, out)
    command("merge", out, check=0)
    assert_same_runs(undisturbed, out)


def test_unclaimed_shards_are_shared_without_being_told(nets, scenes, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    for call in (extract, ["score", out]):
        workers = [started(*call) for _ in range(3)]
        for worker in workers:
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0, errors
    assert_same_runs(undisturbed, out)


@pytest.mark.parametrize(
    "options", [{"batch_size": 20}, {"shard_images": 7}, {"workers": 0}, {"codec": "lz4"}, {"memory": 4 * 10**7}]
)
def test_given_equal_activations_the_rest_is_equal(options, nets, scenes, undisturbed, everything, tmp_path):
    named = {"batch_size": 2, "shard_images": 2, "threads": 1} | options
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), tmp_path / "run", **named)
    result = sd.score(tmp_path / "run", threads=2)
    expected, found = everything(undisturbed), everything(tmp_path / "run")
    same = all(np.array_equal(expected[f"zarr {name}"], found[f"zarr {name}"]) for name in LAYERS.split(","))
    if same:  # a network may answer differently to other batches; what follows may not
        for name, value in expected.items():
            assert np.array_equal(value, found[name]) if isinstance(value, np.ndarray) else value == found[name], name
    assert same or "batch_size" in options or "shard_images" in options
    assert result.summary["images"] == 20


def test_partials_travel_and_merge_in_any_order(undisturbed, tmp_path):
    whole = sd.score(undisturbed)
    parts = [sd.score_partial(undisturbed, shards=shards) for shards in ([3, 7], [0, 1, 2], [9], [4, 5, 6, 8])]
    parts = [pickle.loads(pickle.dumps(part)) for part in parts[::-1]]
    merged = sd.merge(parts, out=tmp_path / "merged")
    for name, layer in whole.layers.items():
        for key, array in layer.arrays.items():
            np.testing.assert_array_equal(array, merged.layers[name].arrays[key], err_msg=key)
    assert (tmp_path / "merged" / "tables" / "units.csv").read_text() == (
        undisturbed / "tables" / "units.csv"
    ).read_text()
    with pytest.raises(sd.IncompleteRun, match=r"shards 4, 5, 6, 8 of 10 missing"):
        sd.merge(parts[1:])
    with pytest.raises(sd.BadInput, match="shard 9 twice"):
        sd.merge([*parts, parts[1]])
    for nothing in ([], [1]):
        with pytest.raises(sd.BadInput, match="what score_partial gave"):
            sd.merge(nothing)
    with pytest.raises(sd.BadInput, match="they carry their own"):
        sd.merge(parts, options=sd.ScoreOptions())
    with pytest.raises(sd.BadInput, match="its results go into the run"):
        sd.merge(undisturbed, out=tmp_path / "elsewhere")
    other = sd.score_partial(undisturbed, shards=[9], union="all-images")
    with pytest.raises(sd.BadInput, match="sort them"):
        sd.merge([*parts[:1], other])
    with pytest.raises(sd.BadInput, match="0 to 9"):
        sd.score_partial(undisturbed, shards=[10])


def test_a_dead_workers_claim_is_taken_over_a_living_ones_is_left(nets, scenes, command, tmp_path):
    out = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    command(*extract, "--shard", "0/2", check=0)
    from streamdissect.store.claims import Claims

    claims = Claims(out / "partial" / "extract" / "claims")  # this process lives
    assert claims.take(1) and not Claims(claims.folder).take(1)
    done = command(*extract, check=0)
    assert "9 of 10 shards done" in done.stdout
    claims.release(1)
    claims.owner["pid"], claims.owner["started"] = 2**22 - 1, "0"  # nobody
    assert claims.take(1)
    assert "done" in command(*extract, check=0).stdout
    command("score", out, check=0)


def test_a_requeued_worker_waits_for_its_own_dead_claim(
    nets, scenes, undisturbed, assert_same_runs, tmp_path, monkeypatch
):
    """On another node the claim it left looks alive until it is stale; nobody else does those shards."""
    from streamdissect.store import claims as claiming

    out = tmp_path / "run"
    named = {"batch_size": 2, "shard_images": 2, "threads": 1}
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, shard=(0, 2), **named)
    left = claiming.Claims(out / "partial" / "extract" / "claims")
    left.owner["host"] = "another-node"
    assert left.take(3)
    monkeypatch.setattr(claiming, "STALE_SECONDS", 2.0)
    begin = time.monotonic()
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, shard=(1, 2), **named)
    assert time.monotonic() - begin > 1 and sd.info(out)["shards_done"] == 10
    sd.score(out, threads=1)
    assert_same_runs(undisturbed, out)


def test_a_silent_claim_of_another_machine_is_waited_for(
    nets, scenes, undisturbed, assert_same_runs, tmp_path, monkeypatch
):
    """Without shards of its own too: its owner has missed its beats and has probably died."""
    from streamdissect.stages import shards
    from streamdissect.store import claims as claiming

    out = tmp_path / "run"
    named = {"batch_size": 2, "shard_images": 2, "threads": 1}
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, shard=(0, 2), **named)
    left = claiming.Claims(out / "partial" / "extract" / "claims")
    left.owner["host"] = "another-node"
    assert left.take(3)
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, **named)
    assert sd.info(out)["shards_done"] == 9, "heard of just now: left to it"
    monkeypatch.setattr(shards, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(claiming, "STALE_SECONDS", 1.0)
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, **named)
    sd.score(out, threads=1)
    assert_same_runs(undisturbed, out)


def test_a_commit_that_fails_costs_other_workers_nothing(nets, scenes, undisturbed, assert_same_runs, tmp_path):
    """One worker's disk fills up between its state and its commits; another one is at work meanwhile."""
    from streamdissect.store.partials import Ledger

    out = tmp_path / "run"
    named = {"batch_size": 2, "shard_images": 2, "threads": 1}

    def fail(self, shard, content):
        raise OSError(28, "No space left on device", str(self.commit_path(shard)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "commit", fail)
        with pytest.raises(OSError, match="No space"):
            sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, shard=(0, 2), **named)
    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, **named)
    sd.score(out, threads=1)
    assert_same_runs(undisturbed, out)


def test_state_saved_but_not_committed_is_recovered(nets, scenes, command, undisturbed, assert_same_runs, tmp_path):
    out = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", scenes, "--out", out, *EXTRACT]
    command(*extract, check=0)
    for shard in (3, 9):  # as if the process had died between the state and these commits
        (out / "partial" / "extract" / f"{shard:06d}.json").unlink()
    command("score", out, check=0)
    assert_same_runs(undisturbed, out)


@pytest.mark.parametrize("stage", ["extract", "score"])
def test_an_overwrite_that_is_killed_leaves_nothing_half_done(
    stage, nets, scenes, undisturbed, assert_same_runs, tmp_path
):
    """Killed after each step of the removal; what comes after is made anew or refused, never mixed."""

    class Killed(BaseException):
        pass

    real = shutil.rmtree
    for step in range(1, 4):
        out = tmp_path / f"{stage}{step}"
        shutil.copytree(undisturbed, out)
        calls = []

        def stop(path, calls=calls, step=step):
            calls.append(path)
            if len(calls) == step:
                raise Killed
            real(path)

        named = {"batch_size": 2, "shard_images": 2, "threads": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic.shutil, "rmtree", stop)
            try:
                if stage == "extract":
                    sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, overwrite=True, **named)
                else:
                    sd.score(out, overwrite=True, union="all-images")
            except Killed:
                pass
        sd.extract(f"{nets}:build", scenes, LAYERS.split(","), out, **named)
        if stage == "score":
            try:
                different = sd.score(out, union="all-images")
            except sd.BadInput as refused:
                assert "--overwrite" in str(refused)
            else:
                expected = sd.score(undisturbed, union="all-images", name=f"all{step}")
                for name, iou in expected.iou.items():
                    np.testing.assert_array_equal(iou, different.iou[name])
            sd.score(out, overwrite=True)
        sd.score(out)
        assert_same_runs(undisturbed, out)
