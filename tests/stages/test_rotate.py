"""Rotations of a run's units: what must stay the same, what must change, and that it can be stopped."""

import csv
import json
import shutil
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.rotations import RotationPowers, haar_rotation
from streamdissect.measure.rotationset import ARRAYS, COUNTS, HAAR
from streamdissect.stages.alignment_figures import draw_rotations
from streamdissect.stages.control import Control
from streamdissect.store.alignment import load_rotations

from .planted import N_UNITS, SINGLE, planted_maps, scenes, store_maps

CONTROLS = ("permutation", "scaling", "signed-permutation", "givens", "pca", "near-identity", "standardised")
FEW = {"alphas": (0, 0.5, 1), "seeds": 3, "seeds_between": 2}


@pytest.fixture(scope="module")
def data():
    return scenes()


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A scored run of 24 units, two of them detectors by construction."""
    out = tmp_path_factory.mktemp("rotate") / "run"
    store_maps(planted_maps(data), data, out)
    return out


@pytest.fixture(scope="module")
def found(run, data):
    return sd.rotate(run, data, **FEW, controls=(*CONTROLS, "relu-after"))


@pytest.fixture
def no_libraries(monkeypatch):
    """All of the memory is for the work, however little it is."""
    monkeypatch.setattr("streamdissect.stages.scored_work.LIBRARIES", 0)
    monkeypatch.setattr("streamdissect.stages.rotate.POWER_MATRICES", 0)


def copy_of(run, tmp_path):
    """The same run, not rotated."""
    out = tmp_path / "run"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("rotate", "rotate-*"))
    return out


def rows_of(layer, kind, value=None):
    return [i for i, each in enumerate(layer.rotations) if each.kind == kind and value in (None, each.value)]


def assert_same(one, other):
    for name, layer in one.layers.items():
        assert layer.rotations == other.layers[name].rotations
        for key in ARRAYS:
            assert_array_equal(getattr(layer, key), getattr(other.layers[name], key), err_msg=key)


def test_no_rotation_is_the_score_bitwise(run, data, found):
    plain, layer = sd.score(run, data).layer(), found.layers["act"]
    for name in ("threshold", "intersection", "unit_area", "unit_area_all", "best_concept", "best_iou", "is_detector"):
        assert_array_equal(getattr(layer, name)[0], getattr(plain, name), err_msg=name)
    assert layer.counts[0].tolist() == [plain.summary[name] for name in COUNTS]
    assert layer.by_category[0].tolist() == list(plain.summary["unique_by_each_category"].values())


@pytest.mark.parametrize("kind", ["permutation", "scaling"])
def test_what_leaves_axes_where_they_are_changes_no_count(kind, found):
    layer = found.layers["act"]
    rows = rows_of(layer, kind)
    assert len(rows) == 2
    for row in rows:
        assert_array_equal(layer.counts[row], layer.counts[0])
        assert_array_equal(np.sort(layer.best_iou[row]), np.sort(layer.best_iou[0]))
        assert not np.array_equal(layer.threshold[row], layer.threshold[0])
        assert layer.mean_best_iou[row] == pytest.approx(layer.mean_best_iou[0], rel=1e-14)


def test_a_quarter_turn_of_two_axes_changes_one_of_them_only(found):
    layer = found.layers["act"]
    (row,) = rows_of(layer, "givens", 90.0)
    turned = sorted(map(tuple, layer.intersection[row].tolist()))
    plain = sorted(map(tuple, layer.intersection[0].tolist()))
    assert sum(each in plain for each in turned) == N_UNITS - 1
    (still,) = rows_of(layer, "givens", 0.0)
    assert_array_equal(layer.intersection[still], layer.intersection[0])


def test_turning_units_round_empties_those_that_detect(found):
    layer = found.layers["act"]
    for row in rows_of(layer, "signed-permutation"):
        assert layer.counts[row, 0] <= layer.counts[0, 0]


def test_loud_units_drown_a_detector_unless_units_are_standardised(data, tmp_path):
    maps = planted_maps(data)
    maps[:, np.arange(N_UNITS) != SINGLE] *= 32
    store_maps(maps, data, tmp_path / "run")
    found = sd.rotate(tmp_path / "run", data, alphas=(0, 1), seeds=3, seeds_between=3, controls=("standardised",))
    layer, cloud = found.layers["act"], found.concept_name.index("cloud")
    detected = layer.intersection[:, :, cloud].max(axis=1)  # all masks cover about as much
    whole, standardised = rows_of(layer, HAAR, 1.0), rows_of(layer, "standardised")
    assert detected[whole].max() < 0.7 * detected[0]
    assert detected[whole].max() < detected[standardised].min()


def test_a_little_rotation_changes_little(found):
    layer = found.layers["act"]
    best = layer.best_iou.max(axis=1)
    assert (best[rows_of(layer, "near-identity", 0.1)] > 0.95 * best[0]).all()


def test_rotated_thresholds_and_counts_are_those_of_the_definition(run, data, found):
    """Thresholds by sorting float64 sums; counts by scoring the same matrix from a file."""
    maps = planted_maps(data).astype(np.float64)
    layer = found.layers["act"]
    for alpha, seed in ((1.0, 2), (0.5, 1)):
        matrix = RotationPowers.of(haar_rotation(N_UNITS, seed)).power(alpha)
        (row,) = [i for i in rows_of(layer, HAAR, alpha) if layer.rotations[i].seed == seed]
        sums = np.einsum("dk,nkhw->dnhw", matrix, maps).reshape(N_UNITS, -1)
        expected = np.sort(sums, axis=1)[:, -sums.shape[1] // 20 - 1]
        np.testing.assert_allclose(layer.threshold[row], expected, rtol=1e-5)
        path = run.parent / f"q{seed}.npy"
        np.save(path, matrix.astype(np.float32))
        scored = sd.score(run, data, directions=path, name=f"q{seed}").layer()
        for name in ("threshold", "intersection", "unit_area", "is_detector"):
            assert_array_equal(getattr(layer, name)[row], getattr(scored, name), err_msg=name)


def test_too_little_memory_is_refused_with_numbers(run, data, tmp_path):
    with pytest.raises(sd.BadInput, match=r"expected at least 218214400: 218103808 of libraries, 110592 of a rotation"):
        sd.rotate(copy_of(run, tmp_path), data, memory=218_214_399)


def test_results_do_not_depend_on_workers_memory_or_threads(run, data, tmp_path, no_libraries):
    plain = sd.rotate(copy_of(run, tmp_path / "plain"), data, **FEW, threads=2)
    for i, named in enumerate([{"memory": 60_000, "threads": 1}, {"memory": 400_000, "threads": 3}]):
        assert_same(plain, sd.rotate(copy_of(run, tmp_path / str(i)), data, **FEW, **named))
    shared = copy_of(run, tmp_path / "shared")
    assert sd.rotate(shared, data, **FEW, shard=(1, 2), memory=300_000) is None
    assert_same(plain, sd.rotate(shared, data, **FEW, shard=(0, 2)))


class Stopping(Control):
    """Asks to stop after so many looks."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left == 0:
            self.stop()
        super().check()


