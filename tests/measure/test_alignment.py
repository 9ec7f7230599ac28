"""Moments of concepts, leading directions and what they say; the beta distribution behind the p-values (methods 6)."""

from fractions import Fraction
from math import comb, lgamma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from streamdissect.kernels.reference import pack
from streamdissect.measure.alignment import (
    VERDICTS,
    AlignmentStatistics,
    Spectrum,
    absent,
    describe,
    exclusivity,
    standardised_moment,
)
from streamdissect.measure.alignmentresult import Carriers
from streamdissect.measure.betas import (
    benjamini_hochberg,
    beta_tail,
    critical_loading,
    loading_p,
    student_quantile,
)
from streamdissect.measure.carriers import FIT, HELD, POOL, UnionCounts, best_union, candidates
from streamdissect.measure.concept_moments import ConceptMoments
from streamdissect.measure.concept_samples import cell_overlap, concept_cover, draw_samples
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.planes import LabelRules, image_planes

RULES = LabelRules(np.array([1, 2, 3], np.int32), np.array([0, 0, 1], np.int32), 2, np.zeros(2, np.int32))

# The beta distribution


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 99))
def test_the_tail_of_whole_parameters_is_a_sum_of_binomials(a, b, percent):
    x, n = Fraction(percent, 100), a + b - 1
    exact = sum(comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a))  # Beta(a, b) > x: fewer than a successes
    assert beta_tail(percent / 100, a, b) == pytest.approx(float(exact), rel=1e-11)


def test_tails_with_closed_forms():
    for x in (1e-6, 0.01, 0.3, 0.5, 0.9, 0.999999):
        assert beta_tail(x, 0.5, 0.5) == pytest.approx(2 / np.pi * np.arcsin(np.sqrt(1 - x)), rel=1e-12)
        assert beta_tail(x, 0.5, 1) == pytest.approx(1 - np.sqrt(x), rel=1e-9)
        assert beta_tail(x, 1, 300) == pytest.approx((1 - x) ** 300, rel=1e-9)
    assert beta_tail(0.0, 0.5, 3) == 1 and beta_tail(1.0, 0.5, 3) == 0


def test_small_tails_keep_their_digits():
    # (1 - x)^(n/2 - 1/2) dominates; the next factors are those of the integral's expansion at its lower end
    a, b, x = 0.5, 250.0, 0.4
    slope = [1.0]
    for j in range(1, 400):
        slope.append(slope[-1] * (a + b + j - 1) / (b + j) * (1 - x))
    series = np.exp(b * np.log1p(-x) + a * np.log(x)) * sum(slope) / b
    series *= np.exp(lgamma(a + b) - lgamma(a) - lgamma(b))
    assert beta_tail(x, a, b) == pytest.approx(series, rel=1e-10) and series < 1e-50


def test_critical_loadings_are_those_of_methods():
    published = {256: (0.230, 0.254), 384: (0.194, 0.213), 512: (0.171, 0.187), 2048: (0.093, 0.101)}
    for n_units, (five, one) in published.items():
        assert critical_loading(0.05, n_units) == pytest.approx(five, abs=6e-4)
        assert critical_loading(0.01, n_units) == pytest.approx(one, abs=6e-4)
        assert loading_p(critical_loading(0.05, n_units), n_units) == pytest.approx(0.05, rel=1e-9)
    assert loading_p(0.0, 8) == 1 and loading_p(0.9, 1) == 1


def test_critical_loadings_hold_for_random_axes():
    axes = np.random.default_rng(0).normal(size=(4000, 64))
    largest = np.abs(axes / np.linalg.norm(axes, axis=1, keepdims=True)).max(axis=1)
    share = (largest > critical_loading(0.05, 64)).mean()
    assert 0.05 - 4 * np.sqrt(0.05 * 0.95 / 4000) < share < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)  # a bound from above


