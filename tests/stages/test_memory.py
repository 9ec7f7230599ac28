"""`--memory` is kept: what is planned, what is refused, and what processes take that were given little."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import streamdissect as sd
import streamdissect.stages.extract
from streamdissect.cli import main
from streamdissect.stages.extract import plan_extract
from streamdissect.stages.livebytes import LiveBytes
from streamdissect.stages.memoryplan import SHARDS_HELD, Facts, divide

sizes = st.integers(0, 10**9)
facts_of_runs = st.builds(Facts, sizes, sizes, sizes, st.integers(1, 10**9), st.integers(1, 10**8))
shards = st.one_of(st.none(), st.integers(1, 100))


def divided(*arguments):
    try:
        return divide(*arguments)
    except sd.BadInput:
        return None


@given(facts_of_runs, st.integers(1, 2**34), st.integers(1, 64), st.integers(1, 2**27), shards)
def test_the_plan_never_exceeds_the_memory(facts, memory, batch, shard_bytes, shard_images):
    found = divided(facts, memory, batch, shard_bytes, shard_images)
    if found is not None:
        assert found.total_bytes <= memory and 1 <= found.batch_size <= batch and found.shard_images >= 1
        assert shard_images in (None, found.shard_images)


@given(facts_of_runs, st.integers(1, 2**34), st.integers(0, 2**30), st.integers(1, 64), st.integers(1, 2**27), shards)
def test_more_memory_makes_no_smaller_batch(facts, memory, more, batch, shard_bytes, shard_images):
    found = divided(facts, memory, batch, shard_bytes, shard_images)
    larger = divided(facts, memory + more, batch, shard_bytes, shard_images)
    if found is not None:
        assert larger is not None and larger.batch_size >= found.batch_size


@given(facts_of_runs, st.integers(1, 64), st.integers(1, 2**27), shards)
def test_the_number_in_a_refusal_is_the_least_that_does(facts, batch, shard_bytes, shard_images):
    least = facts.fixed + facts.image_forward + SHARDS_HELD * (shard_images or 1) * facts.image_stored
    with pytest.raises(sd.BadInput, match=f"--memory: got {least - 1} bytes, expected at least {least}: "):
        divide(facts, least - 1, batch, shard_bytes, shard_images)
    found = divide(facts, least, batch, shard_bytes, shard_images)
    assert (found.batch_size, found.shard_images, found.total_bytes) == (1, shard_images or 1, least)


def test_what_takes_more_is_halved_and_shards_are_whole_batches():
    facts = Facts(process=0, state=0, pictures=0, image_forward=10**7, image_stored=10**6)
    for room, batch, shard in ((440, 32, 32), (439, 16, 32), (280, 16, 32), (279, 8, 40), (200, 8, 40), (199, 8, 16)):
        found = divide(facts, facts.fixed + room * 10**6, 32, 40 * 10**6, None)
        assert (found.batch_size, found.shard_images) == (batch, shard), room
    found = divide(facts, facts.fixed + 140 * 10**6, 32, 40 * 10**6, 40)
    assert (found.batch_size, found.shard_images) == (2, 40), "a shard that is settled stays"


def test_the_tensors_that_live_at_once_are_counted():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Identity(), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    image = torch.zeros(1, 3, 10, 10)
    whole = 8 * 100 * 4
    with torch.inference_mode(), LiveBytes() as live:
        for n in (1, 3, 2):
            kept = net(image.expand(n, 3, 10, 10))
            assert live.peak_bytes >= 2 * n * whole
    assert kept.shape == (2, 8, 5, 5)
    assert 6 * whole <= live.peak_bytes <= 8 * whole, "two outputs of three images, and what is left of a pass before"


NETS = """
from torch import nn
def wide():
    return nn.Sequential(nn.Conv2d(3, 256, 16, stride=16), nn.Conv2d(256, 2048, 1), nn.ReLU())
def large():
    return nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ReLU(),
                         nn.Conv2d(64, 256, 3, padding=1), nn.ReLU())
def deep():
    parts = [nn.Conv2d(3, 128, 3, stride=4, padding=1)]
    for _ in range(11):
        parts += [nn.Conv2d(128, 128, 1), nn.ReLU()]
    return nn.Sequential(*parts)
