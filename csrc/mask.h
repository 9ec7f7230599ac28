/* One unit's map on one image -> its mask, as bits on the mask grid (methods 2 and 3.1).

   A pixel is on iff the exactly interpolated value is above the threshold T. The loops evaluate it in float32 and
   settle the pixels within E of T by exact.h. With u = 2**-24, M = the largest of |map| and |T|, and a lerp
   fl(a + fl(w * fl(b - a))) whose weight is itself rounded: |b - a| <= 2 M, so the product is off by at most 6 u M, the
   sum by another u M: 7 u M for the horizontal lerp, and 7 u M more for the vertical one, which is a convex
   combination of two horizontal ones (fused multiply-add only removes roundings). Rounding T +- E adds u (M + E).
   Together 15 u M and terms in u**2, below 16 u M = 9.6e-7 M; E = 1.2e-6 M + 2**-120 leaves a quarter to spare, and
   the last term covers results and inputs that are flushed to zero (at most 16 times 2**-126). Maps with M >= 2**120
   or holding an infinity or NaN are settled exactly pixel by pixel.

   A value between four corners never exceeds the largest of them, so maps and cells without a corner above T are
   skipped; keys are compared, not floats (see bits.h). */
#ifndef STREAMDISSECT_MASK_H
#define STREAMDISSECT_MASK_H

#include "bits.h"
#include "exact.h"

typedef struct {
    int32_t n_source, n_pixels;
    const int32_t *first, *second; /* source index on either side of a pixel; padded to a multiple of 64 pixels */
    const float *weight;           /* of the second, rounded; padded by 64 more */
    const int64_t *numerator;      /* of the second, exact, over the denominator */
    int64_t denominator;
    const int32_t *start;       /* (n_source + 1,) first pixel whose `first` is the source index or a later one */
    const int32_t *begin, *end; /* pixels that a source index bears on: begin..end-1 */
} sd_axis;

typedef struct {
    float *values;         /* (h, stride), the map as float32; stride is w in whole groups of 8, the surplus is 0 */
    float *rows[2];        /* (padded pixels + 64,) two source rows interpolated along the columns */
    int32_t *left, *right; /* (h + 2,) first and last active column of rows -1..h; right < left: none */
} sd_scratch;

typedef struct {
    int32_t y_begin, y_end, word_begin, word_end; /* where the mask may have bits */
} sd_extent;

/* Does any of n values pass? Early out every 64 (32), the last block overlapping: a value may be asked twice. */
SD_INLINE int sd_any_above16(const uint16_t *map, int n, int16_t key)
{
    sd_shorts values, on = {0};
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int j = 0; j < 64; j += 16) {
            memcpy(&values, map + i + j, sizeof values);
            on |= sd_keys16(values) > key;
        }
        if (sd_any((sd_longs)on)) return 1;
    }
    if (n < 16) {
        for (; i < n; i++)
            if (sd_key16(map[i]) > key) return 1;
        return 0;
    }
    for (; i < n; i += 16) {
        memcpy(&values, map + (i + 16 <= n ? i : n - 16), sizeof values);
        on |= sd_keys16(values) > key;
    }
    return sd_any((sd_longs)on);
}

SD_INLINE int sd_any_above32(const uint32_t *map, int n, int32_t key)
{
    sd_ints values, on = {0};
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 32; j += 8) {
            memcpy(&values, map + i + j, sizeof values);
            on |= sd_keys(values) > key;
        }
        if (sd_any((sd_longs)on)) return 1;
    }
    if (n < 8) {
        for (; i < n; i++)
            if (sd_key32(map[i]) > key) return 1;
        return 0;
    }
    for (; i < n; i += 8) {
        memcpy(&values, map + (i + 8 <= n ? i : n - 8), sizeof values);
        on |= sd_keys(values) > key;
    }
    return sd_any((sd_longs)on);
}

SD_INLINE int sd_stride(const sd_axis *columns) { return (columns->n_source + SD_LANES - 1) / SD_LANES * SD_LANES; }

/* The map into scratch->values. */
SD_INLINE void sd_load_map(const void *map, int is_half, const sd_axis *rows, const sd_axis *columns,
                           const sd_scratch *scratch)
{
    const int h = rows->n_source, w = columns->n_source, stride = sd_stride(columns);
    const size_t size = is_half ? 2 : 4;
    for (int i = 0; i < h; i++)
        for (int j = 0; j < w; j += SD_LANES) {
            const char *from = (const char *)map + size * ((size_t)i * w + j);
            const int left = w - j, whole = i * w + j + SD_LANES <= h * w; /* eight may reach into the next rows */
            sd_ints bits = {0};
            if (is_half) {
                sd_halves half = {0};
                if (whole) memcpy(&half, from, sizeof half);
                else memcpy(&half, from, size * (size_t)left);
                bits = sd_widen(half);
            } else if (whole) {
                memcpy(&bits, from, sizeof bits);
            } else {
                memcpy(&bits, from, size * (size_t)left);
            }
            if (left < SD_LANES) {
                const sd_ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
                bits &= lane < left;
            }
            memcpy(scratch->values + (size_t)i * stride + j, &bits, sizeof bits);
        }
}

