"""Perturbed runs: against definitions written out, by laws, interrupted, shared out, extended, refused."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from torch import nn

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.dataset import Concepts, Dataset, ImageLabels
from streamdissect.data.synthetic import SyntheticScenes
from streamdissect.kernels.reference import mask_map
from streamdissect.measure.perturbations import Draw, Noise, Rotation, ShuffleGrid
from streamdissect.measure.upsample import axis_weights
from streamdissect.measure.warps import RotationWarp
from streamdissect.stages.control import Control
from streamdissect.store.robustness import load_robustness

LAYERS = ["block1.act", "block2.conv"]
HERE = str(Path(__file__))
FEW = {"noise": (0, 20), "rotate": (20,), "shuffle_grid": (4,), "trials": 2}


def pointwise():
    """Every pixel for itself, so that moving pixels moves what units say of them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 6, 1))


@pytest.fixture(scope="module")
def scored(nets, scenes, tmp_path_factory):
    """A run of two layers, four shards of up to two batches, scored."""
    out = tmp_path_factory.mktemp("perturbed") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, shard_images=6, batch_size=4)
    sd.score(out)
    return out


@pytest.fixture
def run(scored, tmp_path):
    """A copy of it."""
    return copied(scored, tmp_path / "run")


def copied(run, place):
    shutil.copytree(run, place)
    return place


@pytest.fixture(scope="module")
def plain(nets, tmp_path_factory):
    """The pointwise network on square scenes, masks on the images' own pixels."""
    place = tmp_path_factory.mktemp("pointwise")
    write_broden(SyntheticScenes(9, seed=2, size=64), place / "scenes")
    for name, batch, shard in (("run", 4, 8), ("other", 3, 5)):
        sd.extract(
            f"{HERE}:pointwise", place / "scenes", ["1", "2"], place / name, batch_size=batch, shard_images=shard
        )
        sd.score(place / name, mask_size="image")
    return place


def counters(folder):
    """Whole counters and outcomes of perturb.h5 by name, settings and trials first."""
    found = {}
    with h5py.File(folder / "perturb" / "perturb.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same(first, second):
    one, other = counters(first), counters(second)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert_array_equal(array, other[name], err_msg=name)


def row_of(found, text, trial=0):
    """Number of a row of perturb.h5."""
    texts = [each.text for each in found.settings]
    return found.trials.index((texts.index(text), trial))


# What must not change anything


def test_nothing_done_gives_the_clean_counters_bit_by_bit(run):
    found = sd.perturb(run, noise=0, rotate=(0, 360), shuffle_grid=1, blur=0, brightness=1, fgsm=0, trials=1)
    result = sd.score(run)
    with h5py.File(run / "perturb" / "perturb.h5") as file:
        for layer, clean in result.layers.items():
            group = file[f"layers/{layer}"]
            for row in range(len(found.trials)):
                for name in ("intersection", "unit_area", "unit_area_all", "concept_area"):
                    assert_array_equal(group["counters"][name][row], getattr(clean, name), err_msg=name)
    for layer, clean in result.layers.items():
        for outcome in found.outcomes[layer]:
            lit = clean.unit_area_all > 0
            assert lit.any() and (outcome.consistency[lit] == 1).all() and np.isnan(outcome.consistency[~lit]).all()
            assert (outcome.firing_ratio[lit] == 1).all()
            assert_array_equal(outcome.iou, outcome.iou_clean)
            assert_array_equal(outcome.best_iou, clean.best_iou)
            assert outcome.numbers["survival"] == 1 == outcome.numbers["same_top"]
            assert outcome.numbers["lost"] == 0 == outcome.numbers["new"]
            assert_array_equal(outcome.correlation[clean.vmin < clean.vmax], 1.0)


RULES = [
    {"union": "all-images"},
    {"union": "mask-touch"},
    {"unlabelled": "ignore"},
    {"multiplicity": "multiset"},
    {"mask_test": "ge", "tail": "1/500"},
    {"mask_size": "image", "upsample": "corners"},
    {"mask_size": (40, 24), "upsample": "half_pixel", "iou": "1/10"},
]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: " ".join(map(str, rules.values())))
def test_the_same_by_other_rules_of_scoring(run, rules):
    """A whole turn is none, but goes through all that moves masks and labels."""
    result = sd.score(run, name="other", **rules)
    found = sd.perturb(run, rotate=360, shuffle_grid=1, trials=1, options=sd.PerturbOptions(name="other"))
    with h5py.File(run / "scores" / "other" / "perturb" / "perturb.h5") as file:
        for layer, clean in result.layers.items():
            for row in range(len(found.trials)):
                for name in ("intersection", "unit_area", "unit_area_all", "concept_area"):
                    assert_array_equal(file[f"layers/{layer}/counters/{name}"][row], getattr(clean, name), err_msg=name)
            for outcome in found.outcomes[layer]:
                assert_array_equal(outcome.best_iou, clean.best_iou)
                assert_array_equal(outcome.is_detector, clean.is_detector)


