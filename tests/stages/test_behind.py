"""Recording behind the forward passes."""

import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.stages import extract as stage
from streamdissect.stages.behind import Behind
from streamdissect.stages.profile import describe_profile
from streamdissect.stages.recording import Recorder, store_of


def test_calls_are_made_in_order_and_one_at_a_time():
    made, at_once = [], []
    lock = threading.Lock()

    def work(i):
        at_once.append(lock.acquire(blocking=False))
        time.sleep(0.01)
        made.append((i, threading.current_thread() is threading.main_thread()))
        lock.release()

    with Behind() as behind:
        for i in range(5):
            behind.call(work, i)
            assert len(made) >= i, "the call before has ended"
    assert made == [(i, False) for i in range(5)] and all(at_once)
    assert behind.waited_seconds > 0.02


@pytest.mark.parametrize("where", ["call", "settle", "leaving"])
def test_an_error_comes_out_at_the_next_occasion_and_once(where):
    def fail():
        raise OSError("full")

    def use():
        with Behind() as behind:
            behind.call(fail)
            if where == "call":
                behind.call(fail)
            elif where == "settle":
                behind.settle()

    with pytest.raises(OSError, match="full"):
        use()
    assert not [t for t in threading.enumerate() if t.name.startswith("record")]


def test_what_is_under_way_is_finished_when_another_error_comes():
    ended = []

    def slow():
        time.sleep(0.05)
        ended.append(True)
        raise OSError("told by nobody")

    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.call(slow)
        raise KeyboardInterrupt
    assert ended


def test_shards_are_recorded_while_the_next_is_made(tmp_path, monkeypatch):
    """The forward passes of a shard do not wait until the one before is recorded; no third one is begun."""
    events = []
    record, forward = Recorder.record, stage.forward_shard

    def recording(self, shard, *rest):
        events.append(("record", shard))
        time.sleep(0.15)
        record(self, shard, *rest)
        events.append(("recorded", shard))

    def forwarding(*given):
        events.append(("forward", len(events)))
        return forward(*given)

    monkeypatch.setattr(Recorder, "record", recording)
    monkeypatch.setattr(stage, "forward_shard", forwarding)
    run = sd.extract(out=tmp_path / "run", data="synth:?n=24&size=32", shard_images=8, batch_size=8, codec="none")
    kinds = [kind for kind, _ in events]
    assert kinds == ["forward", "record", "forward", "recorded", "record", "forward", "recorded", "record", "recorded"]
    assert [shard for kind, shard in events if kind == "recorded"] == [0, 1, 2]
    # all in one shard: nothing beside it that could spoil it
    other = sd.extract(out=tmp_path / "other", data="synth:?n=24&size=32", shard_images=24, batch_size=8, codec="none")
    assert sd.score(run.path).summary["layers"] == sd.score(other.path).summary["layers"]


def test_the_batch_of_the_plan_is_used_once(tmp_path, monkeypatch):
    launched = []
    launch = stage.Network.launch

    def counting(self, images):
        launched.append(len(images))
        return launch(self, images)

    monkeypatch.setattr(stage.Network, "launch", counting)
    named = {"data": "synth:?n=20&size=32", "batch_size": 8, "shard_images": 16, "spill": "full"}
    run = sd.extract(out=tmp_path / "run", **named)
    assert launched == [8, 8, 4], "not the first one twice"
    monkeypatch.setattr(stage, "plan_work", lambda *given: pytest.fail("the run is there"))
    for shard in range(2):
        (run.path / "partial" / "extract" / f"{shard:06d}.json").unlink(missing_ok=True)
    store = store_of(run)
    before = {name: store.read(name, range(20)) for name in store.layers}
    for name in store.layers:
        store.file(name, 0).unlink()
    launched.clear()
    run = sd.extract(out=tmp_path / "run", **named)  # made anew, now without the plan's batch
    assert launched == [8, 8]
    for name, maps in before.items():
        np.testing.assert_array_equal(store.read(name, range(20)), maps)


def test_a_profile_names_what_bounds_the_stage():
    lines = describe_profile({"forward passes": 6.0, "waiting for images": 1.0, "writing": 9.0}, 10.0)
    assert lines[0] == "profile: 10.00 s" and lines[-1] == "bound by the forward passes"
    assert any("the rest" in line and "3.00 s  30.0 %" in line for line in lines)
    waiting = {"forward passes": 1.0, "waiting for the recording": 5.0, "writing": 2.0, "thresholds": 4.0}
    assert describe_profile(waiting, 7.0)[-1] == "bound by the recording, most of it thresholds"
    assert len(describe_profile({}, 1.0)) == 2


def test_a_batch_beyond_the_memory_is_told_of(tmp_path):
    """By the process's own peak, so in a process of its own."""
    command = [sys.executable, "-m", "streamdissect", "extract", "--model", "shipped", "--layers", "relu5"]
    command += [
        "--data",
        "synth:?n=40&size=128",
        "--memory",
        "300MB",
        "--batch-size",
        "32",
        "--profile",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"a batch of 32 images took \d+ MB, beyond --memory 300 MB: lower --batch-size", done.stderr)
    assert re.search(r"profile: \d+\.\d\d s\n +waiting for images .* %\n +forward passes ", done.stderr)
    assert "bound by" in done.stderr.splitlines()[-1]