/* Active columns of each row, and the largest magnitude of the map as float32 bits. */
SD_INLINE uint32_t sd_find_active(const sd_axis *rows, const sd_axis *columns, int32_t key, const sd_scratch *scratch)
{
    const int h = rows->n_source, w = columns->n_source, stride = sd_stride(columns);
    int32_t *const left = scratch->left + 1, *const right = scratch->right + 1;
    sd_ints largest = {0};
    left[-1] = left[h] = w;
    right[-1] = right[h] = -1;
    for (int i = 0; i < h; i++) {
        left[i] = w;
        right[i] = -1;
        for (int j = 0; j < w; j += SD_LANES) {
            sd_ints bits;
            memcpy(&bits, scratch->values + (size_t)i * stride + j, sizeof bits);
            const sd_ints magnitude = bits & 0x7fffffff, larger = magnitude > largest;
            largest = (magnitude & larger) | (largest & ~larger);
            uint64_t on = sd_pack(sd_keys(bits) > key);
            if (w - j < SD_LANES) on &= (1u << (w - j)) - 1;
            if (!on) continue;
            if (right[i] < 0) left[i] = j + sd_lowest_bit(on);
            right[i] = j + 63 - __builtin_clzll(on);
        }
    }
    int32_t most = 0;
    for (int lane = 0; lane < SD_LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
    return (uint32_t)most;
}

/* As the search for active columns, for a map with NaN, whose keys exceed those of all numbers. */
static int sd_any_number_above(const sd_axis *rows, const sd_axis *columns, int32_t key, const sd_scratch *scratch)
{
    for (int i = 0; i < rows->n_source; i++)
        for (int j = 0; j < columns->n_source; j++) {
            int32_t bits;
            memcpy(&bits, scratch->values + (size_t)i * sd_stride(columns) + j, sizeof bits);
            const int32_t found = sd_key32((uint32_t)bits);
            if (found > key && found <= SD_INFINITY_KEY32) return 1;
        }
    return 0;
}

/* One source row interpolated along the columns, pixels begin..end-1, cell by cell: all pixels of a cell share its two
   sources, so they take no gather. Pixels are done eight at a time; the surplus, up to seven, is overwritten by the next
   cell or lies past the end. */
SD_INLINE void sd_interpolate_row(const float *SD_RESTRICT row, const sd_axis *columns, int begin, int end,
                                  float *SD_RESTRICT out)
{
    const float *SD_RESTRICT weight = columns->weight;
    const int last = columns->n_source - 1;
    if (end > columns->n_pixels) end = columns->n_pixels;
    for (int cell = columns->first[begin]; begin < end; cell++) {
        int stop = columns->start[cell + 1];
        const float a = row[cell], step = row[cell < last ? cell + 1 : last] - a;
        if (stop > end) stop = end;
        for (; begin < stop; begin += 8)
            for (int x = 0; x < 8; x++) out[begin + x] = a + weight[begin + x] * step;
        begin = stop;
    }
}

/* Pixels begin..end-1 (whole groups of 8) of one line. A pixel above `high` is on; returns whether any lies between. */
SD_INLINE int sd_compare_row(const float *above, const float *below, float weight, float high, float low, int begin,
                             int end, uint64_t *line)
{
    const sd_ints own = {1, 2, 4, 8, 16, 32, 64, 128};
    sd_ints doubt = {0};
    for (int x = begin; x < end;) { /* up to 32 pixels at a time: lanes are or-ed to one integer once for all of them */
        const int half_word = x & 32, at = x >> 6, stop = (x | 31) < end ? (x | 31) + 1 : end;
        sd_ints bits = {0};
        for (; x < stop; x += SD_LANES) {
            sd_floats a, b;
            memcpy(&a, above + x, sizeof a);
            memcpy(&b, below + x, sizeof b);
            const sd_floats value = a + weight * (b - a);
            const sd_ints sure = value > high;
            doubt |= sure ^ (value > low);
            bits |= (sure & own) << (x & 24);
        }
        line[at] |= sd_or_lanes(bits) << half_word;
    }
    return sd_any((sd_longs)doubt);
}

SD_INLINE int sd_exact_pixel(const float *map, const sd_axis *rows, const sd_axis *columns, int y, int x,
                             float threshold, int or_equal)
{
    const float *top = map + (int64_t)rows->first[y] * sd_stride(columns);
    const float *bottom = map + (int64_t)rows->second[y] * sd_stride(columns);
    const float values[5] = {top[columns->first[x]], top[columns->second[x]], bottom[columns->first[x]],
                             bottom[columns->second[x]], threshold};
    uint32_t bits[5];
    memcpy(bits, values, sizeof bits);
    return sd_exact_above(bits, rows->numerator[y], rows->denominator, columns->numerator[x], columns->denominator,
                          bits[4], or_equal);
}

/* The pixels of one line again, one at a time: those within E of the threshold, or all of a map that has no E. */
SD_INLINE void sd_settle_row(const sd_axis *rows, const sd_axis *columns, const sd_scratch *scratch, int y, float low,
                             float high, int filtered, float threshold, int or_equal, int begin, int end,
                             uint64_t *line)
{
    const float *above = scratch->rows[rows->first[y] & 1], *below = scratch->rows[rows->second[y] & 1];
    for (int x = begin; x < end; x++) {
        if (filtered) {
            /* computed anew, perhaps without the fused operations of the first time: the bound holds for both */
            const float value = above[x] + rows->weight[y] * (below[x] - above[x]);
            if (value < low - (high - low) || value > high + (high - low)) continue;
        }
        const uint64_t bit = 1ull << (x & 63);
        if (sd_exact_pixel(scratch->values, rows, columns, y, x, threshold, or_equal)) line[x >> 6] |= bit;
        else line[x >> 6] &= ~bit;
    }
}

typedef struct {
    int begin, end;
} sd_span;

/* Pixels that the active columns of source rows i..j bear on, in whole groups of 16; empty: begin >= end. Both rows
   may be one, or lie one past either end of the map. The columns are joined before the pixels are looked up: columns
   that bear on no pixel (a mask grid smaller than the map, fields beyond the image) may stand around one that does. */
SD_INLINE sd_span sd_touched(const sd_axis *columns, const int32_t *left, const int32_t *right, int i, int j)
{
    int leftmost = left[i], rightmost = right[i];
    for (int row = i + 1; row <= j; row++) {
        leftmost = left[row] < leftmost ? left[row] : leftmost;
        rightmost = right[row] > rightmost ? right[row] : rightmost;
    }
    sd_span span = {columns->n_pixels, 0};
    if (leftmost > rightmost) return span;
    const int begin = columns->begin[leftmost], end = columns->end[rightmost];
    if (begin >= end) return span;
    span.begin = begin & ~15;
    span.end = (end + 15) & ~15;
    return span;
}

/* The mask of scratch->values, whose active columns and largest magnitude are known. bits: (rows->n_pixels, words) of
   zeros, set within the returned extent. */
SD_INLINE sd_extent sd_mask_map(uint32_t largest, float threshold, int or_equal, const sd_axis *rows,
                                const sd_axis *columns, const sd_scratch *scratch, uint64_t *bits)
{
    const int words = (columns->n_pixels + 63) / 64, stride = sd_stride(columns);
    const int32_t *const left = scratch->left + 1, *const right = scratch->right + 1;
    const uint64_t last_word = columns->n_pixels % 64 ? (1ull << (columns->n_pixels % 64)) - 1 : ~0ull;
    sd_extent extent = {rows->n_pixels, 0, words, 0};
    uint32_t threshold_bits;
    memcpy(&threshold_bits, &threshold, 4);
    threshold_bits &= 0x7fffffff;
    largest = threshold_bits > largest ? threshold_bits : largest;
    float scale;
    memcpy(&scale, &largest, 4);
    const int filtered = largest < 0x7b800000u; /* 2**120 */
    const float margin = scale * 1.2e-6f + 0x1p-120f, high = threshold + margin, low = threshold - margin;
    int held[2] = {-1, -1}, top = 0, bottom = rows->n_source - 1, i = -1, j = -1;
    sd_span span = {0, 0};
    while (top <= bottom && right[top] < 0) top++;
    while (top < bottom && right[bottom] < 0) bottom--;
    if (top > bottom) return extent;
    for (int y = rows->begin[top]; y < rows->end[bottom]; y++) {
        if (rows->first[y] != i || rows->second[y] != j) { /* some pixel rows share their source rows */
            i = rows->first[y], j = rows->second[y];
            span = sd_touched(columns, left, right, i, j);
        }
        if (span.begin >= span.end) continue;
        uint64_t *line = bits + (int64_t)y * words;
        int unsettled = !filtered;
        if (filtered) {
            for (int side = 0; side < 2; side++) {
                const int source = side ? j : i;
                if (held[source & 1] == source) continue;
                held[source & 1] = source; /* wide enough for the pixel rows on either side of it */
                const sd_span wide = sd_touched(columns, left, right, source - 1, source + 1);
                sd_interpolate_row(scratch->values + (int64_t)source * stride, columns, wide.begin, wide.end,
                                   scratch->rows[source & 1]);
            }
            unsettled = sd_compare_row(scratch->rows[i & 1], scratch->rows[j & 1], rows->weight[y], high, low,
                                       span.begin, span.end, line);
        }
        if (__builtin_expect(unsettled, 0))
            sd_settle_row(rows, columns, scratch, y, low, high, filtered, threshold, or_equal, span.begin,
                          span.end < columns->n_pixels ? span.end : columns->n_pixels, line);
        line[words - 1] &= last_word;
        if (y < extent.y_begin) extent.y_begin = y;
        extent.y_end = y + 1;
        if (span.begin / 64 < extent.word_begin) extent.word_begin = span.begin / 64;
        if ((span.end + 63) / 64 > extent.word_end) extent.word_end = (span.end + 63) / 64;
    }
    return extent;
}

#endif
