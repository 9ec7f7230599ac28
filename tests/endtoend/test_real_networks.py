"""Real networks on real street scenes; every counter recomputed in integers from the store."""

import json
from fractions import Fraction

import h5py
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

import streamdissect as sd

MIDDLE = (128 / 255,) * 3
LAYERS = ["features.14.expand.act", "features.18.conv"]


@pytest.fixture(scope="module")
def street(shared):
    model, data = shared / "models" / "mobilenet.py", shared / "data" / "camvid-broden"
    weights = shared / "models" / "mobilenet_v2_imagenet.safetensors"
    if not (model.exists() and data.exists() and weights.exists()):
        pytest.skip("no street scenes or networks among the shared test data")
    return f"{model}:mobilenet_v2", str(weights), data


def extract(street, out, **named):
    model, weights, data = street
    sd.extract(model, data, LAYERS, out, weights=weights, input_size=(240, 320), mean=MIDDLE, std=MIDDLE, **named)


def weights(mode, n_source, n_pixels, n_input, field):
    """Integer interpolation weights (n_pixels, n_source) and their denominator, from methods 2.1."""
    rows, places = [], []
    for j in range(n_pixels):
        if mode == "rf":
            offset, size, step = (Fraction(text) for text in field)
            v = (Fraction(2 * j + 1, 2) * Fraction(n_input, n_pixels) - Fraction(1, 2) - offset - (size - 1) / 2) / step
        else:
            v = Fraction((2 * j + 1) * n_source, 2 * n_pixels) - Fraction(1, 2)
        places.append(min(max(v, Fraction(0)), Fraction(n_source - 1)))
    denominator = int(np.lcm.reduce([v.denominator for v in places]))
    for v in places:
        row = np.zeros(n_source)
        row[int(v)] += denominator - int((v - int(v)) * denominator)
        if v > int(v):
            row[int(v) + 1] += int((v - int(v)) * denominator)
        rows.append(row)
    return np.array(rows), denominator


def recount(run, layer, mode, every):
    """I, A by category, A over all, for every `every`-th unit, in integers below 2**53, which float64 holds exactly."""
    manifest = json.loads((run / "run.json").read_text())
    about = next(one for one in manifest["layers"] if one["array"]["name"] == layer)
    data = sd.open_dataset(manifest["data"]["spec"])
    stored = zarr.open_array(run / "activations.zarr" / layer, mode="r")
    with h5py.File(run / "dissection.h5") as file:
        threshold = file[f"layers/{layer}/threshold"][::every].astype(np.float64)
        images = [list(data.names).index(name) for name in file["images/name"].asstr()[()]]
    concepts = data.concepts
    shape = data.labels(0).shape
    axes = [
        weights(mode, n, m, size, about["field"][axis])
        for n, m, size, axis in zip(
            stored.shape[2:], shape, manifest["plan"]["input_size"], ("rows", "columns"), strict=True
        )
    ]
    (top, dy), (left, dx) = axes
    limit = threshold * 2**24 * dy * dx
    n_units = len(threshold)
    shared = np.zeros((n_units, len(concepts)), np.int64)
    area, everything = np.zeros((n_units, len(concepts.category_name)), np.int64), np.zeros(n_units, np.int64)
    n_ties = 0
    for row, i in enumerate(images):
        values = stored[row, ::every].astype(np.float64) * 2**24
        assert np.abs(values).max() * dy * dx < 2**53, "not exact in float64"
        active = np.flatnonzero((values > (threshold * 2**24)[:, None, None]).any((1, 2)))
        if not len(active):
            continue
        numerator = top @ values[active] @ left.T
        on = numerator > limit[active][:, None, None]
        n_ties += int((numerator == limit[active][:, None, None]).sum())
        labels = data.labels(i)
        planes = np.zeros((len(concepts), *shape), bool)
        for _, numbers in labels.layers:
            for j, number in enumerate(concepts.number):
                planes[j] |= numbers == number
        for _, number in labels.whole:
            planes[np.flatnonzero(concepts.number == number)[0]] = True
        flat = on.reshape(len(active), -1).astype(np.float32)
        shared[active] += np.rint(flat @ planes.reshape(len(concepts), -1).T.astype(np.float32)).astype(np.int64)
        pixels = on.sum((1, 2))
        everything[active] += pixels
        for g in range(area.shape[1]):
            if planes[concepts.category == g].any():
                area[active, g] += pixels
    return shared, area, everything, n_ties


def check(run, mode, every):
    result = sd.score(run, name=mode, upsample=mode)
    total_ties = 0
    for name, layer in result.layers.items():
        shared, area, everything, n_ties = recount(run, name, mode, every)
        assert_array_equal(layer.intersection[::every], shared)
        assert_array_equal(layer.unit_area[::every], area)
        assert_array_equal(layer.unit_area_all[::every], everything)
        values = zarr.open_array(run / "activations.zarr" / name, mode="r")[:, ::every]
        ordered = np.sort(np.moveaxis(values, 1, 0).reshape(values.shape[1], -1), axis=1)
        assert_array_equal(layer.threshold[::every], ordered[:, ordered.shape[1] - 1 - ordered.shape[1] // 200])
        total_ties += n_ties
    return result, total_ties


def test_a_sample_of_street_scenes(street, tmp_path):
    extract(street, tmp_path / "run", limit=24)
    sd.score(tmp_path / "run")
    for mode in ("rf", "half_pixel"):
        check(tmp_path / "run", mode, 7)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["rf", "half_pixel"])
def test_all_street_scenes(street, tmp_path_factory, mode):
    run = tmp_path_factory.getbasetemp() / "street"
    extract(street, run)  # the second time it is found finished
    sd.score(run)
    result, n_ties = check(run, mode, 1)
    print(mode, n_ties, "exact ties")
    car, vehicle = (result.concept_name.index(name) for name in ("car", "vehicle"))
    for layer in result.layers.values():
        assert_array_equal(layer.intersection[:, car], layer.intersection[:, vehicle])
        assert vehicle not in layer.best_concept, "an exact tie goes to the smaller number"
