# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Maps -> masks -> counters. Shapes and values are checked by streamdissect.kernels; twin of kernels/reference.py."""
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc


cdef extern from "levels.h" nogil:
    ctypedef struct sd_axis:
        int32_t n_source
        int32_t n_pixels
        const int32_t *first
        const int32_t *second
        const float *weight
        const int64_t *numerator
        int64_t denominator
        const int32_t *start
        const int32_t *begin
        const int32_t *end
    ctypedef struct sd_layer:
        int64_t n_units
        const float *thresholds
        const int32_t *keys
        const int16_t *keys16
        int or_equal
        float margin
        const sd_axis *rows
        const sd_axis *columns
    ctypedef struct sd_scratch:
        float *values
        float *lines[2]
        int32_t *left
        int32_t *right
        uint64_t *touched
        uint64_t *bits
        int64_t *count
    ctypedef struct sd_image_labels:
        const uint64_t *planes
        const int32_t *plane_row
        const int32_t *touch_row
        const int32_t *whole_row
        const int32_t *present_row
        const int64_t *present_area
        int32_t n_planes
        int32_t n_whole
        int32_t n_present
    ctypedef struct sd_totals:
        int64_t n_units
        int64_t *counters
        int64_t *chance
        int64_t *active
    ctypedef struct sd_level:
        const char *name
        void (*mask_one)(const float *, const sd_layer *, int64_t, const sd_scratch *) noexcept nogil
        void (*count_image)(const void *, int, const sd_layer *, int64_t, int64_t, const sd_image_labels *,
                            const sd_scratch *, const sd_totals *) noexcept nogil
        void (*count_image_masks)(const uint64_t *, int, int, const sd_image_labels *, const sd_scratch *,
                                  const sd_totals *) noexcept nogil
    const sd_level *sd_level_at(int)
    const float SD_MARGIN
    const float SD_SMALLEST_MARGIN
    bint SD_HAS_CLONES
    const char *SD_COMPILER

compiler = SD_COMPILER.decode()
has_clones = bool(SD_HAS_CLONES)        # x86-64-v3 builds of the other kernels, chosen when their module is loaded

MARGIN, SMALLEST_MARGIN = SD_MARGIN, SD_SMALLEST_MARGIN

cdef const sd_level *current = sd_level_at(0)


def levels():
    """Names of the levels that were built and run here, fastest first."""
    cdef int i = 0
    names = []
    while sd_level_at(i):
        names.append(sd_level_at(i).name.decode())
        i += 1
    return names


def level():
    """Name of the level in use."""
    return current.name.decode()


def use_level(str name):
    """Count at this level from now on, in the whole process; ValueError where it does not run."""
    global current
    current = sd_level_at(levels().index(name))


cdef class Axis:
    """The C view of kernels.geometry.AxisWeights; holds its arrays alive."""

    cdef sd_axis view
    cdef tuple arrays

    def __init__(self, int n_source, int n_pixels, const int32_t[::1] first, const int32_t[::1] second,
                 const float[::1] weight, const int64_t[::1] numerator, int64_t denominator,
                 const int32_t[::1] start, const int32_t[::1] begin, const int32_t[::1] end):
        self.arrays = (first, second, weight, numerator, start, begin, end)
        self.view.n_source = n_source
        self.view.n_pixels = n_pixels
        self.view.first = &first[0]
        self.view.second = &second[0]
        self.view.weight = &weight[0]
        self.view.numerator = &numerator[0]
        self.view.denominator = denominator
        self.view.start = &start[0]
        self.view.begin = &begin[0]
        self.view.end = &end[0]


