"""Counters as a tally: empty, added to, saved, loaded, merged, refused where damaged."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import LabelRules, image_planes
from streamdissect.measure.upsample import axis_weights

RULES = LabelRules(np.array([1, 4, 7], np.int32), np.array([0, 1, 1], np.int32), 2, np.zeros(2, np.int32))
SIZES = 2, 3, 2  # units, concepts, categories
WEIGHTS = {
    (n, n + 1): (axis_weights("half_pixel", 3, n, 1), axis_weights("half_pixel", 3, n + 1, 1)) for n in range(2, 7)
}
STATE = ("rows", "chance", "concept_area", "category_images", "category_pixels", "active_maps")


def batch(seed, n_images):
    """Maps and labels of a few images of several sizes."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(-2, 5, (n_images, 2, 3, 3)).astype(np.float32)
    shapes = [(n, n + 1) for n in rng.integers(2, 7, n_images).tolist()]
    layers = [rng.choice([0, 1, 4], shape).astype(np.uint16) for shape in shapes]
    whole = [[(1, 7)] * int(rng.integers(0, 2)) for _ in shapes]
    return maps, [image_planes(s, [(0, a)], w, RULES) for s, a, w in zip(shapes, layers, whole, strict=True)]


def filled(*batches):
    counters = Counters(*SIZES)
    for maps, planes in batches:
        counters.add(maps, np.array([1, 2], np.float32), planes, WEIGHTS)
    return counters


def through_disk(counters):
    """Saved as npz and loaded."""
    file = io.BytesIO()
    np.savez(file, **counters.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return Counters.from_arrays(dict(arrays))


def assert_same(counters, other):
    for name in STATE:
        assert_array_equal(getattr(counters, name), getattr(other, name), err_msg=name, strict=True)
    for name in ("n_units", "n_concepts", "n_categories", "n_images", "n_pixels"):
        assert getattr(counters, name) == getattr(other, name)


def test_empty():
    counters = Counters(*SIZES)
    counters.add(np.zeros((0, 2, 3, 3), np.float32), np.zeros(2, np.float32), [], WEIGHTS)
    assert not any(getattr(counters, name).any() for name in STATE)
    assert counters.intersection.shape == (2, 3) and counters.unit_area.shape == (2, 2)
    assert counters.unit_area_all.shape == (2,) and counters.n_images == counters.n_pixels == 0
    assert_same(through_disk(counters), counters)
    assert all(array.dtype == np.int64 for array in counters.to_arrays().values())


@pytest.mark.parametrize("sizes", [(0, 0, 0), (3, 0, 1), (0, 2, 2)])
def test_without_units_or_concepts(sizes):
    assert_same(through_disk(Counters(*sizes)), Counters(*sizes))


def test_views_are_of_the_state():
    counters = filled(batch(0, 6))
    assert_array_equal(
        np.vstack([counters.intersection.T, counters.unit_area.T, counters.unit_area_all]), counters.rows
    )
    assert counters.rows.any(axis=1).all(), "the batch has something of everything"
    assert (counters.intersection <= np.minimum(counters.unit_area[:, RULES.category], counters.concept_area)).all()


@given(parts=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 4)), max_size=4), data=st.data())
@settings(max_examples=50)
def test_parts_merge_to_the_whole_in_any_order(parts, data):
    batches = list(itertools.starmap(batch, parts))
    merged = Counters(*SIZES)
    for part in data.draw(st.permutations(batches)):
        merged.merge(through_disk(filled(part)))
    assert_same(through_disk(merged), filled(*batches))


def test_merging_leaves_the_other_alone():
    first, second = filled(batch(1, 2)), filled(batch(2, 3))
    first.merge(second)
    assert_same(second, filled(batch(2, 3)))


@pytest.mark.parametrize("sizes", [(3, 3, 2), (2, 4, 2), (2, 2, 3), (2, 3, 1)])
def test_strangers_are_refused(sizes):
    counters = filled(batch(1, 2))
    with pytest.raises(ValueError, match="cannot join"):
        counters.merge(Counters(*sizes))
    assert_same(counters, filled(batch(1, 2)))


@pytest.mark.parametrize("name", list(Counters(*SIZES).to_arrays()))
def test_cut_arrays_are_refused(name):
    arrays = filled(batch(3, 4)).to_arrays()
    without = {key: array for key, array in arrays.items() if key != name}
    for damaged in (arrays[name][:-1], np.append(arrays[name], 1), arrays[name][None], np.int64(3),
                    arrays[name].astype(float), arrays[name].astype(object)):  # fmt: skip
        with pytest.raises(ValueError, match="damaged"):
            Counters.from_arrays(arrays | {name: damaged})
    with pytest.raises(ValueError, match=f"cut.*{name}"):
        Counters.from_arrays(without)


@pytest.mark.parametrize("name", ["rows_index", "chance_index"])
@pytest.mark.parametrize("damage", [lambda i: i - i[0] - 1, lambda i: i + 1000, lambda i: 0 * i, lambda i: i[::-1]])
def test_indices_out_of_range_or_order_are_refused(name, damage):
    arrays = filled(batch(3, 4)).to_arrays()
    with pytest.raises(ValueError, match=f"{name} must ascend"):
        Counters.from_arrays(arrays | {name: damage(arrays[name])})


@pytest.mark.parametrize(
    "shape", [[2, 2, 3, 2], [0, 2, 3, 2], [1, 2, 3, 3], [1, 2**40, 3, 2], [1, 2, 2**40, 2], [1, -2, 3, 2]]
)
def test_another_version_or_size_is_refused(shape):
    arrays = filled(batch(3, 4)).to_arrays()
    with pytest.raises(ValueError, match="version" if shape[0] != 1 else "damaged"):
        Counters.from_arrays(arrays | {"shape": np.array(shape)})