def test_a_stopped_experiment_goes_on(run, data, found, tmp_path, no_libraries):
    out = copy_of(run, tmp_path)
    finished = []
    for n in (3, 30, 40):
        with pytest.raises(sd.Stopped):
            sd.rotate(out, data, **FEW, memory=300_000, control=Stopping(n))
        assert not (out / "rotate" / "rotate.h5").exists()
        finished.append(len(list((out / "partial" / "rotate").glob("[0-9]*.json"))))
    assert 0 == finished[0] < finished[1] < finished[2], finished
    again = sd.rotate(out, data, **FEW, memory=300_000)
    layer, whole = again.layers["act"], found.layers["act"]
    for i, each in enumerate(layer.rotations):
        assert_array_equal(layer.intersection[i], whole.intersection[whole.rotations.index(each)])


def test_files_hold_what_is_returned(run, found):
    with h5py.File(run / "rotate" / "rotate.h5") as file:
        group = file["layers/act"]
        for name in ARRAYS:
            assert_array_equal(group[name][()], getattr(found.layers["act"], name), err_msg=name)
        assert list(group["kind"].asstr()[()]) == [each.kind for each in found.layers["act"].rotations]
        assert list(group["seed"][()]) == [each.seed for each in found.layers["act"].rotations]
        assert json.loads(file.attrs["about"])["seeds"] == 3
    with open(run / "rotate" / "rotate.csv") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["detectors"]) for line in lines] == found.layers["act"].counts[:, 0].tolist()
    charts = {path.name for path in (run / "rotate" / "figures").iterdir()}
    assert charts == {"act-counts.svg", "act-categories.svg", "act-controls.svg"}
    svg = (run / "rotate" / "figures" / "act-counts.svg").read_text()
    circles = [each for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("circle")]
    n_uniform = sum(each.kind == HAAR for each in found.layers["act"].rotations)
    assert len(circles) == n_uniform + 1  # a dot for each rotation, one in the legend


