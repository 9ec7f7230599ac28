"""Workers share perturb, rotate and pca, and can be killed: the files are those of one process, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.stages.control import Control
from streamdissect.stages.pca_experiment import Experiment
from streamdissect.stages.scored_work import share_out
from streamdissect.stages.shards import iter_until_whole, own_first
from streamdissect.store.claims import Claims

CONCEPTS = "sky,tree,house,cloud,meadow"
COMMANDS = {
    "perturb": ["--noise", "60", "--trials", "2", "--thresholds-from", "recompute"],
    "rotate": ["--alphas", "0,0.5,1", "--seeds", "3", "--seeds-between", "2", "--control", "pca"],
    "pca": ["--concepts", CONCEPTS, "--min-images", "2", "--null", "subsets", "--subsets", "3"],
}
N_ITEMS = {"rotate": 2 * 3, "pca": 2 * 2}
"""Of three workers on two layers: six parts at least, or three; one process alone makes two."""
DYING = """
import os, signal, sys
from streamdissect.cli import main
from streamdissect.store.partials import Ledger

left, commit = int(sys.argv[1]), Ledger.commit


def counted(*given):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(*given)


Ledger.commit = counted
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def scored(nets, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "run"
    sd.extract(f"{nets}:build", scenes, "block1.act,block2.conv", out, batch_size=2, shard_images=4, threads=1)
    sd.score(out)
    return out


@pytest.fixture(scope="module")
def whole(scored, tmp_path_factory):
    """Every experiment by one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(scored, out)
    for name, options in COMMANDS.items():
        assert main([name, str(out), *options]) == 0
    return out


@pytest.fixture
def run(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "run")


@pytest.fixture
def said(capsys):
    """What a command in this process says on stdout and stderr, after ending with a code."""

    def call(code, *arguments):
        capsys.readouterr()
        assert main([*map(str, arguments)]) == code
        return capsys.readouterr()

    return call


def content(run, name):
    """Arrays of an experiment's file, and its tables and figures as bytes."""
    found = {}
    with h5py.File(run / name / f"{name}.h5") as file:
        file.visititems(lambda key, item: found.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None)
    paths = [path for path in (run / name).rglob("*") if path.suffix in (".csv", ".svg")]
    return found | {str(path.relative_to(run)): path.read_bytes() for path in paths}


def assert_same(run, whole, name):
    one, other = content(run, name), content(whole, name)
    assert one.keys() == other.keys() and len(one) > 10
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def started(*arguments, **variables):
    words = [sys.executable, "-m", "streamdissect", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process):
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return told, errors


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("shards", [("0/2", "1/2"), (None, None)], ids=["an array", "the same twice"])
def test_workers_at_once_make_what_one_makes(name, shards, run, whole):
    """Nobody is told to come back: whoever commits last writes the result."""
    words = [[] if shard is None else ["--shard", shard] for shard in shards]
    processes = [started(name, run, *COMMANDS[name], *each) for each in words]
    outcomes = [ended(process) for process in processes]
    assert any(told for told, _ in outcomes), "somebody printed the result"
    assert all(told or "the worker that ends last writes the result" in errors for told, errors in outcomes)
    assert_same(run, whole, name)
    assert not list((run / "partial" / name).rglob("claims/*")), "every claim is given up"


@pytest.mark.parametrize("name", N_ITEMS)
def test_the_missing_are_named_and_merge_joins_by_hand(name, run, whole, said):
    assert f"in which no {name} was begun" in said(2, "merge", run, "--of", name).err
    first = said(0, name, run, *COMMANDS[name], "--shard", "1/3")
    assert "writes the result" in first.err and not (run / name).exists()
    own, n = set(range(1, N_ITEMS[name], 3)), N_ITEMS[name]
    left = ", ".join(str(item) for item in range(n) if item not in own)
    incomplete = said(3, "merge", run, "--of", name)
    assert f"{name}: shards {left} of {n} not finished" in incomplete.err
    assert not incomplete.out and len(incomplete.err.splitlines()) == 1 and not (run / name).exists()
    assert not said(0, name, run, *COMMANDS[name], "--shard", "0/3").out
    told = said(0, name, run, *COMMANDS[name], "--shard", "2/3").out
    assert_same(run, whole, name)
    shutil.rmtree(run / name)
    assert told and said(0, "merge", run, "--of", name).out == told, "merge prints what the last worker did"
    assert_same(run, whole, name)
    assert said(0, "merge", run, "--of", name).out == told


def test_parts_of_a_perturbation_that_are_missing_are_named(run, whole, said):
    said(2, "merge", run, "--of", "perturb")
    said(0, "perturb", run, *COMMANDS["perturb"], "--shard", "1/3")
    incomplete = said(3, "merge", run, "--of", "perturb")
    assert "perturb: shards 0, 2, 3 of 5 not finished for clean, trial 0" in incomplete.err
    said(0, "perturb", run, *COMMANDS["perturb"], "--shard", "0/3")
    told = said(0, "perturb", run, *COMMANDS["perturb"], "--shard", "2/3").out
    shutil.rmtree(run / "perturb")
    assert told and said(0, "merge", run, "--of", "perturb").out == told
    assert_same(run, whole, "perturb")


def commits_of(run, name):
    """Every commit of an experiment, and when it was written."""
    paths = (run / "partial" / name).rglob("[0-9]*.json")
    return {path: path.stat().st_mtime_ns for path in paths if "claims" not in path.parts}


@pytest.mark.parametrize(("name", "n_commits"), [("perturb", 3), ("perturb", 13), ("rotate", 1), ("pca", 1)])
def test_a_killed_worker_loses_one_part_and_others_take_the_rest(name, n_commits, run, whole, said):
    """Of three workers one died in its second part, and two others resume: the cut stays that of the first."""
    words = [sys.executable, "-c", DYING, str(n_commits), name, str(run), *COMMANDS[name], "--shard", "0/3"]
    dead = subprocess.run(words, capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    before = commits_of(run, name)
    assert len(before) == n_commits and not (run / name / f"{name}.h5").exists()
    assert not said(0, name, run, *COMMANDS[name], "--shard", "0/2").out
    assert said(0, name, run, *COMMANDS[name], "--shard", "1/2").out
    assert commits_of(run, name).items() > before.items(), "what was committed is not done again"
    assert_same(run, whole, name)


def test_a_kill_while_carriers_are_judged_costs_that_layer_alone(run, whole, said):
    words = [sys.executable, "-c", DYING, "3", "pca", str(run), *COMMANDS["pca"]]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    before = commits_of(run, "pca")
    names = sorted(path.name for path in before)
    assert names == ["000000.json", "000001.json", "000002.json"], "two layers looked at, one of them judged"
    assert said(0, "merge", run, "--of", "pca").out
    assert commits_of(run, "pca").items() > before.items()
    assert_same(run, whole, "pca")


def test_ranks_both_go_on_with_the_whole_and_one_prints_it(run, whole):
    ranks = [started("pca", run, *COMMANDS["pca"], PMI_SIZE="2", PMI_RANK=str(i)) for i in range(2)]
    (told, _), (silent, _) = [ended(rank) for rank in ranks]
    assert told and not silent
    assert_same(run, whole, "pca")


# Who does what


class Done:
    """Shards that are done, as a set."""

    def __init__(self, *shards):
        self.shards = set(shards)

    def __call__(self, shard):
        return shard in self.shards


def collect(shards, done, claims):
    taken = []
    for shard in iter_until_whole(shards, done, claims, Control()):
        taken.append(shard)
        done.shards.add(shard)
        claims.forget(shard)
    return taken


def test_a_pass_that_others_never_begin_is_done_by_whoever_is_there(tmp_path):
    with Claims(tmp_path) as claims:
        assert collect(own_first(6, (1, 3)), Done(5), claims) == [1, 4, 3, 2, 0]


def test_a_worker_waits_for_the_living_and_takes_over_from_the_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("streamdissect.stages.shards.WAIT_SECONDS", 0.01)
    done, told = Done(), []
    script = "import sys; from pathlib import Path; from streamdissect.store.claims import Claims; "
    dead = script + "Claims(Path(sys.argv[1])).take(2)"
    subprocess.run([sys.executable, "-c", dead, str(tmp_path)], check=True)
    living = Claims(tmp_path)
    assert living.take(0)

    def finish():
        time.sleep(0.3)
        told.append(sorted(done.shards))
        done.shards.add(0)
        living.release(0)

    thread = threading.Thread(target=finish)
    thread.start()
    with Claims(tmp_path) as claims:
        assert collect(range(3), done, claims) == [1, 2], "that of the dead is taken over, that of the living left"
    thread.join()
    assert told == [[1, 2]] and done.shards == {0, 1, 2}, "it returned when all were done"


def test_a_part_whose_owner_gives_it_up_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("streamdissect.stages.shards.WAIT_SECONDS", 0.01)
    other = Claims(tmp_path)
    assert other.take(0)
    threading.Timer(0.2, other.release, [0]).start()
    with Claims(tmp_path) as claims:
        assert collect(range(1), Done(), claims) == [0]


@given(
    n=st.integers(0, 70),
    most=st.integers(1, 40),
    n_layers=st.integers(1, 5),
    n_workers=st.integers(1, 20),
    each=st.integers(1, 3),
)
def test_things_are_cut_for_the_workers_and_no_finer(n, most, n_layers, n_workers, each):
    alone, shared = (share_out(n, most, n_layers, shard, each) for shard in (None, (0, n_workers)))
    assert 1 <= shared <= alone <= most
    wanted = -(-each * n_workers // n_layers)
    assert shared == 1 or (shared - 1) * wanted < n, "no part is larger than in as many as the workers want"
    assert shared >= min(alone, -(-n // wanted)), "nor smaller"
    assert -(-n // alone) == -(-n // most), "one process reads no more often than its memory asks"


@given(n=st.integers(0, 40), together=st.integers(1, 40))
def test_each_concept_of_each_layer_is_looked_at_once(n, together):
    experiment = object.__new__(Experiment)
    experiment.positions, experiment.columns = [2, 5], list(range(n))
    items = experiment.items(together)
    assert sorted((position, place) for position, places in items for place in places) == [
        (position, place) for position in (2, 5) for place in range(n)
    ]
    sizes = [len(places) for _, places in items]
    assert all(0 < size <= together for size in sizes) and max(sizes, default=0) - min(sizes, default=0) <= 1
