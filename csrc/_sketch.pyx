# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Quantile sketches of many units' streams. Shapes are checked by streamdissect.quantile; twin of
kernels/reference_sketch.py."""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "sketch.h" nogil:
    enum: SD_GULP
    ctypedef struct sd_stream_counts:
        int64_t *n_nan
        int64_t *n_infinite
        int64_t *n_zero
        int32_t *lowest
        int32_t *highest
    ctypedef struct sd_sketch:
        int64_t n_levels
        const int64_t *amounts
        const int64_t *fill
        const int64_t *turn
        int64_t n_pending
        int64_t room
        int32_t *rows
        int32_t *pending
        uint32_t *coins
        uint64_t seed
    ctypedef struct sd_sketch_scratch:
        int64_t *fill
        int64_t *turn
        int64_t *next
        int32_t *sorted
        int32_t *promoted
        int32_t *merged
        int32_t *rebuilt
        uint32_t *spare
        uint32_t *count
    void sd_update_sketch16(const uint16_t *, int64_t, int64_t, int, int64_t, int64_t, const sd_stream_counts *,
                            const sd_sketch *, const sd_sketch_scratch *, int32_t *)
    void sd_update_sketch32(const uint32_t *, int64_t, int64_t, int, int64_t, int64_t, const sd_stream_counts *,
                            const sd_sketch *, const sd_sketch_scratch *, int32_t *)


def update_sketch(
    const uint16_t[:, :, ::1] half,         # (B, K, n) float16 bits, or None
    const uint32_t[:, :, ::1] single,       # (B, K, n) float32 bits, or None
    Py_ssize_t unit_begin,
    Py_ssize_t unit_end,
    uint64_t seed,
    const int64_t[:, ::1] amounts,          # (gulps, levels) keys that each level compacts after each gulp
    const int64_t[::1] fill,                # (levels,) keys of each level before the first gulp
    const int64_t[::1] turn,                # (levels,) compactions of each level before
    int32_t[:, ::1] rows,                   # (K, room) ascending keys of each level, level 0 last
    int32_t[:, ::1] pending,                # (K, GULP) keys that wait for the next gulp
    Py_ssize_t n_pending,
    uint32_t[:, ::1] coins,                 # (K, 48) last coin of each kind at each level, as bits
    int64_t[:, ::1] counts,                 # (3, K) NaN, infinite, zero
    int32_t[:, ::1] extremes,               # (2, K) lowest and highest key
    int32_t[:, ::1] highest,                # (B, K) out: key of each map's largest value
):
    cdef sd_stream_counts view
    cdef sd_sketch sketch
    cdef sd_sketch_scratch scratch
    cdef size_t n_levels = fill.shape[0], long_run = rows.shape[1] + SD_GULP
    cdef void *memory = malloc(24 * n_levels + 12 * long_run + 12 * SD_GULP + 4 * 4 * 256)
    if memory == NULL:
        raise MemoryError
    scratch.fill = <int64_t *> memory
    scratch.turn = scratch.fill + n_levels
    scratch.next = scratch.turn + n_levels
    scratch.promoted = <int32_t *> (scratch.next + n_levels)
    scratch.merged = scratch.promoted + long_run
    scratch.rebuilt = scratch.merged + long_run
    scratch.sorted = scratch.rebuilt + long_run
    scratch.spare = <uint32_t *> (scratch.sorted + SD_GULP)
    scratch.count = scratch.spare + 2 * SD_GULP
    view.n_nan, view.n_infinite, view.n_zero = &counts[0, 0], &counts[1, 0], &counts[2, 0]
    view.lowest, view.highest = &extremes[0, 0], &extremes[1, 0]
    sketch.n_levels, sketch.amounts = n_levels, &amounts[0, 0]
    sketch.fill, sketch.turn = &fill[0], &turn[0]
    sketch.room, sketch.rows = rows.shape[1], &rows[0, 0]
    sketch.pending, sketch.n_pending = &pending[0, 0], n_pending
    sketch.coins, sketch.seed = &coins[0, 0], seed
    with nogil:
        if half is not None:
            sd_update_sketch16(&half[0, 0, 0], half.shape[0], half.shape[1], <int> half.shape[2], unit_begin, unit_end,
                               &view, &sketch, &scratch, &highest[0, 0])
        else:
            sd_update_sketch32(&single[0, 0, 0], single.shape[0], single.shape[1], <int> single.shape[2], unit_begin,
                               unit_end, &view, &sketch, &scratch, &highest[0, 0])
        free(memory)
