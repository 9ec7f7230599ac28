"""A shard's file: zarr reads what is written here, what zarr wrote is read here, and damage is found."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from streamdissect.errors import IncompleteRun
from streamdissect.store.activations import ActivationStore, LayerArray
from streamdissect.store.shardfile import DamagedShard, Encoded, ShardForm, decode_rows, fetch_rows, write_shard

CODECS = {
    "none": [],
    "zstd": [ZstdCodec(level=1)],
    "lz4": [BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1)],
}
ALL = pytest.mark.parametrize("codec", CODECS)
UNITS, GRID = 3, (2, 5)


def maps_of(n_images, dtype="float16", seed=0):
    """Sparse maps (n_images, K, h, w)."""
    maps = np.random.default_rng(seed).normal(size=(n_images, UNITS, *GRID)).astype(dtype)
    maps[maps < 0.5] = 0
    return maps


def store_of(folder, codec, n_images, shard_images, chunk_images, dtype="float16"):
    """A store and the maps written to it."""
    layer = LayerArray("layer", UNITS, GRID, dtype, codec, chunk_images)
    store = ActivationStore(folder / "activations.zarr", [layer], n_images, shard_images)
    store.create()
    maps = maps_of(n_images, dtype)
    for shard, start in enumerate(range(0, n_images, shard_images)):
        store.write("layer", shard, maps[start : start + shard_images])
    return store, maps


def read_whole(path, form, start, n_rows):
    """Rows of a file."""
    out = np.full((n_rows, *form.chunk_shape[1:]), 7, form.dtype)
    decode_rows(fetch_rows(path, start, out, form), form)
    return out


@ALL
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("n_images", [1, 8, 17, 24])
def test_zarr_reads_what_is_written(tmp_path, codec, dtype, n_images):
    store, maps = store_of(tmp_path, codec, n_images, 8, 4, dtype)
    np.testing.assert_array_equal(zarr.open_array(store.path / "layer", mode="r")[:], maps)


@ALL
def test_what_zarr_wrote_is_read(tmp_path, codec):
    store, maps = store_of(tmp_path, codec, 19, 8, 4)
    for file in (store.file("layer", shard) for shard in range(3)):
        file.unlink()
    zarr.open_array(store.path / "layer", mode="r+").with_config({"write_empty_chunks": True})[:] = maps + 1
    np.testing.assert_array_equal(store.read("layer", range(19)), maps + 1)


@ALL
def test_the_two_write_the_same_bytes(tmp_path, codec):
    """Of whole shards: beyond the array's end zarr stores chunks of zeros, which are left out here."""
    store, maps = store_of(tmp_path, codec, 16, 8, 4)
    ours = [store.file("layer", shard).read_bytes() for shard in range(2)]
    zarr.open_array(store.path / "layer", mode="r+").with_config({"write_empty_chunks": True})[:] = maps
    index = 16 * 2 + 4
    for shard in range(2):
        theirs = store.file("layer", shard).read_bytes()
        assert len(theirs) == len(ours[shard])
        # zarr writes the chunks of a shard in Morton order, which for one axis is theirs
        assert theirs[:-index] == ours[shard][:-index] and theirs[-index:] == ours[shard][-index:]


@ALL
@settings(max_examples=60)
@given(data=st.data())
def test_any_rows_in_any_parts(tmp_path_factory, codec, data):
    n_images = data.draw(st.integers(1, 30), "images")
    chunk = data.draw(st.integers(1, 5), "chunk")
    shard = chunk * data.draw(st.integers(1, 3), "chunks of a shard")
    store, maps = store_of(tmp_path_factory.mktemp("store"), codec, n_images, shard, chunk)
    start = data.draw(st.integers(0, n_images - 1))
    stop = data.draw(st.integers(start, n_images))
    np.testing.assert_array_equal(store.read("layer", range(start, stop)), maps[start:stop])
    most = data.draw(st.integers(1, 3)) * chunk * maps[0].nbytes
    parts = list(store.iter_chunks("layer", range(start, stop), most))
    assert [row for part, _ in parts for row in part] == list(range(start, stop))
    for part, held in parts:
        np.testing.assert_array_equal(held, maps[part.start : part.stop])
        assert held.nbytes <= most


