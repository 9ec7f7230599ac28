"""The numbers that methods 2.1, 3.1, 3.6 and 3.7 work out by hand."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.measure.counters import Counters
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.iou import score_counters
from streamdissect.measure.planes import LabelRules, image_planes
from streamdissect.measure.upsample import axis_weights

CAT, RED, DOTTED = 1, 2, 3
OBJECT, COLOR, TEXTURE = range(3)


def positions(axis):
    """Where each mask pixel samples the grid, in cells."""
    parts = zip(axis.first.tolist(), axis.numerator.tolist(), strict=True)
    return [first + Fraction(numerator, axis.denominator) for first, numerator in parts][: axis.n_pixels]


def counted(maps, threshold, images, rules, or_equal=False):
    """Counters of one unit, maps (B, h, w), in mode half_pixel."""
    planes = [image_planes(*image, rules) for image in images]
    axes = {p.shape: tuple(axis_weights("half_pixel", *nm, 1) for nm in zip(maps[0].shape, p.shape, strict=True))
            for p in planes}  # fmt: skip
    counters = Counters(1, rules.n_concepts, rules.n_categories)
    counters.add(
        np.array(maps, np.float32)[:, None], np.array([threshold], np.float32), planes, axes, or_equal=or_equal
    )
    return counters


def one_concept(union="paper"):
    return LabelRules(np.array([1], np.int32), np.zeros(1, np.int32), 1, np.zeros(1, np.int32), union)


# 2.1: where pixels sample


@pytest.mark.parametrize(
    "mode, expected",
    [("half_pixel", [0, Fraction(5, 2), Fraction(15, 2), 10]), ("corners", [0, Fraction(10, 3), Fraction(20, 3), 10])],
)
def test_two_cells_on_four_pixels(mode, expected):
    assert [10 * v for v in positions(axis_weights(mode, 2, 4, 8))] == expected


def test_a_single_pixel():
    assert positions(axis_weights("corners", 5, 1, 10)) == [0]
    assert positions(axis_weights("half_pixel", 5, 1, 10)) == [2]
    assert positions(axis_weights("rf", 5, 1, 10, AxisField(0, 2, 2))) == [2]


def test_a_patch_embedding_tiles_the_grid():
    patches = AxisField().window(16, 16)
    assert positions(axis_weights("rf", 14, 112, 224, patches)) == positions(axis_weights("half_pixel", 14, 112, 224))


@pytest.mark.parametrize(
    "field, n_cells, n_input, first, last",
    [
        ((-64, 163, 16), 13, 227, 17, 209),  # Caffe AlexNet conv5
        ((-66, 163, 16), 13, 224, 15, 207),  # torchvision AlexNet conv5
        ((-90, 196, 16), 14, 224, Fraction(15, 2), Fraction(431, 2)),  # VGG-16 conv5_3
        ((-217, 435, 32), 7, 224, 0, 192),  # ResNet-18 layer4
    ],
)
def test_cells_stand_at_the_centres_of_their_fields(field, n_cells, n_input, first, last):
    at = positions(axis_weights("rf", n_cells, n_input, n_input, AxisField(*field)))  # mask pixels are input pixels
    step = AxisField(*field).step
    for u, v in enumerate(at):
        assert v == min(max((u - first) / Fraction(step), 0), n_cells - 1)
    assert AxisField(*field).centre + step * (n_cells - 1) == last


def test_vgg_is_half_pixel_and_resnet_is_shifted():
    vgg, resnet = AxisField(-90, 196, 16), AxisField(-217, 435, 32)
    assert positions(axis_weights("rf", 14, 224, 224, vgg)) == positions(axis_weights("half_pixel", 14, 224, 224))
    ours, tiled = (positions(axis_weights(mode, 7, 224, 224, resnet)) for mode in ("rf", "half_pixel"))
    shift = [a - b for a, b in zip(ours, tiled, strict=True)][16:176]  # clear of both edges
    assert set(shift) == {Fraction(31, 2) / 32}


def test_alexnet_on_labels_of_half_the_size():
    at = positions(axis_weights("rf", 13, 113, 227, AxisField(-64, 163, 16)))
    crossed = [j + (i - at[j]) / (at[j + 1] - at[j]) for i, j in ((1, 16), (11, 95))]  # pixel coordinate of a cell
    assert [round(float(c), 2) for c in crossed] == [16.18, 95.82]  # 8.21 and 103.79, one cell (7.96) further in


def test_modes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="expected one of rf, half_pixel, corners"):
        axis_weights("nearest", 2, 4, 8)
    with pytest.raises(ValueError, match="field"):
        axis_weights("rf", 2, 4, 8)


# 3.1: the slide's mask


@pytest.mark.parametrize("threshold, or_equal, pixels", [(95, False, 13), (100, False, 2), (100, True, 6)])
def test_the_slide(threshold, or_equal, pixels):
    surface = np.array(
        [[99, 100, 100, 70, 68], [99, 100, 101, 67, 65], [98, 102, 100, 98, 60], [82, 97, 99, 97, 52],
         [75, 70, 72, 70, 45]]
    )  # fmt: skip
    counters = counted([surface], threshold, [((5, 5), [], [])], one_concept(), or_equal)
    assert counters.unit_area_all.tolist() == [pixels]
    assert counters.unit_area.tolist() == [[0]], "the image has no label"


# 3.6: the worked example


def worked(union="paper", multiplicity="set", second_layer=False):
    """Counters of the two images of eight pixels."""
    rules = LabelRules(
        np.array([CAT, RED, DOTTED], np.int32),
        np.arange(3, dtype=np.int32),
        3,
        np.zeros(3, np.int32),
        union,
        multiplicity,
    )

    def line(number, *pixels):
        layer = np.zeros((1, 8), np.uint16)
        layer[0, list(pixels)] = number
        return layer

    first = [(OBJECT, line(CAT, 0, 1, 2)), (COLOR, line(RED, 2, 3))]
    if second_layer:
        first.append((OBJECT, line(CAT, 2)))
    second = [(OBJECT, line(CAT, 7)), (COLOR, line(RED, 0, 1))]
    masks = [line(1, 1, 2, 3), line(1, 0, 5)]
    return counted(masks, 0.5, [((1, 8), first, []), ((1, 8), second, [(TEXTURE, DOTTED)])], rules)


def ious(counters, union="paper"):
    scores = score_counters(counters, np.arange(3, dtype=np.int32), Fraction(1, 25), union)
    shared = counters.intersection[0].tolist()
    return [Fraction(i, u) for i, u in zip(shared, scores.union[0].tolist(), strict=True)]


def test_the_table():
    counters = worked()
    assert counters.intersection.tolist() == [[2, 3, 2]]
    assert counters.unit_area.tolist() == [[5, 5, 2]]
    assert counters.concept_area.tolist() == [4, 4, 8]
    assert counters.unit_area_all.tolist() == [5]
    assert counters.category_images.tolist() == [2, 2, 1] and counters.category_pixels.tolist() == [16, 16, 8]
    assert counters.chance[:, 0].tolist() == [3 * 3 + 2 * 1, 3 * 2 + 2 * 2, 2 * 8]
    assert counters.active_maps.tolist() == [2] and (counters.n_images, counters.n_pixels) == (2, 16)
    assert ious(counters) == [Fraction(2, 7), Fraction(1, 2), Fraction(1, 4)]


def test_the_table_by_the_rule_of_masks_that_touch():
    counters = worked("mask-touch")
    assert counters.unit_area.tolist() == [[3, 5, 2]]
    assert ious(counters, "mask-touch") == [Fraction(2, 5), Fraction(1, 2), Fraction(1, 4)]


def test_the_table_over_all_images():
    assert ious(worked("all-images"), "all-images") == [Fraction(2, 7), Fraction(1, 2), Fraction(2, 11)]


@pytest.mark.parametrize("multiplicity, shared, area, iou", [("set", 2, 4, (2, 7)), ("multiset", 3, 5, (3, 7))])
def test_a_label_in_two_layers(multiplicity, shared, area, iou):
    counters = worked(multiplicity=multiplicity, second_layer=True)
    assert counters.intersection[0, 0] == shared and counters.concept_area[0] == area
    assert ious(counters)[0] == Fraction(*iou)
    assert ious(counters)[1:] == ious(worked())[1:]


# 3.7: one cell


@pytest.mark.parametrize("threshold, area, shared, union", [(0, 256, 64, 256), (0.25, 104, 64, 104), (0.5, 40, 40, 64)])
@pytest.mark.parametrize("at", [(1, 1), (2, 3), (3, 1)])
def test_a_single_cell(threshold, area, shared, union, at):
    cell, square = np.zeros((5, 5)), np.zeros((40, 40), np.uint16)
    cell[at] = 1
    square[8 * at[0] : 8 * at[0] + 8, 8 * at[1] : 8 * at[1] + 8] = 1
    counters = counted([cell], threshold, [((40, 40), [(0, square)], [])], one_concept())
    assert (counters.unit_area_all[0], counters.intersection[0, 0]) == (area, shared)
    assert score_counters(counters, np.zeros(1, np.int32), Fraction(1, 25), "paper").union[0, 0] == union


def test_an_image_level_label_shares_the_whole_mask():
    cell = np.zeros((5, 5))
    cell[2, 2] = 1
    images = [((40, 40), [], [(0, 1)]), ((40, 40), [], []), ((24, 24), [], [(0, 1)])]
    counters = counted([cell] * 3, 0.25, images, one_concept())
    masks = [int(counted([cell], 0.25, [image], one_concept()).unit_area_all[0]) for image in images]
    assert masks[0] == 104 and counters.intersection.tolist() == [[masks[0] + masks[2]]]
    assert_array_equal(counters.unit_area, counters.intersection)
    assert counters.unit_area_all.tolist() == [sum(masks)]