def test_a_pointwise_network_turns_and_shuffles_with_its_images(plain):
    found = sd.perturb(plain / "run", rotate=(90, 180), shuffle_grid=(4, 16), shuffle_patch=2, trials=2)
    for layer in ("1", "2"):
        lit = found.outcomes[layer][0].consistency == 1
        assert lit.sum() >= 4
        for outcome in found.outcomes[layer]:
            assert (outcome.consistency[lit] == 1).all() and (outcome.firing_ratio[lit] == 1).all()
            assert_array_equal(outcome.iou, found.outcomes[layer][0].iou)
            np.testing.assert_allclose(outcome.correlation[~np.isnan(outcome.correlation)], 1, atol=1e-12)


def test_labels_that_stay_are_a_control(plain):
    found = sd.perturb(plain / "other", shuffle_grid=16, labels_warp="fixed", overwrite=True, trials=1)
    clean, shuffled = found.outcomes["1"]
    assert_array_equal(shuffled.iou_clean, clean.iou)
    assert (shuffled.consistency == clean.consistency)[~np.isnan(clean.consistency)].all()
    was = clean.iou > 0.04
    assert was.any() and np.median(shuffled.iou[was] / clean.iou[was]) < 0.6
    assert found.about["labels_warp"] == "fixed"


def test_draws_depend_on_no_batch_no_shard_and_no_order(plain):
    """Each image is one forward pass of its own kind here, so whole results can be compared."""
    for name in ("run", "other"):
        sd.perturb(plain / name, **FEW, overwrite=True)
    one, other = counters(plain / "run"), counters(plain / "other")
    for name, array in one.items():
        if array.dtype.kind in "iub":
            assert_array_equal(array, other[name], err_msg=name)
        elif array.dtype.kind == "f":
            np.testing.assert_allclose(array, other[name], atol=1e-9, err_msg=name)


# Against the definitions, written out


def oracle(run, perturbation, along):
    """I', A', G', matched I, and the three areas of J of every layer, in booleans."""
    result, manifest = sd.score(run), json.loads((run / "run.json").read_text())
    data = sd.open_dataset(manifest["data"]["spec"])
    module = sd.stages.extract.load_model(manifest["model"]["spec"]).module
    mean, std = (torch.tensor(manifest["identity"][name])[None, :, None, None] for name in ("mean", "std"))
    kept = {}
    module.block1.act.register_forward_hook(lambda m, i, o: kept.update({"block1.act": o.clone()}))
    module.block2.conv.register_forward_hook(lambda m, i, o: kept.update({"block2.conv": o.clone()}))

    def maps_of(images):
        found = {name: [] for name in LAYERS}
        batches = [rows for shard in (range(6), range(6, 12), range(12, 18), range(18, 20))
                   for rows in (shard[:4], shard[4:]) if rows]  # fmt: skip
        for rows in batches:
            batch = torch.from_numpy(np.stack([images[i] for i in rows])).permute(0, 3, 1, 2)
            with torch.inference_mode():
                module(((batch / 255 - mean) / std).contiguous())
            for name in LAYERS:
                found[name].append((kept[name].to(torch.float16) + 0.0).numpy())
        return {name: np.concatenate(each) for name, each in found.items()}

    before = [data.image(i).astype(np.float32) for i in range(20)]
    draws = [Draw(0, 0, data.names[i], tuple(255 * m for m in manifest["identity"]["mean"])) for i in range(20)]
    now = [perturbation.image(image, draw) for image, draw in zip(before, draws, strict=True)]
    clean, perturbed = maps_of(before), maps_of(now)
    concepts, counts = data.concepts, {}
    for about in manifest["layers"]:
        layer = about["array"]["name"]
        threshold = result.layers[layer].threshold
        n_units, n_concepts, n_categories = len(threshold), len(concepts), len(concepts.category_name)
        axes = []
        for axis, n in zip(("rows", "columns"), about["array"]["grid"], strict=True):
            field = sd.stages.scoring.AxisField.from_json(about["field"][axis])
            axes.append(axis_weights("rf", n, 32, 64, field))
        count = {"I": np.zeros((n_units, n_concepts), np.int64), "matched": np.zeros((n_units, n_concepts), np.int64),
                 "A": np.zeros((n_units, n_categories), np.int64), "G": np.zeros(n_concepts, np.int64),
                 "areas": np.zeros((3, n_units), np.int64)}  # fmt: skip
        for i in range(20):
            warp = perturbation.warp((64, 64), draws[i])
            source = (np.arange(32 * 32) if warp is None else warp.pixels((32, 32))).ravel()
            valid = source >= 0

            def moved(pixels, source=source, valid=valid):
                return np.where(valid, pixels.ravel()[source], False)

            labels = data.labels(i)
            planes = np.zeros((n_concepts, 32, 32), bool)
            for _, numbers in labels.layers:
                for c, number in enumerate(concepts.number):
                    planes[c] |= numbers == number
            for _, number in labels.whole:
                planes[concepts.number.tolist().index(number)] = True
            moved_planes = np.array([moved(plane) for plane in planes])
            seen = moved_planes if along else planes.reshape(n_concepts, -1) & valid
            has = [seen[concepts.category == g].any() for g in range(n_categories)]
            count["G"] += seen.sum(1)
            for k in range(n_units):
                m, now_m = (mask_map(maps[layer][i, k].astype(np.float64), float(threshold[k]), *axes, False)
                            for maps in (clean, perturbed))  # fmt: skip
                m, now_m = moved(m), now_m.ravel() & valid
                count["I"][k] += (seen & now_m).sum(1)
                count["matched"][k] += (moved_planes & m).sum(1)
                count["A"][k] += np.array(has) * now_m.sum()
                count["areas"][:, k] += (m & now_m).sum(), m.sum(), now_m.sum()
        counts[layer] = count
    return counts, concepts


