"""`score --until-stable`: counting that ends early, and says so wherever its result is read."""

import json
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.dataset import Concepts, Dataset, ImageLabels
from streamdissect.measure.counters import Counters
from streamdissect.measure.iou import score_counters
from streamdissect.stages.control import Control
from streamdissect.store.partials import under_prefix

LAYERS = ["block1.act", "block2.conv"]
N_SHARDS = 10


class Sides(Dataset):
    """Images of noise, bright on the left; two concepts, each in every image, that meet near the middle."""

    def __init__(self):
        self.names = [f"{i}.png" for i in range(20)]
        both = np.array([1, 2], np.int32), ("left", "right"), np.zeros(2, np.int32)
        self.concepts = Concepts(*both, ("side",), np.zeros(1, np.int32))

    def edge(self, index):
        return 24 + 7 * index % 16

    def split(self, index):
        return "train"

    def image(self, index):
        noise = np.random.default_rng(index).integers(0, 120, (64, 64, 3))
        noise[:, : self.edge(index)] += 120
        return noise.astype(np.uint8)

    def image_size(self, index):
        return 64, 64

    def labels(self, index):
        sides = np.where(np.arange(64) < self.edge(index), 1, 2).astype(np.uint16)
        return ImageLabels((64, 64), ((0, np.tile(sides, (64, 1))),), ())

    def has_labels(self, index):
        return True

    def fingerprint(self):
        return "sides"


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """As a Broden directory."""
    path = tmp_path_factory.mktemp("data") / "sides"
    write_broden(Sides(), path)
    return path


@pytest.fixture(scope="module")
def run(nets, sides, tmp_path_factory):
    """20 images in 10 shards."""
    out = tmp_path_factory.mktemp("stable") / "run"
    sd.extract(f"{nets}:build", sides, LAYERS, out, shard_images=2, batch_size=2, tails=("1/20",))
    return out


@pytest.fixture(scope="module")
def plain(run):
    return sd.score(run, name="plain")


@pytest.fixture(scope="module")
def widest(run):
    """Of all layers, after all shards."""
    return sd.score(run, name="all", until_stable=0).summary["until_stable"]["widest"]


class Stopping(Control):
    """Stops the work at the n-th check, and keeps what it is told."""

    def __init__(self, n=10**9):
        super().__init__()
        self.left, self.said = n, []

    def check(self):
        self.left -= 1
        if self.left < 0:
            self.stop()
        super().check()

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def early(run):
    """A width at which counting stops between the fifth shard and the last, and what is then said of it."""
    for n in range(8, 20):
        found = sd.score(run, name=f"early{n}", until_stable=Fraction(1, n)).summary["until_stable"]
        if 5 < found["shards"] < N_SHARDS:
            return Fraction(1, n), found
    raise AssertionError("no width stops early")


def test_width_zero_counts_all_and_gives_the_plain_result(run, plain, widest):
    found = sd.score(run, name="all", until_stable=0)  # read from its files
    assert found.summary["until_stable"]["images"] == 20 == found.summary["until_stable"]["of_images"]
    assert found.summary["until_stable"]["shards"] == N_SHARDS and 0 < widest < 1
    for name, layer in plain.layers.items():
        for key, array in layer.arrays.items():
            assert_array_equal(found.layers[name].arrays[key], array, err_msg=key)
        assert found.layers[name].summary == layer.summary
        assert "until_stable" not in layer.attributes
    assert "until_stable" not in plain.summary and plain.summary["images"] == 20


def test_a_stopped_result_is_that_of_its_shards(run, plain, early):
    width, about = early
    found = sd.score(run, name="stopped", until_stable=width)
    n_images = 2 * about["shards"]
    assert about["images"] == n_images == found.summary["images"] and about["of_images"] == 20
    assert n_images < 20 and f"of {n_images} images" in repr(found) and f"of {n_images} images" in found._repr_html_()
    assert found.summary["rule"]["until_stable"] == str(width) and about["widest"] < width
    parts = sd.score_partial(run, shards=range(about["shards"])).shards
    concepts = found.concept_category
    for position, (name, layer) in enumerate(found.layers.items()):
        total = Counters(*layer.intersection.shape, len(found.category_name))
        for arrays in parts.values():
            total.merge(Counters.from_arrays(under_prefix(str(position), arrays)))
        assert_array_equal(layer.intersection, total.intersection)
        assert_array_equal(layer.unit_area_all, total.unit_area_all)
        scores = score_counters(total, concepts, Fraction(1, 25), "paper")
        assert_array_equal(layer.iou, scores.iou)
        assert_array_equal(layer.is_detector, scores.is_detector)
        assert_array_equal(layer.threshold, plain.layers[name].threshold)
        assert not np.array_equal(layer.iou, plain.layers[name].iou), "fewer images, other counts"
        assert layer.attributes["images"] == n_images and layer.attributes["of_images"] == 20
        mask = found.mask(19, name, 0)  # of an image that was not counted
        assert_array_equal(mask, plain.mask(19, name, 0))


