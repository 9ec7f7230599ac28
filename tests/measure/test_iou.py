"""IoU, best concepts, detectors and unique detectors (methods 3.5): decisions equal those of rational numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.measure.iou import best_of, detectable_share, exceeds_ratio, score_table

TAU = Fraction(1, 25)
BIG = 2**61


def table(*lines):
    """[(I, U), ...] for each unit -> intersection, union"""
    counts = np.array(lines, np.int64).reshape(len(lines), -1, 2)
    return counts[:, :, 0], counts[:, :, 1]


@st.composite
def tables(draw):
    """Counts with many ties: multiples of small ratios, in the range where float64 is exact and beyond."""
    n_units, n_concepts = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    unions = st.sampled_from([1, 2, 3, 25, 75, 2**53 + 1, BIG - 1, BIG])

    @st.composite
    def counts(draw):
        union = draw(unions)
        near = st.sampled_from([union // 25, union // 2, union - 1, union])
        shared = draw(near) + draw(st.integers(-1, 1))
        return min(max(shared, 0), union), draw(st.sampled_from([union, union, 0 if shared <= 0 else union]))

    line = st.lists(counts(), min_size=n_concepts, max_size=n_concepts)
    return table(*draw(st.lists(line, min_size=n_units, max_size=n_units)))


def ratio(shared, total):
    return Fraction(int(shared), int(total)) if total else Fraction(0)


@given(counts=tables())
def test_the_best_is_that_of_rational_numbers(counts):
    shared, union = counts
    for k, best in enumerate(best_of(shared, union)):
        ratios = [ratio(*pair) for pair in zip(shared[k], union[k], strict=True)]
        assert best == (ratios.index(max(ratios)) if max(ratios) > 0 else -1)


@given(counts=tables(), tau=st.fractions(0, 1))
def test_above_tau_is_that_of_rational_numbers(counts, tau):
    shared, union = counts
    expected = [[ratio(i, u) > tau for i, u in zip(*line, strict=True)] for line in zip(shared, union, strict=True)]
    assert_array_equal(exceeds_ratio(shared, union, tau), expected)


@pytest.mark.parametrize(
    "counts, best",
    [
        ([(1, 3), (2, 6), (3, 9)], 0),  # equal fractions, different numbers: the smallest
        ([(1, 4), (2, 6), (1, 3)], 1),
        ([(0, 5), (0, 0)], -1),
        ([(0, 5), (1, 5)], 1),
        ([(BIG - 2, BIG), (BIG - 1, BIG)], 1),  # one quotient in float64
        ([(BIG - 1, BIG), (BIG - 2, BIG), (BIG - 1, BIG)], 0),
        ([(BIG // 2, BIG), (1, 2)], 0),
        ([(BIG // 3, BIG), (1, 3)], 1),  # BIG // 3 < BIG / 3
        ([(5, 21), (276641163687095300, 1161892887485800260)], 0),  # equal, the quotient in float64 is larger
        ([(90895480054553464, 381761016229124553), (5, 21)], 1),  # smaller, the quotient is larger
    ],
)
def test_best(counts, best):
    assert best_of(*table(counts)).tolist() == [best]


@pytest.mark.parametrize(
    "counts, expected",
    [((1, 25), False), ((4, 100), False), ((5, 100), True), ((0, 0), False), ((1, 24), True), ((1, 26), False),
     ((2**57, 25 * 2**57), False), ((2**57 + 1, 25 * 2**57), True), ((2**57, 25 * 2**57 + 1), False)],
)  # fmt: skip
def test_exactly_tau_does_not_exceed(counts, expected):
    assert exceeds_ratio(*table([counts]), TAU).tolist() == [[expected]]


def test_a_tau_with_a_huge_denominator():
    tau = Fraction(1e-30)
    assert exceeds_ratio(*table([(0, 5), (0, 0), (1, BIG)]), tau).tolist() == [[False, False, True]]
    assert exceeds_ratio(*table([(0, 0)]), tau).tolist() == [[False]]


CATEGORY = np.array([0, 0, 1, 2], np.int32)


def scored(*lines, category=CATEGORY, n_categories=4, tau=TAU):
    return score_table(*table(*lines), category, n_categories, tau)


def test_detectors_and_their_concepts():
    scores = scored(
        [(4, 100), (3, 100), (4, 100), (0, 100)],  # exactly tau: no detector, best all the same
        [(9, 100), (8, 100), (5, 100), (1, 100)],
        [(1, 100), (8, 100), (8, 100), (0, 0)],  # a tie of two categories
        [(0, 100), (0, 100), (0, 100), (0, 0)],
        [(0, 100), (0, 100), (5, 100), (6, 100)],
    )
    assert scores.best_concept.tolist() == [0, 0, 1, -1, 3]
    assert scores.best_iou.tolist() == [0.04, 0.09, 0.08, 0, 0.06]
    assert scores.is_detector.tolist() == [False, True, True, False, True]
    assert scores.best_concept_by_category.tolist() == [
        [0, 2, -1, -1], [0, 2, 3, -1], [1, 2, -1, -1], [-1, -1, -1, -1], [-1, 2, 3, -1]
    ]  # fmt: skip
    assert scores.best_iou_by_category().tolist() == [
        [0.04, 0.04, 0, 0], [0.09, 0.05, 0.01, 0], [0.08, 0.08, 0, 0], [0] * 4, [0, 0.05, 0.06, 0]
    ]  # fmt: skip
    assert scores.unique_top() == 3  # 0, 1, 3
    assert scores.unique_by_category().tolist() == [2, 1, 1, 0]
    assert scores.unique_any() == 4
    assert scores.iou.dtype == np.float64 and np.isfinite(scores.iou).all()


@given(counts=tables(), seed=st.integers(0, 99), tau=st.sampled_from([Fraction(0), TAU, Fraction(1, 2), Fraction(1)]))
def test_unique_counts_are_ordered(counts, seed, tau):
    category = np.random.default_rng(seed).integers(0, 3, counts[0].shape[1]).astype(np.int32)
    scores = score_table(*counts, category, 3, tau)
    assert scores.unique_top() <= scores.unique_by_category().sum() <= scores.unique_any()
    assert scores.unique_top() <= scores.is_detector.sum()
    assert_array_equal(scores.is_detector, scores.exceeds.any(axis=1))
    assert_array_equal(scores.is_detector, scores.is_detector_by_category.any(axis=1))
    for g in range(3):
        of_category = (scores.best_concept_by_category[:, g] >= 0) <= (category == g).any()
        assert of_category.all()
    assert_array_equal(scores.best_iou, scores.best_iou_by_category().max(axis=1, initial=0))


@pytest.mark.parametrize("n_units, n_concepts, n_categories", [(3, 0, 2), (3, 0, 0), (0, 2, 1), (0, 0, 0)])
def test_nothing_to_score(n_units, n_concepts, n_categories):
    nothing = np.zeros((n_units, n_concepts), np.int64)
    scores = score_table(nothing, nothing, np.zeros(n_concepts, np.int32), n_categories, TAU)
    assert scores.best_concept.tolist() == [-1] * n_units and scores.best_iou.tolist() == [0] * n_units
    assert scores.best_iou_by_category().shape == (n_units, n_categories)
    assert scores.unique_top() == scores.unique_any() == scores.unique_by_category().sum() == 0


def test_detectable_share():
    assert detectable_share(TAU, 0.005) == pytest.approx((0.0002, 0.125), rel=1e-12)  # rounding of two divisions
    assert detectable_share(TAU, 0.5) == pytest.approx((0.02, 1.0))
    assert detectable_share(Fraction(0), 0.005) == (0.0, 1.0)
