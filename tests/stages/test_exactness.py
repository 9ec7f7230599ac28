"""A run recomputed from its store: plain zarr, Python integers and boolean arrays, none of the package's arithmetic."""

import json
from fractions import Fraction

import h5py
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

import streamdissect as sd

SCALE = 2**149


def positions(mode, n_source, n_pixels, n_input, field):
    """Methods 2.1, as fractions."""
    found = []
    for j in range(n_pixels):
        if mode == "half_pixel":
            v = Fraction(2 * j + 1, 2) * Fraction(n_source, n_pixels) - Fraction(1, 2)
        elif mode == "corners":
            v = Fraction(j * (n_source - 1), n_pixels - 1) if n_pixels > 1 else Fraction(0)
        else:
            offset, size, step = field
            v = (Fraction(2 * j + 1, 2) * Fraction(n_input, n_pixels) - Fraction(1, 2) - offset - (size - 1) / 2) / step
        found.append(min(max(v, Fraction(0)), Fraction(n_source - 1)))
    return found


def matrix(places, n_source):
    """Integer weights (n_pixels, n_source) and their denominator."""
    denominator = int(np.lcm.reduce([v.denominator for v in places]))
    weights = np.zeros((len(places), n_source), object)
    for j, v in enumerate(places):
        low = int(v)
        q = int((v - low) * denominator)
        weights[j, low] += denominator - q
        if q:
            weights[j, low + 1] += q
    return weights, denominator


def masks(maps, threshold, rows, columns, test):
    """(K, H, W) masks of one image's maps, in integers."""
    (top, dy), (left, dx) = rows, columns
    values = np.array(
        [[int(Fraction(float(v)) * SCALE) for v in row] for row in maps.reshape(-1, maps.shape[-1])], object
    )
    values = values.reshape(maps.shape)
    found = np.zeros((len(maps), len(top), len(left)), bool)
    for k, bound in enumerate(threshold):
        if np.isnan(bound):
            continue
        numerator = top @ values[k] @ left.T
        limit = int(Fraction(float(bound)) * SCALE) * dy * dx
        found[k] = (numerator > limit) if test == "gt" else (numerator >= limit)
    return found


def recount(run, data, union, test, unlabelled, multiplicity, mode):
    """Counters of methods 3.4 for every layer."""
    manifest = json.loads((run / "run.json").read_text())
    concepts = data.concepts
    n_concepts, n_categories = len(concepts), len(concepts.category_name)
    column = {number: j for j, number in enumerate(concepts.number.tolist())}
    with h5py.File(run / "dissection.h5") as file:
        names = file["images/name"].asstr()[()].tolist()
        thresholds = {name: file[f"layers/{name}/threshold"][()] for name in file["layers"]}
        flags = {name: file[f"layers/{name}/flags"][()] for name in file["layers"]}
    results = {}
    for layer in manifest["layers"]:
        name, field = layer["array"]["name"], layer["field"]
        stored = zarr.open_array(run / "activations.zarr" / name, mode="r")[:]
        n_units, h, w = stored.shape[1:]
        threshold = thresholds[name].copy()
        if test == "ge":
            threshold[flags[name] & 3 > 0] = np.nan
        shared = np.zeros((n_units, n_concepts), np.int64)
        chance, area = shared.copy(), np.zeros((n_units, n_categories), np.int64)
        truth, everything = np.zeros(n_concepts, np.int64), np.zeros(n_units, np.int64)
        for row, image in enumerate(names):
            labels = data.labels(list(data.names).index(image))
            axes = []
            for axis, (n_source, n_pixels) in enumerate(zip((h, w), labels.shape, strict=True)):
                known = [Fraction(t) for t in field["rows" if axis == 0 else "columns"]] if mode == "rf" else None
                places = positions(mode, n_source, n_pixels, manifest["plan"]["input_size"][axis], known)
                axes.append(matrix(places, n_source))
            on = masks(stored[row], threshold, *axes, test)
            everything += on.sum((1, 2))
            planes = np.zeros((n_concepts, *labels.shape), np.int64)
            for _, numbers in labels.layers:
                for number in np.unique(numbers[numbers > 0]).tolist():
                    planes[column[number]] += numbers == number
            for _, number in labels.whole:
                planes[column[number]] += 1
            if multiplicity == "set":
                planes = np.minimum(planes, 1)
            shared += np.einsum("kyx,cyx->kc", on, planes)
            truth += planes.sum((1, 2))
            chance += on.sum((1, 2))[:, None] * planes.sum((1, 2))
            for g in range(n_categories):
                of_category = planes[concepts.category == g].any(axis=0)
                if not of_category.any():
                    continue
                judged = of_category if unlabelled == "ignore" else np.ones_like(of_category)
                if union == "mask-touch":
                    area[:, g] += np.where((on & of_category).any((1, 2)), on.sum((1, 2)), 0)
                else:
                    area[:, g] += (on & judged).sum((1, 2))
        results[name] = (shared, truth, area, everything, chance)
    return results


