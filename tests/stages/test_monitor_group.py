"""A monitor of several processes counts what one counts: sums over the caller's group, an image that repeats once."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd

from .planted import planted_maps, scenes
from .test_monitor import RULES, SETTINGS, go, lines, passing

WORKER = """
    import os
    import sys
    sys.path.insert(0, {here!r})
    import numpy as np
    import torch.distributed as dist
    import streamdissect as sd
    from tests.stages.planted import planted_maps, scenes
    from tests.stages.test_monitor import RULES, SETTINGS, go, passing

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    data = scenes()
    maps, net = planted_maps(data), passing(None)
    n = len(maps)
    orders = [np.random.default_rng(step).permutation(n) for step in range(3)]
    with_padding = [np.append(order, order[: -n % world])[rank::world] for order in orders]
    monitor = sd.capture(net, ["act"], {out!r}, n_images=n, data=data, spill="none", rules=sd.ScoreOptions(**RULES),
                         **SETTINGS)
    {loop}
    if rank == world - 1:
        arrays = {{"thresholds": monitor.thresholds["act"], "rows": monitor.counters["act"].rows}}
        np.savez({out!r} + ".npz", n_images=monitor.counters["act"].n_images, **arrays)
    dist.barrier()
    os._exit(0)  # twice in sixty runs PyTorch aborted while it took its group down, which is not what is tested
"""
LOOP = """
    for step in range(3):
        with monitor.step(step):
            go(net, maps, monitor, with_padding[step], {batch})
"""
FORGETS = """
    with monitor.step(0):
        go(net, maps, monitor, with_padding[0][: 5 if rank else None], 4)
"""
OVERLAPS = """
    with monitor.step(0):
        go(net, maps, monitor, np.arange(n), 4)
"""


def started(out, loop, world):
    """torchrun's exit code and what the processes said."""
    here = str(Path(__file__).parents[2])
    script = out.with_suffix(".py")
    script.write_text(textwrap.dedent(WORKER).format(here=here, out=str(out), loop=textwrap.dedent(loop).strip()))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*torchrun, script], capture_output=True, text=True, env=environment, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("world", "batch"), [(2, 4), (3, 5), pytest.param(3, 1, marks=pytest.mark.long)])
def test_several_processes_find_what_one_finds(world, batch, tmp_path):
    data = scenes()
    maps, net, out = planted_maps(data), passing(None), tmp_path / "several.jsonl"
    assert len(maps) % world or world == 2, "so that a sampler would repeat images"
    code, said = started(out, LOOP.format(batch=batch), world)
    assert code == 0, said
    named = {"data": data, "spill": "none", "rules": sd.ScoreOptions(**RULES), **SETTINGS}
    one = sd.capture(net, ["act"], tmp_path / "one.jsonl", n_images=len(maps), **named)
    for step in range(3):
        with one.step(step):
            go(net, maps, one, np.random.default_rng(step).permutation(len(maps)), 7)
    plain = [
        [{key: value for key, value in line.items() if "seconds" not in key} for line in lines(path)]
        for path in (out, tmp_path / "one.jsonl")
    ]
    assert plain[0] == plain[1] and len(plain[0]) == 3 and plain[0][2]["layers"]["act"]["detectors"] >= 0
    found = np.load(f"{out}.npz")
    assert_array_equal(found["thresholds"], one.thresholds["act"])
    assert_array_equal(found["rows"], one.counters["act"].rows)
    assert found["n_images"] == len(maps)


FAILS = """
    for step in range(3):
        try:
            with monitor.step(step):
                go(net, maps, monitor, with_padding[step], 4)
                if rank and step == 1:
                    raise ZeroDivisionError
        except (ZeroDivisionError, sd.IncompleteRun) as error:
            assert rank or "step 1: the process of rank 1 failed" in str(error), error
"""
BAD_LABELS = """
    if rank:
        monitor._take_in = lambda *_: 1 / 0
    try:
        with monitor.step(0):
            go(net, maps, monitor, with_padding[0], n)
    except (ZeroDivisionError, sd.IncompleteRun) as error:
        assert rank or "rank 1 failed" in str(error), error
    monitor.__dict__.pop("_take_in", None)
    for step in (1, 2):
        with monitor.step(step):
            go(net, maps, monitor, with_padding[step], 4)
"""


@pytest.mark.parametrize(("loop", "steps"), [(FAILS, [0, 2]), (BAD_LABELS, [1, 2])])
def test_a_step_that_fails_in_one_process_is_no_step_of_any(loop, steps, tmp_path):
    """It may be caught there: its next step must not be taken for the others' this one."""
    out = tmp_path / "several.jsonl"
    code, said = started(out, loop, 2)
    assert code == 0, said
    assert [line["step"] for line in lines(out)] == steps
    data = scenes()
    maps, net = planted_maps(data), passing(None)
    named = {"data": data, "spill": "none", "rules": sd.ScoreOptions(**RULES), **SETTINGS}
    one = sd.capture(net, ["act"], tmp_path / "one.jsonl", n_images=len(maps), **named)
    for step in steps:
        with one.step(step):
            go(net, maps, one, np.arange(len(maps)), 8)
    assert [line["layers"] for line in lines(out)] == [line["layers"] for line in lines(tmp_path / "one.jsonl")]
    assert_array_equal(np.load(f"{out}.npz")["rows"], one.counters["act"].rows)


@pytest.mark.parametrize(("loop", "words"), [(FORGETS, "images announced came"), (OVERLAPS, "in several processes")])
def test_what_is_wrong_is_told_in_every_process(loop, words, tmp_path):
    """None waits for another that has left."""
    code, said = started(tmp_path / "several.jsonl", loop, 2)
    assert code != 0 and said.count(words) >= 2, said
    assert not (tmp_path / "several.jsonl").exists()


def test_ranks_without_a_group_are_refused(tmp_path, monkeypatch):
    """Each would count its own images alone, and all of them write one file."""
    data = scenes()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    named = {"n_images": len(data), "data": data, "spill": "none"}
    with pytest.raises(sd.BadInput, match=r"rank 1/2, and no group of torch.distributed.*shard=None"):
        sd.capture(passing(None), ["act"], tmp_path / "out.jsonl", **named)
    assert (
        json.dumps(sd.capture(passing(None), ["act"], tmp_path / "out.jsonl", shard=None, **named).thresholds) == "{}"
    )
