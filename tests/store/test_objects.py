"""Runs in an object store: as local ones bit for bit, also where processes die, share the work or are refused.

The store is a server on this machine. As a script it makes a run for each line of JSON that it reads, in a child:
{"out": address} lets it finish, {"out": address, "at": n} kills it before its n-th change of an object.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.atomic import create_json, remove_tree, renew, write_bytes
from streamdissect.cli import main
from streamdissect.objects import ObjectPath, place
from streamdissect.stages import arrays, recording
from streamdissect.store import claims as claiming
from streamdissect.store.claims import Claims, is_alive
from streamdissect.store.partials import load_arrays, save_arrays

N_IMAGES, UNITS, GRID = 40, 6, (5, 4)
NAMED = {"name": "generated", "shard_images": 8, "batch_size": 4, "codec": "zstd", "tails": "1/50"}
BUCKET = "bucket-of-tests"


def compute(images):
    """Sparse activations that depend on the image alone."""
    found = [np.random.default_rng(image).normal(size=(UNITS, *GRID)).astype(np.float32) - 0.5 for image in images]
    maps = np.maximum(np.stack(found), 0)
    return {"a": maps, "b": maps[:, :3, 1:] - 0.25}


def data():
    return sd.open_dataset(f"synth:?n={N_IMAGES}&size=32")


def record(out, **named):
    return sd.record(compute, data(), out, **{**NAMED, **named})


def die_at(n):
    """Be killed before the n-th change of an object."""
    import obstore

    left = [n]

    def counted(function):
        def call(*given, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    for name in ("put", "delete"):
        setattr(obstore, name, counted(getattr(obstore, name)))


def serve():
    """The script: children that record."""
    data()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ.update(asked["environment"])
                tempfile.tempdir = asked["folder"]
                recording.COMMIT_SECONDS, recording.STATE_SHARE = 0.0, 0  # a commit after each shard
                if "at" in asked:
                    die_at(asked["at"])
                arrays.record(slowly(asked.get("pause", 0.0)), data(), asked["out"], **NAMED)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def slowly(seconds):
    def call(images):
        time.sleep(seconds)
        return compute(images)

    return call


@contextmanager
def recorder(folder):
    """A process of the script; a function that has it make a run, and one that awaits how that ended."""
    command = [sys.executable, "-W", "error::UserWarning", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(**asked):
            asked["folder"] = str(folder)
            asked["environment"] = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()

        yield ask, lambda: int(process.stdout.readline())
        process.stdin.close()


@pytest.fixture(scope="module")
def service():
    pytest.importorskip("obstore", reason="needs obstore: streamdissect[s3]")
    server = pytest.importorskip("moto.server", reason="needs moto: streamdissect[s3-test]")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(service, monkeypatch):
    """The address of an empty bucket, and the environment that leads to it."""
    import obstore

    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": service,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    objects_module().bucket.cache_clear()
    create_bucket(service)
    root = place(f"s3://{BUCKET}")
    root.remove_all(root.keys_below())
    assert list(obstore.list(root.store)) == []
    yield f"s3://{BUCKET}"
    objects_module().bucket.cache_clear()


def objects_module():
    from streamdissect import objects

    return objects


def create_bucket(service):
    from urllib.request import Request, urlopen

    with urlopen(Request(f"{service}/{BUCKET}", method="PUT")) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run on the disk, scored."""
    run = record(tmp_path_factory.mktemp("local") / "run")
    return run, sd.score(run.path)


