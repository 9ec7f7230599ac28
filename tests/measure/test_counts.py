"""Counters against an oracle that is written from methods 2.1 and 3.2-3.4: pixel by pixel, in rational numbers."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import kernel_backend
from streamdissect.measure.counters import Counters
from streamdissect.measure.iou import score_counters
from streamdissect.measure.planes import LabelRules, LaidOut, image_planes
from streamdissect.measure.upsample import axis_weights


def backend(name):
    """A parameter, skipped where the backend cannot be imported."""
    try:
        kernel_backend(name)
    except ImportError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return pytest.param(name)


FAST = [backend("cython"), backend("numba"), backend("torch")]


@dataclass
class Case:
    """A few labelled images with the maps of a few units."""

    rules: LabelRules
    images: list
    """(shape, layers, whole) of each"""
    maps: np.ndarray
    """(B, K, h, w)"""
    thresholds: np.ndarray
    """(K,)"""
    mask_shape: tuple[int, int] | None = None
    or_equal: bool = False

    @property
    def grids(self):
        return [self.mask_shape or shape for shape, _, _ in self.images]


# The oracle


def share_of_cells(n_cells, n_pixels):
    """(pixels, cells) rational weights of mode half_pixel."""
    weights = np.full((n_pixels, n_cells), Fraction(0))
    for j in range(n_pixels):
        v = Fraction(2 * j + 1, 2) * Fraction(n_cells, n_pixels) - Fraction(1, 2)
        v = min(max(v, Fraction(0)), Fraction(n_cells - 1))
        before = v.numerator // v.denominator
        after = min(before + 1, n_cells - 1)
        weights[j, before] += 1 - (v - before)
        weights[j, after] += v - before
    return weights


def mask_of(values, threshold, grid, or_equal):
    """(H, W) is the interpolated value above the threshold?"""
    if np.isnan(threshold):
        return np.zeros(grid, bool)
    exact = np.array([[Fraction(float(v)) for v in line] for line in values], object)
    down, across = (share_of_cells(n, m) for n, m in zip(values.shape, grid, strict=True))
    surface = down @ exact @ across.T
    bound = float(threshold)  # a Fraction is compared with a float exactly
    return np.array(surface >= bound if or_equal else surface > bound, bool)


def labels_at(image, grid):
    """(H, W) how often each label number stands at a pixel of the mask grid, whatever the category says."""
    (rows, columns), layers, whole = image
    found = np.empty(grid, object)
    for y, x in np.ndindex(grid):
        under = int((y + 0.5) * rows / grid[0]), int((x + 0.5) * columns / grid[1])  # holds the pixel's centre
        found[y, x] = Counter(int(layer[under]) for _, layer in layers) + Counter(number for _, number in whole)
    return found


def recount(case, union="paper"):
    """Every counter of methods 3.4 and the IoU, as Fraction."""
    rules = case.rules
    n_units, n_concepts, n_categories = case.maps.shape[1], len(rules.number), rules.n_categories
    counts = {
        "intersection": np.zeros((n_units, n_concepts), int),
        "concept_area": np.zeros(n_concepts, int),
        "unit_area": np.zeros((n_units, n_categories), int),
        "unit_area_all": np.zeros(n_units, int),
        "chance": np.zeros((n_concepts, n_units), int),
        "category_images": np.zeros(n_categories, int),
        "category_pixels": np.zeros(n_categories, int),
        "active_maps": np.zeros(n_units, int),
    }
    for image, maps, grid in zip(case.images, case.maps, case.grids, strict=True):
        at = labels_at(image, grid)
        ignored = [
            np.array([[bool(code) and code in pixel for pixel in line] for line in at])
            for code in rules.ignore.tolist()
        ]
        label = []  # L_c
        for number, g in zip(rules.number.tolist(), rules.category.tolist(), strict=True):
            times = np.array([[pixel[number] for pixel in line] for line in at])
            label.append((np.minimum(times, 1) if rules.multiplicity == "set" else times) * ~ignored[g])
        for k, values in enumerate(maps):
            threshold = case.thresholds[k]
            mask = mask_of(values, threshold, grid, case.or_equal)
            counts["active_maps"][k] += np.any(values >= threshold if case.or_equal else values > threshold)
            counts["unit_area_all"][k] += mask.sum()
            for c in range(n_concepts):
                counts["intersection"][k, c] += (label[c] * mask).sum()
                counts["chance"][c, k] += mask.sum() * label[c].sum()
        for c in range(n_concepts):
            counts["concept_area"][c] += label[c].sum()
        for g in range(n_categories):
            of_category = sum((label[c] for c in range(n_concepts) if rules.category[c] == g), np.zeros(grid, int))
            if not of_category.any():
                continue
            judged = ~ignored[g]
            if rules.unlabelled == "ignore":
                judged &= of_category > 0
            counts["category_images"][g] += 1
            counts["category_pixels"][g] += judged.sum()
            for k, values in enumerate(maps):
                mask = mask_of(values, case.thresholds[k], grid, case.or_equal)
                if union == "mask-touch":
                    counts["unit_area"][k, g] += mask.sum() * bool((mask * of_category).any())
                else:
                    counts["unit_area"][k, g] += (mask & judged).sum()
    iou = np.zeros((n_units, n_concepts))
    for k, c in np.ndindex(iou.shape):
        area = counts["unit_area_all"][k] if union == "all-images" else counts["unit_area"][k, rules.category[c]]
        shared = counts["intersection"][k, c]
        total = area + counts["concept_area"][c] - shared
        iou[k, c] = Fraction(int(shared), int(total)) if total else 0
    return counts, iou


# The code


def counted(case, union="paper", backend="auto"):
    """Counters of a case, all images at once."""
    rules = replace(case.rules, union=union)
    planes = [image_planes(*image, rules, case.mask_shape, backend) for image in case.images]
    weights = {
        grid: tuple(axis_weights("half_pixel", n, m, 10 * m) for n, m in zip(case.maps.shape[2:], grid, strict=True))
        for grid in case.grids
    }
    counters = Counters(case.maps.shape[1], len(rules.number), rules.n_categories)
    counters.add(case.maps, case.thresholds, planes, weights, or_equal=case.or_equal, backend=backend)
    return counters


def assert_recounted(case, union="paper", backend="auto"):
    expected, iou = recount(case, union)
    counters = counted(case, union, backend)
    for name, count in expected.items():
        assert_array_equal(getattr(counters, name), count, err_msg=name)
    assert counters.n_images == len(case.images)
    assert counters.n_pixels == sum(rows * columns for rows, columns in case.grids)
    assert_array_equal(score_counters(counters, case.rules.category, Fraction(1, 25), union).iou, iou)


# The cases


@st.composite
def cases(draw, whole_masks=False):
    """Shapes and choices are drawn by hypothesis, pixels by numpy from a drawn seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_categories = draw(st.integers(1, 3))
    numbers = np.sort(rng.choice([1, 2, 3, 5, 8, 63, 64, 300, 4000, 65535], draw(st.integers(1, 9)), False))
    category = rng.integers(0, draw(st.integers(1, n_categories)), len(numbers))  # the last may stay empty
    ignore = np.zeros(n_categories, int)
    if not whole_masks and draw(st.booleans()):  # a number that is no concept, or one that is
        ignore[rng.integers(n_categories)] = rng.choice([7, numbers[0]])
    rules = LabelRules(
        number=numbers.astype(np.int32),
        category=category.astype(np.int32),
        n_categories=n_categories,
        ignore=ignore.astype(np.int32),
        multiplicity=draw(st.sampled_from(["set", "multiset"])),
        unlabelled="negative" if whole_masks else draw(st.sampled_from(["negative", "ignore"])),
    )
    one_size = draw(st.booleans())
    size = st.tuples(st.integers(1, 12), st.integers(1, 12))
    shape = draw(size)
    images = []
    for _ in range(draw(st.integers(1, 3))):
        shape = shape if one_size else draw(size)
        present = rng.choice([0, 0, 7, *numbers[rng.random(len(numbers)) < 0.7]], (4, *shape)).astype(np.uint16)
        layers = [(int(rng.integers(n_categories)), layer) for layer in present[: rng.integers(0, 5)]]
        whole = [(0, int(n)) for n in rng.choice([0, 7, *numbers, *numbers], rng.integers(0, 3))]
        images.append((shape, layers, whole))
    n_units, grid = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    maps = rng.integers(-8, 9, (len(images), n_units, *grid)) * (rng.random((n_units, *grid)) < 0.6) / 4
    return Case(
        rules=rules,
        images=images,
        maps=maps.astype(draw(st.sampled_from([np.float16, np.float32]))),
        thresholds=rng.choice([-np.inf, -1, 0, 0.25, 0.5, 1.25, 3, np.nan], n_units).astype(np.float32),
        mask_shape=draw(st.none() | size),
        or_equal=draw(st.booleans()),
    )


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=60)
@given(case=cases())
def test_counts_equal_the_oracle(backend, case):
    assert_recounted(case, backend=backend)


