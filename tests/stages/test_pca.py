"""Leading directions of concepts in a run whose activations are planted: what must be found, and by whom."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.alignment import VERDICTS
from streamdissect.options import CommonOptions
from streamdissect.stages.alignment_figures import draw_alignment
from streamdissect.stages.blocks import blocks_of
from streamdissect.stages.control import Control
from streamdissect.stages.pca_moments import moments_bytes, plan_memory
from streamdissect.stages.scored_work import LIBRARIES, open_scored_work
from streamdissect.store.activations import ActivationStore
from streamdissect.store.alignment import load_alignment, load_rotations

from .planted import MIXED, N_UNITS, SINGLE, covers, planted_maps, scenes, store_maps

CONCEPTS = ("cloud", "tree", "house")


@pytest.fixture(scope="module")
def data():
    return scenes()


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("pca") / "run"
    store_maps(planted_maps(data), data, out)
    return out


@pytest.fixture(scope="module")
def found(run, data):
    return sd.pca(run, data)


@pytest.fixture
def one_by_one(monkeypatch):
    """A concept to a read, and no room for the maps of directions."""
    monkeypatch.setattr("streamdissect.stages.pca_experiment.MOST_TOGETHER", 1)
    monkeypatch.setattr("streamdissect.stages.directed.KEPT_PART", 1 << 40)


@pytest.fixture
def reads(monkeypatch):
    """Rows of the store that were read so far."""
    rows = []
    chunks, read = ActivationStore.iter_chunks, ActivationStore.read

    def iter_chunks(store, layer, rows_, most_bytes):
        for part, maps in chunks(store, layer, rows_, most_bytes):
            rows.extend(part)
            yield part, maps

    def read_rows(store, layer, part):
        rows.extend(part)
        return read(store, layer, part)

    monkeypatch.setattr(ActivationStore, "iter_chunks", iter_chunks)
    monkeypatch.setattr(ActivationStore, "read", read_rows)
    return rows


def copy_of(run, out):
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("pca", "pca-*"))
    return out


def row_of(found, concept):
    return next(row for row in found.rows() if row["concept"] == concept)


def standard_samples(data, concept, rows=None):
    """z of every cell that a concept covers by half, from the definition; and how many images have some."""
    maps = planted_maps(data).astype(np.float64)
    mean, std = maps.mean(axis=(0, 2, 3)), maps.std(axis=(0, 2, 3))
    chosen = range(len(maps)) if rows is None else rows
    cells = [(maps[i].transpose(1, 2, 0)[covers(data, i, concept) >= 0.5] - mean) / std for i in chosen]
    return np.concatenate(cells), sum(len(each) > 0 for each in cells)


def same(one, other):
    """Every array of two results."""
    assert one.concept_name == other.concept_name
    for name, layer in one.layers.items():
        for key in ("samples", "images", "mean", "std", "shift", "iou_rank", "detects", "is_best_unit"):
            assert_array_equal(getattr(layer, key), getattr(other.layers[name], key), err_msg=key)
        for key, variant in layer.variants.items():
            match = other.layers[name].variants[key]
            for field in ("values", "vectors", "diagonal", "adjusted_p", "subsets_p"):
                assert_array_equal(getattr(variant, field), getattr(match, field), err_msg=f"{key} {field}")
        assert layer.carriers.united == other.layers[name].carriers.united
        assert_array_equal(layer.carriers.direction_iou, other.layers[name].carriers.direction_iou)


def test_directions_are_those_of_all_samples_at_once(data, found):
    layer = found.layers["act"]
    for concept in CONCEPTS:
        c = found.concept_name.index(concept)
        samples, n_images = standard_samples(data, concept)
        assert (layer.samples[c], layer.images[c]) == (len(samples), n_images)
        assert_allclose(layer.shift[c], samples.mean(axis=0), atol=1e-9)
        for variant, moment in (
            ("uncentred", samples.T @ samples / len(samples)),
            ("centred", np.cov(samples.T, bias=True)),
        ):
            values, vectors = np.linalg.eigh(moment)
            ours = layer.variants[variant]
            assert_allclose(ours.values[c], values[::-1][:10], rtol=1e-9)
            assert_allclose(ours.diagonal[c], np.diag(moment), rtol=1e-9)
            assert abs(ours.leading[c] @ vectors[:, -1]) == pytest.approx(1, abs=1e-9)


def test_a_concept_of_one_unit_and_one_of_four_are_told_apart(found):
    cloud, tree = row_of(found, "cloud"), row_of(found, "tree")
    assert (cloud["unit"], cloud["verdict"]) == (SINGLE, "axis-aligned")
    assert cloud["loading"] > 0.95 and cloud["participation"] < 1.2
    assert cloud["iou_rank"] == 1 and cloud["is_best_unit"]
    assert tree["unit"] in MIXED and tree["ratio"] < 1.5
    assert tree["participation"] == pytest.approx(4, rel=0.05)
    assert cloud["adjusted_p"] < 1e-6


def test_the_unit_of_a_concept_is_exclusive_where_it_serves_no_other(run, data, tmp_path):
    maps = planted_maps(data, strength=0.0)
    for i in range(len(maps)):
        maps[i, SINGLE] += 10 * ((covers(data, i, "tree") >= 0.5) | (covers(data, i, "cloud") >= 0.5))
    store_maps(maps, data, tmp_path / "run")
    both = sd.pca(tmp_path / "run", data, concepts=("cloud", "tree"))
    alone = sd.pca(copy_of(run, tmp_path / "alone"), data, concepts=("cloud", "tree"))
    assert row_of(alone, "cloud")["exclusive"] and not row_of(both, "cloud")["exclusive"]
    assert row_of(both, "cloud")["exclusive_share"] < row_of(alone, "cloud")["exclusive_share"]
    assert row_of(both, "cloud")["next_concept"] == "tree"


def test_what_carries_a_concept_is_judged_on_the_other_half(data, run, found, tmp_path):
    """The half that fits alone decides; IoU is that of the directions as units, on the images of the other."""
    names = sd.score(run, data).image_name
    half = blocks_of(names, 2, "name")
    assert 5 < half.sum() < len(half) - 5
    c = found.concept_name.index("tree")
    carriers = found.layers["act"].carriers
    assert carriers.unit[c] in MIXED and set(carriers.united[c]) <= set(range(N_UNITS))
    samples, _ = standard_samples(data, "tree", np.flatnonzero(half == 0))
    leading = np.linalg.eigh(samples.T @ samples)[1][:, -1]
    leading *= np.sign(leading @ samples.mean(axis=0))
    maps = planted_maps(data).astype(np.float64)
    std = maps.std(axis=(0, 2, 3))
    mean = maps.mean(axis=(0, 2, 3))
    weight = (leading / std)[None]
    np.save(tmp_path / "w.npy", weight.astype(np.float32))
    np.save(tmp_path / "b.npy", (-weight @ mean).astype(np.float32))
    result = sd.score(run, data, directions=tmp_path / "w.npy", bias=tmp_path / "b.npy", name="direction")
    plain = sd.score(run, data)

    def held_iou(result, units):
        """Of the union of some units' masks, on the images that judge."""
        intersection = union = 0
        number = data.concepts.number[data.concepts.name.index("tree")]
        for i in np.flatnonzero(half == 1).tolist():
            pixels = np.any([layer == number for _, layer in data.labels(i).layers], axis=0)
            mask = np.any([result.mask(i, "act", unit) for unit in units], axis=0)
            intersection, union = intersection + (mask & pixels).sum(), union + (mask | pixels).sum()
        return intersection / union

    assert carriers.direction_iou[c] == pytest.approx(held_iou(result, [0]), abs=2e-3)
    assert carriers.unit_iou[c] == pytest.approx(held_iou(plain, [int(carriers.unit[c])]), rel=1e-12)
    assert carriers.united_iou[c] == pytest.approx(held_iou(plain, carriers.united[c]), rel=1e-12)


