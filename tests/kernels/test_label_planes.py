"""Label maps -> planes, and the numbers in a label map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import count_numbers, fill_planes, words_of
from streamdissect.kernels.reference import unpack

NUMBERS = np.array([0, 1, 2, 7, 64, 32768, 65535], np.uint16)


def layer_of(seed, shape, run):
    """Random numbers in runs of about `run` pixels."""
    rng = np.random.default_rng(seed)
    changes = np.cumsum(rng.random(shape[0] * shape[1]) < 1 / run)
    return rng.choice(NUMBERS, changes[-1] + 1)[changes].reshape(shape)


layers = st.builds(
    layer_of,
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 200])),
    st.sampled_from([1, 3, 70, 1000]),
)


@given(layer=layers, columns=st.lists(st.integers(-1, 3), min_size=len(NUMBERS), max_size=len(NUMBERS)))
def test_planes_hold_the_pixels_of_their_numbers(layer, columns):
    plane_of = np.full(65536, -1, np.int32)
    plane_of[NUMBERS] = columns
    for backend in ("cython", "numba", "reference"):
        planes = np.zeros((layer.shape[0] * words_of(layer.shape[1]), 4), np.uint64)
        planes[0, 2] = 1  # bits are set, none is cleared
        try:
            fill_planes(layer, plane_of, planes, backend=backend)
        except ImportError:
            continue
        for p in range(4):
            expected = np.isin(layer, NUMBERS[np.array(columns) == p])
            expected[0, 0] |= p == 2
            assert_array_equal(unpack(planes[:, p], layer.shape), expected, err_msg=backend)
            assert np.bitwise_count(planes[:, p]).sum() == expected.sum(), "padding bits are set"


@given(layer=layers)
def test_numbers_are_counted(layer):
    for backend in ("cython", "numba", "reference"):
        try:
            found = count_numbers(layer, backend=backend)
        except ImportError:
            continue
        assert_array_equal(found, np.bincount(layer.ravel(), minlength=65536), err_msg=backend)


def test_read_only_unaligned_and_strided_label_maps(backend):
    layer = layer_of(5, (6, 70), 3)
    plane_of = np.full(65536, -1, np.int32)
    plane_of[NUMBERS] = np.arange(len(NUMBERS))
    expected = np.zeros((12, len(NUMBERS)), np.uint64)
    fill_planes(layer, plane_of, expected, backend=backend)
    unaligned = np.frombuffer(b"x" + layer.tobytes(), np.uint16, offset=1).reshape(layer.shape)
    for variant in (unaligned, np.asfortranarray(layer), np.repeat(layer, 2, axis=1)[:, ::2]):
        planes = np.zeros_like(expected)
        fill_planes(variant, plane_of, planes, backend=backend)
        assert_array_equal(planes, expected)
        assert_array_equal(count_numbers(variant, backend=backend), np.bincount(layer.ravel(), minlength=65536))


NONE = np.full(65536, -1, np.int32)
BEYOND = np.where(np.arange(65536) == 9, 2, -1).astype(np.int32)


@pytest.mark.parametrize(
    "match, layer, plane_of, planes",
    [
        ("a label map is", np.zeros((0, 3), np.uint16), NONE, np.zeros((3, 1), np.uint64)),
        ("a label map is", np.zeros(3, np.uint16), NONE, np.zeros((3, 1), np.uint64)),
        ("holds uint16", np.full((3, 3), 70000), NONE, np.zeros((3, 1), np.uint64)),
        ("65536 numbers", np.zeros((3, 3), np.uint16), NONE[1:], np.zeros((3, 1), np.uint64)),
        ("another grid", np.zeros((3, 65), np.uint16), NONE, np.zeros((3, 1), np.uint64)),
        ("outside the planes", np.zeros((3, 3), np.uint16), BEYOND, np.zeros((3, 2), np.uint64)),
        ("uint64", np.zeros((3, 3), np.uint16), NONE, np.zeros((3, 2), np.int64)),
        ("uint64", np.zeros((3, 3), np.uint16), NONE, np.zeros((2, 3), np.uint64).T),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(match, layer, plane_of, planes):
    with pytest.raises(ValueError, match=match):
        fill_planes(layer, plane_of, planes)
