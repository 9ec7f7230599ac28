/* One unit's map on one image -> its mask: the functions of mask.h for AVX-512, 16 pixels at a time.

   A mask row is cut into vectors of 16 pixels, and these into panels of 64 vectors, so that one word tells which
   vectors a source row bears on. A vector is worked on for all pixel rows between two source rows at once; comparing
   yields its 16 bits of the mask. */
#ifndef STREAMDISSECT_MASK_AVX512_H
#define STREAMDISSECT_MASK_AVX512_H

#include <immintrin.h>

#include "filter.h"

#define SD_PANEL 64 /* vectors; 1024 pixels */
typedef uint16_t __attribute__((may_alias)) sd_vector_bits; /* a quarter of a mask word: x86 is little-endian */

SD_INLINE __m512i sd_keys16x32(__m512i bits)
{
    return _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi16(bits, 15), _mm512_set1_epi16(0x7fff)));
}

SD_INLINE __m512i sd_keys32x16(__m512i bits)
{
    return _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff)));
}

/* Does any of n values pass? Early out every 256 (128), the last vector overlapping: a value may be asked twice. From
   the key -1 on, negative values do not pass, and the bits of the others are their keys. */
SD_INLINE int sd_any_above16(const uint16_t *map, int n, int16_t key)
{
    const __m512i bound = _mm512_set1_epi16(key), rest = _mm512_set1_epi16(key < -1 ? 0x7fff : 0);
    if (n < 32) {
        const __mmask32 lanes = (1u << n) - 1;
        const __m512i values = _mm512_maskz_loadu_epi16(lanes, map);
        return _mm512_mask_cmpgt_epi16_mask(lanes, sd_keys16x32(values), bound) != 0;
    }
    __m512i most = _mm512_loadu_si512(map + n - 32);
    most = _mm512_max_epi16(_mm512_xor_si512(most, _mm512_and_si512(_mm512_srai_epi16(most, 15), rest)), bound);
    for (int i = 0; i + 32 <= n;) {
        const int stop = i + 256 < n ? i + 256 : n;
        if (key >= -1)
            for (; i + 32 <= stop; i += 32) most = _mm512_max_epi16(most, _mm512_loadu_si512(map + i));
        else
            for (; i + 32 <= stop; i += 32)
                most = _mm512_max_epi16(most, sd_keys16x32(_mm512_loadu_si512(map + i)));
        if (_mm512_cmpgt_epi16_mask(most, bound)) return 1;
    }
    return 0;
}

SD_INLINE int sd_any_above32(const uint32_t *map, int n, int32_t key)
{
    const __m512i bound = _mm512_set1_epi32(key), rest = _mm512_set1_epi32(key < -1 ? 0x7fffffff : 0);
    if (n < 16) {
        const __mmask16 lanes = (__mmask16)((1u << n) - 1);
        const __m512i values = _mm512_maskz_loadu_epi32(lanes, map);
        return _mm512_mask_cmpgt_epi32_mask(lanes, sd_keys32x16(values), bound) != 0;
    }
    __m512i most = _mm512_loadu_si512(map + n - 16);
    most = _mm512_max_epi32(_mm512_xor_si512(most, _mm512_and_si512(_mm512_srai_epi32(most, 31), rest)), bound);
    for (int i = 0; i + 16 <= n;) {
        const int stop = i + 128 < n ? i + 128 : n;
        if (key >= -1)
            for (; i + 16 <= stop; i += 16) most = _mm512_max_epi32(most, _mm512_loadu_si512(map + i));
        else
            for (; i + 16 <= stop; i += 16)
                most = _mm512_max_epi32(most, sd_keys32x16(_mm512_loadu_si512(map + i)));
        if (_mm512_cmpgt_epi32_mask(most, bound)) return 1;
    }
    return 0;
}

SD_INLINE int sd_panels(const sd_axis *columns) { return (columns->n_pixels + 16 * SD_PANEL - 1) / (16 * SD_PANEL); }

/* Mark the vectors that the source columns from..to bear on. The columns are joined before the pixels are looked up:
   columns that bear on no pixel (a mask grid smaller than the map, fields beyond the image) may stand around one that
   does. */
SD_INLINE void sd_touch(const sd_axis *columns, int from, int to, uint64_t *touched)
{
    const int begin = columns->begin[from], end = columns->end[to];
    if (begin >= end) return;
    const int first = begin / 16, last = (end - 1) / 16;
    for (int panel = first / SD_PANEL; panel <= last / SD_PANEL; panel++) {
        uint64_t vectors = ~0ull;
        if (panel == first / SD_PANEL) vectors &= ~0ull << (first % SD_PANEL);
        if (panel == last / SD_PANEL) vectors &= ~0ull >> (SD_PANEL - 1 - last % SD_PANEL);
        touched[panel] |= vectors;
    }
}

