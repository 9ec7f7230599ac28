/* One unit's map on one image -> its mask, as bits on the mask grid (methods 2 and 3.1): the loops for any CPU, by the
   compiler's vectors. mask_avx512.h does the same for AVX-512, by the same names. */
#ifndef STREAMDISSECT_MASK_H
#define STREAMDISSECT_MASK_H

#include "filter.h"

/* Does any of n values pass? Early out every 64 (32), the last vector overlapping: a value may be asked twice. */
SD_INLINE int sd_any_above16(const uint16_t *map, int n, int16_t key)
{
    const int lanes = 2 * SD_LANES;
    sd_shorts values, on = {0};
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int j = 0; j < 64; j += lanes) {
            memcpy(&values, map + i + j, sizeof values);
            on |= sd_keys16(values) > key;
        }
        if (sd_any((sd_longs)on)) return 1;
    }
    if (n < lanes) {
        for (; i < n; i++)
            if (sd_key16(map[i]) > key) return 1;
        return 0;
    }
    for (; i < n; i += lanes) {
        memcpy(&values, map + (i + lanes <= n ? i : n - lanes), sizeof values);
        on |= sd_keys16(values) > key;
    }
    return sd_any((sd_longs)on);
}

SD_INLINE int sd_any_above32(const uint32_t *map, int n, int32_t key)
{
    sd_ints values, on = {0};
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 32; j += SD_LANES) {
            memcpy(&values, map + i + j, sizeof values);
            on |= sd_keys(values) > key;
        }
        if (sd_any((sd_longs)on)) return 1;
    }
    if (n < SD_LANES) {
        for (; i < n; i++)
            if (sd_key32(map[i]) > key) return 1;
        return 0;
    }
    for (; i < n; i += SD_LANES) {
        memcpy(&values, map + (i + SD_LANES <= n ? i : n - SD_LANES), sizeof values);
        on |= sd_keys(values) > key;
    }
    return sd_any((sd_longs)on);
}

/* The map into scratch->values, the surplus of a row's last vector as 0. */
SD_INLINE void sd_load_map(const void *map, int is_half, const sd_layer *layer, const sd_scratch *scratch)
{
    const int h = layer->rows->n_source, w = layer->columns->n_source, stride = sd_stride(layer->columns);
    const size_t size = is_half ? 2 : 4;
    for (int i = 0; i < h; i++)
        for (int j = 0; j < w; j += SD_LANES) {
            const char *from = (const char *)map + size * ((size_t)i * w + j);
            const int left = w - j, whole = i * w + j + SD_LANES <= h * w; /* a vector may reach on */
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
            if (left < SD_LANES) bits &= sd_lane_numbers() < left;
            memcpy(scratch->values + (size_t)i * stride + j, &bits, sizeof bits);
        }
}

/* The map into scratch->values; active columns of each row; returns the largest magnitude as float32 bits. */
SD_INLINE uint32_t sd_take_map(const void *map, int is_half, const sd_layer *layer, int32_t key,
                               const sd_scratch *scratch)
{
    const int h = layer->rows->n_source, w = layer->columns->n_source, stride = sd_stride(layer->columns);
    int32_t *const left = scratch->left + 1, *const right = scratch->right + 1;
    sd_ints largest = {0};
    sd_load_map(map, is_half, layer, scratch);
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

/* One source row interpolated along the columns, pixels begin..end-1, cell by cell: all pixels of a cell share its two
   sources, so they take no gather. Pixels are done eight at a time; the surplus, up to seven, is overwritten by the
   next cell or lies past the end. */
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

/* Pixels begin..end-1 (whole vectors) of one line. A pixel above `high` is on; returns whether any is in doubt. */
SD_INLINE int sd_compare_row(const float *above, const float *below, float weight, sd_filter filter, int settles,
                             int begin, int end, uint64_t *line)
{
    const sd_ints own = sd_own_bits();
    sd_ints doubt = {0};
    for (int x = begin; x < end;) { /* up to 32 pixels at a time: lanes are or-ed to one integer once for all of them */
        const int half_word = x & 32, at = x >> 6, stop = (x | 31) < end ? (x | 31) + 1 : end;
        sd_ints bits = {0};
        for (; x < stop; x += SD_LANES) {
            sd_floats a, b;
            memcpy(&a, above + x, sizeof a);
            memcpy(&b, below + x, sizeof b);
            const sd_floats value = a + weight * (b - a);
            const sd_ints sure = value > filter.high;
            if (settles) doubt |= sure ^ (value > filter.low);
            bits |= (sure & own) << (x & (32 - SD_LANES));
        }
        line[at] |= sd_or_lanes(bits) << half_word;
    }
    return sd_any((sd_longs)doubt);
}

/* The pixels of one line again, one at a time: those in doubt, or all of a map that the filter does not cover. */
SD_INLINE void sd_settle_row(const sd_layer *layer, const sd_scratch *scratch, const sd_filter *filter, int y,
                             int begin, int end, uint64_t *line)
{
    const sd_axis *rows = layer->rows;
    const float *above = scratch->lines[rows->first[y] & 1], *below = scratch->lines[rows->second[y] & 1];
    const float band = filter->high - filter->low;
    for (int x = begin; x < end; x++) {
        if (filter->covered) {
            /* computed anew, perhaps without the fused operations of the first time: the bound holds for both */
            const float value = above[x] + rows->weight[y] * (below[x] - above[x]);
            if (value < filter->low - band || value > filter->high + band) continue;
        }
        const uint64_t bit = 1ull << (x & 63);
        if (sd_exact_pixel(layer, scratch, filter, y, x)) line[x >> 6] |= bit;
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

/* The mask of scratch->values, whose active columns are known, into scratch->bits within the returned extent. */
SD_INLINE sd_extent sd_mask_map(const sd_layer *layer, sd_filter filter, int settles, const sd_scratch *scratch)
{
    const sd_axis *rows = layer->rows, *columns = layer->columns;
    const int words = sd_words(columns), stride = sd_stride(columns);
    const int32_t *const left = scratch->left + 1, *const right = scratch->right + 1;
    const uint64_t last_word = columns->n_pixels % 64 ? (1ull << (columns->n_pixels % 64)) - 1 : ~0ull;
    sd_extent extent = {rows->n_pixels, 0, words, 0};
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
        uint64_t *line = scratch->bits + (int64_t)y * words;
        int unsettled = !filter.covered;
        if (filter.covered) {
            for (int side = 0; side < 2; side++) {
                const int source = side ? j : i;
                if (held[source & 1] == source) continue;
                held[source & 1] = source; /* wide enough for the pixel rows on either side of it */
                const sd_span wide = sd_touched(columns, left, right, source - 1, source + 1);
                sd_interpolate_row(scratch->values + (int64_t)source * stride, columns, wide.begin, wide.end,
                                   scratch->lines[source & 1]);
            }
            unsettled = sd_compare_row(scratch->lines[i & 1], scratch->lines[j & 1], rows->weight[y], filter, settles,
                                       span.begin, span.end, line);
        }
        if (__builtin_expect(unsettled, 0))
            sd_settle_row(layer, scratch, &filter, y, span.begin,
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