@pytest.mark.parametrize(
    "perturbation, along",
    [
        (Rotation(20.0), True),
        (Rotation(20.0), False),
        (ShuffleGrid(5.0), True),
        (ShuffleGrid(5.0), False),
        (Noise(60.0), True),
    ],
    ids=str,
)
def test_counts_are_those_of_the_definition(run, perturbation, along):
    found = sd.perturb(run, perturbations=[perturbation], trials=1, labels_warp="along" if along else "fixed", noise=())
    counts, concepts = oracle(run, perturbation, along)
    with h5py.File(run / "perturb" / "perturb.h5") as file:
        row = row_of(found, perturbation.text)
        for layer, count in counts.items():
            group = file[f"layers/{layer}/counters"]
            assert count["I"].any() and count["areas"].any()
            assert_array_equal(group["intersection"][row], count["I"])
            assert_array_equal(group["unit_area"][row], count["A"])
            assert_array_equal(group["concept_area"][row], count["G"])
            outcome, best = found.outcomes[layer][row], found.result.layers[layer].best_concept
            both, before, now = count["areas"]
            with np.errstate(invalid="ignore", divide="ignore"):
                assert_array_equal(outcome.consistency, both / (before + now - both))
                ratio = np.where(before > 0, now / before, np.nan)
            assert_array_equal(outcome.firing_ratio, ratio)
            unit = np.flatnonzero(best >= 0)
            at = unit, best[unit]
            g = concepts.category[best[unit]]
            union = count["A"][unit, g] + count["G"][best[unit]] - count["I"][at]
            assert_array_equal(outcome.iou[unit], np.where(union > 0, count["I"][at] / np.maximum(union, 1), 0))