def test_permuting_units_permutes_what_is_found(data, found, tmp_path):
    order = np.random.default_rng(3).permutation(N_UNITS)
    store_maps(planted_maps(data, order), data, tmp_path / "run")
    permuted = sd.pca(tmp_path / "run", data)
    plain, other = found.layers["act"].variants["uncentred"], permuted.layers["act"].variants["uncentred"]
    known = plain.statistics.unit >= 0
    assert_array_equal(plain.statistics.unit[known], order[other.statistics.unit[known]])
    assert_allclose(other.leading[known], plain.leading[known][:, order], atol=1e-7)
    assert_allclose(other.statistics.participation, plain.statistics.participation, rtol=1e-7)


def test_rescaling_units_changes_nothing(data, found, tmp_path):
    scale = (2.0 ** np.random.default_rng(4).integers(-3, 4, N_UNITS)).astype(np.float32)
    store_maps(planted_maps(data) * scale[:, None, None], data, tmp_path / "run")
    scaled = sd.pca(tmp_path / "run", data)
    assert_allclose(
        scaled.layers["act"].variants["uncentred"].leading,
        found.layers["act"].variants["uncentred"].leading,
        atol=1e-7,
    )


def test_a_constant_unit_is_left_out(data, tmp_path):
    maps = planted_maps(data)
    maps[:, 5] = 7
    store_maps(maps, data, tmp_path / "run")
    found = sd.pca(tmp_path / "run", data, concepts=("cloud",)).layers["act"]
    assert found.std[5] == 0 and not found.variants["uncentred"].vectors[0, 5].any()
    assert found.variants["uncentred"].statistics.unit[0] == SINGLE


