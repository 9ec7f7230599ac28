# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Maps -> masks -> counters. Shapes and values are checked by streamdissect.kernels; twin of kernels/reference.py."""
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc


cdef extern from "count.h" nogil:
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
    ctypedef struct sd_scratch:
        float *values
        float *rows[2]
        int32_t *left
        int32_t *right
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
    void sd_mask_one(const float *, float, int32_t, int, const sd_axis *, const sd_axis *, const sd_scratch *,
                     uint64_t *)
    void sd_count_image_half(const uint16_t *, int64_t, int64_t, int64_t, const float *, const int32_t *,
                             const int16_t *, int, const sd_axis *, const sd_axis *, const sd_image_labels *,
                             const sd_scratch *, uint64_t *, int64_t *, int64_t *, int64_t *, int64_t *)
    void sd_count_image_float(const float *, int64_t, int64_t, int64_t, const float *, const int32_t *, int,
                              const sd_axis *, const sd_axis *, const sd_image_labels *, const sd_scratch *,
                              uint64_t *, int64_t *, int64_t *, int64_t *, int64_t *)
    void sd_count_image_masks(const uint64_t *, int64_t, int, int, const sd_image_labels *, int64_t *, int64_t *,
                              int64_t *)
    bint SD_HAS_CLONES
    const char *SD_COMPILER

compiler = SD_COMPILER.decode()
has_clones = bool(SD_HAS_CLONES)        # x86-64-v3 builds of the loops, chosen when the module is loaded


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


cdef int allocate(sd_scratch *scratch, const sd_axis *rows, const sd_axis *columns) except -1:
    cdef size_t padded = 64 * ((columns.n_pixels + 63) // 64)
    scratch.values = <float *> malloc(sizeof(float) * rows.n_source * ((columns.n_source + 7) // 8 * 8))
    scratch.rows[0] = <float *> calloc(padded + 64, sizeof(float))
    scratch.rows[1] = <float *> calloc(padded + 64, sizeof(float))
    scratch.left = <int32_t *> malloc(sizeof(int32_t) * (rows.n_source + 2))
    scratch.right = <int32_t *> malloc(sizeof(int32_t) * (rows.n_source + 2))
    if not (scratch.values and scratch.rows[0] and scratch.rows[1] and scratch.left and scratch.right):
        release(scratch)
        raise MemoryError
    return 0


cdef void release(sd_scratch *scratch) noexcept:
    free(scratch.values)
    free(scratch.rows[0])
    free(scratch.rows[1])
    free(scratch.left)
    free(scratch.right)


def mask_maps(
    const float[:, ::1] maps,               # (B, h * w)
    const float[::1] thresholds,            # (B,)
    const int32_t[::1] keys,                # (B,) a value passes where its key is larger
    bint or_equal,
    Axis rows,
    Axis columns,
    uint64_t[:, ::1] bits,                  # (B, H * words) of zeros
):
    cdef sd_scratch scratch
    cdef Py_ssize_t i
    allocate(&scratch, &rows.view, &columns.view)
    with nogil:
        for i in range(maps.shape[0]):
            sd_mask_one(&maps[i, 0], thresholds[i], keys[i], or_equal, &rows.view, &columns.view, &scratch,
                        &bits[i, 0])
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
):
    cdef sd_scratch scratch
    cdef sd_image_labels image
    cdef Py_ssize_t i, n_images = single.shape[0] if half is None else half.shape[0]
    cdef int64_t n_units = thresholds.shape[0]
    cdef int words = (columns.view.n_pixels + 63) // 64
    cdef bint is_half = half is not None
    cdef uint64_t *bits
    cdef int64_t *count
    allocate(&scratch, &rows.view, &columns.view)
    bits = <uint64_t *> calloc(<size_t> rows.view.n_pixels * words, sizeof(uint64_t))
    count = <int64_t *> calloc(most_planes + 1, sizeof(int64_t))
    if not bits or not count:
        free(bits)
        free(count)
        release(&scratch)
        raise MemoryError
    with nogil:
        for i in range(n_images):
            image = labels.image(i)
            if is_half:
                sd_count_image_half(&half[i, 0, 0], unit_begin, unit_end, n_units, &thresholds[0], &keys[0],
                                    &keys16[0], or_equal, &rows.view, &columns.view, &image, &scratch, bits, count,
                                    &counters[0, 0], &chance[0, 0], &active[0])
            else:
                sd_count_image_float(&single[i, 0, 0], unit_begin, unit_end, n_units, &thresholds[0], &keys[0],
                                     or_equal, &rows.view, &columns.view, &image, &scratch, bits, count,
                                     &counters[0, 0], &chance[0, 0], &active[0])
    free(bits)
    free(count)
    release(&scratch)


def count_masks(
    const uint64_t[:, :, ::1] masks,        # (B, K, H * words)
    int n_rows,
    Labels labels,
    Py_ssize_t most_planes,
    int64_t[:, ::1] counters,               # (C + G + 1, K), added to
    int64_t[:, ::1] chance,                 # (C, K), added to
):
    cdef sd_image_labels image
    cdef Py_ssize_t i
    cdef int words = <int> (masks.shape[2] // n_rows)
    cdef int64_t *count = <int64_t *> calloc(most_planes + 1, sizeof(int64_t))
    if not count:
        raise MemoryError
    with nogil:
        for i in range(masks.shape[0]):
            image = labels.image(i)
            sd_count_image_masks(&masks[i, 0, 0], masks.shape[1], n_rows, words, &image, count, &counters[0, 0],
                                 &chance[0, 0])
    free(count)