def form_of(codec, n_chunks=3, chunk_images=4):
    return ShardForm((chunk_images, UNITS, *GRID), n_chunks, np.dtype("<f2"), codec)


@ALL
def test_no_flipped_byte_goes_unseen(tmp_path, codec):
    form, path, maps = form_of(codec), tmp_path / "shard", maps_of(10)
    write_shard(path, maps, form)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        with pytest.raises(DamagedShard, match="checksum"):
            read_whole(path, form, 0, 10)


@ALL
@pytest.mark.parametrize("n_images", [16, 13])
def test_maps_that_are_not_kept_are_below_every_number(tmp_path, codec, n_images):
    """In full chunks and in the last one; the rows given stay as they are, and zarr reads the same."""
    store, maps = store_of(tmp_path, codec, n_images, 8, 4)
    before, kept = maps.copy(), np.random.default_rng(1).random(maps.shape[:2]) < 0.5
    for shard, rows in enumerate((slice(0, 8), slice(8, n_images))):
        store.write("layer", shard, maps[rows], kept[rows])
    np.testing.assert_array_equal(maps, before)
    expected = np.where(kept[..., None, None], maps, np.float16(-np.inf))
    np.testing.assert_array_equal(store.read("layer", range(n_images)), expected)
    np.testing.assert_array_equal(zarr.open_array(store.path / "layer", mode="r")[:], expected)


@ALL
def test_no_cut_goes_unseen(tmp_path, codec):
    form, path = form_of(codec), tmp_path / "shard"
    write_shard(path, maps_of(10), form)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DamagedShard):
            read_whole(path, form, 0, 10)


@ALL
def test_an_index_of_another_file_is_refused(tmp_path, codec):
    """Its checksum holds, but what it points to is not there, or not a chunk."""
    form, path = form_of(codec), tmp_path / "shard"
    write_shard(path, maps_of(12), form)
    content = path.read_bytes()
    write_shard(path, maps_of(12, seed=1)[:4], form)
    short = path.read_bytes()
    path.write_bytes(short[: -form.index_bytes] + content[-form.index_bytes :])
    with pytest.raises(DamagedShard):
        read_whole(path, form, 0, 12)


def test_rows_that_were_never_written_are_not_zeros(tmp_path):
    form, path = form_of("none"), tmp_path / "shard"
    write_shard(path, maps_of(4), form)
    with pytest.raises(DamagedShard, match="chunk 1 was never written"):
        read_whole(path, form, 0, 5)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_bytes_of_no_codec_are_damage(codec):
    form = form_of(codec)
    rows = np.empty(form.chunk_shape, form.dtype)
    with pytest.raises(DamagedShard, match="chunk 0"):
        decode_rows([Encoded(np.zeros(40, np.uint8), rows, 0, "chunk 0")], form)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    form, path = form_of("none"), tmp_path / "shard"
    write_shard(path, maps_of(12), form)
    before = path.read_bytes()
    written = []

    def fail(file, content):
        if written:
            raise OSError(28, "No space left on device")
        written.append(file.write(content))
        return 1

    monkeypatch.setattr("streamdissect.store.shardfile.write_checked", fail)
    with pytest.raises(OSError, match="No space"):
        write_shard(path, maps_of(12, seed=1), form)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_an_array_of_another_form_is_refused(tmp_path):
    store, _ = store_of(tmp_path, "none", 16, 8, 4)
    other = ActivationStore(store.path, [LayerArray("layer", UNITS, GRID, "float16", "none", 2)], 16, 8)
    with pytest.raises(IncompleteRun, match="the run is one of"):
        other.read("layer", range(4))
    codec = ActivationStore(store.path, [LayerArray("layer", UNITS, GRID, "float16", "zstd", 4)], 16, 8)
    with pytest.raises(IncompleteRun, match="chunk 0"):
        codec.read("layer", range(4))


def test_a_missing_file_is_named(tmp_path):
    store, _ = store_of(tmp_path, "none", 16, 8, 4)
    store.file("layer", 1).unlink()
    np.testing.assert_array_equal(store.read("layer", range(8)), maps_of(16)[:8])
    with pytest.raises(IncompleteRun, match="c/1/0/0/0: missing"):
        store.read("layer", range(6, 10))
