"""`score --blocks`: counters of blocks of images beside those of all, whoever counts them."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.counters import Counters
from streamdissect.stages.blocks import blocks_of

LAYERS = ["block1.act", "block2.conv"]
N_BLOCKS = 6


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    """20 images in 4 shards."""
    out = tmp_path_factory.mktemp("blocks") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, shard_images=6, batch_size=4)
    return out


@pytest.fixture(scope="module")
def plain(run):
    return sd.score(run)


@pytest.fixture(scope="module")
def blocked(run):
    return sd.score(run, name="blocked", blocks=N_BLOCKS)


def assert_same_results(found, expected):
    for name, layer in expected.layers.items():
        for key, array in layer.arrays.items():
            assert_array_equal(found.layers[name].arrays[key], array, err_msg=f"{name} {key}")
        assert found.layers[name].summary == layer.summary


def assert_same_blocks(found, expected):
    for name, layer in expected.layers.items():
        for key, array in layer.blocks.arrays.items():
            assert_array_equal(found.layers[name].blocks.arrays[key], array, err_msg=f"{name} {key}", strict=True)


def test_the_results_are_those_without_blocks(plain, blocked):
    assert_same_results(blocked, plain)
    for name, layer in blocked.layers.items():
        assert plain.layers[name].blocks is None
        assert layer.attributes["blocks"] == N_BLOCKS and layer.attributes["block_by"] == "name"
        assert_array_equal(layer.blocks.iou(np.ones(N_BLOCKS, int)), layer.iou)
        assert layer.blocks.images.sum() == 20 and len(np.flatnonzero(layer.blocks.images)) > 3
        assert_array_equal(layer.blocks.concept_area.sum(0), layer.concept_area)
        assert_array_equal(layer.blocks.category_images.sum(0), blocked.category_images)
        intervals = layer.blocks.intervals(layer.best_concept, n=200)
        within = (intervals[:, 0] <= layer.best_iou) & (layer.best_iou <= intervals[:, 1])
        assert within.mean() > 0.5


def test_a_block_has_the_counters_of_a_run_of_its_images_alone(run, blocked):
    """Counted image by image from masks on demand, by an oracle of booleans."""
    data = sd.open_dataset(json.loads((run / "run.json").read_text())["data"]["spec"])
    where = blocks_of(blocked.image_name, N_BLOCKS, "name")
    column = {number: j for j, number in enumerate(data.concepts.number.tolist())}
    name, layer = next(iter(blocked.layers.items()))
    block = int(np.argmax(np.bincount(where)))
    shared = np.zeros_like(layer.intersection)
    area = np.zeros(len(layer.n), np.int64)
    for row in np.flatnonzero(where == block).tolist():
        labels = data.labels(list(data.names).index(blocked.image_name[row]))
        truth = np.zeros((len(column), *labels.shape), bool)
        for _, numbers in labels.layers:
            for number in np.unique(numbers[numbers > 0]).tolist():
                truth[column[number]] |= numbers == number
        for _, number in labels.whole:
            truth[column[number]] = True
        for k in range(len(area)):
            mask = blocked.mask(row, name, k)
            area[k] += mask.sum()
            shared[k] += (truth & mask).sum((1, 2))
    only = np.arange(N_BLOCKS) == block
    assert shared.any()
    assert_array_equal(layer.blocks.counts(only)[0], shared)
    arrays, counters = layer.blocks.arrays, Counters(*layer.intersection.shape, len(blocked.category_name))
    last = arrays["block"].searchsorted(block, "right") - 1
    assert arrays["row"][last] == len(counters.rows) - 1, "the last row of a block is the area over all images"
    part = slice(*arrays["pointer"][last : last + 2])
    assert_array_equal(arrays["count"][part], area[area > 0])
    assert_array_equal(arrays["unit"][part], np.flatnonzero(area))


def test_loaded_again_and_joined_from_workers_it_is_the_same(run, blocked):
    assert_same_blocks(sd.score(run, name="blocked", blocks=N_BLOCKS), blocked)  # read from dissection.h5
    for i in range(2):
        sd.score(run, name="two", blocks=N_BLOCKS, shard=(i, 2), threads=1 + i)
    assert_same_blocks(sd.merge(run, options=sd.ScoreOptions(name="two")), blocked)
    small = sd.ScoreOptions(name="two", memory=1 << 16)  # a block at a time
    assert_same_blocks(sd.merge(run, options=small), blocked)
    sd.score(run, name="small", blocks=N_BLOCKS, memory=1 << 16)
    assert_same_blocks(sd.score(run, name="small", blocks=N_BLOCKS), blocked)
    parts = [sd.score_partial(run, shards=shards, blocks=N_BLOCKS) for shards in ([2, 0], [1, 3])]
    assert_same_blocks(sd.merge(parts), blocked)
    without = sd.score_partial(run, shards=[1, 3])
    with pytest.raises(sd.BadInput, match="sort them"):
        sd.merge([parts[0], without])


def test_blocks_of_names_and_prefixes():
    names = ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "c.png", "é/1.png"]
    for by, keys in (
        ("name", names),
        ("prefix", ["a", "a", "b", "b", "c.png", "é"]),
        ("prefix:3", ["a/1", "a/2", "b/1", "b/2", "c.p", "é/1"]),
    ):
        expected = [
            int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % 64 for key in keys
        ]
        assert blocks_of(names, 64, by).tolist() == expected


def test_images_of_one_prefix_stay_together(run):
    names = sd.score(run).image_name
    length = next(i for i in range(1, 40) if len({name[:i] for name in names}) > 1)
    groups = len({name[:length] for name in names})
    found = sd.score(run, name="prefix", blocks=64, block_by=f"prefix:{length}").layer("block1.act").blocks
    assert (found.images > 0).sum() <= groups < 20


def test_images_of_one_cell_of_a_table_stay_together(run, tmp_path, monkeypatch):
    names = list(sd.score(run).image_name)
    table = tmp_path / "films.csv"
    films = ["first film" if i % 3 else "second" for i in range(len(names))]
    lines = [f"{film},{name}" for film, name in zip(films, names, strict=True)]
    table.write_text("\n".join(["film,image", *lines[::-1], "third,no-image-of-the-run"]))
    assert_array_equal(blocks_of(names, 64, f"{table}:film"), blocks_of(films, 64, "name"))
    monkeypatch.chdir(tmp_path)
    found = sd.score(run, name="films", blocks=64, block_by="films.csv:film")
    assert found.layer("block1.act").attributes["block_by"] == f"{table}:film"
    where = blocks_of(films, 64, "name")
    expected = np.bincount(where, minlength=64)
    assert_array_equal(found.layer("block1.act").blocks.images, expected)
    assert sorted(set(expected.tolist())) == [0, 7, 13]

    table.write_text(table.read_text().replace("second", "first film"))
    with pytest.raises(sd.BadInput, match=r"table of --block-by \(digest\): got"):
        sd.score(run, name="films", blocks=64, block_by="films.csv:film")
    table.write_text("\n".join(["film,image", *lines[1:]]))
    with pytest.raises(sd.BadInput, match=f"no line for image '{names[0]}'"):
        sd.score(run, name="short", blocks=64, block_by="films.csv:film")
    table.write_text("\n".join(["film,image", *lines, lines[2]]))
    with pytest.raises(sd.BadInput, match="each image once"):
        blocks_of(names, 64, f"{table}:film")
    for by, words in (("films.csv:actor", "a column 'actor'"), ("nowhere.csv:film", "no file nowhere.csv")):
        with pytest.raises(sd.BadInput, match=words):
            sd.score(run, name="other", blocks=64, block_by=by)


def test_a_scoring_with_other_blocks_is_another(run, plain, blocked):
    for named, words in (
        ({"name": "blocked", "blocks": 7}, "--blocks: got 7, expected 6"),
        ({"name": "blocked"}, "--blocks: got None, expected 6"),
        ({"blocks": 7}, "--blocks: got 7, expected None"),
        ({"name": "blocked", "blocks": N_BLOCKS, "block_by": "prefix"}, "--block-by: got 'prefix', expected 'name'"),
    ):
        with pytest.raises(sd.BadInput, match=words):
            sd.score(run, **named)


def test_a_scoring_of_an_earlier_version_is_continued(run, plain, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "partial" / "score" / "settings.json"
    settings = json.loads(path.read_text())
    for key in ("blocks", "block_by", "keep_masks"):
        del settings[key]
    path.write_text(json.dumps(settings))
    assert_same_results(sd.score(tmp_path / "old"), plain)
    (tmp_path / "old" / "summary.json").unlink()
    assert_same_results(sd.merge(tmp_path / "old"), plain)


def test_damaged_partials_are_named(run, blocked, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "partial" / "score-blocked" / "000001.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"blocks-0/unit": arrays["blocks-0/unit"] * 0})
    with pytest.raises(sd.IncompleteRun, match=r"block1\.act: saved block counters are damaged"):
        sd.merge(tmp_path / "run", options=sd.ScoreOptions(name="blocked"))


@pytest.mark.parametrize(
    "named, words",
    [
        ({"blocks": 1}, "a whole number from 2"),
        ({"blocks": 5000}, "at most 4096"),
        ({"blocks": 8, "block_by": "prefix:0"}, "prefix:N with N from 1"),
        ({"blocks": 8, "block_by": "column"}, "prefix:N with N from 1"),
        ({"block_by": "prefix"}, "--blocks beside it"),
    ],
)
def test_wrong_blocks_are_refused(named, words):
    with pytest.raises(sd.BadInput, match=words):
        sd.ScoreOptions(**named)


def test_the_command_takes_blocks(run, blocked, capsys):
    assert main(["score", str(run), "--name", "line", "--blocks", "6", "--block-by", "name"]) == 0
    assert_same_blocks(sd.score(run, name="line", blocks=N_BLOCKS), blocked)
    assert main(["score", str(run), "--blocks", "6", "--block-by", "folder"]) == 2
    assert "--block-by: got 'folder'" in capsys.readouterr().err
