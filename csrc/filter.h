/* What all levels of the masking loops share: axes, working memory, the float32 filter's bounds, the exact test.

   A pixel is on iff the exactly interpolated value is above the threshold T (methods 2.5). The loops evaluate it in
   float32: h = a + w (b - a) along the columns, v = h + w (h' - h) along the rows. v above T + E is on, v at most T - E
   is off, and between them exact.h decides. docs/exactness.md proves that E suffices: with or without fused operations,
   with or without subnormal numbers, for every weight. Maps that E does not cover are decided exactly pixel by pixel.

   A value between four corners never exceeds the largest of them, so maps and cells without a corner above T are
   skipped; keys are compared, not floats (see bits.h). */
#ifndef STREAMDISSECT_FILTER_H
#define STREAMDISSECT_FILTER_H

#include "bits.h"
#include "exact.h"

/* E = SD_MARGIN M + SD_SMALLEST_MARGIN, M the largest magnitude of the map and of T, below 2**120. */
#define SD_MARGIN 1.2e-6f
#define SD_SMALLEST_MARGIN 0x1p-120f
#define SD_LARGEST_FILTERED 0x7b800000u /* bits of 2**120 */

typedef struct {
    int32_t n_source, n_pixels;
    const int32_t *first, *second; /* source index on either side of a pixel; padded to a multiple of 64 pixels */
    const float *weight;           /* of the second, rounded; padded by 64 more */
    const int64_t *numerator;      /* of the second, exact, over the denominator */
    int64_t denominator;
    const int32_t *start;       /* (n_source + 1,) first pixel whose `first` is the source index or a later one */
    const int32_t *begin, *end; /* pixels that a source index bears on: begin..end-1 */
} sd_axis;

typedef struct { /* a layer, of one grid */
    int64_t n_units;
    const float *thresholds; /* (n_units,) */
    const int32_t *keys;     /* (n_units,) a value passes where its float32 key is larger */
    const int16_t *keys16;   /* (n_units,) the same for float16 keys */
    int or_equal;
    float margin; /* SD_MARGIN. Tests give less, and see it fail; 0 is the filter alone, without exact tests */
    const sd_axis *rows, *columns;
} sd_layer;

typedef struct {           /* of one thread */
    float *values;         /* (h, stride) the map as float32; rows in whole vectors, 16 values more at the end */
    float *lines[2];       /* two source rows, of even and of odd number, interpolated along the columns */
    int32_t *left, *right; /* (h + 2,) first and last active column of rows -1..h; right < left: none */
    uint64_t *touched;     /* (h, panels) by AVX-512: vectors of a mask row that a source row bears on */
    uint64_t *bits;        /* (H, words) a mask; zeros between maps */
    int64_t *count;        /* (planes,) what the mask shares with each plane */
} sd_scratch;

typedef struct {
    int32_t y_begin, y_end, word_begin, word_end; /* where the mask may have bits */
} sd_extent;

SD_INLINE int sd_words(const sd_axis *columns) { return (columns->n_pixels + 63) / 64; }
SD_INLINE int sd_stride(const sd_axis *columns) { return (columns->n_source + 15) / 16 * 16; }

typedef struct {
    float threshold, high, low; /* above `high`: on; else above `low`: in doubt */
    int or_equal, covered;      /* covered: `high` and `low` hold for this map */
} sd_filter;

/* largest: magnitude of the map, as float32 bits. */
SD_INLINE sd_filter sd_filter_of(const sd_layer *layer, int64_t k, uint32_t largest)
{
    sd_filter filter = {layer->thresholds[k], 0, 0, layer->or_equal, 0};
    uint32_t magnitude;
    float scale;
    memcpy(&magnitude, &filter.threshold, 4);
    magnitude &= 0x7fffffff;
    magnitude = magnitude > largest ? magnitude : largest;
    memcpy(&scale, &magnitude, 4);
    filter.covered = magnitude < SD_LARGEST_FILTERED;
    const float margin = scale * layer->margin + SD_SMALLEST_MARGIN;
    filter.high = filter.threshold + margin;
    filter.low = filter.threshold - margin;
    return filter;
}

/* Is a pixel of the map in scratch->values on? */
static inline int sd_exact_pixel(const sd_layer *layer, const sd_scratch *scratch, const sd_filter *filter, int y,
                                 int x)
{
    const sd_axis *rows = layer->rows, *columns = layer->columns;
    const float *top = scratch->values + (int64_t)rows->first[y] * sd_stride(columns);
    const float *bottom = scratch->values + (int64_t)rows->second[y] * sd_stride(columns);
    const float values[5] = {top[columns->first[x]], top[columns->second[x]], bottom[columns->first[x]],
                             bottom[columns->second[x]], filter->threshold};
    uint32_t bits[5];
    memcpy(bits, values, sizeof bits);
    return sd_exact_above(bits, rows->numerator[y], rows->denominator, columns->numerator[x], columns->denominator,
                          bits[4], filter->or_equal);
}

/* As the search for active columns, for a map with NaN, whose keys exceed those of all numbers. */
static inline int sd_any_number_above(const sd_layer *layer, int32_t key, const sd_scratch *scratch)
{
    const int stride = sd_stride(layer->columns);
    for (int i = 0; i < layer->rows->n_source; i++)
        for (int j = 0; j < layer->columns->n_source; j++) {
            int32_t bits;
            memcpy(&bits, scratch->values + (size_t)i * stride + j, sizeof bits);
            const int32_t found = sd_key32((uint32_t)bits);
            if (found > key && found <= SD_INFINITY_KEY32) return 1;
        }
    return 0;
}

#endif
