"""`capture(spill="none")`: what units detect, counted on the fly in every step of a training."""

import json
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

import streamdissect as sd
from streamdissect.measure.counters import Counters
from streamdissect.store.partials import under_prefix

from .planted import N_IMAGES, N_UNITS, planted_maps, scenes

SETTINGS = {"dtype": "float32", "tails": ("1/20",)}
RULES = {"union": "all-images", "mask_size": (32, 32), "multiplicity": "multiset", "threads": 1}


def passing(tmp_path):
    """A network that hands its input on, so that any activations can be given."""
    return nn.Sequential(OrderedDict(act=nn.Identity(), drop=nn.Dropout(0.5))).eval()


@pytest.fixture(scope="module")
def data():
    return scenes()


@pytest.fixture(scope="module")
def maps(data):
    return planted_maps(data)


@pytest.fixture
def net(tmp_path):
    return passing(tmp_path)


def go(net, maps, monitor, order, batch):
    for start in range(0, len(order), batch):
        index = order[start : start + batch]
        with monitor.images(index), torch.inference_mode():
            net(torch.from_numpy(maps[index]))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(net, maps, data, out, **named):
    """The same activations as a run that is extracted."""
    with sd.capture(net, ["act"], out, n_images=len(maps), data=data, shard_images=12, **SETTINGS, **named) as cap:
        go(net, maps, cap, np.arange(len(maps)), 4)
    return out


def assert_same_counters(found, run, data, **rules):
    partial = sd.score_partial(run, data, shards=range(sd.RunDir(run).n_shards), **rules)
    total = Counters(found.n_units, found.n_concepts, found.n_categories)
    for arrays in partial.shards.values():
        total.merge(Counters.from_arrays(under_prefix("0", arrays)))
    for key, array in total.to_arrays().items():
        assert_array_equal(found.to_arrays()[key], array, err_msg=key, strict=True)