cdef int allocate(sd_scratch *scratch, const sd_axis *rows, const sd_axis *columns, Py_ssize_t most_planes,
                  bint with_bits) except -1:
    """Working memory of one thread for maps of these axes, or, without them, for masks."""
    cdef size_t h, padded = 64 * ((columns.n_pixels + 63) // 64) if rows else 0
    cdef bint complete
    scratch.values = scratch.lines[0] = scratch.lines[1] = NULL
    scratch.left = scratch.right = NULL
    scratch.touched = scratch.bits = NULL
    scratch.count = <int64_t *> calloc(most_planes + 1, sizeof(int64_t))
    complete = scratch.count != NULL
    if rows:
        h = rows.n_source
        scratch.values = <float *> malloc(sizeof(float) * (h * ((columns.n_source + 15) // 16 * 16) + 16))
        scratch.lines[0] = <float *> calloc(padded + 64, sizeof(float))
        scratch.lines[1] = <float *> calloc(padded + 64, sizeof(float))
        scratch.left = <int32_t *> malloc(sizeof(int32_t) * (h + 2))
        scratch.right = <int32_t *> malloc(sizeof(int32_t) * (h + 2))
        scratch.touched = <uint64_t *> malloc(sizeof(uint64_t) * h * ((padded + 1023) // 1024))
        complete &= scratch.values != NULL and scratch.lines[0] != NULL and scratch.lines[1] != NULL
        complete &= scratch.left != NULL and scratch.right != NULL and scratch.touched != NULL
    if with_bits:
        scratch.bits = <uint64_t *> calloc(rows.n_pixels * (padded // 64), sizeof(uint64_t))
        complete &= scratch.bits != NULL
    if not complete:
        release(scratch)
        raise MemoryError
    return 0


cdef void release(sd_scratch *scratch) noexcept:
    free(scratch.values)
    free(scratch.lines[0])
    free(scratch.lines[1])
    free(scratch.left)
    free(scratch.right)
    free(scratch.touched)
    free(scratch.bits)
    free(scratch.count)


def mask_maps(
    const float[:, ::1] maps,               # (B, h * w)
    const float[::1] thresholds,            # (B,)
    const int32_t[::1] keys,                # (B,) a value passes where its key is larger
    bint or_equal,
    Axis rows,
    Axis columns,
    uint64_t[:, ::1] bits,                  # (B, H * words) of zeros
    float margin=SD_MARGIN,                 # for tests alone
):
    cdef sd_layer layer
    cdef sd_scratch scratch
    cdef const sd_level *level = current
    cdef Py_ssize_t i
    if maps.shape[0] == 0:
        return
    layer.n_units, layer.or_equal, layer.margin = maps.shape[0], or_equal, margin
    layer.thresholds, layer.keys, layer.keys16 = &thresholds[0], &keys[0], NULL
    layer.rows, layer.columns = &rows.view, &columns.view
    allocate(&scratch, layer.rows, layer.columns, 0, False)
    with nogil:
        for i in range(maps.shape[0]):
            scratch.bits = &bits[i, 0]
            level.mask_one(&maps[i, 0], &layer, i, &scratch)
    scratch.bits = NULL
    release(&scratch)


cdef class Labels:
    """The C view of kernels.geometry.PlaneBatch; holds its arrays alive."""

    cdef const uint64_t[::1] words
    cdef const int64_t[::1] word_ptr, plane_ptr, whole_ptr, present_ptr, present_area
    cdef const int32_t[::1] plane_row, touch_row, whole_row, present_row

    def __init__(self, words, word_ptr, plane_ptr, plane_row, touch_row, whole_ptr, whole_row, present_ptr,
                 present_row, present_area):
        self.words, self.word_ptr, self.plane_ptr = words, word_ptr, plane_ptr
        self.plane_row, self.touch_row = plane_row, touch_row
        self.whole_ptr, self.whole_row = whole_ptr, whole_row
        self.present_ptr, self.present_row, self.present_area = present_ptr, present_row, present_area

    cdef sd_image_labels image(self, Py_ssize_t i) noexcept nogil:
        cdef sd_image_labels labels
        labels.planes = &self.words[0] + self.word_ptr[i]
        labels.plane_row = &self.plane_row[0] + self.plane_ptr[i]
        labels.touch_row = &self.touch_row[0] + self.plane_ptr[i]
        labels.n_planes = <int32_t> (self.plane_ptr[i + 1] - self.plane_ptr[i])
        labels.whole_row = &self.whole_row[0] + self.whole_ptr[i]
        labels.n_whole = <int32_t> (self.whole_ptr[i + 1] - self.whole_ptr[i])
        labels.present_row = &self.present_row[0] + self.present_ptr[i]
        labels.present_area = &self.present_area[0] + self.present_ptr[i]
        labels.n_present = <int32_t> (self.present_ptr[i + 1] - self.present_ptr[i])
        return labels


def count_maps(
    const uint16_t[:, :, ::1] half,         # (B, K, h * w) float16 bits, or None
    const float[:, :, ::1] single,          # (B, K, h * w) float32, or None
    const float[::1] thresholds,            # (K,)
    const int32_t[::1] keys,                # (K,) a value passes where its float32 key is larger
    const int16_t[::1] keys16,              # (K,) the same for float16 keys
    bint or_equal,
    Axis rows,
    Axis columns,
    Labels labels,
    Py_ssize_t most_planes,
    Py_ssize_t unit_begin,
    Py_ssize_t unit_end,
    int64_t[:, ::1] counters,               # (C + G + 1, K), added to
    int64_t[:, ::1] chance,                 # (C, K), added to
    int64_t[::1] active,                    # (K,) maps with a passing value, added to
    float margin=SD_MARGIN,                 # for tests alone; 0: the float32 filter without exact tests
):
    cdef sd_layer layer
    cdef sd_scratch scratch
    cdef sd_totals totals
    cdef sd_image_labels image
    cdef const sd_level *level = current
    cdef bint is_half = half is not None
    cdef Py_ssize_t i, n_images = half.shape[0] if is_half else single.shape[0]
    cdef const void *maps
    layer.n_units, layer.or_equal, layer.margin = thresholds.shape[0], or_equal, margin
    layer.thresholds, layer.keys, layer.keys16 = &thresholds[0], &keys[0], &keys16[0]
    layer.rows, layer.columns = &rows.view, &columns.view
    totals.n_units = layer.n_units
    totals.counters, totals.chance, totals.active = &counters[0, 0], &chance[0, 0], &active[0]
    allocate(&scratch, layer.rows, layer.columns, most_planes, True)
    with nogil:
        for i in range(n_images):
            image = labels.image(i)
            maps = <const void *> &half[i, 0, 0] if is_half else <const void *> &single[i, 0, 0]
            level.count_image(maps, is_half, &layer, unit_begin, unit_end, &image, &scratch, &totals)
    release(&scratch)


def count_masks(
    const uint64_t[:, :, ::1] masks,        # (B, K, H * words)
    int n_rows,
    Labels labels,
    Py_ssize_t most_planes,
    int64_t[:, ::1] counters,               # (C + G + 1, K), added to
    int64_t[:, ::1] chance,                 # (C, K), added to
):
    cdef sd_scratch scratch
    cdef sd_totals totals
    cdef sd_image_labels image
    cdef const sd_level *level = current
    cdef int words = <int> (masks.shape[2] // n_rows)
    cdef Py_ssize_t i
    totals.n_units = masks.shape[1]
    totals.counters, totals.chance, totals.active = &counters[0, 0], &chance[0, 0], NULL
    allocate(&scratch, NULL, NULL, most_planes, False)
    with nogil:
        for i in range(masks.shape[0]):
            image = labels.image(i)
            level.count_image_masks(&masks[i, 0, 0], n_rows, words, &image, &scratch, &totals)
    release(&scratch)
