"""Uniform rotations, their powers and their controls (methods 5.2 - 5.4)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from streamdissect.measure.rotations import (
    RotationPowers,
    givens,
    haar_rotation,
    mean_diagonal,
    near_identity,
    permutation,
    principal_axes,
    scaling,
    signed_permutation,
)
from streamdissect.measure.rotationset import (
    COUNTS,
    GIVENS_DEGREES,
    HAAR,
    LayerRotations,
    PowersOf,
    Rotation,
    UnitMoments,
    plan_rotations,
    summarise_layer,
)

SIZES = [2, 3, 4, 5, 16, 33, 128, 255, 256]


@pytest.mark.parametrize("n", SIZES)
def test_a_uniform_rotation_is_a_rotation(n):
    for seed in range(3):
        q = haar_rotation(n, seed)
        assert np.abs(q.T @ q - np.eye(n)).max() < 1e-12
        assert np.linalg.slogdet(q)[0] == 1
        assert_array_equal(q, haar_rotation(n, seed))


def test_traces_of_uniform_rotations_have_mean_0_and_variance_1():
    traces = np.array([np.trace(haar_rotation(8, seed)) for seed in range(4000)])
    assert abs(traces.mean()) < 4 / np.sqrt(4000)
    assert abs(traces.var() - 1) < 4 * np.sqrt(2 / 4000)


def test_every_entry_of_a_uniform_rotation_has_mean_0():
    """A row that always turned the same way round, or columns without their signs, would show."""
    total = sum(haar_rotation(3, seed) for seed in range(3000))
    assert np.abs(total / 3000).max() < 5 / np.sqrt(3 * 3000)


@pytest.mark.parametrize("n", SIZES)
def test_powers_lead_from_the_identity_to_the_rotation(n):
    for seed in range(2):
        q = haar_rotation(n, seed)
        powers = RotationPowers.of(q)
        assert_array_equal(powers.power(0), np.eye(n))
        assert_array_equal(powers.power(1), q)
        assert np.abs(powers.power(1 - 1e-15) - q).max() < 1e-13  # by the eigenvectors, not by the short cut
        assert np.abs(powers.power(0.3) @ powers.power(0.7) - q).max() < 1e-13
        half = powers.power(0.5)
        assert np.abs(half @ half - q).max() < 1e-13
        assert np.abs(half.T @ half - np.eye(n)).max() < 1e-13


def test_a_turn_keeps_its_sense_and_its_angle():
    angle = 2.0
    q = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for alpha in (0.25, 0.5, 0.9):
        c, s = np.cos(alpha * angle), np.sin(alpha * angle)
        assert_allclose(RotationPowers.of(q).power(alpha), [[c, -s], [s, c]], atol=1e-15)
    assert RotationPowers.of(q).length == pytest.approx(np.sqrt(2) * angle)


@pytest.mark.parametrize("make", [permutation, signed_permutation])
def test_permutations_have_powers_where_their_determinant_is_1(make):
    refused = taken = 0
    for n in (2, 3, 4, 7, 16, 40):
        for seed in range(12):
            q = make(n, seed)
            powers = RotationPowers.of(q)
            if np.linalg.det(q) < 0:
                refused += 1
                assert not powers.is_rotation
                with pytest.raises(ValueError, match="determinant -1"):
                    powers.power(0.5)
                assert_array_equal(powers.power(1), q)
            else:
                taken += 1
                assert np.abs(powers.power(0.3) @ powers.power(0.7) - q).max() < 1e-13
    assert refused > 20 and taken > 20


@pytest.mark.parametrize("n", [2, 6, 16])
def test_turning_all_axes_round_is_half_a_circle_in_planes(n):
    half = RotationPowers.of(-np.eye(n)).power(0.5)
    assert np.abs(half @ half + np.eye(n)).max() < 1e-13
    assert RotationPowers.of(-np.eye(n)).length == pytest.approx(np.sqrt(n) * np.pi)
    with pytest.raises(ValueError):
        RotationPowers.of(-np.eye(n + 1)).power(0.5)


def test_planes_turned_by_the_same_or_opposite_angles_are_told_apart():
    blocks = np.zeros((8, 8))
    for i, angle in enumerate([1.0, 1.0, -1.0, np.pi - 1.0]):
        c, s = np.cos(angle), np.sin(angle)
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    basis = haar_rotation(8, 3)
    q = basis @ blocks @ basis.T
    powers = RotationPowers.of(q)
    assert np.abs(powers.power(0.5) @ powers.power(0.5) - q).max() < 1e-13
    assert powers.length == pytest.approx(np.sqrt(2 * (3 + (np.pi - 1) ** 2)))


def test_what_is_not_orthogonal_has_no_powers():
    with pytest.raises(ValueError, match="orthogonal"):
        RotationPowers.of(np.diag([1.0, 2.0]))


def test_length_and_diagonal_of_large_rotations():
    powers = RotationPowers.of(haar_rotation(256, 0))
    assert abs(powers.length - np.pi * np.sqrt(256 / 3)) < 0.5
    for alpha in (0.1, 0.2, 0.4, 0.6, 0.8):
        assert abs(np.diag(powers.power(alpha)).mean() - np.sinc(alpha)) < 0.02
        assert mean_diagonal(alpha) == pytest.approx(np.sin(np.pi * alpha) / (np.pi * alpha))


def test_controls_are_what_they_are_called():
    n = 12
    order = permutation(n, 1)
    assert_array_equal(order.sum(axis=0), np.ones(n))
    assert not np.array_equal(order, np.eye(n))
    signed = signed_permutation(n, 1)
    assert_array_equal(np.abs(signed), order)
    assert 0 < (signed < 0).sum() < n
    factors = np.diag(scaling(n, 1))
    assert (factors > 0).all() and len(set(factors.tolist())) > 1
    assert_array_equal(np.log2(factors), np.rint(np.log2(factors)))
    assert_array_equal(givens(n, 1, 0.0), np.eye(n))
    turned = givens(n, 1, 90.0)
    assert set(np.unique(turned).tolist()) == {-1.0, 0.0, 1.0} and np.linalg.det(turned) == pytest.approx(1)
    assert np.count_nonzero(givens(n, 1, 30.0) - np.eye(n)) == 4
    near = near_identity(n, 1, 0.1)
    assert_allclose(near.T @ near, np.eye(n), atol=1e-13)
    assert 0 < np.abs(near - np.eye(n)).max() < np.abs(near_identity(n, 1, 1.0) - np.eye(n)).max()


def test_principal_axes_come_largest_first():
    axes = haar_rotation(4, 2)
    found = principal_axes(axes.T @ np.diag([1.0, 4.0, 9.0, 2.0]) @ axes)
    for row, expected in zip(found, axes[[2, 1, 3, 0]], strict=True):
        assert abs(row @ expected) == pytest.approx(1)
        assert row[np.abs(row).argmax()] > 0


def test_an_experiment_has_no_rotation_first_and_seeds_side_by_side():
    planned = plan_rotations((0.0, 0.5, 1.0), 3, 2, ("permutation", "givens", "pca"))
    assert planned[0] == Rotation(HAAR, 0.0, 0)
    uniform = [(each.value, each.seed) for each in planned if each.kind == HAAR]
    assert uniform == [(0.0, 0), (0.5, 0), (1.0, 0), (0.5, 1), (1.0, 1), (1.0, 2)]
    assert [each.value for each in planned if each.kind == "givens"] == list(GIVENS_DEGREES)
    assert sum(each.kind == "permutation" for each in planned) == 2
    assert sum(each.kind == "pca" for each in planned) == 1


def test_standardised_units_are_rotated_about_their_mean():
    moments = UnitMoments(np.array([1.0, 2.0, 5.0]), np.array([2.0, 0.5, 0.0]), np.eye(3))
    found = Rotation("standardised", 1.0, 4).directions(3, moments, PowersOf())
    values = np.array([3.0, -1.0, 5.0])
    expected = haar_rotation(3, 4) @ [1.0, -6.0, 0.0]
    assert_allclose(found.weight @ values + found.bias, expected, atol=1e-5)


def test_summaries_of_counts_are_those_of_methods():
    rotations = (Rotation(HAAR, 0.0, 0), *(Rotation(HAAR, 1.0, seed) for seed in range(4)))
    counts = np.array([[20] * 4, [8] * 4, [10] * 4, [20] * 4, [6] * 4])
    empty = np.zeros((5, 1))
    layer = LayerRotations(
        rotations, empty, empty, empty, empty, empty, empty, empty, counts, empty, np.array([0.2, 0.1, 0.1, 0.1, 0.1])
    )
    rows = {(row.count, row.value): row for row in summarise_layer("a", layer)}
    assert len(rows) == 2 * (len(COUNTS) + 1)
    row = rows["unique_top", 1.0]
    assert (row.n, row.baseline, row.mean) == (4, 20, 11)
    assert row.std == pytest.approx(np.std([8, 10, 20, 6], ddof=1))
    assert row.high - row.mean == pytest.approx(3.182446 * row.std / 2, rel=1e-6)  # Student's t with 3 degrees
    assert row.drop == pytest.approx(1 - 11 / 20)
    assert row.p == pytest.approx(2 / 5)  # one of four rotations does as well as none
    assert rows["mean_best_iou", 1.0].drop == pytest.approx(0.5)
    assert np.isnan(rows["unique_top", 0.0].std)