@pytest.mark.parametrize("rules", [{}, RULES, {"mask_test": "ge", "backend": "numba"}], ids=["plain", "others", "ge"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_counters_under_given_thresholds_are_those_of_scoring(dtype, rules, data, maps, net, tmp_path):
    flat = maps.copy()
    flat[:, 2] = 0  # a unit that is dead
    with sd.capture(
        net, ["act"], tmp_path / "run", n_images=N_IMAGES, data=data, dtype=dtype, tails=("1/20",), shard_images=12
    ) as cap:
        go(net, flat, cap, np.arange(N_IMAGES), 4)
    result = sd.score(tmp_path / "run", data, **rules)
    for batch, seed in ((7, 0), (1, 1), (N_IMAGES, 2)):
        order = np.random.default_rng(seed).permutation(N_IMAGES)
        monitor = sd.capture(
            *(net, ["act"], tmp_path / "lines.jsonl"),
            n_images=N_IMAGES,
            data=data,
            spill="none",
            thresholds=result,
            dtype=dtype,
            tails=("1/20",),
            rules=sd.ScoreOptions(**rules),
        )
        with monitor.step(batch) as watched:
            go(net, flat, watched, order, batch)
        assert_same_counters(monitor.counters["act"], tmp_path / "run", data, **rules)
    line = lines(tmp_path / "lines.jsonl")[-1]
    summary, found = result.layers["act"].summary, line["layers"]["act"]
    for key in ("detectors", "unique_top", "unique_by_category", "unique_any", "mean_best_iou", "upsample"):
        assert found[key] == summary[key], key
    best = result.units()[np.argsort(-result.units()["iou"], kind="stable")][:5]
    assert [(each["unit"], each["concept"], each["iou"]) for each in found["best"]] == [
        (int(row["unit"]), row["concept"], float(row["iou"])) for row in best
    ]
    assert (line["step"], line["images"], line["tail"]) == (N_IMAGES, N_IMAGES, "1/20")
    assert line["thresholds"] == {"kind": "fixed"} and 0 < line["overhead_seconds"] <= line["seconds"]
    assert found["share_above"]["median"] == pytest.approx(1 / 20, rel=0.01)
    assert found["share_above"]["least"] == 0, "the unit that is dead"


def test_running_thresholds_are_those_of_the_step_before(data, maps, net, tmp_path):
    out = tmp_path / "lines.jsonl"
    stronger = (1.5 * maps + 0.25).astype(np.float32)
    monitor = sd.capture(net, ["act"], out, n_images=N_IMAGES, data=data, spill="none", **SETTINGS)
    assert monitor.thresholds == {}
    everyone = np.arange(N_IMAGES)
    runs = [run_of(net, each, data, tmp_path / f"run{i}") for i, each in enumerate((maps, stronger))]
    results = [sd.score(run, data) for run in runs]
    with monitor.step(10):
        go(net, maps, monitor, everyone, 8)
    assert monitor.counters == {}, "there were no thresholds"
    assert_array_equal(monitor.thresholds["act"], results[0].thresholds["act"])
    with monitor:
        go(net, stronger, monitor, everyone[::-1], 5)
    before = sd.capture(
        *(net, ["act"], tmp_path / "fixed.jsonl"),
        n_images=N_IMAGES,
        data=data,
        spill="none",
        thresholds=results[0].thresholds,
        **SETTINGS,
    )
    with before:
        go(net, stronger, before, everyone, 8)
    for key, array in before.counters["act"].to_arrays().items():
        assert_array_equal(monitor.counters["act"].to_arrays()[key], array, err_msg=key)
    assert_array_equal(monitor.thresholds["act"], results[1].thresholds["act"])
    with monitor:
        go(net, stronger, monitor, everyone, N_IMAGES)
    assert_same_counters(monitor.counters["act"], runs[1], data)
    first, second, third = lines(out)
    assert first["thresholds"] == {"kind": "running", "of_step": None} and first["layers"] == {}
    assert second["thresholds"]["of_step"] == first["step"] == 10 and third["thresholds"]["of_step"] == 11
    shares = [line["layers"]["act"]["share_above"] for line in (second, third)]
    above = (stronger > results[0].thresholds["act"][:, None, None]).mean(axis=(0, 2, 3))
    assert shares[0] == {
        "least": above.min(),
        "median": pytest.approx(np.median(above)),
        "most": above.max(),
    }
    assert shares[0]["median"] > 0.06, "values grew, so more than the tail lies above"
    m = (N_IMAGES * 16 * 16) // 20
    assert shares[1]["most"] == m / (N_IMAGES * 16 * 16), "nothing moved: as many as the tail has"


def test_the_training_goes_on_as_if_nobody_looked(data, nets, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.last(self.first(x)).mean((2, 3))

    def train(look):
        torch.manual_seed(0)
        net = Net()
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        images = torch.stack([torch.from_numpy(data.image(i)).permute(2, 0, 1) / 255 for i in range(8)])
        monitor = sd.capture(net, ["first.2"], tmp_path / "m.jsonl", n_images=8, data=data, spill="none")
        for _ in range(3):
            net.train()
            nn.functional.cross_entropy(net(images), torch.arange(8) % 2).backward()
            optimiser.step()
            net.eval()
            net.last.train()  # a part that the loop leaves in training mode
            if look:
                random = torch.get_rng_state(), np.random.get_state()[1].copy()
                modes = [part.training for part in net.modules()]
                with monitor, monitor.images(range(8)), torch.inference_mode():
                    net(images)
                assert torch.equal(torch.get_rng_state(), random[0])
                assert_array_equal(np.random.get_state()[1], random[1])
                assert [part.training for part in net.modules()] == modes
            else:
                with torch.inference_mode():
                    net(images)
            assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
        return net.state_dict()

    for (name, looked), alone in zip(train(True).items(), train(False).values(), strict=True):
        assert torch.equal(looked, alone), name
    assert len(lines(tmp_path / "m.jsonl")) == 3


def test_a_step_that_is_cut_writes_nothing_and_is_forgotten(data, maps, net, tmp_path):
    out = tmp_path / "lines.jsonl"
    monitor = sd.capture(net, ["act"], out, n_images=N_IMAGES, data=data, spill="none", **SETTINGS)
    everyone = np.arange(N_IMAGES)
    with monitor.step(0):
        go(net, maps, monitor, everyone, 8)
    found = monitor.thresholds["act"].copy()
    with pytest.raises(ZeroDivisionError), monitor.step(1):
        go(net, 2 * maps, monitor, everyone[:16], 8)
        raise ZeroDivisionError
    with pytest.raises(sd.IncompleteRun, match=r"step 1: 39 of the 40 images"), monitor.step(1):
        go(net, 2 * maps, monitor, everyone[1:], 8)
    assert_array_equal(monitor.thresholds["act"], found)
    with monitor.step(1):
        go(net, maps, monitor, everyone, 8)
    assert monitor.counters["act"].n_images == N_IMAGES
    assert [line["step"] for line in lines(out)] == [0, 1]


def test_lines_are_appended_and_a_cut_one_is_left_behind(data, maps, net, tmp_path):
    out = tmp_path / "lines.jsonl"
    for ending in ("", '{"step": 0, "ima'):
        if ending:
            out.write_text(out.read_text() + ending)
        monitor = sd.capture(net, ["act"], out, n_images=4, data=data, spill="none", **SETTINGS)
        with monitor.step(7):
            go(net, maps, monitor, np.arange(4), 2)
    texts = out.read_text().splitlines()
    assert len(texts) == 3 and [json.loads(texts[i])["step"] for i in (0, 2)] == [7, 7]


def test_label_planes_beyond_the_memory_are_built_again(data, maps, net, tmp_path, monkeypatch):
    built = []
    real = type(data).labels
    monkeypatch.setattr(type(data), "labels", lambda self, i: built.append(i) or real(self, i))
    counted = []
    for memory, n in ((1 << 26, 8), (1 << 15, None)):
        options = {"n_images": 8, "data": data, "spill": "none", "thresholds": {"act": np.full(N_UNITS, 1.5)}}
        monitor = sd.capture(net, ["act"], tmp_path / "l.jsonl", memory=memory, **options, **SETTINGS)
        built.clear()
        for _ in range(2):
            with monitor:
                go(net, maps, monitor, np.arange(8), 4)
        assert len(built) == n if n else 8 < len(built) <= 16
        counted.append(monitor.counters["act"].to_arrays())
    for key, array in counted[0].items():
        assert_array_equal(counted[1][key], array)


@pytest.mark.parametrize(
    "named, words",
    [
        ({"thresholds": "walking"}, "'walking'"),
        ({"thresholds": {}}, "none of layer act"),
        ({"thresholds": {"act": np.full(N_UNITS, 0.1)}}, "float64 of layer act"),
        ({"thresholds": {"act": np.full(N_UNITS, np.nan)}, "rules": sd.ScoreOptions(mask_test="ge")}, "a Dissection"),
        ({"data": None}, "labelled dataset"),
        ({"tails": ("1/20", "1/200")}, "2 of them"),
        ({"top_images": 3}, "top_images: got 3"),
        ({"rules": sd.ScoreOptions(blocks=3)}, "blocks: got 3"),
        ({"rules": sd.ScoreOptions(tail=Fraction(1, 9))}, "tail: got"),
        ({"out": "."}, "a directory"),
        ({"spill": None, "rules": sd.ScoreOptions()}, "rules: got"),
    ],
)
def test_what_cannot_be_monitored_is_refused(named, words, data, net, tmp_path):
    given = {"out": tmp_path / "l.jsonl", "n_images": 4, "data": data, "spill": "none"} | named
    with pytest.raises(sd.BadInput) as error:
        sd.capture(net, ["act"], given.pop("out"), **given)
    assert words in str(error.value)


def test_what_comes_wrong_in_a_step_is_refused(data, maps, net, tmp_path):
    options = {"n_images": 8, "data": data, "spill": "none", **SETTINGS}
    short = sd.capture(net, ["act"], tmp_path / "l", thresholds={"act": np.zeros(3, np.float32)}, **options)
    with pytest.raises(sd.BadInput, match=r"thresholds: got \(3,\) for layer act"), short:
        go(net, maps, short, np.arange(4), 4)
    monitor = sd.capture(net, ["act"], tmp_path / "l", **options)
    with pytest.raises(sd.BadInput, match="a batch outside it"):
        go(net, maps, monitor, np.arange(4), 4)
    with pytest.raises(sd.BadInput, match="a step within a step"), monitor, monitor:
        pass
    with pytest.raises(sd.BadInput, match="step: got 'one'"):
        monitor.step("one")
    with pytest.raises(sd.BadInput, match="a batch of 8 x 8"), monitor:
        go(net, maps, monitor, np.arange(4), 4)
        go(net, maps[:, :, :8, :8], monitor, np.arange(4, 8), 4)
    net.train()
    with pytest.raises(sd.BadInput, match="training mode"), monitor:
        go(net, maps, monitor, np.arange(4), 4)
    net.eval()
    gone = sd.capture(net, ["act"], tmp_path / "nowhere" / "l", **options)
    with pytest.raises(sd.StorageFailure, match="nowhere"), gone:
        go(net, maps, gone, np.arange(8), 4)
    assert not (tmp_path / "l").exists()
