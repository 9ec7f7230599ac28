"""What must not change when something else does (methods 9.3, laws 1 to 10): no oracle, every backend."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import kernel_backend, mask_maps
from streamdissect.kernels.reference import unpack
from streamdissect.measure.counters import Counters
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.iou import score_counters
from streamdissect.measure.planes import UNIONS, LabelRules, image_planes
from streamdissect.measure.upsample import axis_weights

TAU = Fraction(1, 25)
STATE = ("rows", "chance", "concept_area", "category_images", "category_pixels", "active_maps")
SCORES = ("iou", "union", "best_concept", "best_concept_by_category", "is_detector", "is_detector_by_category")


def backend(name):
    """A parameter, skipped where the backend cannot be imported."""
    try:
        kernel_backend(name)
    except ImportError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return pytest.param(name)


every_backend = pytest.mark.parametrize("backend", [backend("cython"), backend("numba"), backend("torch")])
laws = settings(max_examples=40)


@dataclass(frozen=True)
class World:
    """Labelled images and the maps of a layer's units on them."""

    rules: LabelRules
    images: list
    """(shape, layers, whole) of each"""
    maps: np.ndarray
    """(N, K, h, w)"""
    thresholds: np.ndarray
    """(K,)"""
    modes: tuple[str, str] = ("half_pixel", "half_pixel")
    fields: tuple[AxisField, AxisField] = field(default=(AxisField(-2, 7, 4), AxisField(-1, 9, 5)))

    def part(self, chosen):
        """The chosen images, in that order."""
        chosen = list(chosen)
        return replace(self, images=[self.images[i] for i in chosen], maps=self.maps[chosen])


