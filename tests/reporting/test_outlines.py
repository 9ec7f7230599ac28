"""Outlines hold the pixels of their masks, all of them and no others."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.reporting.outlines import outline

from .reported import fill


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_filling_an_outline_gives_the_mask(mask):
    assert_array_equal(fill(outline(mask), mask.shape), mask)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.02, 0.98))
def test_filling_the_outline_of_a_large_mask_gives_it_too(seed, share):
    mask = np.random.default_rng(seed).random((40, 57)) < share
    assert_array_equal(fill(outline(mask), mask.shape), mask)


@pytest.mark.parametrize(
    "rows, path",
    [
        (["..", ".."], ""),
        (["##", "##"], "M0 0h2v2h-2z"),
        (["#.", ".#"], "M0 0h1v1h-1zM1 1h1v1h-1z"),
        (["###", "#.#", "###"], "M0 0h3v3h-3zM1 1h1v1h-1z"),
    ],
)
def test_small_outlines_as_they_are_written(rows, path):
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    assert outline(mask) == path


def test_an_outline_is_as_long_as_its_corners_are_many():
    blob = np.zeros((180, 240), bool)
    blob[20:150, 30:200] = True
    assert len(outline(blob)) < 30