@pytest.mark.parametrize("union", ["all-images", "mask-touch"])
@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=30)
@given(case=cases(whole_masks=True))
def test_other_unions_equal_the_oracle(backend, union, case):
    assert_recounted(case, union, backend)


@pytest.mark.parametrize("multiplicity", ["set", "multiset"])
@pytest.mark.parametrize("union", ["paper", "mask-touch"])
@pytest.mark.parametrize("backend", FAST)
def test_more_labels_than_a_word_has_bits_on_a_grid_of_several_words(backend, union, multiplicity):
    rng = np.random.default_rng(3)
    shape = 4, 131
    numbers = np.arange(1, 90, dtype=np.int32)
    rules = LabelRules(numbers, numbers % 2, 2, np.zeros(2, np.int32), multiplicity=multiplicity)
    layers = [(0, rng.integers(0, 90, shape).astype(np.uint16)) for _ in range(2)]
    maps = rng.integers(0, 5, (1, 2, 3, 5)).astype(np.float32)
    case = Case(rules, [(shape, layers, [(1, 44)])], maps, np.array([1, 3], np.float32))
    assert_recounted(case, union, backend)


# By hand


@pytest.mark.parametrize("pixels, expected", [(4, [0, 1, 2, 3]), (2, [1, 3]), (6, [0, 1, 1, 2, 3, 3]), (1, [2])])
def test_labels_areresampled_to_the_nearest(pixels, expected):
    layer = np.arange(1, 5, dtype=np.uint16)[None, :]
    rules = LabelRules(np.arange(1, 5, dtype=np.int32), np.zeros(4, np.int32), 1, np.zeros(1, np.int32))
    image = image_planes((1, 4), [(0, layer)], [], rules, (1, pixels))
    area = np.zeros(4, int)
    area[image.present_row] = image.present_area
    assert_array_equal(area, np.bincount(expected, minlength=4))