def test_results_do_not_depend_on_threads(run, data, found, tmp_path):
    same(found, sd.pca(copy_of(run, tmp_path / "many"), data, threads=3))


def test_results_do_not_depend_on_workers_or_memory(run, data, found, tmp_path, one_by_one):
    same(found, sd.pca(copy_of(run, tmp_path / "small"), data, threads=1))
    shared = copy_of(run, tmp_path / "shared")
    assert sd.pca(shared, data, shard=(0, 2)) is None
    same(found, sd.pca(shared, data, shard=(1, 2)))


def test_all_concepts_take_one_read_of_the_store_and_the_contest_another(run, data, found, tmp_path, reads):
    """As many as the street scenes have; both centrings, the analytic null, loadings and verdicts, then the contest."""
    out, n, said = copy_of(run, tmp_path / "run"), len(data), []

    class Listening(Control):
        def say(self, text):
            said.append((text, len(reads)))

    few = sd.pca(out, data, concepts=found.concept_name[:29], control=Listening())
    assert said == [("layer act: a pass over the activations for the concepts' directions as units", n)]
    assert reads == [*range(n), *range(n)]
    for name, variant in found.layers["act"].variants.items():
        assert_array_equal(few.layers["act"].variants[name].vectors, variant.vectors[:29])
    assert_array_equal(few.layers["act"].carriers.united_iou, found.layers["act"].carriers.united_iou[:29])


def test_the_contest_takes_one_more_read_where_maps_cannot_be_kept(run, data, found, tmp_path, reads, one_by_one):
    same(found, sd.pca(copy_of(run, tmp_path / "run"), data))
    assert len(reads) == (len(found.concept_name) + 2) * len(data)


def test_memory_is_planned_in_bytes(run, data):
    """So many threads and then so many concepts as fit; where not even one does, it is said what is needed."""
    work = open_scored_work(run, data, None, None, CommonOptions(memory=1 << 30), "look at", Control())
    plans = {}
    for mib in (3, 6, 8, 64):
        work.memory = mib << 20
        plans[mib] = plan = plan_memory(work, 0, 2)
        assert plan.together >= 1
        assert plan.working_bytes + plan.together * moments_bytes(N_UNITS) <= work.memory
    assert plans[3].threads == 1 and plans[8].threads == plans[64].threads == 2
    assert plans[64].together - plans[8].together == pytest.approx((56 << 20) / moments_bytes(N_UNITS), abs=1)
    work.memory = 1 << 20
    with pytest.raises(
        sd.BadInput, match=r"--memory: got \d+ bytes too few, expected at least \d+: 218103808 of libraries"
    ):
        plan_memory(work, 0, 2)


PEAK = """
import sys, threading
import streamdissect as sd
from streamdissect.store.activations import ActivationStore
run, data, memory = sys.argv[1:]
peak, n_rows, is_over = 0, 0, threading.Event()
chunks = ActivationStore.iter_chunks

def iter_chunks(*where):
    global n_rows
    for part, maps in chunks(*where):
        n_rows += len(part)
        yield part, maps

def watch():
    global peak
    while not is_over.wait(0.01):
        with open("/proc/self/smaps_rollup") as file:
            sizes = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith("Pss")}
        peak = max(peak, sizes["Pss:"] - sizes["Pss_File:"])  # the page cache aside

ActivationStore.iter_chunks = iter_chunks
watcher = threading.Thread(target=watch)
watcher.start()
sd.pca(run, data, memory=int(memory), threads=2, overwrite=True)
is_over.set()
watcher.join()
print(peak * 1024, n_rows)
"""