/* The map into scratch->values; the vectors that each row's active columns bear on; returns the largest magnitude as
   float32 bits. */
SD_INLINE uint32_t sd_take_map(const void *map, int is_half, const sd_layer *layer, int32_t key,
                               const sd_scratch *scratch)
{
    const sd_axis *columns = layer->columns;
    const int h = layer->rows->n_source, w = columns->n_source, stride = sd_stride(columns);
    const int panels = sd_panels(columns);
    const __m512i bound = _mm512_set1_epi32(key), magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512();
    for (int i = 0; i < h; i++) {
        uint64_t *touched = scratch->touched + (size_t)i * panels;
        for (int panel = 0; panel < panels; panel++) touched[panel] = 0;
        for (int begin = 0; begin < w; begin += 64) {
            uint64_t active = 0;
            for (int j = begin; j < begin + 64 && j < w; j += 16) {
                const size_t at = (size_t)i * w + j;
                const __mmask16 lanes = w - j < 16 ? (__mmask16)((1u << (w - j)) - 1) : 0xffff;
                const __m512i bits =
                    is_half ? _mm512_castps_si512(_mm512_cvtph_ps(
                                  _mm256_maskz_loadu_epi16(lanes, (const uint16_t *)map + at)))
                            : _mm512_maskz_loadu_epi32(lanes, (const uint32_t *)map + at);
                _mm512_storeu_si512(scratch->values + (size_t)i * stride + j, bits);
                largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude));
                active |= (uint64_t)_mm512_mask_cmpgt_epi32_mask(lanes, sd_keys32x16(bits), bound) << (j - begin);
            }
            while (active) { /* run by run */
                const int from = sd_lowest_bit(active);
                const uint64_t beyond = active + (1ull << from); /* a run up to the last bit overflows to 0 */
                const int to = beyond ? sd_lowest_bit(beyond & ~active) - 1 : 63;
                sd_touch(columns, begin + from, begin + to, touched);
                active &= beyond;
            }
        }
    }
    return _mm512_reduce_max_epu32(largest);
}

/* 16 pixels from x on of a source row, interpolated along the columns. */
SD_INLINE __m512 sd_interpolate16(const float *row, const sd_axis *columns, int x)
{
    const int last = x + 15 < columns->n_pixels ? x + 15 : columns->n_pixels - 1, base = columns->first[x];
    const __m512i first = _mm512_loadu_si512(columns->first + x), second = _mm512_loadu_si512(columns->second + x);
    __m512 a, b;
    if (columns->second[last] - base < 16) { /* beyond the row's end lie others, or the padding: no index says so */
        const __m512 values = _mm512_loadu_ps(row + base);
        const __m512i origin = _mm512_set1_epi32(base);
        a = _mm512_permutexvar_ps(_mm512_sub_epi32(first, origin), values);
        b = _mm512_permutexvar_ps(_mm512_sub_epi32(second, origin), values);
    } else {
        a = _mm512_i32gather_ps(first, row, 4);
        b = _mm512_i32gather_ps(second, row, 4);
    }
    return _mm512_fmadd_ps(_mm512_loadu_ps(columns->weight + x), _mm512_sub_ps(b, a), a);
}

/* Of the vector at x, pixel rows begin..end-1: those in doubt, whose bits are set, are decided. */
static __attribute__((noinline)) void sd_settle16(const sd_layer *layer, const sd_scratch *scratch,
                                                  const sd_filter *filter, const float *a, const float *d, int x,
                                                  int begin, int end)
{
    const size_t stride = 4 * (size_t)sd_words(layer->columns);
    sd_vector_bits *at = (sd_vector_bits *)scratch->bits + stride * begin + x / 16;
    const __m512 high = _mm512_set1_ps(filter->high), above = _mm512_loadu_ps(a), step = _mm512_loadu_ps(d);
    for (int y = begin; y < end; y++, at += stride) {
        const __m512 value = _mm512_fmadd_ps(_mm512_set1_ps(layer->rows->weight[y]), step, above);
        unsigned doubt = _mm512_mask_cmp_ps_mask(*at, value, high, _CMP_LE_OQ);
        for (; doubt; doubt &= doubt - 1) {
            const int lane = __builtin_ctz(doubt);
            if (!sd_exact_pixel(layer, scratch, filter, y, x + lane)) *at ^= (sd_vector_bits)(1u << lane);
        }
    }
}