def test_what_was_written_is_read_again_whole(run, found, tmp_path):
    read = load_rotations(run / "rotate")
    assert_same(found, read)
    assert repr(read.summary()) == repr(found.summary())
    assert (read.concept_name, read.category_name) == (found.concept_name, found.category_name)
    assert read.about == found.about and read.layers["act"].attributes == found.layers["act"].attributes
    draw_rotations(read, tmp_path)
    for chart in (run / "rotate" / "figures").iterdir():
        assert (tmp_path / chart.name).read_text() == chart.read_text()


def test_a_damaged_file_is_refused(run, tmp_path):
    with pytest.raises(sd.BadInput, match="run: streamdissect rotate"):
        load_rotations(tmp_path)
    shutil.copy(run / "rotate" / "rotate.h5", tmp_path)
    with h5py.File(tmp_path / "rotate.h5", "r+") as file:
        del file["layers/act/counts"]
        file["layers/act/counts"] = np.zeros((1, 4), np.int64)
    with pytest.raises(sd.IncompleteRun, match="counts has 1 rows"):
        load_rotations(tmp_path)


def test_other_terms_need_a_new_start(run, data, found):
    with pytest.raises(sd.BadInput, match="--seeds: got 4, expected 3"):
        sd.rotate(run, data, **FEW | {"seeds": 4}, controls=(*CONTROLS, "relu-after"))


def test_the_command_prints_a_table(nets, data, command, tmp_path):
    out = tmp_path / "run"
    command("extract", "--model", f"{nets}:build", "--data", data.spec, "--layers", "block1.act", "--out", out,
            "--tail", "1/20", check=0)  # fmt: skip
    refused = command("rotate", out, check=2)
    assert "not scored" in refused.stderr and "streamdissect score" in refused.stderr
    command("score", out, check=0)
    done = command("rotate", out, "--alphas", "0:1:0.5", "--seeds", 2, "--seeds-between", "1", "--control",
                   "permutation", check=0)  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines[2:6]] == [
        ["haar", "0", "1"], ["haar", "0.5", "1"], ["haar", "1", "2"], ["permutation", "1", "1"],
    ]  # fmt: skip
    again = command("rotate", out, "--alphas", "0,0.5,1", "--seeds", 2, "--seeds-between", "1", "--control",
                    "permutation", "--json", check=0)  # fmt: skip
    assert len(json.loads(again.stdout)["summary"]) == 5 * 4


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--alphas", "0:2:1"], "--alphas"),
        (["--alphas", "1:0:0.2"], "--alphas"),
        (["--alphas", "words"], "--alphas: got 'words', expected 0:1:0.2, or numbers by commas"),
        (["--control", "spin"], "--control: got 'spin', expected one of permutation"),
        (["--control", "givens,givens"], "expected each once"),
        (["--layers", "other"], "--layers: got 'other', expected layers of the run: act"),
        (["--seeds", "0"], "--seeds"),
        (["--name", "absent"], "not scored under that name"),
    ],
)
def test_wrong_options_are_refused_in_one_line(run, data, capsys, arguments, expected):
    code = main(["rotate", str(run), "--data", data.spec, *arguments])
    error = capsys.readouterr().err
    assert code == 2 and expected in error and error.count("\n") == 1, error


def test_a_scoring_of_directions_is_not_rotated(run, data, tmp_path):
    np.save(tmp_path / "eye.npy", np.eye(N_UNITS))
    sd.score(run, data, directions=tmp_path / "eye.npy", name="eye")
    with pytest.raises(sd.BadInput, match="a scoring of directions"):
        sd.rotate(run, data, name="eye")


def test_a_run_without_activations_is_refused(nets, scenes, tmp_path):
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, ["block1.act"], out, spill="none", tails=("1/10",))
    sd.score(out)
    with pytest.raises(sd.BadInput, match="--spill full"):
        sd.rotate(out)
