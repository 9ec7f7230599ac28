"""Label maps -> planes and counter rows, planes of single maps, and the numbers in a label map."""

import ctypes
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import LabelTables, label_planes
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


# Whole images

INDEX = ("words", "plane_row", "touch_row", "whole_row", "present_row", "present_area", "category_pixels")


def tables_of(numbers, category, ignore, **choices):
    """Concepts by their numbers, in that order."""
    column_of = np.full(65536, -1, np.int32)
    column_of[numbers] = np.arange(len(numbers))
    choices = {"as_set": True, "touch": False, "labelled_only": False} | choices
    return LabelTables(column_of, np.array(category, np.int32), np.array(ignore, np.int32), **choices)


def assert_same_index(found, expected, about=""):
    for name, a, b in zip(INDEX, found, expected, strict=True):
        assert a.dtype == b.dtype and a.flags.c_contiguous, f"{name} {about}"
        assert_array_equal(a, b, err_msg=f"{name} {about}", strict=True)


@st.composite
def labelled_images(draw):
    """Arguments of `label_planes`: shapes and choices are drawn by hypothesis, pixels by numpy from a drawn seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = 1 + rng.choice(65535, draw(st.sampled_from([1, 4, 12, 90])), replace=False)
    pool[0] = draw(st.sampled_from([pool[0], 65535]))
    pool = np.unique(pool)
    concepts = rng.permutation(pool)[: rng.integers(1, len(pool) + 1)]
    n_categories = draw(st.integers(1, 4))
    tables = tables_of(
        concepts,
        rng.integers(0, n_categories, len(concepts)),
        rng.choice(pool, n_categories) * (rng.random(n_categories) < draw(st.sampled_from([0, 0.5]))),
        as_set=draw(st.booleans()),
        touch=draw(st.booleans()),
        labelled_only=draw(st.booleans()),
    )
    shape = draw(st.tuples(st.integers(1, 20), st.sampled_from([1, 2, 7, 63, 64, 65, 112, 128, 129, 200])))
    layers = []
    for run in draw(st.lists(st.sampled_from([1, 3, 70, 1000, None]), max_size=6)):
        if run is None:
            layers.append(np.zeros(shape, np.uint16))
            continue
        some = rng.choice([0, *pool], rng.integers(1, len(pool) + 2)).astype(np.uint16)
        changes = np.cumsum(rng.random(shape[0] * shape[1]) < 1 / run)
        layers.append(rng.choice(some, changes[-1] + 1)[changes].reshape(shape))
    return shape, layers, rng.choice([0, *pool], draw(st.integers(0, 3))).tolist(), tables


@settings(max_examples=150)
@given(image=labelled_images())
def test_every_backend_indexes_labels_as_the_reference(image):
    expected = label_planes(*image, backend="reference")
    for backend in ("cython", "numba", "torch"):
        try:
            found = label_planes(*image, backend=backend)
        except ImportError:
            continue
        assert_same_index(found, expected, backend)


@pytest.mark.parametrize("shape", [(7, 7), (112, 112), (1024, 1024)])
def test_planes_are_what_comparing_each_number_gives(any_backend, shape):
    rng = np.random.default_rng(1)
    numbers = np.array([3, 8, 11, 65535])
    layers = [rng.choice(np.array([0, *some], np.uint16), shape) for some in (numbers, numbers[1:3], [900])]
    words, plane_row, *_ = label_planes(
        shape, layers, [], tables_of(numbers, [1, 0, 1, 0], [0, 0]), backend=any_backend
    )
    assert plane_row.tolist() == [1, 3, 0, 2]  # by category, then by number
    for plane, column in zip(words.T, plane_row, strict=True):
        assert_array_equal(unpack(plane, shape), (np.array(layers) == numbers[column]).any(axis=0))
        padding = words.size // words.shape[1] * 64 - shape[0] * shape[1]
        assert np.bitwise_count(~plane).sum() - padding == (np.array(layers) != numbers[column]).all(axis=0).sum()


def crowd(n_labels, shape=(60, 130)):
    """Arguments of `label_planes` for an image of that many labels in each of two maps, counted twice."""
    rng = np.random.default_rng(n_labels)
    layers = [(1 + rng.permutation(shape[0] * shape[1]) % n_labels).astype(np.uint16).reshape(shape) for _ in range(2)]
    numbers = np.arange(1, n_labels + 1)
    return shape, layers, [1], tables_of(numbers, numbers % 3, [0, 2, 0], as_set=False)


def test_an_image_leaves_nothing_behind_for_the_next(any_backend):
    images = [crowd(5), crowd(700), crowd(5, (3, 3)), crowd(70), crowd(5)]
    found = [label_planes(*image, backend=any_backend) for image in images]
    for image, index in zip(images, found, strict=True):
        assert len(np.unique(index[1][index[1] < len(image[3].category)])) == len(image[3].category)
        with ThreadPoolExecutor(1) as pool:  # a thread that has seen no other image
            alone = pool.submit(label_planes, *image, backend=any_backend).result()
        assert_same_index(index, alone, any_backend)


def test_threads_do_not_meet(backend):
    images = [crowd(n) for n in range(2, 90)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: label_planes(*image, backend=backend), images))
    for image, index in zip(images, found, strict=True):
        assert_same_index(index, label_planes(*image, backend=backend), backend)


def test_any_memory_layout_gives_the_same_planes(backend):
    shape, layers, whole, tables = crowd(9)
    expected = label_planes(shape, layers, whole, tables, backend=backend)
    unaligned = [np.frombuffer(b"x" + layer.tobytes(), np.uint16, offset=1).reshape(shape) for layer in layers]
    read_only = [np.frombuffer(layer.tobytes(), np.uint16).reshape(shape) for layer in layers]
    strided = [np.repeat(layer, 2, axis=1)[:, ::2] for layer in layers]
    bytes_ = [layer.astype(np.uint8) for layer in layers]
    for variant in (unaligned, read_only, strided, [np.asfortranarray(layer) for layer in layers], bytes_):
        assert_same_index(label_planes(shape, variant, whole, tables, backend=backend), expected, backend)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is closed by mprotect")
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 63), (2, 64), (5, 65), (2, 200)])
def test_nothing_is_read_beyond_a_label_map(backend, shape):
    page, size = mmap.PAGESIZE, 2 * shape[0] * shape[1]
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    layer = np.frombuffer(memory, np.uint16, shape[0] * shape[1], page - size).reshape(shape)
    layer[:] = 5
    words, _, _, _, _, area, _ = label_planes(shape, [layer], [], tables_of([5], [0], [0]), backend=backend)
    assert area.tolist() == [np.bitwise_count(words).sum()] == [shape[0] * shape[1]]


SMALL = tables_of([4], [0], [0])


@pytest.mark.parametrize(
    "match, shape, layers, whole",
    [
        (r"\(2, 3\) among those of \(3, 2\)", (3, 2), [np.ones((2, 3), np.uint16)], []),
        ("a label map is", (3, 2), [np.ones(6, np.uint16)], []),
        ("holds uint16, not int64", (3, 2), [np.ones((3, 2), int)], []),
        ("have pixels", (3, 0), [], []),
        ("label numbers are uint16", (3, 2), [], [4, 65536]),
        ("label numbers are uint16", (3, 2), [], [-1]),
    ],
)
def test_labels_that_kernels_cannot_read_are_refused(match, shape, layers, whole):
    with pytest.raises(ValueError, match=match):
        label_planes(shape, layers, whole, SMALL)


@pytest.mark.parametrize(
    "match, change",
    [
        (r"column_of is contiguous int32 \(65536,\)", {"column_of": np.zeros(9, np.int32)}),
        ("category is contiguous int32", {"category": np.zeros(1)}),
        ("ignore is contiguous int32", {"ignore": np.zeros(6, np.int32)[::2]}),
        ("each of the 1 columns to one number", {"column_of": np.where(np.arange(65536) == 9, 1, -1).astype(np.int32)}),
        ("each of the 1 columns to one number", {"column_of": np.where(np.arange(65536) < 2, 0, -1).astype(np.int32)}),
        ("category lies within 0..0", {"category": np.ones(1, np.int32)}),
        ("ignore lies within 0..65535", {"ignore": np.array([65536], np.int32)}),
    ],
)
def test_tables_that_kernels_cannot_read_are_refused(match, change):
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **change)