/* The vector at x for pixel rows begin..end-1: a + weight * d. Bits of all pixels that may be on. */
SD_INLINE int sd_compare16(__m512 a, __m512 d, const float *weight, const sd_filter *filter, int settles,
                           __mmask16 lanes, int begin, int end, sd_vector_bits *at, size_t stride)
{
    const __m512 high = _mm512_set1_ps(filter->high), low = _mm512_set1_ps(filter->low);
    __mmask16 doubt = 0;
    for (int y = begin; y < end; y++, at += stride) {
        const __m512 value = _mm512_fmadd_ps(_mm512_set1_ps(weight[y]), d, a);
        if (settles) {
            const __mmask16 possible = _mm512_mask_cmp_ps_mask(lanes, value, low, _CMP_GT_OQ);
            *at = possible;
            doubt |= _mm512_mask_cmp_ps_mask(possible, value, high, _CMP_LE_OQ);
        } else {
            *at = _mm512_mask_cmp_ps_mask(lanes, value, high, _CMP_GT_OQ);
        }
    }
    return doubt != 0;
}

/* All touched pixels of a map that the filter does not cover, one at a time. */
static __attribute__((noinline)) void sd_mask_exactly(const sd_layer *layer, const sd_scratch *scratch,
                                                      const sd_filter *filter, int x, int begin, int end)
{
    const int words = sd_words(layer->columns), n_pixels = layer->columns->n_pixels;
    for (int y = begin; y < end; y++)
        for (int at = x; at < x + 16 && at < n_pixels; at++)
            if (sd_exact_pixel(layer, scratch, filter, y, at))
                scratch->bits[(int64_t)y * words + at / 64] |= 1ull << (at & 63);
}

/* The mask of scratch->values, whose active columns are known, into scratch->bits within the returned extent. */
SD_INLINE sd_extent sd_mask_map(const sd_layer *layer, sd_filter filter, int settles, const sd_scratch *scratch)
{
    const sd_axis *rows = layer->rows, *columns = layer->columns;
    const int h = rows->n_source, words = sd_words(columns), stride = sd_stride(columns), panels = sd_panels(columns);
    sd_extent extent = {rows->n_pixels, 0, words, 0};
    for (int panel = 0; panel < panels; panel++) {
        int held[2] = {-1, -1};
        uint64_t known[2] = {0, 0}; /* vectors of the two lines that hold their source row */
        for (int i = 0; i < h; i++) {
            const int j = i + 1 < h ? i + 1 : i, begin = rows->start[i], end = rows->start[i + 1];
            uint64_t vectors = scratch->touched[(size_t)i * panels + panel];
            vectors |= scratch->touched[(size_t)j * panels + panel];
            if (vectors == 0 || begin == end) continue;
            for (int side = 0; side < 2; side++) {
                const int source = side ? j : i;
                if (held[source & 1] != source) known[source & 1] = 0;
                held[source & 1] = source;
            }
            const int x_first = 16 * (SD_PANEL * panel + sd_lowest_bit(vectors));
            const int x_last = 16 * (SD_PANEL * panel + 63 - __builtin_clzll(vectors));
            if (begin < extent.y_begin) extent.y_begin = begin;
            if (end > extent.y_end) extent.y_end = end;
            if (x_first / 64 < extent.word_begin) extent.word_begin = x_first / 64;
            if (x_last / 64 + 1 > extent.word_end) extent.word_end = x_last / 64 + 1;
            float *const above = scratch->lines[i & 1], *const below = scratch->lines[j & 1];
            const uint64_t need_above = vectors & ~known[i & 1], need_below = vectors & ~known[j & 1];
            known[i & 1] |= vectors;
            known[j & 1] |= vectors;
            for (; vectors; vectors &= vectors - 1) {
                const int v = sd_lowest_bit(vectors), x = 16 * (SD_PANEL * panel + v);
                if (!filter.covered) {
                    sd_mask_exactly(layer, scratch, &filter, x, begin, end);
                    continue;
                }
                if (need_above >> v & 1)
                    _mm512_storeu_ps(above + x, sd_interpolate16(scratch->values + (size_t)i * stride, columns, x));
                if (need_below >> v & 1)
                    _mm512_storeu_ps(below + x, sd_interpolate16(scratch->values + (size_t)j * stride, columns, x));
                const __m512 a = _mm512_loadu_ps(above + x), d = _mm512_sub_ps(_mm512_loadu_ps(below + x), a);
                const int left = columns->n_pixels - x;
                const __mmask16 lanes = left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff;
                sd_vector_bits *at = (sd_vector_bits *)scratch->bits + 4 * (size_t)words * begin + x / 16;
                if (sd_compare16(a, d, rows->weight, &filter, settles, lanes, begin, end, at, 4 * (size_t)words)) {
                    float first[16], step[16];
                    _mm512_storeu_ps(first, a);
                    _mm512_storeu_ps(step, d);
                    sd_settle16(layer, scratch, &filter, first, step, x, begin, end);
                }
            }
        }
    }
    return extent;
}

#endif
