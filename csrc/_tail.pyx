# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The largest values of many units' streams. Shapes are checked by streamdissect.quantile; twin of
kernels/reference.py."""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t


cdef extern from "tail.h" nogil:
    ctypedef struct sd_stream_counts:
        int64_t *n_nan
        int64_t *n_infinite
        int64_t *n_zero
        int32_t *lowest
        int32_t *highest
    ctypedef struct sd_bins:
        int32_t *page_of
        uint32_t *pages
        int32_t *vacant
        int64_t n_vacant
        int64_t *above
        int32_t *bound
    ctypedef struct sd_buffer:
        int32_t *values
        int64_t room
        int64_t *filled
        int32_t *bound
    int64_t sd_update_bins16(const uint16_t *, int64_t, int64_t, int, int64_t, int64_t, const sd_stream_counts *,
                             sd_bins *, int32_t *)
    int64_t sd_update_bins32(const uint32_t *, int64_t, int64_t, int, int64_t, int64_t, const sd_stream_counts *,
                             sd_bins *, int32_t *)
    void sd_update_buffer(const uint32_t *, int64_t, int64_t, int, int64_t, const sd_stream_counts *, sd_buffer *,
                          int32_t *)
    void sd_refine(const uint32_t *, int64_t, int64_t, int, int64_t, int64_t, const int32_t *, uint32_t *)


cdef sd_stream_counts counts_of(int64_t[:, ::1] counts, int32_t[:, ::1] extremes) noexcept:
    cdef sd_stream_counts view
    view.n_nan, view.n_infinite, view.n_zero = &counts[0, 0], &counts[1, 0], &counts[2, 0]
    view.lowest, view.highest = &extremes[0, 0], &extremes[1, 0]
    return view


def update_bins(
    const uint16_t[:, :, ::1] half,         # (B, K, n) float16 bits, or None
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits, or None: binned by the upper half of their keys
    Py_ssize_t unit,                        # the first unit to take
    int64_t capacity,                       # m + 1
    int64_t[:, ::1] counts,                 # (3, K) NaN, infinite, zero
    int32_t[:, ::1] extremes,               # (2, K) lowest and highest key
    int32_t[:, ::1] page_of,                # (K, 256)
    uint32_t[:, ::1] pages,                 # (n_pages, 256)
    int32_t[::1] vacant,                    # (n_pages,)
    Py_ssize_t n_vacant,
    int64_t[::1] above,                     # (K,)
    int32_t[::1] bound,                     # (K,)
    int32_t[:, ::1] highest,                # (B, K) out: key of each map's largest value
):
    """Returns the next unit to take and the number of vacant pages left; fewer than K: more pages are wanted."""
    cdef sd_stream_counts view = counts_of(counts, extremes)
    cdef sd_bins bins
    cdef int64_t next_unit
    bins.page_of, bins.pages, bins.vacant = &page_of[0, 0], &pages[0, 0], &vacant[0]
    bins.n_vacant, bins.above, bins.bound = n_vacant, &above[0], &bound[0]
    with nogil:
        if half is not None:
            next_unit = sd_update_bins16(&half[0, 0, 0], half.shape[0], half.shape[1], <int> half.shape[2], unit,
                                         capacity, &view, &bins, &highest[0, 0])
        else:
            next_unit = sd_update_bins32(&single[0, 0, 0], single.shape[0], single.shape[1], <int> single.shape[2],
                                         unit, capacity, &view, &bins, &highest[0, 0])
    return next_unit, bins.n_vacant


def update_buffer(
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits
    int64_t capacity,                       # m + 1
    int64_t[:, ::1] counts,                 # (3, K) NaN, infinite, zero
    int32_t[:, ::1] extremes,               # (2, K) lowest and highest key
    int32_t[:, ::1] values,                 # (K, room) keys, room >= capacity + 64
    int64_t[::1] filled,                    # (K,)
    int32_t[::1] bound,                     # (K,)
    int32_t[:, ::1] highest,                # (B, K) out: key of each map's largest value
):
    cdef sd_stream_counts view = counts_of(counts, extremes)
    cdef sd_buffer buffer
    buffer.values, buffer.room, buffer.filled, buffer.bound = &values[0, 0], values.shape[1], &filled[0], &bound[0]
    with nogil:
        sd_update_buffer(&single[0, 0, 0], single.shape[0], single.shape[1], <int> single.shape[2], capacity, &view,
                         &buffer, &highest[0, 0])


def refine(
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits
    Py_ssize_t first_unit,
    const int32_t[::1] wanted,              # (slots,) upper half of the keys looked for, from first_unit on
    uint32_t[:, ::1] low,                   # (slots, 65536) counts by the lower half, added to
):
    with nogil:
        sd_refine(&single[0, 0, 0], single.shape[0], single.shape[1], <int> single.shape[2], first_unit,
                  wanted.shape[0], &wanted[0], &low[0, 0])
