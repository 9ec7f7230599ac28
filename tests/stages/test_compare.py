"""Comparing runs: what the tables say of them, what may not be compared, how runs are named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.comparison import detected_concepts, measure_layer
from streamdissect.stages.compare import ask, compare_runs

from .planted import N_UNITS, planted_maps, scenes, store_maps


@pytest.fixture(scope="module")
def data():
    return scenes()


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Two runs whose units carry concepts, the second with its units in another order, and one of noise alone."""
    folder = tmp_path_factory.mktemp("compare")
    store_maps(planted_maps(data), data, folder / "one")
    store_maps(planted_maps(data, order=np.random.default_rng(1).permutation(N_UNITS)), data, folder / "two")
    store_maps(planted_maps(data, strength=0.0), data, folder / "noise")
    return folder


@pytest.fixture(scope="module")
def groups(folder):
    return {"planted": [folder / "one", folder / "two"], "noise": folder / "noise"}


@pytest.fixture(scope="module")
def found(groups):
    return compare_runs(groups)


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_layer_in_numbers_is_what_its_scoring_says(folder):
    result = sd.score(folder / "one", scenes())
    layer = result.layers["act"]
    numbers = measure_layer(result, "act")
    assert numbers["detectors"] == layer.is_detector.sum() > 0
    assert numbers["detector_share"] == layer.is_detector.mean()
    by_category = [numbers[f"unique_{category}"] for category in result.category_name]
    assert sum(by_category) == numbers["unique_by_category"] == layer.summary["unique_by_category"]
    detects, best = detected_concepts(result, "act")
    assert detects.sum() == layer.summary["unique_any"] > 0
    np.testing.assert_array_equal(detects, (layer.iou > 1 / 25).any(axis=0))
    np.testing.assert_array_equal(best, layer.iou.max(axis=0))


def test_units_in_another_order_give_the_same_numbers(found):
    (planted,) = found.of("planted")
    one, two = planted.members
    assert one.measures.keys() == two.measures.keys()
    assert one.measures == pytest.approx(two.measures, rel=1e-12, abs=0)  # a mean of floats in another order
    np.testing.assert_array_equal(one.detects, two.detects)
    assert planted.spread("detectors").std == 0


def test_planted_concepts_are_lost_in_noise(found):
    changes = {each.concept: each for each in found.concepts()}
    assert changes["cloud"].change == changes["tree"].change == "lost"
    assert (changes["tree"].base_detecting, changes["tree"].detecting, changes["tree"].runs) == (2, 0, 1)
    assert changes["tree"].base_best_iou > 0.04 > changes["tree"].best_iou
    by_name = {each.measure: each for each in found.differences()}
    assert by_name["detectors"].difference < 0


def test_tables_hold_what_the_comparison_says(groups, found, tmp_path):
    out = tmp_path / "compare"
    again = sd.compare(groups, out=out)
    compared, runs = read_rows(out / "compare.csv"), read_rows(out / "runs.csv")
    assert [(row["group"], row["runs"]) for row in compared] == [("planted", "2"), ("noise", "1")]
    assert [float(row["detectors"]) for row in compared] == [row.spread("detectors").mean for row in found.rows]
    assert compared[0]["detectors_std"] == "0.0" and compared[1]["detectors_std"] == ""
    assert [Path(row["run"]).name for row in runs] == ["one", "two", "noise"]
    concepts = read_rows(out / "concepts.csv")
    assert [row["change"] for row in concepts if row["concept"] == "cloud"] == ["lost"]
    kept = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert len(kept["differences"]) == len(again.differences()) == len(read_rows(out / "differences.csv"))
    assert kept["compare"][1]["detectors_std"] is None and kept["about"]["images"] == 40


