# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The values of many units' streams, all or the largest. Shapes are checked by streamdissect.quantile; twin of
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
    int64_t sd_update_histogram16(const uint16_t *, int64_t, int64_t, int, int64_t, const sd_stream_counts *, sd_bins *,
                                  int32_t *)
    int64_t sd_update_histogram32(const uint32_t *, int64_t, int64_t, int, int64_t, const sd_stream_counts *, sd_bins *,
                                  int32_t *)
    ctypedef struct sd_brackets:
        const int32_t *unit
        const int32_t *low
        const int32_t *high
        int64_t *n_above
        int64_t *n_high
        int64_t *n_low
        int64_t *pool
        int64_t room
        int64_t filled
    int64_t sd_collect16(const uint16_t *, int64_t, int64_t, int, int64_t, int64_t, sd_brackets *)
    int64_t sd_collect32(const uint32_t *, int64_t, int64_t, int, int64_t, int64_t, sd_brackets *)


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
    """Returns the next unit to take and the number of vacant pages left; before K: more pages are wanted."""
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


def update_histogram(
    const uint16_t[:, :, ::1] half,         # (B, K, n) float16 bits, or None
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits, or None: binned by the upper half of their keys
    Py_ssize_t unit,                        # the first unit to take
    int64_t[:, ::1] counts,                 # (3, K) NaN, infinite, zero
    int32_t[:, ::1] extremes,               # (2, K) lowest and highest key
    int32_t[:, ::1] page_of,                # (K, 256)
    uint32_t[:, ::1] pages,                 # (n_pages, 256)
    int32_t[::1] vacant,                    # (n_pages,)
    Py_ssize_t n_vacant,
    int32_t[:, ::1] highest,                # (B, K) out: key of each map's largest value
):
    """Returns the next unit to take and the number of vacant pages left; before K: more pages are wanted."""
    cdef sd_stream_counts view = counts_of(counts, extremes)
    cdef sd_bins bins
    cdef int64_t next_unit
    bins.page_of, bins.pages, bins.vacant, bins.n_vacant = &page_of[0, 0], &pages[0, 0], &vacant[0], n_vacant
    with nogil:
        if half is not None:
            next_unit = sd_update_histogram16(&half[0, 0, 0], half.shape[0], half.shape[1], <int> half.shape[2], unit,
                                              &view, &bins, &highest[0, 0])
        else:
            next_unit = sd_update_histogram32(&single[0, 0, 0], single.shape[0], single.shape[1],
                                              <int> single.shape[2], unit, &view, &bins, &highest[0, 0])
    return next_unit, bins.n_vacant


def collect(
    const uint16_t[:, :, ::1] half,         # (B, K, n) float16 bits, or None
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits, or None
    Py_ssize_t slot,                        # the first slot to take
    const int32_t[::1] unit,                # (slots,) whose values
    const int32_t[::1] low,                 # (slots,) the keys looked for: from low
    const int32_t[::1] high,                # (slots,) to high
    int64_t[:, ::1] counts,                 # (3, slots) added to: values above high, at high, at low
    int64_t[::1] pool,                      # (room,) slot << 32 | key + 2**31 of the values between
    Py_ssize_t filled,
):
    """Returns the next slot to take and how far the pool is filled; before the last: it is to be emptied."""
    cdef sd_brackets view
    cdef int64_t next_slot, n_slots = unit.shape[0]
    view.unit, view.low, view.high = &unit[0], &low[0], &high[0]
    view.n_above, view.n_high, view.n_low = &counts[0, 0], &counts[1, 0], &counts[2, 0]
    view.pool, view.room, view.filled = &pool[0], pool.shape[0], filled
    with nogil:
        if half is not None:
            next_slot = sd_collect16(&half[0, 0, 0], half.shape[0], half.shape[1], <int> half.shape[2], slot, n_slots,
                                     &view)
        else:
            next_slot = sd_collect32(&single[0, 0, 0], single.shape[0], single.shape[1], <int> single.shape[2], slot,
                                     n_slots, &view)
    return next_slot, view.filled