def files_of(folder):
    """Content of all files below, by name, but what is a process's own."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in paths.items()
        if not any(each in name for each in ("/workers/", "/claims/"))
    }


def require_same(there, run, found):
    """Everything but times is the same."""
    here, ours = files_of(run.path), files_of(there.path)
    timed = {name for name in here if name.endswith((".json", ".h5"))} - {"partial/score/settings.json"}
    assert here.keys() == ours.keys()
    assert [name for name in here.keys() - timed if here[name] != ours[name]] == []
    for name in timed:
        if name.startswith("partial/extract/"):
            was, now = json.loads(here[name]), json.loads(ours[name])
            assert {**was, "seconds": 0} == {**now, "seconds": 0}
    again = sd.score(there.path)
    for name, layer in found.layers.items():
        for key, array in layer.arrays.items():
            np.testing.assert_array_equal(again.layers[name].arrays[key], array, err_msg=f"{name} {key}")


def test_a_run_in_a_bucket_is_the_local_one(bucket, local, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = f"{bucket}/some/run"
    run = record(out)
    assert str(run.path) == out
    sd.score(out)
    require_same(run, *local)
    assert sd.verify(out) == sd.verify(local[0].path)
    assert list(tmp_path.iterdir()) == [], "what was sent is removed here"
    assert main(["info", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["run"] == out and said["shards_done"] == 5
    assert said["activation_bytes"] == sd.info(local[0].path)["activation_bytes"]
    assert main(["merge", out]) == 0
    with pytest.raises(sd.BadInput, match="'other', expected 'generated'"):
        record(out, name="other")
    run = record(out, overwrite=True)
    assert not (run.path / "summary.json").exists() and not (run.path / "partial" / "score").exists()


def test_results_are_made_anew_and_kept_when_the_activations_go(bucket, tmp_path):
    run = record(f"{bucket}/run")
    sd.score(run.path, keep_masks=True)
    plain = record(tmp_path / "run")
    sd.score(plain.path, keep_masks=True)
    names = [name for name in files_of(plain.path) if name.startswith("masks/")]
    assert len(names) == 5
    assert {name: masks_in(run.path / name) for name in names} == {name: masks_in(plain.path / name) for name in names}
    sd.score(run.path, tail="1/50", iou=0.01, overwrite=True)
    assert not (run.path / "masks").exists(), "they were of the scoring that was replaced"
    found = sd.score(run.path, iou=0.01)
    assert set(sd.clean(run.path)) == {run.activations_path, run.planes_path}
    assert not run.activations_path.exists()
    again = sd.score(run.path, iou=0.01)
    np.testing.assert_array_equal(again.layers["a"].iou, found.layers["a"].iou)
    sd.verify(run.path)


def masks_in(path):
    """What a file of masks holds."""
    from streamdissect.store.masks import iter_masks

    return [(row, unit, grid, mask.tobytes()) for layer in (0, 1) for row, unit, grid, mask in iter_masks(path, layer)]


def test_an_experiment_finds_the_same(bucket, tmp_path):
    run, plain = record(f"{bucket}/run"), record(tmp_path / "run")
    for each in (run, plain):
        sd.score(each.path)
        sd.rotate(each.path, alphas=[1.0], seeds=1)
    here, ours = (files_of(each.path / "rotate") for each in (plain, run))
    tables = [name for name in here if name.endswith(".csv")]
    assert here.keys() == ours.keys() and tables and {n: here[n] for n in tables} == {n: ours[n] for n in tables}
    sd.verify(run.path)


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7, 16, 29])
def test_a_killed_run_goes_on(bucket, local, killer, at):
    ask, ended = killer
    out = f"{bucket}/run"
    ask(out=out, at=at)
    assert ended() == -signal.SIGKILL
    run = record(out)
    sd.score(out)
    require_same(run, *local)
    sd.verify(out)


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    with recorder(tmp_path_factory.mktemp("unsent")) as running:
        yield running


def test_two_processes_share_a_run(bucket, local, tmp_path):
    out = f"{bucket}/run"
    with recorder(tmp_path) as (ask, ended), recorder(tmp_path) as (ask_other, ended_other):
        ask(out=out, pause=0.05)
        ask_other(out=out, pause=0.05)
        assert (ended(), ended_other()) == (0, 0)
    run = record(out)
    held = [load_arrays(path)["held"].tolist() for path in run.ledger("extract").worker_paths()]
    assert len(held) == 2 and all(held), "both have worked"
    assert sorted(shard for each in held for shard in each) == list(range(5)), "no shard was made twice"
    sd.score(out)
    require_same(run, *local)


def test_a_claim_is_created_once(bucket):
    folder = place(f"{bucket}/claims")
    first, second = Claims(folder), Claims(folder)
    assert first.take(3) and not second.take(3)
    assert first.holds(3) and second.living() == [3]
    first.release(3)
    assert not first.holds(3) and second.take(3)


def test_many_processes_create_one_object(bucket):
    path = place(f"{bucket}/settings.json")
    won = []
    threads = [threading.Thread(target=lambda n=n: won.append((create_json(path, {"n": n}), n))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [n for is_first, n in won if is_first]
    assert len(winners) == 1 and json.loads(path.read_bytes()) == {"n": winners[0]}


def test_a_claim_of_another_machine_lives_while_it_beats(bucket, monkeypatch):
    folder = place(f"{bucket}/claims")
    path = folder / "000003.0.json"
    create_json(path, {"host": "elsewhere", "pid": 1, "token": "t"})
    begin = path.stat().st_mtime
    mine = Claims(folder)
    assert is_alive(path) and not mine.take(3)
    time.sleep(1.1)
    renew(path)
    assert path.stat().st_mtime > begin and json.loads(path.read_bytes())["token"] == "t"
    monkeypatch.setattr(claiming, "STALE_SECONDS", -1e9)
    assert mine.take(3) and (folder / "000003.1.json").exists()
    path.unlink()
    renew(path)
    assert not path.exists(), "a beat does not bring back a claim that was taken away"


def test_an_unchanged_size_does_not_hide_a_change(bucket):
    """Two states of one size within a second."""
    path = place(f"{bucket}/state")
    write_bytes(path, b"one")
    before = path.stat()
    write_bytes(path, b"two")
    assert path.stat().st_ino != before.st_ino


def test_damage_is_found_and_repaired(bucket):
    run = record(f"{bucket}/run")
    sd.verify(run.path)
    path = recording.store_of(run).file("a", 2)
    content = path.read_bytes()
    write_bytes(path, content[:-7])
    with pytest.raises(sd.IncompleteRun, match=r"s3://.*/a/c/2/0/0/0: \d+ bytes, its commit says"):
        sd.verify(run.path)
    with pytest.raises(sd.IncompleteRun, match="/a/c/2/0/0/0"):
        sd.score(run.path)
    write_bytes(path, bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(sd.IncompleteRun, match="its content is not what was written"):
        sd.verify(run.path)
    with pytest.raises(sd.IncompleteRun, match="its checksum is another"):
        recording.store_of(run).read("a", range(16, 24))
    path.unlink()
    record(run.path)
    assert path.read_bytes() == content
    sd.verify(run.path)


def test_only_the_chunks_that_are_asked_for_are_fetched(bucket, monkeypatch):
    run = record(f"{bucket}/run", shard_images=40, codec="none", dtype="float32")
    store = recording.store_of(run)
    n_chunk = store.layers["a"].chunk_images
    fetched = []
    whole = ObjectPath.read_range

    def counted(path, start, n_bytes):
        fetched.append(n_bytes)
        return whole(path, start, n_bytes)

    monkeypatch.setattr(ObjectPath, "read_range", counted)
    rows = range(n_chunk, 2 * n_chunk) if n_chunk < 40 else range(40)
    np.testing.assert_array_equal(store.read("a", rows), compute(list(rows))["a"])
    assert fetched == [len(rows) * store.layers["a"].map_bytes + 4]


def test_arrays_are_read_by_ranges(bucket, monkeypatch):
    path = place(f"{bucket}/arrays.npz")
    big, small = np.arange(4 << 20, dtype=np.int64), np.arange(5)
    save_arrays(path, {"big": big, "small": small})
    fetched = []
    whole = ObjectPath.read_range
    monkeypatch.setattr(
        ObjectPath, "read_range", lambda path, start, n, tag: fetched.append(n) or whole(path, start, n, tag)
    )
    assert load_arrays(path, lambda name: name == "small")["small"].tolist() == [0, 1, 2, 3, 4]
    assert 0 < sum(fetched) < big.nbytes
    np.testing.assert_array_equal(load_arrays(path)["big"], big)


def test_an_object_that_is_replaced_while_it_is_read_comes_whole(bucket, monkeypatch):
    path = place(f"{bucket}/arrays.npz")
    first, second = np.arange(2 << 20), np.arange(3 << 20) * 2  # several ranges each
    save_arrays(path, {"numbers": first})
    whole, n_read = ObjectPath.read_range, []

    def replacing(path, start, n_bytes, tag):
        n_read.append(start)
        if len(n_read) == 2:
            save_arrays(path, {"numbers": second})
        return whole(path, start, n_bytes, tag)

    monkeypatch.setattr(ObjectPath, "read_range", replacing)
    np.testing.assert_array_equal(load_arrays(path)["numbers"], second)


def test_a_tree_goes_by_its_numbered_objects_first(bucket, monkeypatch):
    folder = place(f"{bucket}/partial/score")
    names = ["000000.json", "000001.npz", "claims/000000.0.json", "settings.json", "thresholds-1.npz"]
    for name in names:
        write_bytes(folder / name, b"x")
    write_bytes(folder.with_name("score-other") / "000000.json", b"x")
    taken = []
    whole = ObjectPath.remove_all
    monkeypatch.setattr(ObjectPath, "remove_all", lambda path, keys: taken.append(list(keys)) or whole(path, keys))
    remove_tree(folder)
    assert [[key.rpartition("score/")[2] for key in keys] for keys in taken] == [names[:3], names[3:]]
    assert not folder.exists() and folder.with_name("score-other").is_dir()
    remove_tree(folder)


def test_a_path_of_an_object_is_none_of_the_disk(bucket):
    path = place(f"{bucket}/run") / "name.json"
    assert str(path) == f"{bucket}/run/name.json" and path.key == "run/name.json"
    assert place(Path(f"{bucket}/run")) == path.parent and (path.stem, path.suffix) == ("name", ".json")
    for call in (open, os.path.exists, os.path.abspath, os.listdir, os.utime, os.unlink, Path.touch):
        with pytest.raises(TypeError, match="an object, not a file"):
            call(path)
    with pytest.raises(FileNotFoundError, match=r"name\.json"):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        path.unlink()
    assert not path.exists() and not path.parent.exists() and list(path.parent.iterdir()) == []


def said(capsys, *words):
    """Exit code and the one line of a command that is refused."""
    code = main(list(words))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def test_what_is_not_there_is_refused(bucket, capsys, monkeypatch):
    code, line = said(capsys, "score", "s3://no-such-bucket/run")
    assert code == 2 and "no such bucket" in line
    code, line = said(capsys, "score", f"{bucket}/none")
    assert code == 2 and f"make one with: streamdissect extract --out {bucket}/none" in line
    code, line = said(capsys, "info", "s3:///run/x/..")
    assert code == 2 and "s3://BUCKET/RUN" in line
    with pytest.raises(sd.BadInput, match="no such bucket"):
        record("s3://no-such-bucket/run")
    write_bytes(place(f"{bucket}/other/file"), b"x")
    with pytest.raises(sd.BadInput, match="a run, or a new or empty directory"):
        record(f"{bucket}/other")


class Refusing(BaseHTTPRequestHandler):
    """A service that lets nobody in."""

    def do_GET(self):
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_):
        pass


def test_a_service_that_refuses_or_does_not_answer_is_a_failure(bucket, capsys, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        objects_module().bucket.cache_clear()
        code, line = said(capsys, "score", f"{bucket}/run")
        server.shutdown()
        thread.join()
    assert code == 1 and line.endswith(f"{bucket}/run/run.json: access denied; check the AWS_* credentials")
    code, line = said(capsys, "score", f"{bucket}/run")  # nobody listens any more
    assert code == 1 and f"{bucket}/run/run.json" in line


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(sd.BadInput, match=r'pip install "streamdissect\[s3\]"'):
        sd.info("s3://bucket/run")


def test_a_report_is_made_on_this_machine(bucket, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = record(f"{bucket}/run")
    sd.score(run.path)
    code, line = said(capsys, "report", str(run.path))
    assert code == 2 and "--out" in line and list(tmp_path.iterdir()) == []
    assert main(["report", str(run.path), "--out", "page"]) == 0
    assert (tmp_path / "page" / "index.html").is_file()


def test_the_commands_work_on_an_address(bucket, tmp_path, monkeypatch, capsys):
    """A network's run, with the regions of a unit drawn here."""
    monkeypatch.chdir(tmp_path)
    out = f"{bucket}/deep/run"
    run = sd.extract(out=out, data="synth:?n=16&size=64", batch_size=8, shard_images=8)
    plain = sd.extract(out="run", data="synth:?n=16&size=64", batch_size=8, shard_images=8)
    for layer in recording.store_of(run).layers:
        stored = [recording.store_of(each).read(layer, range(16)) for each in (run, plain)]
        np.testing.assert_array_equal(*stored)
    sd.score(out)
    for place_of_run in (out, "run"):
        sd.score(place_of_run)
        assert main(["show", place_of_run, "scene-00003.png", "--units", "relu5:0", "--out", "regions.npz"]) == 0
        with np.load("regions.npz") as file:
            shown = dict(file)
        if place_of_run == out:
            before = shown
    assert before.keys() == shown.keys() and all(np.array_equal(before[key], shown[key]) for key in shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["regions.npz", "run"]


if __name__ == "__main__":
    serve()