def test_experiments_are_compared_where_they_were_made(data, folder, tmp_path):
    for name in ("one", "two", "noise"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("one", "noise"):
        sd.rotate(tmp_path / name, data, alphas=(0, 1), seeds=2)
        sd.pca(tmp_path / name, data, min_images=2)
    rotations = sd.rotate(tmp_path / "one", data, alphas=(0, 1), seeds=2)
    found = compare_runs({"planted": [tmp_path / "one", tmp_path / "two"], "noise": tmp_path / "noise"})
    (planted,) = found.of("planted")
    (counted,) = {planted.spread(name).n for name in ("rotated_unique", "axis-aligned_share", "mean_loading")}
    assert counted == 1 and planted.spread("detectors").n == 2
    before, *after = rotations.layers["act"].counts[:, 2].tolist()
    assert planted.spread("rotated_unique").values == (np.mean(after),)
    assert planted.spread("rotation_drop").values == (pytest.approx(1 - np.mean(after) / before),)
    verdicts = [row["verdict"] for row in sd.pca(tmp_path / "one", data, min_images=2).rows()]
    present = [verdict for verdict in verdicts if verdict != "absent"]
    expected = present.count("axis-aligned") / len(present)
    assert planted.spread("axis-aligned_share").values == (expected,) and expected > 0
    assert found.notes == ()
    sd.pca(tmp_path / "noise", data, min_images=3, overwrite=True)
    other = compare_runs({"planted": tmp_path / "one", "noise": tmp_path / "noise"})
    (note,) = other.notes
    assert note.startswith("pca is left out") and "min_images" in note
    assert "mean_loading" not in other.measures and "rotated_unique" in other.measures


def test_runs_are_named_by_words(folder):
    one, two, noise = (str(folder / name) for name in ("one", "two", "noise"))
    asked = ask([f"planted={one},{two}", f"{noise}@act"])
    assert [(each.group, each.run, each.layer) for each in asked] == [
        ("planted", one, None),
        ("planted", two, None),
        (f"{noise}@act", noise, "act"),
    ]
    assert [each.group for each in ask([f"{one},{two}"])] == [one, two]


def test_a_lone_path_is_one_run(folder):
    for run in (folder / "one", str(folder / "one")):
        assert compare_runs(run).groups == (str(folder / "one"),)


def test_groups_without_a_layer_in_common_are_noted_not_paired(folder, nets, data, tmp_path):
    sd.extract(f"{nets}:build", data, ["block1.act", "block2.act"], tmp_path / "run", tails=("1/20",))
    sd.score(tmp_path / "run", data)
    found = compare_runs({"a": folder / "one", "b": tmp_path / "run"})
    assert found.notes == ("b has no layer in common with a: name one of each, as RUN@LAYER",)
    assert found.differences() == [] and len(found.rows) == 3
    named = compare_runs({"a": folder / "one", "b": f"{tmp_path / 'run'}@block2.act"})
    assert named.notes == () and {each.layer for each in named.differences()} == {"block2.act"}


def test_a_run_whose_name_has_signs_of_groups_is_that_run(data, tmp_path):
    odd = tmp_path / "lr=0.1,seed@2"
    store_maps(planted_maps(data), data, odd)
    (only,) = ask([str(odd)])
    assert (only.group, only.run, only.layer) == (str(odd), str(odd), None)
    assert compare_runs({"a": odd}).groups == ("a",)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "runs: got none"),
        (["a="], "GROUP=RUN,RUN"),
        (["=one"], "GROUP=RUN,RUN"),
        (["a=one,one"], "one twice in group 'a'"),
        (["a=one,./one"], "./one twice in group 'a'"),
        (["a=one,one@act"], "one twice in group 'a'"),
        (["a=one", "a=two"], "'a' twice"),
        (["one@other"], "got layer 'other', expected one of its layers: act"),
        (["one", "--layers", "other"], "--layers: got"),
        (["absent"], "no such directory"),
        (["one", "--name", "absent"], "score"),
        (["one", "--out", "one"], "nothing in it but what compare wrote"),
    ],
)
def test_wrong_words_are_refused_in_one_line(folder, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(folder)
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1, error
    assert not (folder / "compare").exists()


def test_the_command_prints_what_was_gained_and_lost(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert main(["compare", "planted=one,two", "noise", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "lost against planted" in text and "cloud" in text and (out / "index.html").exists()
    assert main(["compare", "planted=one,two", "noise", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"out": str(out)} | json.loads((out / "compare.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "named, expected",
    [
        ({"iou": "1/10"}, "--iou: got '1/10', expected '1/25', as in run"),
        ({"tail": "1/30"}, "--tail"),
        ({"union": "all-images"}, "--union"),
        ({"unlabelled": "ignore"}, "--unlabelled"),
        ({"mask_test": "ge"}, "--mask-test"),
    ],
)
def test_runs_scored_by_other_rules_are_not_compared(data, folder, tmp_path, named, expected):
    other = tmp_path / "other"
    store_maps(planted_maps(data), data, other, tails=("1/20", "1/30"))
    sd.score(other, data, overwrite=True, **named)
    with pytest.raises(sd.BadInput, match=expected):
        compare_runs({"a": folder / "one", "b": other})


def test_runs_on_other_images_are_not_compared(folder, tmp_path):
    other = sd.data.synthetic.SyntheticScenes(40, seed=6, size=64)
    store_maps(planted_maps(other), other, tmp_path / "run")
    with pytest.raises(sd.BadInput, match=r"labels of the data \(digest\).*same images and labels"):
        compare_runs({"a": folder / "one", "b": tmp_path / "run"})


def test_upsampling_counts_as_it_was_done_not_as_it_was_asked_for(data, folder, tmp_path):
    store_maps(planted_maps(data), data, tmp_path / "run")
    sd.score(tmp_path / "run", data, name="same", upsample="rf")
    sd.score(tmp_path / "run", data, name="other", upsample="half_pixel")
    shutil.copytree(folder / "one", tmp_path / "one")
    for name in ("same", "other"):
        shutil.copytree(folder / "one", tmp_path / "one" / "scores" / name)
    assert len(compare_runs({"a": tmp_path / "one", "b": tmp_path / "run"}, name="same").rows) == 2
    with pytest.raises(sd.BadInput, match="layer act, --upsample: got 'half_pixel', expected 'rf'"):
        compare_runs({"a": tmp_path / "one", "b": tmp_path / "run"}, name="other")


def test_what_is_kept_beside_results_may_differ(data, folder, tmp_path):
    other = tmp_path / "run"
    store_maps(planted_maps(data), data, other)
    sd.score(other, data, overwrite=True, blocks=4)
    assert len(compare_runs({"a": folder / "one", "b": other}).rows) == 2
