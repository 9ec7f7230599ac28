"""`score --keep-masks`: what is kept are the masks, all of them."""

import json
import shutil
from fractions import Fraction

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.stages.masks import masks

LAYERS = ["block1.act", "block2.conv"]


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, shard_images=6, batch_size=4)
    return out


@pytest.fixture(scope="module")
def kept(run):
    return sd.score(run, keep_masks=True)


@pytest.fixture
def copy(run, kept, tmp_path):
    """A scored run that may be damaged."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def assert_masks_of(result, run, name):
    """Every map comes once and in order, or has an empty mask."""
    for layer, facts in result.layers.items():
        found = {(row, unit): mask for row, unit, mask in masks(run, layer, name=name)}
        assert list(found) == sorted(found)
        counts = np.bincount([unit for _, unit in found], minlength=len(facts.n))
        assert_array_equal(counts, facts.active_maps)
        for row in range(len(result.image_name)):
            for unit in range(len(facts.n)):
                expected = result.mask(row, layer, unit)
                if (row, unit) in found:
                    assert_array_equal(found[row, unit], expected, strict=True)
                else:
                    assert not expected.any()


def test_kept_masks_are_the_masks(run, kept):
    assert_masks_of(kept, run, None)
    plain = sd.score(run, name="plain")
    for layer, facts in plain.layers.items():
        for key, array in facts.arrays.items():
            assert_array_equal(kept.layers[layer].arrays[key], array, err_msg=key)


@pytest.mark.parametrize(
    "named",
    [
        {"mask_test": "ge", "upsample": "corners", "backend": "numba"},
        {"mask_size": "17x70"},
        {"mask_size": (3, 2)},
        {"blocks": 5},
    ],
    ids=str,
)
def test_under_other_rules_too(named, run):
    result = sd.score(run, name="other", keep_masks=True, overwrite=True, **named)
    assert_masks_of(result, run, "other")


def test_few_at_a_time_they_are_the_same(run, kept, monkeypatch):
    for place in ("stages.masks", "store.masks"):
        monkeypatch.setattr(f"streamdissect.{place}.MOST_BYTES", 1)
    monkeypatch.setattr("streamdissect.store.masks.CHUNK", 3)
    assert_masks_of(sd.score(run, name="few", keep_masks=True), run, "few")


def test_images_of_several_sizes(nets, tmp_path):
    from streamdissect.measure.planes import LabelRules, image_planes
    from streamdissect.measure.upsample import axis_weights
    from streamdissect.stages.masks import keep_masks
    from streamdissect.store.masks import creating_masks, iter_masks

    rules = LabelRules(np.zeros(0, np.int32), np.zeros(0, np.int32), 1, np.zeros(1, np.int32))
    shapes = [(4, 5), (4, 5), (70, 3), (2, 130)]
    weights = {s: tuple(axis_weights("half_pixel", 2, n, n) for n in s) for s in shapes}
    maps = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float16)
    maps[1] = -9
    thresholds = np.array([0.3, np.nan, -0.2], np.float32)
    planes = [image_planes(shape, [], [], rules) for shape in shapes]
    with creating_masks(tmp_path / "masks" / "0.h5", ["some.layer"]) as writer:
        keep_masks(writer, 0, range(7, 11), maps, thresholds, planes, weights, False, "auto", None)
    found = list(iter_masks(tmp_path / "masks" / "0.h5", 0))
    assert [(row, shape) for row, unit, shape, _ in found if unit == 2] == [
        (7 + i, shapes[i]) for i in range(4) if (maps[i, 2] > thresholds[2]).any()
    ]
    assert {row for row, *_ in found} >= {7, 9, 10} and 8 not in {row for row, *_ in found}
    with h5py.File(tmp_path / "masks" / "0.h5") as file:
        group = file["layers/0"]
        assert group.attrs["name"] == "some.layer"
        assert_array_equal(group["row"][()], range(7, 11))
        assert_array_equal(group["shape"][()], shapes)
        for i, (height, width) in enumerate(shapes):
            words = height * ((width + 63) // 64)
            begin, end = group["pointer"][i : i + 2]
            assert group["word_pointer"][i + 1] - group["word_pointer"][i] == (end - begin) * words
        assert len(group["bits"]) == group["word_pointer"][-1]
        assert group["unit"].dtype == np.uint32 and group["bits"].dtype == np.uint64


def test_they_are_part_of_what_was_asked_for(run, kept):
    with pytest.raises(sd.BadInput, match="--keep-masks: got False, expected True"):
        sd.score(run)
    with pytest.raises(sd.BadInput, match="nothing is written here"):
        sd.score_partial(run, shards=[0], keep_masks=True)
    sd.score(run, name="bare")
    for name, words in (("bare", "scored without --keep-masks"), ("never", "not scored")):
        with pytest.raises(sd.BadInput, match=words):
            masks(run, "block1.act", name=name)
    for layer in ("block9", None):
        with pytest.raises(sd.BadInput, match=r"one of block1\.act, block2\.conv"):
            masks(run, layer)


def test_a_kill_between_masks_and_commit_is_resumed(copy, kept):
    stage = copy / "partial" / "score"
    (stage / "000001.json").unlink()
    (copy / "summary.json").unlink()
    (copy / "masks" / "000001.h5").write_bytes(b"half")
    with pytest.raises(sd.IncompleteRun, match="shard 1 of 4"):
        masks(copy, "block1.act")
    assert_masks_of(sd.score(copy, keep_masks=True), copy, None)
    assert len(list((copy / "masks").iterdir())) == 4


def test_verify_reads_them_and_clean_removes_them(copy):
    whole = sd.verify(copy)
    path = copy / "masks" / "000002.h5"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(sd.IncompleteRun, match=r"masks/000002\.h5: its content is not what was written"):
        sd.verify(copy)
    path.write_bytes(content)
    assert copy / "masks" in sd.clean(copy)
    assert not (copy / "masks").exists()
    with pytest.raises(sd.IncompleteRun, match="gone, perhaps by clean"):
        list(masks(copy, "block1.act"))
    assert sd.verify(copy) < whole
    assert sd.score(copy, keep_masks=True).layers, "the results stay"


def test_damaged_masks_are_named(copy):
    path = copy / "masks" / "000000.h5"
    with h5py.File(path, "r+") as file:
        del file["layers/1/bits"]
    with pytest.raises(sd.IncompleteRun, match=r"000000\.h5: no masks to be read.*--overwrite"):
        list(masks(copy, "block2.conv"))
    assert list(masks(copy, "block1.act"))
    path.write_bytes(b"nothing")
    with pytest.raises(sd.IncompleteRun, match="no masks to be read"):
        list(masks(copy, "block1.act"))


def test_scored_anew_without_them_none_are_left(copy):
    sd.score(copy, overwrite=True)
    assert not (copy / "masks").exists()


def test_the_command_keeps_masks(run, kept, capsys):
    assert main(["score", str(run), "--keep-masks", "--name", "line"]) == 0
    commit = json.loads((run / "partial" / "score-line" / "000000.json").read_text())
    assert commit["masks"]["bytes"] == (run / "scores" / "line" / "masks" / "000000.h5").stat().st_size
    mine, other = (list(masks(run, "block1.act", name=name)) for name in ("line", None))
    assert len(mine) == len(other) and all((a[2] == b[2]).all() for a, b in zip(mine, other, strict=True))


def test_subnormal_values_are_kept_whatever_the_thread_flushes(nets, scenes, tmp_path):
    """As the kernels count them: by their bits."""
    import torch

    tiny = tmp_path / "tiny.py"
    tiny.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Tiny(nn.Module):\n    def forward(self, x):\n"
        "        steps = (torch.nn.functional.avg_pool2d(x, 8).clamp(min=0) * 900).to(torch.int32)\n"
        "        return steps.view(torch.float32)\n\n\ndef build():\n    return nn.Sequential(Tiny())\n"
    )
    out = tmp_path / "run"
    sd.extract(f"{tiny}:build", scenes, ["0"], out, dtype="float32", tails=(Fraction(1, 10),))
    assert torch.set_flush_denormal(True)
    try:
        result = sd.score(out, keep_masks=True).layer()
    finally:
        torch.set_flush_denormal(False)
    areas = np.zeros(3, np.int64)
    for _, unit, mask in sd.masks(out):
        areas[unit] += mask.sum()
    assert areas.tolist() == result.unit_area_all.tolist() and areas.all()
