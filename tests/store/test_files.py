"""Files that are whole or not there, claims that one process holds, arrays that come back."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect import atomic
from streamdissect.errors import BadInput, IncompleteRun
from streamdissect.store import claims as claiming
from streamdissect.store.activations import ActivationStore, LayerArray, choose_chunk
from streamdissect.store.partials import Ledger, load_arrays, save_arrays, under_prefix, with_prefix
from streamdissect.store.results import load_dissection
from streamdissect.store.rundir import RunDir


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    atomic.write_bytes(path, b"first")
    with pytest.raises(RuntimeError), atomic.replacing(path) as aside:
        aside.write_bytes(b"half")
        assert path.read_bytes() == b"first"
        raise RuntimeError
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["x"]
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["x"]


def test_of_many_that_create_a_file_one_succeeds(tmp_path):
    won = []
    barrier = threading.Barrier(8)

    def create(i):
        barrier.wait()
        if atomic.create_json(tmp_path / "x", {"by": i}):
            won.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and json.loads((tmp_path / "x").read_text()) == {"by": won[0]}
    assert os.listdir(tmp_path) == ["x"]


CLAIM = """
import sys
from pathlib import Path
from streamdissect.store.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(0), flush=True)
sys.stdin.read()
"""


def test_a_claim_belongs_to_a_process_that_lives(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"True\n"
        with claiming.Claims(tmp_path) as mine:
            assert not mine.take(0) and mine.take(1)
            other.kill()
            other.wait()
            assert mine.take(0), "its owner is dead"
            assert mine.holds(0) and not claiming.Claims(tmp_path).take(0)
    assert os.listdir(tmp_path) == ["000000.0.json"], (
        "its own are given up on leaving; the dead one stays until the commit"
    )


def test_another_hosts_claim_lives_by_its_beat(tmp_path, monkeypatch):
    claims = claiming.Claims(tmp_path)
    claims.owner["host"] = "elsewhere"
    assert claims.take(0)
    assert not claiming.Claims(tmp_path).take(0)
    old = os.stat(tmp_path / "000000.0.json").st_mtime - claiming.STALE_SECONDS - 1
    os.utime(tmp_path / "000000.0.json", (old, old))
    assert claiming.Claims(tmp_path).take(0) and not claims.holds(0)


def test_a_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(claiming, "BEAT_SECONDS", 0.02)
    with claiming.Claims(tmp_path) as claims:
        claims.take(3)
        os.utime(tmp_path / "000003.0.json", (1, 1))
        for _ in range(200):
            if os.stat(tmp_path / "000003.0.json").st_mtime > 1:
                break
            threading.Event().wait(0.02)
        assert os.stat(tmp_path / "000003.0.json").st_mtime > 1


def test_a_zombie_and_a_process_of_another_space_are_no_owners_here(tmp_path, monkeypatch):
    call = [sys.executable, "-c", CLAIM, str(tmp_path)]
    with subprocess.Popen(call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"True\n"
        for _ in range(500):
            if "Z" in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]:
                break
            threading.Event().wait(0.01)
        assert claiming.Claims(tmp_path).take(0), "dead, though nobody has waited for it"
    elsewhere = claiming.Claims(tmp_path)
    elsewhere.owner["space"], elsewhere.owner["pid"] = "pid:[1]", 2**22 - 1  # a container's own numbers
    assert elsewhere.take(1) and not claiming.Claims(tmp_path).take(1), "judged by its beat alone"


def test_where_processes_cannot_be_seen_the_beat_decides(tmp_path, monkeypatch):
    blind = dict.fromkeys(("boot", "space", "started"), "") | {"host": "mac", "pid": 1}
    monkeypatch.setattr(claiming, "identify_process", lambda pid=None: blind)
    claims = claiming.Claims(tmp_path)
    assert claims.take(0) and not claiming.Claims(tmp_path).take(0)
    old = os.stat(tmp_path / "000000.0.json").st_mtime - claiming.STALE_SECONDS - 1
    os.utime(tmp_path / "000000.0.json", (old, old))
    assert claiming.Claims(tmp_path).take(0)


def test_who_has_a_shard_and_since_when(tmp_path):
    mine, other = claiming.Claims(tmp_path), claiming.Claims(tmp_path)
    other.owner |= {"host": "node7", "pid": 11}
    assert mine.take(0) and other.take(1)
    past = os.stat(tmp_path / "000001.0.json").st_mtime - 100
    os.utime(tmp_path / "000001.0.json", (past, past))
    assert mine.silence(0) == 0 and 99 < mine.silence(1) < 110
    assert "process 11 on node7, last heard of 10" in mine.describe(1)


def test_without_links_a_file_is_created_once_all_the_same(tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert atomic.create_json(tmp_path / "x", {"by": 1}) and not atomic.create_json(tmp_path / "x", {"by": 2})
    assert json.loads((tmp_path / "x").read_text()) == {"by": 1} and os.listdir(tmp_path) == ["x"]


def test_who_is_at_work(tmp_path):
    mine, others = claiming.Claims(tmp_path), claiming.Claims(tmp_path)
    assert mine.take(2) and others.take(4) and others.take(7)
    assert mine.living() == [4, 7] and others.living() == [2]
    others.release(4)
    assert mine.living() == [7]


def test_a_claim_nobody_can_read_is_taken_over(tmp_path):
    (tmp_path / "000000.0.json").write_text("{")
    old = os.stat(tmp_path / "000000.0.json").st_mtime - claiming.STALE_SECONDS - 1
    os.utime(tmp_path / "000000.0.json", (old, old))
    assert claiming.Claims(tmp_path).take(0)


def test_of_many_that_find_a_dead_claim_one_takes_it(tmp_path):
    for round_ in range(200):
        dead = claiming.Claims(tmp_path)
        dead.owner["pid"], dead.owner["started"] = 2**22 - 1, "0"
        assert dead.take(round_)
        barrier, won = threading.Barrier(4), []

        def take(round_=round_, barrier=barrier, won=won):
            claims = claiming.Claims(tmp_path)
            barrier.wait()
            if claims.take(round_):
                won.append(claims)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = won
        assert winner.holds(round_) and not dead.holds(round_)
        winner.release(round_)
        assert claiming.Claims(tmp_path).take(round_)
        winner.forget(round_)
    assert os.listdir(tmp_path) == []


def test_arrays_come_back(tmp_path):
    arrays = {"a": np.arange(5), "text": np.array("x"), "b/c": np.zeros((0, 3), np.float16)}
    save_arrays(tmp_path / "x.npz", arrays | with_prefix("p", arrays))
    some = load_arrays(tmp_path / "x.npz", lambda name: name.startswith("p/"))
    for found in (under_prefix("p", some), under_prefix("p", load_arrays(tmp_path / "x.npz"))):
        assert found.keys() == arrays.keys()
        assert all(
            np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
        )


def test_damaged_arrays_are_refused_and_nothing_is_run(tmp_path):
    path = tmp_path / "x.npz"
    save_arrays(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    flips = [bytes([*whole[:i], whole[i] ^ 255, *whole[i + 1 :]]) for i in (0, 6, 8, 14, 26, 100, 5000)]
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(1000) % 7)
    body = packed.getvalue()
    flips += [bytes([*body[:i], body[i] ^ 255, *body[i + 1 :]]) for i in range(60, 160, 7)]
    for content in (b"", whole[:100], whole[:-30], whole[:500] + b"\0\1\2\3" + whole[504:], *flips):
        path.write_bytes(content)
        try:
            load_arrays(path)
        except IncompleteRun as error:
            assert "x.npz" in str(error)
        else:
            assert content in flips, "a flip may hit what nobody reads"
    with path.open("wb") as file:
        np.savez(file, a=np.array([print], object))
    with pytest.raises(IncompleteRun, match=r"x\.npz"):
        load_arrays(path)
    with pytest.raises(IncompleteRun, match="missing"):
        load_arrays(tmp_path / "y.npz")


def test_a_ledger_knows_what_is_missing(tmp_path):
    ledger = Ledger(tmp_path / "extract", 14)
    ledger.create()
    ledger.commit(3, {"x": 1})
    assert ledger.read(3) == {"shard": 3, "x": 1} and ledger.read(4) is None
    with pytest.raises(IncompleteRun, match="shards 0, 1, 2, 4, 5, 6, 7, 8, 9, 10 and 3 more of 14 not finished"):
        ledger.require_complete()
    ledger.commit_path(5).write_text("{")
    ledger.commit_path(6).write_text('{"shard": 7}')
    for shard in (5, 6):
        with pytest.raises(IncompleteRun, match=f"00000{shard}.json"):
            ledger.read(shard)


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_activations_that_are_all_zero_are_files_too(codec, tmp_path):
    layer = LayerArray("dead", 3, (4, 4), "float16", codec, 2)
    store = ActivationStore(tmp_path / "activations.zarr", [layer], 6, 4)
    store.create()
    for shard, rows in ((0, 4), (1, 2)):
        commit = store.write("dead", shard, np.zeros((rows, 3, 4, 4), np.float16))
        assert store.find_damage("dead", shard, commit, thorough=True) == ""
    assert not store.read("dead", range(6)).any()
    store.file("dead", 0).unlink()
    assert "missing" in store.find_damage("dead", 0, commit, thorough=False)


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_activations_come_back_and_plain_zarr_reads_them(codec, dtype, tmp_path):
    import zarr

    layer = LayerArray("block.1:relu", 3, (4, 5), dtype, codec, 2)
    store = ActivationStore(tmp_path / "activations.zarr", [layer], 9, 4)
    store.create()
    store.create()
    maps = np.random.default_rng(0).standard_normal((9, 3, 4, 5)).astype(dtype)
    maps[maps < 0] = 0
    for shard in (2, 0, 1):
        commit = store.write(layer.name, shard, maps[4 * shard : 4 * shard + 4])
        assert not store.find_damage(layer.name, shard, commit, thorough=True)
    for most in (1, 300, 10**6):
        chunks = list(store.iter_chunks(layer.name, range(9), most))
        assert [row for rows, _ in chunks for row in rows] == list(range(9))
        np.testing.assert_array_equal(np.concatenate([part for _, part in chunks]), maps)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "activations.zarr", mode="r")[layer.name][:], maps)


def test_chunks_divide_shards():
    assert choose_chunk(96, 600_000) == 6 and choose_chunk(97, 600_000) == 1 and choose_chunk(8, 10) == 8
    assert choose_chunk(512, 10) == 64
    assert choose_chunk(5, 10**9) == 1


def test_a_run_is_created_once(tmp_path):
    parts = {"plan": {}, "layers": [], "model": {}, "data": {}, "versions": {}}
    first = RunDir.create(tmp_path / "run", {"identity": {"by": 1}, **parts})
    second = RunDir.create(tmp_path / "run", {"identity": {"by": 2}, **parts})
    assert first.manifest["identity"] == second.manifest["identity"] == {"by": 1}
    (first.path / "partial").mkdir()
    (first.path / "partial" / "x").write_text("")
    RunDir.remove(first.path)
    assert os.listdir(first.path) == [] and not RunDir.exists(first.path)


def test_results_that_are_none(tmp_path):
    with pytest.raises(BadInput, match="streamdissect score"):
        load_dissection(tmp_path / "dissection.h5")
    (tmp_path / "dissection.h5").write_bytes(b"\x89HDF")
    with pytest.raises(IncompleteRun, match="damaged"):
        load_dissection(tmp_path / "dissection.h5")


def test_a_flipped_byte_of_the_numbers_is_found(tmp_path):
    """HDF5's own checksums; names, which have none, aside."""
    run = sd.extract(out=tmp_path / "run", data="synth:?n=12&size=32", layers=["relu3"])
    result = sd.score(run.path)
    path = run.path / "dissection.h5"
    content = path.read_bytes()
    found = 0
    for array in (result.layers["relu3"].best_iou, result.layers["relu3"].threshold, result.layers["relu3"].unit_area):
        at = content.find(array.tobytes()) + 5
        path.write_bytes(content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :])
        with pytest.raises(IncompleteRun, match="damaged"):
            load_dissection(path)
        with pytest.raises(IncompleteRun, match=r"dissection\.h5: damaged"):
            sd.verify(run.path)
        found += at > 5
    assert found == 3
    path.write_bytes(content)
    assert sd.verify(run.path) > 0