def test_a_smaller_width_takes_no_fewer_shards_and_at_least_five(run, widest):
    taken = []
    for i, width in enumerate(["0.999", "1/8", "1/10", "1/12", "1/40", "0"]):
        found = sd.score(run, name=f"narrow{i}", until_stable=width).summary["until_stable"]
        taken.append(found["shards"])
        assert found["shards"] == N_SHARDS or found["widest"] < Fraction(width)
    assert taken == sorted(taken) and taken[0] >= 5 and taken[-1] == N_SHARDS and taken[0] < N_SHARDS
    above = Fraction(round(widest * 10**6) + 10, 10**6)
    just = sd.score(run, name="just", until_stable=above).summary["until_stable"]
    assert just["shards"] < N_SHARDS or just["widest"] == widest


def test_a_stopped_counting_resumes(run, early):
    width, about = early
    whole = sd.score(run, name="whole", until_stable=width)
    with pytest.raises(sd.Stopped):
        sd.score(run, name="cut", until_stable=width, control=Stopping(6))
    counted = sorted((run / "partial" / "score-cut").glob("[0-9]*.json"))
    assert 0 < len(counted) < about["shards"] and not (run / "scores" / "cut" / "summary.json").exists()
    times = [path.stat().st_mtime_ns for path in counted]
    found = sd.score(run, name="cut", until_stable=width)
    assert [path.stat().st_mtime_ns for path in counted] == times, "counted once"
    assert found.summary["until_stable"] == whole.summary["until_stable"]
    for name, layer in whole.layers.items():
        assert_array_equal(found.layers[name].iou, layer.iou)


def test_blocks_are_those_of_the_images_counted(run, early):
    width, about = early
    found = sd.score(run, name="blocks", until_stable=width, blocks=4)
    for layer in found.layers.values():
        assert layer.blocks.images.sum() == about["images"]
        assert_array_equal(layer.blocks.iou(np.ones(4, int)), layer.iou)


def test_it_is_never_taken_for_a_whole_one(run, early):
    width, _ = early
    sd.score(run, name="part", until_stable=width)
    for call in (
        lambda: sd.score(run, name="part"),
        lambda: sd.score(run, name="part", until_stable=width / 2),
        lambda: sd.merge(run, options=sd.ScoreOptions(name="part")),
        lambda: sd.rotate(run, name="part"),
        lambda: sd.pca(run, name="part"),
    ):
        with pytest.raises(sd.BadInput, match=r"--until-stable"):
            call()
    with pytest.raises(sd.BadInput, match=r"--until-stable.*none here"):
        sd.score_partial(run, shards=[0], until_stable=width)
    with pytest.raises(sd.BadInput, match=r"--until-stable.*none here"):
        sd.audit(run, name="audit", until_stable=width)
    sd.score(run, name="other")
    with pytest.raises(sd.BadInput, match=r"--until-stable.*as this run was scored"):
        sd.score(run, name="other", until_stable=width)


def test_a_shard_that_another_process_has_is_refused(run):
    sd.score(run, name="busy", shard=(0, N_SHARDS))  # makes the folders
    from streamdissect.store.claims import Claims

    (run / "partial" / "score-busy" / "settings.json").unlink()
    with Claims(run / "partial" / "score-busy" / "claims") as other:
        assert other.take(1)
        with pytest.raises(sd.BadInput, match=r"--until-stable: .*shard 1, .*one worker"):
            sd.score(run, name="busy", until_stable=0)


@pytest.mark.parametrize("named", [{"shard": (0, 2)}, {"keep_masks": True}])
def test_options_that_do_not_go_with_it(named):
    with pytest.raises(sd.BadInput, match=r"--until-stable: .*together with"):
        sd.ScoreOptions(until_stable="1/50", **named)


@pytest.mark.parametrize("width", ["1", "2.5", "narrow", "00.1.0"])
def test_widths_that_are_none(width, capsys, run):
    assert main(["score", str(run), "--name", "none", "--until-stable", width]) == 2
    assert "--until-stable" in capsys.readouterr().err


def test_the_command_says_on_what_the_result_rests(run, capsys, early):
    width, about = early
    words = ["score", str(run), "--name", "told", "--until-stable", str(width)]
    for _ in range(2):  # counted, then read again
        assert main(words) == 0
        told = capsys.readouterr()
        assert f"the first {about['images']} of 20 images, in the order of dataset" in told.err
        assert f": {about['images']} images, " in told.out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["until_stable"]["images"] == about["images"]
    assert main(["score", str(run), "--name", "told-all", "--until-stable", "0"]) == 0
    assert "rest on all 20 images" in capsys.readouterr().err


def test_few_shards_are_all_counted(nets, sides, tmp_path):
    sd.extract(f"{nets}:build", sides, LAYERS, tmp_path / "run", shard_images=6, batch_size=2)
    control = Stopping()
    found = sd.score(tmp_path / "run", until_stable="0.9", control=control)
    assert found.summary["until_stable"]["shards"] == 4 and found.summary["until_stable"]["widest"] is None
    assert "unknown, as there are few shards" in control.said[-1]


def test_whatever_speaks_of_all_images_refuses_it(tmp_path):
    named = {"data": "synth:?n=48&size=32", "layers": ["relu3"], "shard_images": 4, "batch_size": 4}
    run = sd.extract(out=tmp_path / "run", **named).path
    found = sd.score(run, name="sooner", until_stable="9/10")
    assert found.summary["images"] < 48
    sd.score(run)
    for call in (lambda: sd.report(run, name="sooner"), lambda: sd.perturb(run, name="sooner", noise=5)):
        with pytest.raises(sd.BadInput, match="stopped early"):
            call()