def test_quantiles_of_student_are_those_of_tables():
    table = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216, 30: 2.04227}
    for freedom, expected in table.items():
        assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-6)
    assert student_quantile(0.95, 4) == pytest.approx(2.13185, rel=2e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_reject_what_benjamini_and_hochberg_reject(p):
    p = np.array(p)
    adjusted = benjamini_hochberg(p)
    assert (adjusted >= p - 1e-15).all() and (adjusted <= 1).all()
    for level in (0.01, 0.05, 0.3):
        ordered = np.sort(p)
        passed = np.flatnonzero(ordered * len(p) <= level * np.arange(1, len(p) + 1) * (1 + 1e-12))
        rejected = p <= ordered[passed[-1]] if len(passed) else np.zeros(len(p), bool)
        assert_array_equal(adjusted <= level * (1 + 1e-12), rejected)


# Moments


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_parts_join_to_the_moments_of_all_samples(sizes, is_weighted):
    random = np.random.default_rng(len(sizes))
    samples = random.normal(1e3, 1.0, (sum(sizes), 4))
    weights = random.uniform(0.1, 1.0, len(samples)) if is_weighted else None
    parts, start = [], 0
    for size in sizes:
        part = ConceptMoments(4)
        part.add(samples[start : start + size], None if weights is None else weights[start : start + size])
        parts.append(ConceptMoments.from_arrays(part.to_arrays()))
        start += size
    whole = ConceptMoments(4)
    for part in parts:
        whole.merge(part)
    mean = np.average(samples, axis=0, weights=weights)
    covariance = np.cov(samples.T, bias=True, aweights=weights)
    assert_allclose(whole.mean, mean, rtol=1e-13)
    assert_allclose(whole.covariance, covariance, rtol=1e-9, atol=1e-9)
    assert (whole.n_samples, whole.n_images) == (len(samples), len(sizes))
    assert whole.weight == pytest.approx(len(samples) if weights is None else weights.sum())


def test_moments_of_nothing_and_of_strangers():
    empty = ConceptMoments(3)
    empty.add(np.zeros((0, 3)))
    assert empty.weight == 0 and not empty.covariance.any()
    filled = empty.copy()
    filled.add(np.array([[1.0, 2.0, 3.0]]))
    filled.merge(empty)
    assert (filled.n_samples, filled.mean.tolist()) == (1, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError):
        filled.merge(ConceptMoments(2))
    with pytest.raises(ValueError):
        ConceptMoments.from_arrays({"mean": np.zeros(3)})
    with pytest.raises(ValueError):
        ConceptMoments.from_arrays(filled.to_arrays() | {"version": np.array(99)})


# Samples


def test_cells_tile_the_mask_grid_or_lie_about_their_fields():
    assert_allclose(cell_overlap("half_pixel", 2, 4, 8), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    assert_allclose(cell_overlap("half_pixel", 2, 3, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    # cells of step 4 about input pixels 0, 4, 8; two mask pixels to a cell, the first cell half outside
    field = AxisField(-3, 7, 4)
    found = cell_overlap("rf", 3, 4, 8, field)
    assert_allclose(found, [[0.8, 0.2, 0, 0], [0, 0.375, 0.5, 0.125], [0, 0, 0, 1.0]])
    beyond = cell_overlap("rf", 2, 4, 8, AxisField(-20, 1, 4))
    assert not beyond.any()
    with pytest.raises(ValueError):
        cell_overlap("rf", 2, 4, 8)


def test_cover_is_the_share_of_each_cell():
    labels = np.array([[1, 1, 0, 2], [1, 0, 2, 2]], np.uint16)
    image = image_planes((2, 4), [(0, labels)], [(1, 3)], RULES)
    rows, columns = cell_overlap("half_pixel", 1, 2, 2), cell_overlap("half_pixel", 2, 4, 4)
    found = concept_cover(image, [0, 1, 2], rows, columns)
    assert_allclose(found[0], [[0.75, 0.0]])
    assert_allclose(found[1], [[0.0, 0.75]])
    assert_allclose(found[2], [[1.0, 1.0]])  # of the whole image
    assert concept_cover(image, [1], rows, columns).keys() == {1}


def test_samples_are_what_is_asked_for():
    maps, cover = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), np.array([0.5, 0.49, 0.0, 1.0])
    pixel, none = draw_samples(maps, cover, "pixel", 0.5)
    assert_array_equal(pixel, [[1, 5], [4, 8]])
    assert none is None
    assert len(draw_samples(maps, cover, "pixel", 0.0)[0]) == 3
    weighted, weights = draw_samples(maps, cover, "weighted", 0.5)
    assert_array_equal(weighted, [[1, 5], [2, 6], [4, 8]])
    assert_array_equal(weights, [0.5, 0.49, 1.0])
    masked, _ = draw_samples(maps, cover, "masked-mean", 0.5)
    assert_allclose(masked, [np.average(maps, axis=1, weights=cover)])
    assert_array_equal(draw_samples(maps, cover, "image-max", 0.5)[0], [[4, 8]])
    assert_array_equal(draw_samples(maps, cover, "image-mean", 0.5)[0], [[2.5, 6.5]])
    assert len(draw_samples(maps, np.zeros(4), "masked-mean", 0.5)[0]) == 0


# Directions


def moment_of(samples, mean=None, std=None, is_centred=False):
    found = ConceptMoments(samples.shape[1])
    found.add(samples)
    mean = np.zeros(samples.shape[1]) if mean is None else mean
    inverse = np.ones(samples.shape[1]) if std is None else 1 / std
    return standardised_moment(found, mean, inverse, is_centred=is_centred)


def test_worked_examples_of_methods():
    first = np.array([[3.0, 1.0], [3.0, -1.0]])
    assert_allclose(moment_of(first), np.diag([9.0, 1.0]))
    assert_allclose(Spectrum.of(moment_of(first)).vectors[:, 0], [1, 0], atol=1e-15)
    assert_allclose(moment_of(first, is_centred=True), np.diag([0.0, 1.0]))
    assert_allclose(Spectrum.of(moment_of(first, is_centred=True)).vectors[:, 0], [0, 1], atol=1e-15)
    second = Spectrum.of(2 * moment_of(np.array([[2.0, 2.0], [1.0, 1.0]])))
    assert second.values[0] == pytest.approx(10)
    assert_allclose(second.vectors[:, 0], np.sqrt([0.5, 0.5]))
    found = describe(second, 2)
    assert found["participation"] == pytest.approx(2) and found["efficiency"] == pytest.approx(0.5)
    assert found["effective"] == pytest.approx(2) and found["ratio"] == pytest.approx(1)


def test_a_planted_unit_is_found():
    random = np.random.default_rng(0)
    samples = random.normal(size=(3000, 64))
    samples[:, 17] += 10
    found = describe(Spectrum.of(moment_of(samples)), 64)
    assert found["unit"] == 17 and found["loading"] > 0.99
    assert VERDICTS[found["verdict"]] == "axis-aligned" and found["p"] < 1e-10
    assert found["gap"] > 0.9 and found["efficiency"] > 0.99 and found["leverage"] > 0.98


@pytest.mark.parametrize("q", [2, 3, 8])
def test_an_equal_mix_of_units_counts_as_many(q):
    samples = np.random.default_rng(q).normal(size=(4000, 256))
    samples[:, 5 : 5 + q] += 10 / np.sqrt(q)
    found = describe(Spectrum.of(moment_of(samples)), 256)
    assert found["participation"] == pytest.approx(q, rel=0.05)
    assert found["loading"] == pytest.approx(1 / np.sqrt(q), rel=0.05)
    assert VERDICTS[found["verdict"]] == "mixed"  # far above a random axis, but no single unit


def test_a_random_direction_is_distributed():
    random = np.random.default_rng(5)
    axis = random.choice([-1.0, 1.0], 256) / 16
    samples = random.normal(size=(4000, 256)) + 10 * axis
    found = describe(Spectrum.of(moment_of(samples)), 256)
    assert VERDICTS[found["verdict"]] == "distributed"
    assert found["loading"] < found["critical"] == pytest.approx(0.230, abs=1e-3)


def test_permuting_units_permutes_and_rescaling_units_does_nothing():
    random = np.random.default_rng(2)
    samples = random.normal(size=(500, 12)) + random.uniform(0, 3, 12)
    mean, std = samples.mean(axis=0) * 0.5, samples.std(axis=0)
    order, scale = random.permutation(12), 2.0 ** random.integers(-4, 5, 12)
    plain = Spectrum.of(moment_of(samples, mean, std))
    permuted = Spectrum.of(moment_of(samples[:, order], mean[order], std[order]))
    assert_allclose(permuted.vectors[:, 0], plain.vectors[order, 0], atol=1e-12)
    scaled = Spectrum.of(moment_of(samples * scale, mean * scale, std * scale))
    assert_allclose(scaled.vectors, plain.vectors, atol=1e-12)


def test_the_largest_entry_is_positive():
    samples = np.random.default_rng(3).normal(size=(50, 6)) - np.array([5.0, 0, 0, 1, 0, 0])
    vectors = Spectrum.of(moment_of(samples)).vectors
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(6)] > 0).all()


def test_a_unit_that_serves_one_concept_is_exclusive():
    leading = np.array([[0.9, 0.1, 0.42], [0.05, 0.9, 0.43], [0.02, 0.95, 0.3], [0.0, 0.0, 0.0]])
    rows = [
        describe(Spectrum(np.array([1.0, 0.5]), np.stack([u / np.linalg.norm(u)] * 2, axis=1), u**2, 1.0), 100)
        for u in leading[:3]
    ]
    found = exclusivity(leading, AlignmentStatistics.join([*rows, absent()]))
    assert found.is_exclusive.tolist() == [True, False, False, False]
    assert found.share[0] == pytest.approx(0.81 / (0.81 + 0.0025 + 0.0004))
    assert found.next_concept.tolist() == [1, 2, 1, -1]
    assert found.led.tolist() == [1, 2, 2, 0]
    assert np.isnan(found.share[3])


# What carries a concept


def test_unions_of_masks_have_the_iou_of_their_pixels():
    random = np.random.default_rng(4)
    shape, pool = (6, 70), np.arange(POOL)
    counts, totals = UnionCounts(), np.zeros((2, 2, 256), int)
    for image in range(6):
        labels = random.choice(np.array([0, 1, 2], np.uint16), shape)
        planes = image_planes(shape, [(0, labels)], [], RULES)
        masks = random.random((POOL, *shape)) < 0.2
        masks[3] |= labels == 1
        counts.add(np.stack([pack(mask) for mask in masks]), planes, 0, RULES.n_concepts, image % 2)
        for bits in range(256):
            union = np.any([masks[k] for k in range(POOL) if bits >> k & 1], axis=0) if bits else np.zeros(shape, bool)
            totals[image % 2, :, bits] += (union & (labels == 1)).sum(), (union | (labels == 1)).sum()
    bits = np.arange(1, 256).astype(np.uint8)
    assert_allclose(counts.iou(bits), totals[:, 0, 1:] / totals[:, 1, 1:])
    found = best_union(counts, pool)
    few = [b for b in range(1, 256) if bin(b).count("1") <= 4]
    fit = {b: totals[FIT, 0, b] / totals[FIT, 1, b] for b in few}
    best = max(few, key=fit.get)
    assert found.units == tuple(k for k in range(POOL) if best >> k & 1)
    assert found.held_iou == pytest.approx(totals[HELD, 0, best] / totals[HELD, 1, best])


def test_the_pool_has_the_best_by_iou_and_by_loading():
    iou, loading = np.linspace(0, 1, 20), np.linspace(1, 0, 20)
    assert sorted(candidates(iou, loading).tolist()) == [0, 1, 2, 3, 16, 17, 18, 19]
    assert sorted(candidates(iou, iou).tolist()) == list(range(12, 20))
    assert candidates(iou[:3], loading[:3]).tolist() == [2, 1, 0]


def test_who_carries_a_concept():
    """The plainer among equals, and nobody where all of them miss it."""
    zeros = np.zeros(5)
    carriers = Carriers.__new__(Carriers)
    for name, iou in (("unit_iou", [0.2, 0.1, 0, 0.1, 0]), ("united_iou", [0.2, 0.3, 0, 0.1, 0]),
                      ("direction_iou", [0.1, 0.2, 0, 0.4, np.nan])):  # fmt: skip
        object.__setattr__(carriers, name, zeros + iou)
    assert [carriers.winner(c) for c in range(5)] == ["unit", "units", "none", "direction", ""]
