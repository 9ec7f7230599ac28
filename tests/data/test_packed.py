"""Any dataset in one HDF5 file, and back."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect import BadInput, Stopped, open_dataset, pack, synth
from streamdissect.data import packed
from streamdissect.data.packed import PackedDataset, write_packed
from streamdissect.data.synthetic import SyntheticScenes
from streamdissect.stages.control import Control


def assert_same(one, other):
    assert one.names == other.names
    for field in ("number", "category", "ignore"):
        assert_array_equal(getattr(one.concepts, field), getattr(other.concepts, field))
    assert one.concepts.name == other.concepts.name and one.concepts.category_name == other.concepts.category_name
    assert one.fingerprint() == other.fingerprint()
    for i in range(len(one)):
        assert one.split(i) == other.split(i)
        assert one.image_size(i) == other.image_size(i)
        assert_array_equal(one.image(i), other.image(i))
        assert one.has_labels(i) == other.has_labels(i)
        a, b = one.labels(i), other.labels(i)
        assert a.shape == b.shape and a.whole == b.whole and len(a.layers) == len(b.layers)
        for (g, layer), (h, again) in zip(a.layers, b.layers, strict=True):
            assert g == h and again.dtype == np.uint16
            assert_array_equal(layer, again)


@pytest.fixture
def scenes(tmp_path):
    """Four scenes, packed, with no label in one of them."""
    data = SyntheticScenes(n=6, size=32)
    return data, pack(data, tmp_path / "scenes.h5")


def test_the_scenes_come_back(scenes):
    data, path = scenes
    again = open_dataset(path)
    assert isinstance(again, PackedDataset)
    assert_same(data, again)


def test_a_broden_directory_comes_back_with_its_very_bytes(broden, tmp_path):
    data = open_dataset(broden())
    again = open_dataset(pack(str(broden()), tmp_path / "b.h5"))
    assert_same(data, again)
    assert [again.encoded(i) for i in range(3)] == [data.encoded(i) for i in range(3)]


def test_packing_again_what_is_packed(scenes, tmp_path):
    data, path = scenes
    assert_same(data, open_dataset(pack(path, tmp_path / "again.h5")))


def test_pieces_of_every_size(monkeypatch, tmp_path):
    data = SyntheticScenes(n=5, size=32)
    for buffered in (1, 300, 10**7):
        monkeypatch.setattr(packed, "BUFFERED", buffered)
        path = tmp_path / f"{buffered}.h5"
        write_packed(data, path, lambda n: None)
        assert_same(data, PackedDataset(path))


def test_plain_h5py_reads_it(scenes):
    data, path = scenes
    with h5py.File(path) as file:
        i = 2
        start, stop = file["images/offset"][i : i + 2]
        assert file["images/data"][start:stop].tobytes() == data.encoded(i)
        rows, columns = file["labels/size"][i]
        first = file["labels/layer_start"][i]
        begin, end = file["labels/pixel_start"][first : first + 2]
        assert_array_equal(file["labels/pixels"][begin:end].reshape(rows, columns), data.labels(i).layers[0][1])
        assert file["images/name"].asstr()[i] == data.names[i]
        assert file["labels/pixels"].compression == "gzip" and file["labels/pixels"].id.get_storage_size() > 0


def reads(data, i, queue):
    queue.put((os.getpid(), data.image(i).sum(), [layer.sum() for _, layer in data.labels(i).layers]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_the_file_themselves(scenes, method):
    _, path = scenes
    again = open_dataset(path)
    expected = [(again.image(i).sum(), [layer.sum() for _, layer in again.labels(i).layers]) for i in range(3)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=reads, args=(again, i, queue)) for i in range(3)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(map(str, expected)) == sorted(str(rest) for _, *rest in found for rest in [tuple(rest)])
    assert len({pid for pid, *_ in found}) == 3
    assert again.image(0).sum() == expected[0][0]  # the parent's handle still reads


def test_it_can_be_pickled(scenes):
    data, path = scenes
    assert_same(data, pickle.loads(pickle.dumps(open_dataset(path))))


def test_a_file_system_without_locks(scenes, monkeypatch):
    data, path = scenes
    tried = []
    opened = h5py.File

    def without_locks(name, mode, locking=None):
        tried.append(locking)
        if locking is not False:
            raise BlockingIOError(37, "unable to lock file, errno = 37, error message = 'No locks available'")
        return opened(name, mode, locking=locking)

    monkeypatch.setattr(packed.h5py, "File", without_locks)
    assert_same(data, PackedDataset(path))
    assert tried == ["best-effort", False] * 2  # once for the tables, once for the rest


def test_it_opens_while_the_users_own_handle_is_open(scenes):
    data, path = scenes
    with h5py.File(path, "r"):
        assert_array_equal(open_dataset(path).image(0), data.image(0))


# What is wrong


def test_a_name_that_is_taken(scenes, tmp_path):
    data, path = scenes
    with pytest.raises(BadInput, match=r"a name that is free.*--overwrite"):
        pack(data, path)
    before = path.stat().st_size
    pack(SyntheticScenes(n=2, size=32), path, overwrite=True)
    assert path.stat().st_size < before
    for name, why in (("x.zarr", "ends in .h5"), ("none/x.h5", "a directory that exists")):
        with pytest.raises(BadInput, match=why):
            pack(data, tmp_path / name)


class StopsSoon(Control):
    def check(self):
        self.checks = getattr(self, "checks", 0) + 1
        if self.checks == 3:
            raise Stopped("stopped")


def test_stopping_leaves_nothing_behind(tmp_path):
    with pytest.raises(Stopped):
        pack(SyntheticScenes(n=8, size=32), tmp_path / "x.h5", control=StopsSoon())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_is_named_and_nothing_left(broden, tmp_path):
    made = broden({"images/a_object.png": "no picture"})
    with pytest.raises(BadInput, match=r"a_object\.png.*damaged"):
        pack(made, tmp_path / "x.h5")
    assert not list(tmp_path.glob("x.h5*"))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(BadInput, match="damaged content"):
        open_dataset(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(BadInput, match="it is of another kind"):
        open_dataset(tmp_path / "other.h5")
    with pytest.raises(BadInput, match="no such file or directory"):
        open_dataset(tmp_path / "none.h5")


def test_a_cut_file_is_refused(scenes):
    _, path = scenes
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match="damaged content"):
        open_dataset(path)


@pytest.mark.parametrize("what", ["images/data", "labels/pixels"])
def test_a_flipped_bit_is_found(scenes, what):
    _, path = scenes
    with h5py.File(path) as file:
        chunk = file[what].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + min(chunk.size // 2, 700)] ^= 16
    path.write_bytes(content)
    again = open_dataset(path)
    with pytest.raises(BadInput, match="damaged content"):
        for i in range(len(again)):
            again.image(i)
            again.labels(i)


CHANGES = {
    "images/offset": lambda a: a + 1,
    "images/size": lambda a: a * 0,
    "labels/size": lambda a: a + 1,
    "labels/layer_start": lambda a: a[::-1],
    "labels/layer_category": lambda a: a + 100,
    "labels/pixel_start": lambda a: a * 2,
    "labels/whole": lambda a: a + 1000,
    "labels/whole_start": lambda a: a[:-1],
    "concepts/number": lambda a: a[::-1],
    "concepts/category": lambda a: a - 5,
    "categories/ignore": lambda a: a + 999,
    "images/name": lambda a: np.full_like(a, "x"),
    "images/split": lambda a: a[:-1],
    "concepts/name": lambda a: a[:-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_tables_that_do_not_fit_are_refused(scenes, name):
    _, path = scenes
    with h5py.File(path, "r+") as file:
        found = file[name]
        array = CHANGES[name](found.asstr()[()] if found.dtype.kind == "O" else found[()])
        del file[name]
        file[name] = array
    with pytest.raises(BadInput, match="damaged content"):
        open_dataset(path)


def test_a_number_that_is_no_concept_is_refused(scenes):
    _, path = scenes
    with h5py.File(path, "r+") as file:
        file["labels/pixels"][0] = 60000
    with pytest.raises(BadInput, match=r"label number 60000 in scene-00000\.png"):
        open_dataset(path).labels(0)


# The command


def test_the_command(tmp_path):
    run = [sys.executable, "-m", "streamdissect"]
    done = subprocess.run([*run, "pack", "synth:?n=4&size=32", "s.h5"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "use it as --data s.h5" in done.stdout, done.stderr
    assert_same(SyntheticScenes(n=4, size=32), open_dataset(tmp_path / "s.h5"))
    again = subprocess.run([*run, "pack", "synth:?n=4&size=32", "s.h5"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr


def test_labels_may_be_made_while_packing(tmp_path):
    plain, made = SyntheticScenes(n=4, size=32), tmp_path / "l.h5"
    labelled = open_dataset("synth:?n=4&size=32", labels="colors?category=tone")
    again = open_dataset(pack(plain, made, labels="colors?category=tone"))
    assert again.concepts.category_name[-1] == "tone"
    assert_same(labelled, again)


# Files of strangers: nothing outside the file is read, nothing is allocated that it does not hold


def outside_storage(file, path):
    del file["concepts/name"]
    n = len(file["concepts/number"])
    file.create_dataset("concepts/name", (n,), "S4", external=[(str(path), 0, 4 * n)])


def outside_link(file, path):
    del file["labels/pixels"]
    file["labels/pixels"] = h5py.ExternalLink(str(path), "x")


def soft_link(file, path):
    del file["images/size"]
    file["images/size"] = h5py.SoftLink("/images/size")


def virtual(file, path):
    source = h5py.VirtualSource(str(path), "x", file["images/offset"].shape, np.int64)
    layout = h5py.VirtualLayout(source.shape, np.int64)
    layout[:] = source
    del file["images/offset"]
    file.create_virtual_dataset("images/offset", layout)


def huge(file, path):
    del file["images/size"]
    file.create_dataset("images/size", (2**33, 2), np.int32, chunks=(2**16, 2))


def huge_pixels(file, path):
    file["labels/pixels"].resize((2**40,))


def overflowing_pointers(file, path):
    pointer = file["labels/layer_start"][:]
    pointer[1:3] = 2**63 - 1, -2
    file["labels/layer_start"][:] = pointer


def large_maps(file, path):
    file["labels/size"][:] = 2**31 - 1


def group(file, path):
    del file["images/data"]
    file.create_group("images/data")


def scalar(file, path):
    del file["images/name"]
    file["images/name"] = "abcd"


def other_type(file, path):
    pixels = file["labels/pixels"][:]
    del file["labels/pixels"]
    file["labels/pixels"] = pixels.astype(np.int64) - 1


def wrong_version(file, path):
    file.attrs["schema_version"] = "new"


def no_fingerprint(file, path):
    del file.attrs["fingerprint"]


HOSTILE = [outside_storage, outside_link, soft_link, virtual, huge, huge_pixels, overflowing_pointers, large_maps,
           group, scalar, other_type, wrong_version, no_fingerprint]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_hostile_files_are_refused(scenes, tmp_path, change):
    _, path = scenes
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(1000)
    with h5py.File(path, "r+") as file:
        change(file, secret)
    tracemalloc.start()
    with pytest.raises(BadInput, match="damaged content"):
        open_dataset(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_an_index_beyond_the_images(scenes):
    _, path = scenes
    data = open_dataset(path)
    for ask in (data.image, data.image_size, data.labels, data.encoded):
        for index in (-1, len(data)):
            with pytest.raises(IndexError, match="of 6"):
                ask(index)


def test_a_full_disk_is_named_and_nothing_left(tmp_path):
    """The limit on a file's size stands for the disk's end; HDF5 by itself would bring the process down."""
    code = (
        "import resource, signal, sys\n"
        "from streamdissect import StorageFailure, pack\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))\n"
        "try:\n    pack('synth:?n=40&size=64', 'x.h5')\n"
        "except StorageFailure as error:\n    print(error)\n"
    )
    for limit in (1000, 50_000, 200_000):
        done = subprocess.run(
            [sys.executable, "-c", code, str(limit)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "File too large" in done.stdout, (limit, done.stderr)
        assert list(tmp_path.iterdir()) == []


def test_what_is_written_here_goes_to_no_object_store(tmp_path):
    """It would lie in a folder named s3: below the working directory."""
    with pytest.raises(BadInput, match=r"'s3://bucket/packed.h5', in an object store, expected a file of this machine"):
        pack("synth:?n=2", "s3://bucket/packed.h5")
    with pytest.raises(BadInput, match="in an object store, expected a directory of this machine"):
        synth("s3://bucket/scenes")