def test_cropping_alone_is_told_from_a_changed_response(plain):
    """A pointwise network turned by a crooked angle: what differs comes from sampling, not from its response."""
    found = sd.perturb(plain / "run", rotate=(45,), overwrite=True)
    clean, turned = found.outcomes["1"]
    was = clean.iou > 0.04
    assert was.any() and not np.allclose(turned.iou_clean[was], clean.iou[was], rtol=0.01)
    assert abs(np.median(turned.retention[was]) - 1) < 0.25
    inside = RotationWarp((64, 64), 45).pixels((64, 64)) >= 0
    with h5py.File(plain / "run" / "perturb" / "perturb.h5") as file:
        area = file["layers/1/counters/concept_area"][()]
    scenes = found.result.concept_category == found.result.category_name.index("scene")
    assert area[0][scenes].any() and (area[0][scenes] % 64**2 == 0).all()
    assert_array_equal(area[1][scenes], area[0][scenes] // 64**2 * inside.sum())


# Stopped, shared out, extended


class StopAfter(Control):
    """Stops at the n-th look."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left < 0:
            self.stop()
        super().check()


def test_a_stopped_one_goes_on_and_workers_share_it(scored, tmp_path):
    whole, stopped, shared = (copied(scored, tmp_path / name) for name in ("whole", "stopped", "shared"))
    sd.perturb(whole, **FEW)
    n_stops = 0
    while n_stops < 50:
        try:
            sd.perturb(stopped, **FEW, control=StopAfter(17))
            break
        except sd.Stopped:
            n_stops += 1
    assert 2 < n_stops < 50
    assert sd.perturb(shared, **FEW, shard=(1, 2)) is None
    assert not (shared / "perturb" / "perturb.h5").exists()
    assert sd.perturb(shared, **FEW, shard=(0, 2)) is not None
    assert_same(whole, stopped)
    assert_same(whole, shared)
    for name in ("summary.csv", "block1.act.csv", "figures/survival-noise.svg"):
        assert (whole / "perturb" / name).read_bytes() == (shared / "perturb" / name).read_bytes()


def test_another_call_adds_and_what_is_there_is_not_done_again(run, monkeypatch):
    from streamdissect.stages.forward import Network

    first = sd.perturb(run, noise=(20,), trials=1)
    passes = []
    real = Network.activations
    monkeypatch.setattr(Network, "activations", lambda self, images: passes.append(len(images)) or real(self, images))
    again = sd.perturb(run, noise=(20,), trials=1)
    assert passes == []
    assert_array_equal(again.outcomes[LAYERS[0]][1].iou, first.outcomes[LAYERS[0]][1].iou)
    more = sd.perturb(run, rotate=(10,), noise=(20,), trials=2)
    assert [each.text for each in more.settings] == ["clean", "noise 20", "rotate 10"]
    assert more.trials == ((0, 0), (1, 0), (1, 1), (2, 0))
    assert_array_equal(more.outcomes[LAYERS[0]][1].iou, first.outcomes[LAYERS[0]][1].iou)
    assert not np.array_equal(more.outcomes[LAYERS[0]][2].best_iou, more.outcomes[LAYERS[0]][1].best_iou)
    assert sum(passes) == 20 * 3 + 4  # clean maps, two rows, and a look at the clock


def test_other_images_layers_or_terms_are_refused_with_the_remedy(run):
    sd.perturb(run, noise=(20,), trials=1, limit=8)
    for named, word in (({"limit": 9}, "--limit"), ({"limit": 8, "seed": 1}, "--seed"),
                        ({"limit": 8, "layers": ["block1.act"]}, "--layers"),
                        ({"limit": 8, "labels_warp": "fixed"}, "--labels-warp")):  # fmt: skip
        with pytest.raises(sd.BadInput, match=rf"{word}.*--overwrite") as refused:
            sd.perturb(run, noise=(20,), trials=1, **named)
        assert len(str(refused.value).splitlines()) == 1
    sd.score(run, iou=0.2, overwrite=True)
    with pytest.raises(sd.BadInput, match=r"iou of the scoring: got '1/5', expected '1/25'.*--overwrite"):
        sd.perturb(run, noise=(20,), trials=1, limit=8)
    found = sd.perturb(run, noise=(20,), trials=1, overwrite=True, limit=9, is_first=True, layers="block1*")
    assert list(found.outcomes) == ["block1.act"] and found.image_name == sd.score(run, iou=0.2).image_name[:9]


def test_a_limit_is_a_sample_that_grows(run):
    few = sd.perturb(run, noise=(1,), trials=1, limit=5, overwrite=True).image_name
    more = sd.perturb(run, noise=(1,), trials=1, limit=12, overwrite=True).image_name
    assert set(few) < set(more) < set(sd.score(run).image_name) and (len(few), len(more)) == (5, 12)


def test_it_needs_no_activations_any_more(run):
    sd.clean(run)
    assert not (run / "activations.zarr").exists()
    assert sd.perturb(run, noise=(1,), trials=1) is not None


def test_a_scoring_of_a_name_has_its_own(run):
    strict = sd.score(run, name="strict", iou=0.2)
    found = sd.perturb(run, noise=(1,), trials=1, options=sd.PerturbOptions(name="strict"))
    assert (run / "scores" / "strict" / "perturb" / "perturb.h5").exists() and not (run / "perturb").exists()
    assert found.about["tau"] == "1/5"
    assert found.outcomes[LAYERS[0]][0].numbers["detectors"] == strict.layers[LAYERS[0]].is_detector.sum()


def test_a_run_that_is_not_scored_is_refused(nets, scenes, tmp_path):
    sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run")
    with pytest.raises(sd.BadInput, match="streamdissect score"):
        sd.perturb(tmp_path / "run")
    with pytest.raises(sd.BadInput, match="no such directory"):
        sd.perturb(tmp_path / "nowhere")


# Thresholds found anew


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_thresholds_of_unchanged_images_are_the_runs(nets, scenes, tmp_path, dtype):
    sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", dtype=dtype, shard_images=6, batch_size=4)
    sd.score(tmp_path / "run")
    found = sd.perturb(tmp_path / "run", noise=(0, 60), trials=1, thresholds_from="recompute")
    frozen = sd.perturb(copied(tmp_path / "run", tmp_path / "other"), noise=(60,), trials=1, overwrite=True)
    for layer in LAYERS:
        clean, same, other = found.outcomes[layer]
        assert_array_equal(same.iou, clean.iou)
        assert (same.consistency == 1).sum() == (clean.consistency == 1).sum() > 0
        assert not np.array_equal(other.firing_ratio, frozen.outcomes[layer][1].firing_ratio)
    # noise brightens: frozen thresholds let units fire more or less, those found anew as much as before
    ratio = found.outcomes["block1.act"][2].firing_ratio
    assert np.nanmax(np.abs(ratio - 1)) < np.nanmax(np.abs(frozen.outcomes["block1.act"][1].firing_ratio - 1))


def test_thresholds_found_anew_by_workers(scored, tmp_path):
    whole, shared = (copied(scored, tmp_path / name) for name in ("whole", "shared"))
    named = {"noise": (60,), "trials": 2, "thresholds_from": "recompute"}
    sd.perturb(whole, **named)
    assert sd.perturb(shared, **named, shard=(0, 2)) is None, "all thresholds, as nobody else was there, and its part"
    assert sd.perturb(shared, **named, shard=(1, 2)) is not None
    assert_same(whole, shared)


# Networks


def test_a_network_that_was_an_object_is_asked_for_and_checked(nets, scenes, tmp_path):
    from streamdissect.models import load_model

    module = load_model(f"{nets}:build").module
    sd.extract(module, scenes, LAYERS, tmp_path / "run", shard_images=6, batch_size=4)
    sd.score(tmp_path / "run")
    with pytest.raises(sd.BadInput, match=r"model=.*--model") as refused:
        sd.perturb(tmp_path / "run", noise=1, trials=1)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(sd.BadInput, match="weights"):
        sd.perturb(tmp_path / "run", model=f"{nets}:build?seed=5", noise=1, trials=1)
    assert sd.perturb(tmp_path / "run", model=f"{nets}:build", noise=1, trials=1) is not None


def test_a_captured_run_knows_neither_its_network_nor_its_preprocessing(nets, scenes, tmp_path):
    from streamdissect.models import load_model

    module, data = load_model(f"{nets}:build").module, sd.open_dataset(scenes)
    with sd.capture(module, LAYERS, out=tmp_path / "run", n_images=len(data), data=data) as cap:
        for start in range(0, 20, 5):
            batch = torch.stack(
                [torch.from_numpy(data.image(i)).permute(2, 0, 1) / 255 for i in range(start, start + 5)]
            )
            with cap.images(range(start, start + 5)), torch.inference_mode():
                module(batch)
    sd.score(tmp_path / "run", data)
    with pytest.raises(sd.BadInput, match="--model"):
        sd.perturb(tmp_path / "run", data, noise=0, trials=1)
    with pytest.raises(sd.BadInput, match=r"--mean, --std.*preprocessing"):
        sd.perturb(tmp_path / "run", data, model=module, noise=0, trials=1)
    with pytest.raises(sd.BadInput, match="weights"):
        sd.perturb(tmp_path / "run", data, model=f"{nets}:build?seed=5", noise=0, trials=1)
    bare = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    found = sd.perturb(tmp_path / "run", data, model=module, noise=(0, 30), trials=1, **bare)
    for outcomes in found.outcomes.values():
        assert_array_equal(outcomes[1].iou, outcomes[0].iou)
        assert outcomes[2].numbers["consistency"] < 1


def test_mean_and_std_of_an_extracted_run_are_its_own(run):
    with pytest.raises(sd.BadInput, match=r"--mean: got \(0.0, 0.0, 0.0\).*the run's own, \(0.485"):
        sd.perturb(run, noise=1, mean=(0, 0, 0))
    assert sd.perturb(run, noise=1, trials=1, mean=sd.ExtractOptions().mean) is not None


def test_a_step_up_the_loss_needs_logits(run, plain):
    found = sd.perturb(run, fgsm=(8,))
    assert 0 < found.outcomes[LAYERS[1]][1].numbers["consistency"] < 1
    with pytest.raises(sd.BadInput, match=r"--fgsm.*output is \(1, 6, 64, 64\).*logits") as refused:
        sd.perturb(plain / "run", fgsm=(8,), overwrite=True, limit=1)
    assert len(str(refused.value).splitlines()) == 1


def test_the_step_goes_up_the_loss(nets, scenes):
    from streamdissect.models import load_model
    from streamdissect.options import ExtractOptions
    from streamdissect.stages.forward import Network

    module, data = load_model(f"{nets}:build").module, sd.open_dataset(scenes)
    network = Network(module, [], ExtractOptions())
    images = [data.image(i).astype(np.float32) for i in range(6)]
    ascents = network.ascents(images)
    assert all(set(np.unique(each)) <= {-1, 0, 1} and each.dtype == np.float32 for each in ascents)
    with torch.inference_mode():
        logits = module(network.prepare(images))
        first = logits.argmax(1)
        after = module(network.prepare([x + 0.5 * up for x, up in zip(images, ascents, strict=True)]))
        loss = [nn.functional.cross_entropy(each, first, reduction="none") for each in (logits, after)]
    assert (loss[1] > loss[0]).all()
    for i in range(6):
        assert_array_equal(network.ascents(images[i : i + 1])[0], ascents[i])


def test_whole_numbers_as_floats_are_the_same_images(nets, scenes):
    from streamdissect.models import load_model, resolve_layers
    from streamdissect.options import ExtractOptions
    from streamdissect.stages.forward import Network

    module, data = load_model(f"{nets}:build").module, sd.open_dataset(scenes)
    network = Network(module, resolve_layers(module, LAYERS), ExtractOptions())
    images = [data.image(i) for i in range(5)]
    found, floats = (network.activations(each) for each in (images, [image.astype(np.float32) for image in images]))
    moved = network.activations([image.astype(np.float32) + np.float32(0.25) for image in images])
    for layer in LAYERS:
        assert_array_equal(found[layer], floats[layer])
        assert not np.array_equal(found[layer], moved[layer])


# A kind of one's own


def test_the_kind_that_the_documentation_shows(plain):
    page = (Path(HERE).parents[2] / "docs" / "robustness.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    shown = {}
    exec(compile(code, "robustness.md", "exec"), shown)
    found = sd.perturb(plain / "run", perturbations=[shown["Mirror"]()], overwrite=True)
    assert found.settings[1].text == "mirror 1"
    clean, mirrored = found.outcomes["1"]
    assert_array_equal(mirrored.iou, clean.iou)
    assert (mirrored.consistency == clean.consistency)[~np.isnan(clean.consistency)].all()


# Planted: textures are statistics, objects are parts in their places


class Planted(Dataset):
    """Patches of a speckled texture; objects, a red square on a green one; red and green squares apart as well."""

    spec = ""

    def __init__(self, n):
        self.n = n
        self.names = tuple(f"{i:03d}" for i in range(n))
        self.concepts = Concepts(
            np.array([1, 2], np.int32), ("tower", "speckled"), np.array([0, 1], np.int32), ("object", "texture"),
            np.zeros(2, np.int32),
        )  # fmt: skip

    def split(self, index):
        return ""

    def drawn(self, index):
        rng = np.random.default_rng(index)
        image, labels = np.full((64, 64, 3), 90, np.uint8), np.zeros((2, 64, 64), np.uint16)
        places = rng.permutation(9)
        for place in places[:2]:  # grey specks, 16 x 16
            y, x = 8 + 16 * (place // 3), 8 + 16 * (place % 3)
            image[y : y + 16, x : x + 16] = rng.integers(0, 256, (16, 16, 1))
            labels[1, y : y + 16, x : x + 16] = 2
        for place in places[2:4]:  # red on green
            y, x = 8 + 16 * (place // 3), 12 + 16 * (place % 3)
            image[y : y + 8, x : x + 8], image[y + 8 : y + 16, x : x + 8] = (230, 20, 20), (20, 230, 20)
            labels[0, y : y + 16, x : x + 8] = 1
        for place, colour in zip(places[4:8], [(230, 20, 20), (20, 230, 20)] * 2, strict=True):
            y, x = 12 + 16 * (place // 3), 12 + 16 * (place % 3)
            image[y : y + 8, x : x + 8] = colour
        return image, labels

    def image(self, index):
        return self.drawn(index)[0]

    def image_size(self, index):
        return 64, 64

    def labels(self, index):
        layers = self.drawn(index)[1]
        return ImageLabels((64, 64), tuple(enumerate(layers)), ())

    def has_labels(self, index):
        return True

    def fingerprint(self):
        return f"planted {self.n}"


class Detects(nn.Module):
    """Unit 0: red above green. Unit 1: neighbours that differ, wherever they are."""

    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x):
        red, green = (torch.relu(x[:, a : a + 1] - x[:, b : b + 1] - 0.5) for a, b in ((0, 1), (1, 0)))
        smooth = nn.functional.avg_pool2d
        above = nn.functional.pad(smooth(red, 5, 1, 2), (0, 0, 4, -4))
        below = nn.functional.pad(smooth(green, 5, 1, 2), (0, 0, -4, 4))
        differs = (x[..., 1:, 1:] - x[..., :-1, 1:]).abs().mean(1, keepdim=True)
        return self.units(torch.cat([torch.minimum(above, below), nn.functional.pad(differs, (0, 1, 0, 1))], 1))


def test_textures_keep_more_under_shuffles_than_objects_of_parts(tmp_path):
    data = Planted(24)
    sd.extract(Detects(), data, ["units"], tmp_path / "run", tails=("1/50",), mean=(0, 0, 0), std=(1, 1, 1))
    result = sd.score(tmp_path / "run", data)
    layer = result.layer()
    assert layer.best_concept.tolist() == [0, 1] and layer.is_detector.all()
    found = sd.perturb(tmp_path / "run", data, model=Detects(), shuffle_grid=(4, 8), trials=3)
    tower, speckled = found.composition_index("units")
    assert speckled > 0.7 > 0.3 > tower >= 0
    verdicts = {row["category"]: row["verdict"] for row in found.composition()}
    assert verdicts == {"object": "parts", "texture": "statistics"}


@pytest.mark.long
def test_a_real_network_on_street_scenes(shared, tmp_path):
    model, data = shared / "models" / "mobilenet.py", shared / "data" / "camvid-broden"
    weights = shared / "models" / "mobilenet_v2_imagenet.safetensors"
    if not (model.exists() and data.exists() and weights.exists()):
        pytest.skip("no street scenes or networks among the shared test data")
    layers, middle = ["features.7.expand.act", "features.14.expand.act", "features.18.conv"], (128 / 255,) * 3
    sd.extract(f"{model}:mobilenet_v2", data, layers, tmp_path / "run", weights=str(weights), input_size=(240, 320),
               mean=middle, std=middle, limit=64)  # fmt: skip
    sd.score(tmp_path / "run")
    found = sd.perturb(tmp_path / "run")
    rows = {(row["layer"], row["setting"]): row for row in found.summary()}
    for layer in layers:
        assert rows[layer, "clean"]["survival"] == 1 == rows[layer, "clean"]["consistency"]
        shares = [rows[layer, f"noise {c}"]["consistency"] for c in (1, 5, 10, 100)]
        assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 and shares[-1] < 0.2
    kept = {(row["layer"], row["category"]): row["index"] for row in found.composition()}
    assert kept["features.14.expand.act", "color"] > 0.6 > 0.5 > kept["features.14.expand.act", "object"]
    assert kept["features.18.conv", "object"] < 0.2 < 0.8 < kept["features.7.expand.act", "color"]


# Files, and the command


def test_tables_figures_and_what_is_read_back(run):
    found = sd.perturb(run, **FEW)
    folder = run / "perturb"
    with open(folder / "block1.act.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.trials) * 5 and [row["unit"] for row in rows[:5]] == list("01234")
    at = next(i for i, row in enumerate(rows) if row["setting"] == "noise 20" and row["trial"] == "1")
    outcome = found.outcomes["block1.act"][row_of(found, "noise 20", 1)]
    assert [float(row["iou_pert"]) for row in rows[at : at + 5]] == outcome.iou.tolist()
    assert {"J", "firing_ratio", "corr", "top_pert", "iou_clean_matched", "concept"} <= rows[0].keys()
    with open(folder / "summary.csv", newline="") as file:
        summary = {(row["layer"], row["setting"]): row for row in csv.DictReader(file)}
    values = [each.numbers["consistency"] for each in found.of("block1.act", 2)]
    row = summary["block1.act", "noise 20"]
    assert float(row["consistency"]) == np.mean(values) and float(row["consistency_std"]) == np.std(values, ddof=1)
    assert summary["block1.act", "rotate 20"]["survival_std"] == ""
    again = load_robustness(folder, sd.score(run))
    assert again.trials == found.trials and again.settings == found.settings
    assert_array_equal(again.outcomes["block2.conv"][3].correlation, found.outcomes["block2.conv"][3].correlation)
    figures = {path.name: path.read_text() for path in (folder / "figures").glob("*.svg")}
    assert {"survival-noise.svg", "consistency-rotate.svg", "scatter-shuffle-grid-block1.act.svg",
            "unique-block2.conv.svg"} <= figures.keys()  # fmt: skip
    for text in figures.values():
        root = ElementTree.fromstring(text)
        tags = [each.tag.rpartition("}")[2] for each in root]
        assert tags[:2] == ["title", "desc"] and "nan" not in text and "inf" not in text
    curve = ElementTree.fromstring(figures["survival-noise.svg"])
    lines = [each for each in curve.iter() if each.tag.endswith("polyline")]
    assert len(lines) == len(LAYERS) and all(len(line.get("points").split()) == 3 for line in lines)
    assert "Robustness of 2 layers on 20 images" in repr(found)
    assert "noise 20" in found._repr_html_()


def test_a_damaged_part_is_told(run):
    sd.perturb(run, noise=(1,), trials=1)
    (part,) = (run / "partial" / "perturb" / "rows" / "noise-1.0").glob("000000.npz")
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    sd.perturb(run, noise=(1,), trials=1)  # of another size: done again
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(sd.IncompleteRun, match="damaged"):
        sd.perturb(run, noise=(1,), trials=1)


def test_the_command(run, capsys):
    line = ["perturb", str(run), "--noise", "0,30", "--rotate", "-20", "--shuffle-grid", "4", "--trials", "2"]
    assert main(line) == 0
    printed = capsys.readouterr()
    assert "rotate -20" in printed.out and " ± " in printed.out and "composition" in printed.out
    assert "forward passes" in printed.err
    assert main([*line, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    rows = {(row["layer"], row["setting"]): row for row in content["summary"]}
    assert rows["block1.act", "noise 0"]["survival"] == 1 and rows["block1.act", "rotate -20"]["survival_std"] is None


@pytest.mark.parametrize(
    "words, says",
    [
        (["--noise", "loud"], ["--noise", "'loud'"]),
        (["--noise", "1,1"], ["--noise", "each number once"]),
        (["--shuffle-grid", "2.5"], ["--shuffle-grid", "whole number"]),
        (["--shuffle-patch", "7"], ["--shuffle-patch", "64 rows", "--crop"]),
        (["--jpeg", "0"], ["--jpeg", "1 to 100"]),
        (["--layers", "block9*"], ["--layers", "block9*", "block1.act"]),
        (["--panel", "no.png"], ["no.png", "an image of the dataset"]),
        (["--panel", "x", "--units", "block1.act:99"], ["--units", "0 to 4"]),
        (["--trials", "0"], ["--trials"]),
        (["--fill", "white"], ["--fill", "'white'"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_cannot_be_is_refused_in_one_line(scored, words, says, capsys):
    assert main(["perturb", str(scored), *words]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in says) and len(said.splitlines()) == 1, said
    assert not (scored / "perturb").exists() and not (scored / "partial" / "perturb").exists()


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_a_panel_has_a_row_for_each_perturbation_and_a_column_for_each_unit(run):
    name = sd.score(run).image_name[3]
    units = ["block1.act:1", "block1.act:3", "block2.conv:0"]
    sd.perturb(run, noise=(1, 50), rotate=(45,), trials=1, panel=name, units=units)
    (path,) = (run / "perturb" / "figures").glob("panel-*.png")
    wide = size_of(path)
    sd.perturb(run, noise=(1,), trials=1, panel=name, units=units[:1])
    narrow = size_of(path)
    assert wide[0] - narrow[0] >= 2 * 240 and wide[1] - narrow[1] == 2 * 246
    sd.perturb(run, noise=(1,), trials=1, panel=name)
    assert size_of(path)[0] - narrow[0] >= 240, "a column for each of the two layers"


def test_what_is_started_anew_leaves_nothing_of_what_was(run):
    sd.perturb(run, noise=(5,), shuffle_grid=(4,), trials=1)
    first = {path.name for path in (run / "perturb").rglob("*") if path.is_file()}
    sd.perturb(run, brightness=(0.5,), trials=1, overwrite=True)
    second = {path.name for path in (run / "perturb").rglob("*") if path.is_file()}
    assert any("noise" in name for name in first) and not any("noise" in name or "shuffle" in name for name in second)


@pytest.mark.parametrize(
    "named, words",
    [
        ({"thresholds_from": "recompute", "limit": 4}, "thresholds belong to all images"),
        ({"units": ["x:1"]}, "--panel"),
    ],
)
def test_options_that_do_not_go_together(named, words, run):
    with pytest.raises(sd.BadInput, match=words):
        sd.perturb(run, noise=(5,), trials=1, **named)
    assert not (run / "perturb").exists()


def test_magnitudes_that_are_nearly_equal_are_told_apart():
    assert Noise(10.0000001).text != Noise(10.0).text == "noise 10"
