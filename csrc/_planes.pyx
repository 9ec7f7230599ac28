# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Label maps -> label planes. Shapes are checked by kernels; twin of kernels/reference_planes.py."""
import threading

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef extern from "planes.h" nogil:
    ctypedef struct sd_label_rules:
        const int32_t *column_of
        const int32_t *category
        const int32_t *ignore
        int64_t n_concepts
        int64_t n_categories
        int as_set
        int touch
        int labelled_only
    ctypedef struct sd_labels:
        const uint16_t **layers
        const int32_t *whole
        int64_t n_layers
        int64_t n_whole
        int64_t height
        int64_t width
    ctypedef struct sd_found:
        uint64_t *planes
        int64_t room
        int64_t stride
        int32_t *slot_of
        int32_t *seen
        int64_t n_seen
        int64_t *key
        int32_t *number
        int32_t *column
        int64_t *area
        int64_t *order
        int32_t *ignored
        int32_t *state
        int32_t *whole_column
        int32_t *plane_row
        int32_t *touch_row
        int32_t *whole_row
        int32_t *present_row
        int64_t *present_area
        int64_t *category_pixels
        int64_t n_laid
        int64_t n_whole_row
        int64_t n_present
    int sd_index_labels(const sd_label_rules *, const sd_labels *, sd_found *)
    void sd_lay_planes(const sd_found *, int64_t, uint64_t *)


cdef class Scratch:
    """What an image is looked through with; a thread keeps its own from image to image."""

    cdef sd_found found
    cdef void *tables
    cdef void *lists
    cdef void *inputs
    cdef size_t planes_bytes, lists_bytes, inputs_bytes

    def __cinit__(self):
        self.tables = malloc(2 * 65536 * sizeof(int32_t))
        if self.tables == NULL:
            raise MemoryError
        memset(self.tables, 255, 2 * 65536 * sizeof(int32_t))
        self.found.slot_of, self.found.seen = <int32_t *> self.tables, <int32_t *> self.tables + 65536
        self.found.room = 64

    def __dealloc__(self):
        free(self.tables)
        free(self.lists)
        free(self.inputs)
        free(self.found.planes)

    cdef int hold(self, void **block, size_t *held, size_t wanted) except -1:
        if held[0] < wanted:
            free(block[0])
            held[0], block[0] = 0, malloc(wanted)
            if block[0] == NULL:
                raise MemoryError
            held[0] = wanted
        return 0

    cdef int reserve(self, int64_t n_words, int64_t n_whole, int64_t n_categories) except -1:
        """Room for `found.room` planes and the lists that go with them."""
        cdef sd_found *found = &self.found
        cdef int64_t room = found.room, most = room + n_whole + n_categories + 1
        found.stride = 8 * ((n_words + 7) // 8 | 1)     # even, planes would share sets of the cache
        self.hold(<void **> &found.planes, &self.planes_bytes, room * found.stride * sizeof(uint64_t))
        self.hold(&self.lists, &self.lists_bytes, most * (4 * sizeof(int64_t) + 9 * sizeof(int32_t)))
        found.key = <int64_t *> self.lists
        found.area, found.order, found.present_area = found.key + most, found.key + 2 * most, found.key + 3 * most
        found.number = <int32_t *> (found.key + 4 * most)
        found.column, found.plane_row = found.number + most, found.number + 2 * most
        found.touch_row, found.whole_row = found.number + 3 * most, found.number + 4 * most
        found.present_row, found.whole_column = found.number + 5 * most, found.number + 6 * most
        found.ignored, found.state = found.number + 7 * most, found.number + 8 * most
        return 0


_own = threading.local()


cdef Scratch own_scratch():
    try:
        return _own.scratch
    except AttributeError:
        _own.scratch = Scratch()
        return _own.scratch


cdef void *address(object array, int flags) except? NULL:
    """Of an array's first element; the caller holds the array."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE | flags)
    cdef void *first = view.buf
    PyBuffer_Release(&view)
    return first


cdef object copied(const int32_t *values, int64_t n):
    array = np.empty(n, np.int32)
    memcpy(address(array, PyBUF_WRITABLE), values, n * sizeof(int32_t))
    return array


def label_planes(
    list layers,                # of uint16 (H, W) label numbers, contiguous
    list whole,                 # label numbers that hold at every pixel
    int64_t height,
    int64_t width,
    column_of,                  # int32 (65536,) column of a label number, or -1
    category,                   # int32 (C,)
    ignore,                     # int32 (G,) label number not judged for the category, 0: none
    bint as_set,
    bint touch,
    bint labelled_only,
):
    """Returns words (H * words, n_planes), plane_row, touch_row, whole_row, present_row, present_area and
    category_pixels (G,)."""
    cdef Scratch scratch = own_scratch()
    cdef sd_found *found = &scratch.found
    cdef sd_label_rules rules
    cdef sd_labels labels
    cdef Py_ssize_t i
    cdef int64_t n_words = height * ((width + 63) // 64)
    cdef uint64_t *out
    cdef int32_t *numbers
    cdef int is_done = 0
    rules.n_concepts, rules.n_categories = len(category), len(ignore)
    rules.column_of = <const int32_t *> address(column_of, 0)
    rules.category = <const int32_t *> address(category, 0) if rules.n_concepts else NULL
    rules.ignore = <const int32_t *> address(ignore, 0) if rules.n_categories else NULL
    rules.as_set, rules.touch, rules.labelled_only = as_set, touch, labelled_only
    labels.n_layers, labels.n_whole, labels.height, labels.width = len(layers), len(whole), height, width
    scratch.hold(&scratch.inputs, &scratch.inputs_bytes, labels.n_layers * sizeof(void *) + labels.n_whole * 4 + 8)
    labels.layers = <const uint16_t **> scratch.inputs
    for i in range(labels.n_layers):
        labels.layers[i] = <const uint16_t *> address(layers[i], 0)
    numbers = <int32_t *> (labels.layers + labels.n_layers)
    for i in range(labels.n_whole):
        numbers[i] = whole[i]
    labels.whole = numbers
    category_pixels = np.zeros(rules.n_categories, np.int64)
    found.category_pixels = <int64_t *> address(category_pixels, PyBUF_WRITABLE)
    while True:
        scratch.reserve(n_words, labels.n_whole, rules.n_categories)
        with nogil:
            is_done = sd_index_labels(&rules, &labels, found)
        if is_done:
            break
        found.room *= 2
    words = np.empty((n_words, found.n_laid), np.uint64)
    out = <uint64_t *> address(words, PyBUF_WRITABLE)
    with nogil:
        sd_lay_planes(found, n_words, out)
    present_area = np.empty(found.n_present, np.int64)
    memcpy(address(present_area, PyBUF_WRITABLE), found.present_area, found.n_present * sizeof(int64_t))
    return (
        words,
        copied(found.plane_row, found.n_laid),
        copied(found.touch_row, found.n_laid),
        copied(found.whole_row, found.n_whole_row),
        copied(found.present_row, found.n_present),
        present_area,
        category_pixels,
    )
