"""Runs from arrays, and what is left of them when the process is killed."""

import json
import random
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.stages.recording import store_of

from . import killing


def test_arrays_give_the_run_that_the_network_gives(tmp_path):
    """Everything but the receptive field."""
    made = sd.extract(out=tmp_path / "made", data="synth:?n=24&size=64", batch_size=8, shard_images=8)
    found = sd.score(made.path, upsample="half_pixel")
    store = store_of(made)
    held = {name: store.read(name, range(24)) for name in store.layers}
    shards = []

    def compute(images):
        shards.append(images)
        return {name: maps[images] for name, maps in held.items()}

    run = sd.record(compute, "synth:?n=24&size=64", tmp_path / "run", name="as held", batch_size=8, shard_images=8)
    again = sd.score(run.path)
    for name, layer in found.layers.items():
        for key, array in layer.arrays.items():
            np.testing.assert_array_equal(again.layers[name].arrays[key], array, err_msg=f"{name} {key}")
        assert again.layers[name].attributes["upsample"] == "half_pixel"
    n_calls = len(shards)
    sd.record(compute, "synth:?n=24&size=64", tmp_path / "run", name="as held", batch_size=8, shard_images=8)
    assert len(shards) == n_calls, "the same call finds it finished"
    with pytest.raises(sd.BadInput, match="'other', expected 'as held'"):
        sd.record(compute, "synth:?n=24&size=64", tmp_path / "run", name="other", batch_size=8, shard_images=8)


@pytest.mark.parametrize(
    "given, words",
    [
        (np.zeros((4, 2, 3)), "float64 of 4 x 2 x 3"),
        (np.zeros((3, 2, 3, 3)), "of 4 images"),
        (np.zeros((4, 2, 3, 3), complex), "complex128"),
        (np.full((4, 2, 3, 3), 7e4), "unit 0: got the activation 70000"),
        (np.full((4, 2, 3, 3), np.nan), "unit 0: got the activation nan"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, given, words):
    with pytest.raises(sd.BadInput, match=words):
        sd.record(lambda images: {"a": given}, "synth:?n=4&size=32", tmp_path / "run", name="x", batch_size=4)
    assert not (tmp_path / "run").exists()


def test_another_shape_later_is_refused(tmp_path):
    def compute(images):
        return {"a": np.zeros((len(images), 2, 3 if images[0] < 4 else 4, 3))}

    with pytest.raises(sd.BadInput, match="2 x 4 x 3, expected 2 x 3 x 3 for every image"):
        sd.record(compute, "synth:?n=8&size=32", tmp_path / "run", name="x", batch_size=4, shard_images=4)


def test_options_of_a_forward_pass_are_refused(tmp_path):
    with pytest.raises(sd.BadInput, match="device"):
        sd.record(killing.compute, killing.data(), tmp_path / "run", name="x", device="cpu")


class Killer:
    """Records runs in children that are killed."""

    def __enter__(self):
        command = [sys.executable, "-W", "error::UserWarning", killing.__file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def run(self, out, **how):
        """How the child ended: 0, or -9."""
        self.process.stdin.write(json.dumps({"out": str(out), **how}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __exit__(self, *given):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def content_of(path):
    """What a run comes to: digests of its activations' files, and every number of its scoring."""
    result = sd.score(path)
    files = {
        str(file.relative_to(path)): blake2b(file.read_bytes()).hexdigest()
        for file in sorted((Path(path) / "activations.zarr").rglob("*"))  # but what zarr left of its metadata
        if file.is_file() and not file.name.endswith(".partial")
    }
    numbers = {
        f"{name} {key}": array.tobytes() for name, layer in result.layers.items() for key, array in layer.arrays.items()
    }
    return files, numbers


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    sd.record(killing.compute, killing.data(), path, **killing.NAMED)
    return content_of(path)


def kill_often(killer, out, kills):
    """Let a run be killed again and again, then finish."""
    n_killed = 0
    for how in kills:
        ended = killer.run(out, **how)
        assert ended in (0, -9), how
        n_killed += ended == -9
        if ended == 0:
            return n_killed
    assert killer.run(out) == 0
    return n_killed


def test_a_run_killed_at_any_change_of_a_file_ends_as_if_undisturbed(tmp_path, undisturbed):
    """Each run is killed at its n-th change, and at the 2 n-th, 3 n-th ... of what follows."""
    n_killed = 0
    with Killer() as killer:
        for n in (1, 2, 3, 5, 8, 13, 21, 34, 55):
            out = tmp_path / str(n)
            n_killed += kill_often(killer, out, [{"at": n * (i + 1)} for i in range(12)])
            assert content_of(out) == undisturbed, n
            assert sd.verify(out) >= 10, "two layers of five shards, and the results"
    assert n_killed >= 50


@pytest.mark.long
def test_a_run_killed_at_each_change_of_a_file_ends_as_if_undisturbed(tmp_path, undisturbed):
    with Killer() as killer:
        n, ended = 0, -9
        while ended == -9:
            n += 1
            out = tmp_path / str(n)
            ended = killer.run(out, at=n)
            assert killer.run(out) == 0
            assert content_of(out) == undisturbed, n
    assert n > 100


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_as_if_undisturbed(tmp_path, undisturbed):
    """Within as long as a whole recording takes here; one that is over before its kill is not counted."""
    draw = random.Random(0)
    n_killed = i = 0
    with Killer() as killer:
        assert killer.run(tmp_path / "first") == 0  # which waits for the imports
        begin = time.monotonic()
        assert killer.run(tmp_path / "whole") == 0
        whole = time.monotonic() - begin
        while n_killed < 100:
            assert i < 200, n_killed
            out = tmp_path / str(i)
            n_killed += kill_often(killer, out, [{"after": draw.uniform(0, whole)} for _ in range(8)])
            assert content_of(out) == undisturbed, i
            i += 1


def test_what_needs_the_network_is_refused(tmp_path):
    path = tmp_path / "run"
    sd.record(killing.compute, killing.data(), path, **killing.NAMED)
    sd.score(path)
    with pytest.raises(sd.BadInput, match=r"run.*of activations that came as arrays.*one of a network"):
        sd.perturb(path, noise=(1,))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_only_the_broken_shard_is_made_again(tmp_path, undisturbed, damage):
    asked = []

    def compute(images):
        asked.extend(images)
        return killing.compute(images)

    out = tmp_path / "run"
    sd.record(compute, killing.data(), out, **killing.NAMED)
    file = out / "activations.zarr" / "a" / "c" / "2" / "0" / "0" / "0"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-7])
    elif damage == "flipped":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        file.unlink()
    with pytest.raises(sd.IncompleteRun) as found:
        sd.verify(out)
    assert str(found.value).count("activations.zarr") == 1 and str(file) in str(found.value)
    if damage == "flipped":
        file.unlink()  # as the message says: a file of the right size passes for the right one until it is read
    asked.clear()
    sd.record(compute, killing.data(), out, **killing.NAMED)
    assert asked == list(range(16, 24))
    assert content_of(out) == undisturbed