def one_pixel_unit(layers, whole, **rules):
    """Counters of a unit whose mask is all of a 1 x 4 image; concepts 1, 2 of category 0 and 3 of category 1."""
    category = np.array([0, 0, 1], np.int32)
    ignore = np.array(rules.pop("ignore", (0, 0)), np.int32)
    rules = LabelRules(np.array([1, 2, 3], np.int32), category, 2, ignore, **rules)
    layers = [(0, np.array([layer], np.uint16)) for layer in layers]
    case = Case(rules, [((1, 4), layers, whole)], np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    return counted(case, rules.union)


def test_an_image_level_ignore_code_leaves_nothing_to_judge():
    counters = one_pixel_unit([[1, 1, 2, 0]], [(0, 9), (1, 3)], ignore=(9, 0))
    assert counters.concept_area.tolist() == [0, 0, 4]
    assert counters.unit_area.tolist() == [[0, 4]] and counters.unit_area_all.tolist() == [4]
    assert counters.category_images.tolist() == [0, 1]


def test_ignored_pixels_leave_mask_and_label_of_their_category_only():
    counters = one_pixel_unit([[1, 1, 9, 0], [9, 2, 3, 3]], [], ignore=(9, 0))
    assert counters.concept_area.tolist() == counters.intersection[0].tolist() == [1, 1, 2]
    assert counters.unit_area.tolist() == [[2, 4]] and counters.category_pixels.tolist() == [2, 4]


def test_unlabelled_pixels_may_be_left_out():
    counters = one_pixel_unit([[1, 2, 0, 3]], [], unlabelled="ignore")
    assert counters.unit_area.tolist() == [[2, 1]] and counters.category_pixels.tolist() == [2, 1]


def test_a_label_counts_in_its_primary_category_whichever_layer_gives_it():
    counters = one_pixel_unit([[0, 0, 3, 3]], [])
    assert counters.concept_area.tolist() == [0, 0, 2]
    assert counters.category_images.tolist() == [0, 1] and counters.unit_area.tolist() == [[0, 4]]


@pytest.mark.parametrize("rules", [{"ignore": (0, 7)}, {"unlabelled": "ignore"}])
def test_mask_touch_goes_with_whole_masks_only(rules):
    with pytest.raises(ValueError, match="mask-touch"):
        one_pixel_unit([[1, 2, 0, 3]], [], union="mask-touch", **rules)


@pytest.mark.parametrize("rules", [{"union": "intersection"}, {"multiplicity": "bag"}, {"unlabelled": "positive"}])
def test_rules_that_do_not_exist_are_refused(rules):
    with pytest.raises(ValueError, match="expected one of"):
        one_pixel_unit([[1, 2, 0, 3]], [], **rules)


@pytest.mark.parametrize("mask_shape", [None, (2, 2)])
def test_label_maps_of_different_sizes_are_refused(mask_shape):
    rules = LabelRules(np.array([1], np.int32), np.zeros(1, np.int32), 1, np.zeros(1, np.int32))
    layers = [(0, np.ones((3, 4), np.uint16)), (0, np.ones((3, 5), np.uint16))]
    with pytest.raises(ValueError, match=r"\(3, 5\) among those of \(3, 4\)"):
        image_planes((3, 4), layers, [], rules, mask_shape)


def test_maps_and_labels_must_be_of_the_same_images():
    rules = LabelRules(np.array([1], np.int32), np.zeros(1, np.int32), 1, np.zeros(1, np.int32))
    image = image_planes((2, 2), [], [(0, 1)], rules)
    axis = axis_weights("half_pixel", 1, 2, 2)
    with pytest.raises(ValueError, match="maps of 2 images, labels of 1"):
        Counters(1, 1, 1).add(
            np.zeros((2, 1, 1, 1), np.float32), np.zeros(1, np.float32), [image], {(2, 2): (axis,) * 2}
        )


def test_images_that_are_laid_out_count_as_they_do_one_by_one():
    rng = np.random.default_rng(3)
    rules = LabelRules(np.arange(1, 9, dtype=np.int32), np.zeros(8, np.int32), 1, np.zeros(1, np.int32))
    shapes = [(8, 8), (8, 8), (8, 8), (6, 70), (6, 70), (8, 8)]
    images = [image_planes(shape, [(0, rng.integers(0, 9, shape).astype(np.uint16))], [], rules) for shape in shapes]
    weights = {shape: tuple(axis_weights("half_pixel", 4, n, n) for n in shape) for shape in shapes}
    maps, thresholds = rng.normal(0, 1, (6, 3, 4, 4)).astype(np.float32), np.full(3, 0.5, np.float32)
    laid_out = LaidOut(images)
    for part in (slice(0, 6), slice(1, 4), slice(2, 3), slice(3, 6), slice(4, 4)):
        assert len(laid_out[part]) == len(images[part]) and list(laid_out[part]) == images[part]
        found, expected = Counters(3, 8, 1), Counters(3, 8, 1)
        found.add(maps[part], thresholds, laid_out[part], weights)
        expected.add(maps[part], thresholds, images[part], weights)
        assert_array_equal(found.rows, expected.rows)
        assert_array_equal(found.chance, expected.chance)
    assert list(laid_out[1:5][1:3]) == images[2:4] and laid_out[1:5][-1] is images[4]
    with pytest.raises(ValueError, match="several mask grids"):
        laid_out[2:4].batch()