def peak_of(run, data, memory):
    """Bytes at the most while all concepts are looked at in a process of their own, and rows that were read."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("no account of a process's memory here")
    call = [sys.executable, "-c", PEAK, str(run), str(data), str(memory)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


def test_the_peak_is_within_the_memory(data, tmp_path):
    maps = np.random.default_rng(0).normal(size=(len(data), 400, 16, 16)).astype(np.float32)
    store_maps(maps, data, tmp_path / "run")
    for memory, n_reads in ((400 << 20, 3), (304 << 20, None)):
        peak, n_rows = peak_of(tmp_path / "run", data.spec, memory)
        assert 0.4 * memory < peak <= memory
        assert n_reads is None or n_rows == n_reads * len(data)  # 32 of 62 concepts to a read, and the contest


@pytest.mark.long
def test_the_street_scenes_take_one_read_within_600_megabytes(shared, tmp_path):
    """All 29 concepts at 576 units; in 330 MB, too, by more reads."""
    net, scenes = shared / "models" / "mobilenet.py", shared / "data" / "camvid-broden"
    weights = str(shared / "models" / "mobilenet_v2_imagenet.safetensors")
    named = {"input_size": (240, 320), "mean": (128 / 255,) * 3, "std": (128 / 255,) * 3, "weights": weights}
    sd.extract(f"{net}:mobilenet_v2", scenes, ["features.14.expand.act"], tmp_path / "run", **named)
    n_images = len(sd.score(tmp_path / "run").image_name)
    peak, n_rows = peak_of(tmp_path / "run", scenes, 600_000_000)
    assert peak <= 600_000_000 and n_rows == 2 * n_images
    peak, n_rows = peak_of(tmp_path / "run", scenes, 330_000_000)
    assert peak <= 330_000_000 and n_rows > 2 * n_images


def test_a_worker_with_less_memory_than_the_first_is_refused(run, data, tmp_path):
    out = copy_of(run, tmp_path / "run")
    assert sd.pca(out, data, shard=(1, 2)) is None
    least = plan_memory(open_scored_work(run, data, None, None, CommonOptions(), "look at", Control()), 0, 1)
    room = LIBRARIES + (least.working_bytes + 2 * moments_bytes(N_UNITS)) * 3 // 2 + 1
    with pytest.raises(sd.BadInput, match="concepts to a read, as it was begun"):
        sd.pca(out, data, shard=(0, 2), threads=1, memory=room)


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


def test_a_stopped_experiment_goes_on(run, data, found, tmp_path, one_by_one):
    out = copy_of(run, tmp_path / "run")
    for n in (10, 60):
        with pytest.raises(sd.Stopped):
            sd.pca(out, data, control=Stopping(n))
        assert not (out / "pca" / "pca.h5").exists()
    assert list((out / "partial" / "pca").glob("[0-9]*.json"))
    same(found, sd.pca(out, data))


@pytest.mark.parametrize("samples", ["weighted", "masked-mean", "image-max", "image-mean"])
def test_other_samples_find_the_planted_unit(run, data, tmp_path, samples):
    found = sd.pca(copy_of(run, tmp_path / "run"), data, concepts=("cloud", "tree"), samples=samples)
    layer = found.layers["act"]
    if samples in ("weighted", "masked-mean"):
        assert row_of(found, "cloud")["unit"] == SINGLE
    if samples != "weighted":
        assert_array_equal(layer.samples, layer.images)


def test_random_subsets_tell_a_concept_from_any_cells(run, data, tmp_path):
    out = copy_of(run, tmp_path / "run")
    named = {"concepts": ("cloud", "tree"), "null": "subsets", "subsets": 19}
    found = sd.pca(out, data, **named)
    p = found.layers["act"].variants["uncentred"].subsets_p
    assert p[0] == pytest.approx(1 / 20)
    store_maps(planted_maps(data, strength=0.0), data, tmp_path / "noise")
    noise = sd.pca(tmp_path / "noise", data, **named).layers["act"].variants["uncentred"]
    assert (noise.subsets_p > 1 / 20).all()
    work = open_scored_work(run, data, None, None, CommonOptions(), "look at", Control())
    plan = plan_memory(work, 0, 1)
    room = LIBRARIES + (plan.working_bytes + 2 * moments_bytes(N_UNITS)) * 3 // 2 + 1  # four subsets at once
    again = sd.pca(copy_of(run, tmp_path / "again"), data, memory=room, threads=1, **named)
    assert_array_equal(p, again.layers["act"].variants["uncentred"].subsets_p)


def test_rare_concepts_are_absent(run, data, tmp_path):
    found = sd.pca(copy_of(run, tmp_path / "run"), data, concepts=("sky", "tree"), min_images=39)
    row = row_of(found, "tree")
    assert VERDICTS[0] == row["verdict"] == "absent" and row["unit"] == -1 and row["carrier"] == ""
    assert np.isnan(row["loading"]) and np.isnan(row["direction_iou"])


def test_files_hold_what_is_returned(run, data, found):
    layer = found.layers["act"]
    with h5py.File(run / "pca" / "pca.h5") as file:
        group = file["layers/act"]
        assert_array_equal(group["uncentred/vectors"][()], layer.variants["uncentred"].vectors)
        assert_array_equal(group["centred/values"][()], layer.variants["centred"].values)
        assert_array_equal(group["carriers/direction_iou"][()], layer.carriers.direction_iou)
        assert_array_equal(group["uncentred/loading"][()], layer.variants["uncentred"].statistics.loading)
        assert file["concepts/name"].asstr()[()].tolist() == list(found.concept_name)
        top = group["top_images/direction"].asstr()[()].tolist()
        c = found.concept_name.index("cloud")
        assert json.loads(top[c]) == layer.top_images["direction"][c] and len(json.loads(top[c])) == 10
        assert f"unit_{SINGLE}" in group["top_images"]
    with open(run / "pca" / "pca.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["concept"] for line in lines] == list(found.concept_name)
    assert lines[c]["top_loadings"].startswith(f"{SINGLE}:0.9")
    charts = {path.name for path in (run / "pca" / "figures").iterdir()}
    assert {"act-heat.svg", "act-loading-participation.svg", "act-carriers.svg", "act-scree.svg", "act-stem-cloud.svg",
            "act-cumulative.svg"} <= charts  # fmt: skip
    stem = ElementTree.parse(run / "pca" / "figures" / "act-stem-cloud.svg").getroot()
    texts = [each.text for each in stem.iter() if each.tag.endswith("text")]
    unit, loading = layer.top_loadings("uncentred", c)[0]
    assert f"{unit}: {loading:.2f}" in texts
    heat = ElementTree.parse(run / "pca" / "figures" / "act-heat.svg").getroot()
    squares = [each for each in heat.iter() if each.tag.endswith("rect")][1:]
    statistics = layer.variants["uncentred"].statistics
    known = statistics.unit >= 0
    assert len(squares) == known.sum() * len(set(statistics.unit[known].tolist()))


def test_what_was_written_is_read_again_whole(run, found, tmp_path):
    read = load_alignment(run / "pca")
    same(found, read)
    assert repr(read.rows()) == repr(found.rows())
    assert (read.chosen, read.about, read.concept_category) == (found.chosen, found.about, found.concept_category)
    assert read.top_unit_images == found.top_unit_images and read.top_unit_images["act"]
    assert_array_equal(read.concept_column, found.concept_column)
    for name, layer in found.layers.items():
        other = read.layers[name]
        assert other.top_images == layer.top_images
        assert [other.carriers.winner(c) for c in range(len(found.concept_name))] == [
            layer.carriers.winner(c) for c in range(len(found.concept_name))
        ]
        for key, variant in layer.variants.items():
            for part in ("statistics", "exclusivity"):
                one, match = vars(getattr(variant, part)), vars(getattr(other.variants[key], part))
                for field, array in one.items():
                    assert array.dtype == match[field].dtype
                    assert_array_equal(array, match[field], err_msg=f"{part} {field}")
    draw_alignment(read, tmp_path)
    for chart in (run / "pca" / "figures").iterdir():
        assert (tmp_path / chart.name).read_text() == chart.read_text()


def test_layers_with_slashes_and_names_with_spaces_are_read_again(found, tmp_path):
    from dataclasses import replace

    from streamdissect.store.alignment import save_alignment

    layer = found.layers["act"]
    names = {"z/second": layer, "a": replace(layer, top_images={"direction": [["a b", "c"]] * len(CONCEPTS * 9)})}
    images = {"z/second": {3: ["a b", "c"], 20: ["d"]}, "a": {}}
    save_alignment(tmp_path, replace(found, layers=names, top_unit_images=images))
    read = load_alignment(tmp_path)
    assert list(read.layers) == ["z/second", "a"]
    assert read.top_unit_images == images
    assert read.layers["a"].top_images == names["a"].top_images


def test_files_that_are_damaged_or_of_something_else_are_refused(run, tmp_path):
    with pytest.raises(sd.BadInput, match="run: streamdissect pca"):
        load_alignment(tmp_path)
    shutil.copy(run / "pca" / "pca.h5", tmp_path / "rotate.h5")
    with pytest.raises(sd.BadInput, match="a result of pca, expected one of rotate"):
        load_rotations(tmp_path)
    shutil.copy(run / "dissection.h5", tmp_path / "pca.h5")
    with pytest.raises(sd.BadInput, match="format 1"):
        load_alignment(tmp_path)
    content = (run / "pca" / "pca.h5").read_bytes()
    (tmp_path / "pca.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(sd.IncompleteRun, match="damaged"):
        load_alignment(tmp_path)
    (tmp_path / "pca.h5").write_bytes(content)
    with h5py.File(tmp_path / "pca.h5", "r+") as file:
        shorter = file["layers/act/samples"][1:]
        del file["layers/act/samples"]
        file["layers/act/samples"] = shorter
    with pytest.raises(sd.IncompleteRun, match="samples has"):
        load_alignment(tmp_path)
    with h5py.File(tmp_path / "pca.h5", "r+") as file:
        del file["layers/act/samples"]
    with pytest.raises(sd.IncompleteRun, match="samples"):
        load_alignment(tmp_path)


def test_images_of_a_direction_are_those_where_it_is_largest(data, found):
    c = found.concept_name.index("cloud")
    maps = planted_maps(data).astype(np.float64)
    layer = found.layers["act"]
    sums = np.einsum("k,nkhw->nhw", layer.variants["uncentred"].leading[c] / layer.std, maps)
    expected = np.argsort(-sums.max(axis=(1, 2)), kind="stable")[:10]
    assert layer.top_images["direction"][c] == [data.names[i] for i in expected]


def test_the_command_prints_loadings_and_verdicts(run, data, found, capsys):
    arguments = ["pca", str(run), "--data", data.spec]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("cloud "))
    assert line.split()[2:4] == ["axis-aligned", str(SINGLE)]
    assert "best on held-out images" in text
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["concepts"]
    assert len(rows) == len(found.concept_name)
    assert main([*arguments, "--centred"]) == 2
    assert "--centred: got True, expected False" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--concepts", "ski"], "--concepts: got 'ski', expected names of concepts by commas, or all; did you mean"),
        (["--phi", "2"], "--phi: got '2'"),
        (["--phi", "0.25", "--samples", "weighted"], "--phi: got 0.25 with --samples weighted, expected no share"),
        (["--samples", "pixels"], "--samples: got 'pixels', expected one of pixel"),
        (["--subsets", "0"], "--subsets"),
    ],
)
def test_wrong_options_are_refused_in_one_line(run, data, capsys, arguments, expected):
    code = main(["pca", str(run), "--data", data.spec, *arguments])
    error = capsys.readouterr().err
    assert code == 2 and expected in error and error.count("\n") == 1, error


def test_unions_that_masks_touch_are_refused(run, data):
    sd.score(run, data, union="mask-touch", name="touch")
    with pytest.raises(sd.BadInput, match="mask-touch"):
        sd.pca(run, data, name="touch")


def test_the_same_command_again_reads_what_was_found(run, data, found):
    class Silent(Control):
        def say(self, text):
            raise AssertionError(text)

    same(found, sd.pca(run, data, control=Silent()))