VARIANTS = [
    {},
    {"upsample": "half_pixel", "union": "all-images"},
    {"upsample": "corners", "union": "mask-touch", "multiplicity": "multiset"},
    {"mask_test": "ge", "unlabelled": "ignore", "tail": Fraction(1, 10)},
    {"tail": Fraction(1, 1000), "upsample": "rf"},
]


@pytest.fixture(scope="module")
def small(nets, tmp_path_factory):
    data = sd.open_dataset("synth:?n=9&seed=3&size=44")
    out = tmp_path_factory.mktemp("exact") / "run"
    options = {"tails": (Fraction(1, 50), Fraction(1, 200)), "batch_size": 3, "shard_images": 4}
    sd.extract(f"{nets}:build", data, ["block1.act", "block2.conv"], out, **options)
    return out, data


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_counter_recomputed_from_the_store(small, variant):
    run, data = small
    result = sd.score(run, overwrite=True, **variant)
    mode = variant.get("upsample", "rf")
    expected = recount(
        run,
        data,
        variant.get("union", "paper"),
        variant.get("mask_test", "gt"),
        variant.get("unlabelled", "negative"),
        variant.get("multiplicity", "set"),
        mode,
    )
    for name, layer in result.layers.items():
        assert layer.attributes["upsample"] == mode
        shared, truth, area, everything, chance = expected[name]
        assert_array_equal(layer.intersection, shared)
        assert_array_equal(layer.concept_area, truth)
        assert_array_equal(layer.unit_area, area)
        assert_array_equal(layer.unit_area_all, everything)
        assert_array_equal(layer.chance, chance)
        of_unit = everything[:, None] if variant.get("union") == "all-images" else area[:, data.concepts.category]
        union = of_unit + truth - shared
        assert_array_equal(layer.iou, np.where(union > 0, shared / np.maximum(union, 1), 0))
        assert_array_equal(layer.best_iou, layer.iou.max(1))
        assert_array_equal(layer.is_detector, (25 * shared > union).any(1))
        for k in range(len(shared)):
            c = layer.best_concept[k]
            assert c == (int(np.argmax(layer.iou[k])) if layer.iou[k].max() > 0 else -1)


def test_thresholds_and_top_images_recomputed_from_the_store(small):
    run, _ = small
    result = sd.score(run, overwrite=True)
    for name, layer in result.layers.items():
        stored = zarr.open_array(run / "activations.zarr" / name, mode="r")[:]
        n = stored[:, 0].size
        assert layer.attributes["tail"] == "1/50"
        for row, p in enumerate((Fraction(1, 50), Fraction(1, 200))):
            m = int(p * n)
            assert_array_equal(layer.thresholds[row], np.sort(np.moveaxis(stored, 1, 0).reshape(-1, n))[:, n - m - 1])
        assert_array_equal(layer.threshold, layer.thresholds[0])
        highest = stored.max((2, 3)).T.astype(np.float32)
        order = np.lexsort((np.tile(np.arange(9), (len(highest), 1)), -highest))
        assert_array_equal(layer.top_image[:, :9], order)
        assert_array_equal(layer.top_value[:, :9], np.take_along_axis(highest, order, 1))
        assert (layer.top_image[:, 9:] == -1).all()
        active = (highest > layer.threshold[:, None]).sum(1)
        assert_array_equal(layer.active_maps, active)


def test_masks_on_demand_sum_to_the_areas(small):
    run, data = small
    result = sd.score(run, overwrite=True)
    layer = result.layers["block1.act"]
    for unit in range(3):
        found = [result.mask(image, "block1.act", unit) for image in range(len(data))]
        assert found[0].shape == data.labels(0).shape
        assert sum(mask.sum() for mask in found) == layer.unit_area_all[unit]