@st.composite
def worlds(draw, modes=("half_pixel", "corners", "rf"), **choices):
    """Up to six images of two mask grids, up to five units; sizes are drawn, pixels come from a drawn seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = np.sort(rng.choice(np.arange(1, 400), draw(st.integers(2, 6)), False)).astype(np.int32)
    n_categories = draw(st.integers(1, 3))
    rules = LabelRules(
        numbers,
        rng.integers(0, n_categories, len(numbers)).astype(np.int32),
        n_categories,
        np.zeros(n_categories, np.int32),
        **choices,
    )
    grid = draw(st.tuples(st.integers(1, 7), st.integers(1, 9)))
    larger = [tuple(n + m for n, m in zip(grid, draw(st.tuples(*[st.integers(0, 20)] * 2)), strict=True)) for _ in "ab"]
    images = []
    for _ in range(draw(st.integers(1, 6))):
        shape = larger[rng.integers(2)]
        some = np.array([0, *numbers[rng.random(len(numbers)) < 0.5]])
        layers = [(0, rng.choice(some, shape).astype(np.uint16)) for _ in range(rng.integers(0, 4))]
        images.append((shape, layers, [(0, int(n)) for n in rng.choice(numbers, rng.integers(0, 2))]))
    n_units = draw(st.integers(1, 5))
    maps = np.round(rng.normal(0, 2, (len(images), n_units, *grid)) * 16) / 16
    maps = (maps * (rng.random(maps.shape) < 0.6)).astype(draw(st.sampled_from([np.float16, np.float32])))
    thresholds = np.array([rng.choice(maps[:, k].ravel()) for k in range(n_units)], np.float32)  # ties, as in life
    return World(rules, images, maps, thresholds, tuple(draw(st.sampled_from(modes)) for _ in "yx"))


def counted(world, backend, threads=1, batch=99):
    """Counters of a world, `batch` images at a time."""
    rules = world.rules
    counters = Counters(world.maps.shape[1], rules.n_concepts, rules.n_categories)
    for begin in range(0, len(world.images), batch):
        part = slice(begin, begin + batch)
        planes = [image_planes(*image, rules) for image in world.images[part]]
        weights = {}
        for shape in {p.shape for p in planes}:
            axes = zip(world.modes, world.maps.shape[2:], shape, world.fields, strict=True)
            weights[shape] = tuple(axis_weights(mode, n, m, 3 * m, f) for mode, n, m, f in axes)
        counters.add(world.maps[part], world.thresholds, planes, weights, threads=threads, backend=backend)
    return counters


def state(counters):
    """Every count by name."""
    return {name: getattr(counters, name) for name in STATE} | {"totals": [counters.n_images, counters.n_pixels]}


def assert_same(counters, other):
    for name, count in state(counters).items():
        assert_array_equal(count, state(other)[name], err_msg=name)


def scored(counters, rules):
    return score_counters(counters, rules.category, TAU, rules.union)


@every_backend
@laws
@given(world=worlds(), data=st.data())
def test_1_permuted_units_permute_every_output(backend, world, data):
    order = data.draw(st.permutations(range(len(world.thresholds))))
    permuted = replace(world, maps=world.maps[:, order], thresholds=world.thresholds[order])
    before, after = counted(world, backend), counted(permuted, backend)
    for name in ("rows", "chance"):
        assert_array_equal(getattr(after, name), getattr(before, name)[:, order])
    assert_array_equal(after.active_maps, before.active_maps[order])
    assert_array_equal(after.concept_area, before.concept_area)
    for name in SCORES:
        assert_array_equal(getattr(scored(after, world.rules), name), getattr(scored(before, world.rules), name)[order])


@every_backend
@laws
@given(world=worlds(), union=st.sampled_from(UNIONS), threads=st.sampled_from([1, 2, 4, 7]), data=st.data())
def test_2_parts_batches_threads_and_order_change_nothing(backend, world, union, threads, data):
    world = replace(world, rules=replace(world.rules, union=union))
    order = data.draw(st.permutations(range(len(world.images))))
    cut, batch = data.draw(st.integers(0, len(order))), data.draw(st.integers(1, len(order)))
    first = counted(world.part(order[:cut]), backend, threads, batch)
    second = counted(world.part(order[cut:]), backend, batch=batch)
    second.merge(first)
    assert_same(second, counted(world, backend))


@every_backend
@laws
@given(world=worlds())
def test_3_images_twice_double_the_counts_and_leave_the_ious(backend, world):
    n = len(world.images)
    once, twice = counted(world, backend), counted(world.part([*range(n), *range(n)]), backend)
    for name, count in state(once).items():
        assert_array_equal(state(twice)[name], 2 * np.asarray(count), err_msg=name)
    for name in set(SCORES) - {"union"}:
        assert_array_equal(getattr(scored(twice, world.rules), name), getattr(scored(once, world.rules), name))


@every_backend
@laws
@given(world=worlds(), data=st.data())
def test_4_scaling_a_unit_by_a_power_of_two_changes_nothing(backend, world, data):
    n_units = len(world.thresholds)
    exponents = data.draw(st.lists(st.integers(-40, 40), min_size=n_units, max_size=n_units))
    scale = np.ldexp(np.float32(1), np.array(exponents))
    scaled = replace(
        world, maps=world.maps.astype(np.float32) * scale[:, None, None], thresholds=world.thresholds * scale
    )
    assert_same(counted(scaled, backend), counted(world, backend))


@every_backend
@laws
@given(world=worlds(), data=st.data())
def test_5_images_without_a_category_leave_its_ious(backend, world, data):
    has = [
        {int(g) for g in world.rules.category[image_planes(*image, world.rules).present_row]} for image in world.images
    ]
    g = data.draw(st.integers(0, world.rules.n_categories - 1))
    kept = [i for i, categories in enumerate(has) if g in categories or data.draw(st.booleans())]
    columns = world.rules.category == g
    less, all_of_them = (scored(counted(w, backend), world.rules) for w in (world.part(kept), world))
    assert_array_equal(less.iou[:, columns], all_of_them.iou[:, columns])
    assert_array_equal(less.best_concept_by_category[:, g], all_of_them.best_concept_by_category[:, g])


@every_backend
@pytest.mark.parametrize("multiplicity", ["set", "multiset"])
@laws
@given(world=worlds(), union=st.sampled_from(UNIONS), seed=st.integers(0, 99))
def test_6_a_layer_split_into_two_disjoint_layers_is_the_same(backend, multiplicity, world, union, seed):
    rng = np.random.default_rng(seed)
    world = replace(world, rules=replace(world.rules, union=union, multiplicity=multiplicity))

    def split(layer):
        here = rng.random(layer.shape) < 0.5
        return np.where(here, layer, 0), np.where(here, 0, layer)

    images = [
        (shape, [(g, half) for g, layer in layers for half in split(layer)], whole)
        for shape, layers, whole in world.images
    ]
    assert_same(counted(replace(world, images=images), backend), counted(world, backend))


@every_backend
@laws
@given(world=worlds(), data=st.data())
def test_7_other_label_numbers_permute_the_columns(backend, world, data):
    numbers = world.rules.number
    others = st.lists(st.integers(1, 65535), min_size=len(numbers), max_size=len(numbers), unique=True)
    new = np.array(data.draw(others))  # of each old one, in any order
    order = np.argsort(new)
    rename = np.zeros(65536, np.uint16)
    rename[numbers] = new
    images = [
        (shape, [(g, rename[layer]) for g, layer in layers], [(g, int(rename[n])) for g, n in whole])
        for shape, layers, whole in world.images
    ]
    rules = replace(world.rules, number=new[order].astype(np.int32), category=world.rules.category[order])
    before, after = counted(world, backend), counted(replace(world, rules=rules, images=images), backend)
    assert_array_equal(after.intersection, before.intersection[:, order])
    assert_array_equal(after.chance, before.chance[order])
    assert_array_equal(after.concept_area, before.concept_area[order])
    assert_array_equal(after.unit_area, before.unit_area)
    assert_array_equal(after.category_pixels, before.category_pixels)
    assert_array_equal(scored(after, rules).iou, scored(before, world.rules).iou[:, order])


@every_backend
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["up-down", "left-right", "both"])
@laws
@given(world=worlds(modes=("half_pixel", "corners")))
def test_8_maps_and_labels_mirrored_together_count_the_same(backend, axes, world):
    images = [
        (shape, [(g, np.flip(layer, axes)) for g, layer in layers], whole) for shape, layers, whole in world.images
    ]
    mirrored = replace(world, images=images, maps=np.flip(world.maps, [axis + 2 for axis in axes]))
    assert_same(counted(mirrored, backend), counted(world, backend))


@every_backend
@laws
@given(world=worlds(), data=st.data())
def test_9_a_unit_whose_mask_is_the_label_has_iou_1(backend, world, data):
    k = data.draw(st.integers(0, len(world.thresholds) - 1))
    images = []
    for (shape, _, _), maps in zip(world.images, world.maps, strict=True):
        axes = zip(world.modes, maps.shape[1:], shape, world.fields, strict=True)
        rows, columns = (axis_weights(mode, n, m, 3 * m, f) for mode, n, m, f in axes)
        (words,) = mask_maps(maps[[k]], world.thresholds[[k]], rows, columns, backend=backend)
        images.append((shape, [(0, unpack(words, shape).astype(np.uint16) * 5)], []))
    rules = LabelRules(np.array([5], np.int32), np.zeros(1, np.int32), 1, np.zeros(1, np.int32))
    counters = counted(replace(world, rules=rules, images=images), backend)
    assert scored(counters, rules).iou[k, 0] == (1 if counters.unit_area_all[k] else 0)
    assert (scored(counters, rules).iou <= 1).all()


@every_backend
@laws
@given(world=worlds(), union=st.sampled_from(UNIONS))
def test_10_without_labels_every_iou_is_0(backend, world, union):
    images = [(shape, [(g, np.zeros_like(layer)) for g, layer in layers], []) for shape, layers, _ in world.images]
    rules = replace(world.rules, union=union)
    counters = counted(replace(world, rules=rules, images=images), backend)
    scores = scored(counters, rules)
    assert not scores.iou.any() and not np.isnan(scores.iou).any()
    assert not counters.intersection.any() and not counters.unit_area.any() and not counters.category_images.any()
    assert (scores.best_concept == -1).all() and not scores.is_detector.any()
    assert scores.unique_top() == scores.unique_any() == scores.unique_by_category().sum() == 0


@every_backend
def test_planted_units_score_as_worked_out_by_hand(backend):
    """Three concepts in tiles of 2 x 2 cells; a unit for each, and dead, constant, inverted and image-level ones.

    A tile's indicator, enlarged by 8 at T = 1/2, is on in the tile but for its corners (methods 2.1): along an edge the
    value passes 1/2 half-way between the cells' centres, that is at the tile's border; at a corner a product of two
    weights must pass 1/2. With offsets 1/16, 3/16, 5/16, 7/16 of a cell from the border, weights are 9/16, 11/16,
    13/16, 15/16: of the 16 products six are at most 1/2 (9*9, 9*11, 9*13, 11*11 of 256 are 81, 99, 117, 121; 9*15 and
    11*13 are 135 and 143), namely 1 + 2 + 2 + 1. A lone tile loses six pixels at each of its four corners.
    """
    cells = np.zeros((2, 8, 8), int)  # two images; tiles keep two cells apart and one from the edge
    cells[0, 1:3, 1:3], cells[0, 1:3, 5:7], cells[0, 5:7, 1:3] = 1, 2, 3
    cells[1, 5:7, 5:7] = 1
    maps = np.zeros((2, 7, 8, 8), np.float32)
    for c in (1, 2, 3):
        maps[:, c - 1] = cells == c
    maps[:, 4] = 0.5  # constant at its threshold
    maps[:, 5] = cells == 0
    maps[1, 6] = 1  # all of the second image
    labels = np.kron(cells, np.ones((8, 8), int)).astype(np.uint16)
    rules = LabelRules(np.arange(1, 5, dtype=np.int32), np.array([0, 0, 0, 1], np.int32), 2, np.zeros(2, np.int32))
    images = [((64, 64), [(0, labels[0])], []), ((64, 64), [(0, labels[1])], [(1, 4)])]
    counters = counted(World(rules, images, maps, np.full(7, 0.5, np.float32)), backend)
    scores = scored(counters, rules)

    tile, mask = 16 * 16, 16 * 16 - 4 * 6
    assert counters.concept_area.tolist() == [2 * tile, tile, tile, 64 * 64]
    assert counters.unit_area_all.tolist() == [2 * mask, mask, mask, 0, 0, 2 * 64 * 64 - 4 * mask, 64 * 64]
    assert scores.iou[:4, :3].tolist() == [[mask / tile, 0, 0], [0, mask / tile, 0], [0, 0, mask / tile], [0, 0, 0]]
    assert scores.best_concept.tolist() == [0, 1, 2, -1, -1, 3, 3]
    assert scores.iou[6].tolist() == [tile / (64 * 64 + tile), 0, 0, 1]
    assert scores.is_detector.tolist() == [True, True, True, False, False, True, True]
    assert (scores.unique_top(), scores.unique_by_category().tolist()) == (4, [3, 1])
