"""Directions in place of units: what comes out is fixed to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from streamdissect.measure.directions import Directions
from streamdissect.measure.products import one_thread, product
from streamdissect.measure.rotations import haar_rotation, permutation, scaling, signed_permutation


def maps_of(n_images, n_units, grid, dtype=np.float16, seed=0):
    return np.random.default_rng(seed).normal(size=(n_images, n_units, *grid)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_directions_are_weighted_sums_at_every_position(dtype):
    maps = maps_of(3, 7, (2, 5), dtype)
    random = np.random.default_rng(1)
    weight, bias = random.normal(size=(4, 7)).astype(np.float32), random.normal(size=4).astype(np.float32)
    found = Directions(weight, bias).apply(maps)
    assert found.dtype == np.float32 and found.shape == (3, 4, 2, 5)
    expected = np.einsum("dk,bkhw->bdhw", weight.astype(float), maps.astype(float)) + bias[:, None, None]
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_array_equal(Directions(weight, bias, relu=True).apply(maps), np.maximum(found, 0))


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([(1, 1), (3, 3), (2, 7)]))
def test_results_do_not_depend_on_how_images_are_divided(n_images, n_directions, n_units, grid):
    maps = maps_of(n_images, n_units, grid, seed=n_images)
    directions = Directions(np.random.default_rng(n_units).normal(size=(n_directions, n_units)))
    whole = directions.apply(maps)
    assert_array_equal(whole, directions.apply(maps, threads=3))
    used = np.full((n_images + 2, *whole.shape[1:]), np.nan, np.float32)
    assert_array_equal(whole, directions.apply(maps, out=used))
    for i in range(n_images):
        apart = np.empty((2, *maps.shape[1:]), np.float16)[1:]  # other memory, otherwise aligned
        apart[...] = maps[i : i + 1]
        assert_array_equal(whole[i : i + 1], directions.apply(apart))


def test_results_do_not_depend_on_the_threads_of_pytorch():
    maps, directions = maps_of(2, 96, (9, 11)), Directions(haar_rotation(96, 0))
    before = torch.get_num_threads()
    found = directions.apply(maps)
    torch.set_num_threads(before + 1)
    try:
        assert_array_equal(found, directions.apply(maps))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_one_thread_is_held_until_the_last_has_left():
    before = torch.get_num_threads()
    with one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    assert_array_equal(product(a, b), a @ b)


def test_the_identity_and_permutations_are_not_computed():
    maps = maps_of(4, 8, (3, 3))
    maps[0, 0, 0, 0] = np.inf  # times 0 it would be no number
    same = Directions.identity(8)
    assert same.apply(maps) is maps and same.dtype("float16") == "float16"
    order = permutation(8, 3)
    directions = Directions(order)
    found = directions.apply(maps)
    assert found.dtype == np.float16
    assert_array_equal(found, maps[:, order.argmax(axis=1)])
    assert directions.dtype("float16") == "float16"
    assert_array_equal(Directions(np.eye(8)[[2, 2]]).apply(maps), maps[:, [2, 2]])


def test_multiples_of_single_units_are_exact():
    maps = maps_of(4, 8, (3, 3))
    signed, scaled = signed_permutation(8, 3), scaling(8, 3)
    expected = maps[:, np.abs(signed).argmax(axis=1)].astype(np.float32) * signed.sum(axis=1)[:, None, None]
    found = Directions(signed).apply(maps)
    assert found.dtype == np.float32 and Directions(signed).dtype("float16") == "float32"
    assert_array_equal(found, expected)
    assert_array_equal(Directions(scaled).apply(maps), maps * np.diag(scaled).astype(np.float32)[:, None, None])
    assert_array_equal(Directions(np.eye(8), relu=True).apply(maps), np.maximum(maps, 0))
    assert_array_equal(Directions(np.eye(8), bias=np.ones(8)).apply(maps), maps.astype(np.float32) + 1)


@pytest.mark.parametrize("weight", [-np.eye(3), -np.ones((2, 3))], ids=["picked", "summed"])
def test_there_is_no_negative_zero(weight):
    found = Directions(weight).apply(np.zeros((2, 3, 1, 1), np.float16))
    assert not np.signbit(found).any()


@pytest.mark.parametrize(
    "weight, bias",
    [(np.ones(3), None), (np.ones((0, 3)), None), (np.ones((2, 3)), np.ones(3)), (np.full((2, 3), np.nan), None),
     (np.full((2, 3), 1e39), None), (np.ones((2, 3)), np.full(2, np.inf))],
)  # fmt: skip
def test_what_is_no_set_of_directions_is_refused(weight, bias):
    with np.errstate(over="ignore"), pytest.raises(ValueError):
        Directions(weight, bias)