"""
PROBE = """
import sys, threading, time
def own():
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem"))) * 1024
peak, ended = 0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, own())
watcher = threading.Thread(target=watch)
watcher.start()
from streamdissect.cli import main
code = main(sys.argv[1:])
ended.set()
watcher.join()
print("peak", peak)
sys.exit(code)
"""
SHAPES = {
    "wide": ("wide:2", 450),
    "large": ("large:3", 500),
    "deep": ("deep:*", 640),
}


def peak_of(*arguments):
    """What a process of its own took at the most, files aside."""
    done = subprocess.run([sys.executable, "-c", PROBE, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("peak ")[2])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory is no file's")
@pytest.mark.parametrize("is_compared", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_process_stays_within_its_memory(shape, is_compared, tmp_path):
    """K = 2048; maps of 56 x 56; 23 layers. The same run takes more where it may."""
    net, megabytes = SHAPES[shape]
    build, _, layers = net.partition(":")
    (tmp_path / "shapes.py").write_text(NETS)
    what = ["extract", "--model", f"{tmp_path}/shapes.py:{build}", "--data", "synth:?n=40&size=112", "--layers", layers]
    what += ["--threads", 1]
    assert peak_of(*what, "--memory", f"{megabytes}MB", "--out", tmp_path / "run") <= megabytes * 10**6
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["identity"]["batch_size"] < 32 or made["layers"][0]["sketch"]["kind"] == "kll", "not as by default"
    if is_compared:
        assert peak_of(*what, "--memory", "4GB", "--out", tmp_path / "plenty") > megabytes * 10**6


def test_a_run_keeps_its_batch_whatever_the_memory(nets, scenes, tmp_path, monkeypatch):
    named = {"layers": ["block1.act"], "shard_images": 20, "threads": 1}
    stages = streamdissect.stages.extract
    monkeypatch.setattr(stages, "own_bytes", lambda: 0)
    plenty = sd.extract(f"{nets}:build", scenes, out=tmp_path / "plenty", **named)
    assert plenty.manifest["identity"]["batch_size"] == 32
    plan = stages.plan_extract(f"{nets}:build", scenes, ["block1.act"], options=sd.ExtractOptions(shard_images=20))
    least = plan.division.facts.fixed + 9 * plan.division.facts.image_forward + plan.division.shards_bytes
    little = sd.extract(f"{nets}:build", scenes, out=tmp_path / "little", memory=least, **named)
    assert little.manifest["identity"]["batch_size"] == 5, "20, halved twice"
    for run in (plenty, little):
        (file,) = [each for each in run.activations_path.rglob("c/*/*/*/*") if each.is_file()]
        content = file.read_bytes()
        file.unlink()
        sd.extract(f"{nets}:build", scenes, out=run.path, **named)  # with the memory that is by default
        assert file.read_bytes() == content
    with pytest.raises(sd.BadInput, match=r"batch size: got 16, expected 5 as when"):
        sd.extract(f"{nets}:build", scenes, out=little.path, batch_size=16, **named)


def test_the_plan_tells_of_memory_and_disk(nets, scenes, tmp_path, capsys):
    command = ["extract", "--model", f"{nets}:build", "--data", str(scenes), "--layers", "block1.act", "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for word in ("memory: ", "process with", "forward pass of 20 images", "pictures", "shards of 20", "disk: about"):
        assert word in printed
    assert main([*command, "--json", "--batch-size", "4"]) == 0
    told = json.loads(capsys.readouterr().out)
    memory = told["memory"]
    assert memory.pop("total") == sum(memory.values()) and told["identity"]["batch_size"] == 4
    assert 0 < told["disk"]["activations"] <= 20 * 5 * 32 * 32 * 2
    assert main([*command, "--spill", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disk"] == {"activations": 0}
    assert main([*command, "--memory", "50MB"]) == 2
    assert "expected at least" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_said_to_do_does_and_so_does_more(tmp_path):
    """Thresholds and distributions take smaller forms before a memory is refused, also where larger ones nearly fit."""
    named = {"data": "synth:?n=64", "layers": ("relu3", "relu4", "relu5")}
    with pytest.raises(sd.BadInput, match=r"expected at least [0-9]+") as refused:
        plan_extract(**named, options=sd.ExtractOptions(memory=1 << 20, threads=1))
    least = int(re.search(r"at least ([0-9]+)", str(refused.value))[1])
    for more in (4 << 20, 30 << 20, 60 << 20, 90 << 20, 150 << 20):
        plan = plan_extract(**named, options=sd.ExtractOptions(memory=least + more, threads=1))
        assert plan.division.total_bytes <= least + more
        kinds = {layer["streams"]["kind"] for layer in plan.manifest["layers"]}
        assert "histogram" not in kinds if more < 10 << 20 else kinds == {"histogram"} if more > 100 << 20 else kinds
