/* Masks and label planes -> counters (methods 3.4). Counters are concept-major: the few labels of one image then walk
   contiguous streams as the unit index rises. */
#ifndef STREAMDISSECT_COUNT_H
#define STREAMDISSECT_COUNT_H

#include "mask.h"

typedef struct {                 /* one image */
    const uint64_t *planes;      /* (mask rows * words, n_planes): labels side by side, one mask word serves them all */
    const int32_t *plane_row;    /* (n_planes,) counter row of each plane */
    const int32_t *touch_row;    /* (n_planes,) row that gains the mask's area if the plane meets the mask, or -1 */
    const int32_t *whole_row;    /* (n_whole,) rows that gain the mask's area always */
    const int32_t *present_row;  /* (n_present,) concepts in the image */
    const int64_t *present_area; /* (n_present,) their pixels */
    int32_t n_planes, n_whole, n_present;
} sd_image_labels;

SD_INLINE int64_t sd_count_words(const uint64_t *bits, int words, sd_extent extent, const sd_image_labels *labels,
                                 int64_t *SD_RESTRICT count)
{
    const int n_planes = labels->n_planes;
    int64_t area = 0;
    for (int p = 0; p < n_planes; p++) count[p] = 0;
    for (int y = extent.y_begin; y < extent.y_end; y++)
        for (int q = extent.word_begin; q < extent.word_end; q++) {
            const int64_t at = (int64_t)y * words + q;
            const uint64_t word = bits[at];
            if (word == 0) continue;
            const uint64_t *SD_RESTRICT planes = labels->planes + at * n_planes;
            area += sd_popcount64(word);
            for (int p = 0; p < n_planes; p++) count[p] += sd_popcount64(word & planes[p]);
        }
    return area;
}

SD_INLINE void sd_add_counts(const sd_image_labels *labels, const int64_t *count, int64_t area, int64_t n_units,
                             int64_t unit, int64_t *counters, int64_t *chance)
{
    int32_t touched = -1;
    for (int p = 0; p < labels->n_planes; p++) {
        if (count[p] == 0) continue;
        counters[labels->plane_row[p] * n_units + unit] += count[p];
        if (labels->touch_row[p] != touched && labels->touch_row[p] >= 0) { /* planes of a category stand together */
            touched = labels->touch_row[p];
            counters[touched * n_units + unit] += area;
        }
    }
    for (int s = 0; s < labels->n_whole; s++) counters[labels->whole_row[s] * n_units + unit] += area;
    for (int s = 0; s < labels->n_present; s++)
        chance[labels->present_row[s] * n_units + unit] += area * labels->present_area[s];
}

SD_INLINE void sd_clear(uint64_t *bits, int words, sd_extent extent)
{
    for (int y = extent.y_begin; y < extent.y_end; y++)
        for (int q = extent.word_begin; q < extent.word_end; q++) bits[(int64_t)y * words + q] = 0;
}

/* maps: (n_units, h, w) of one image; bits: (mask rows, words) of zeros, left as zeros; active: (n_units,) maps with a
   passing value. */
SD_INLINE void sd_count_image(const void *maps, int is_half, int64_t unit_begin, int64_t unit_end, int64_t n_units,
                              const float *thresholds, const int32_t *keys, const int16_t *keys16, int or_equal,
                              const sd_axis *rows, const sd_axis *columns, const sd_image_labels *labels,
                              const sd_scratch *scratch, uint64_t *bits, int64_t *count, int64_t *counters,
                              int64_t *chance, int64_t *active)
{
    const int n = rows->n_source * columns->n_source, words = (columns->n_pixels + 63) / 64;
    for (int64_t k = unit_begin; k < unit_end; k++) {
        const void *map = is_half ? (const void *)((const uint16_t *)maps + k * n)
                                  : (const void *)((const uint32_t *)maps + k * n);
        if (!(is_half ? sd_any_above16((const uint16_t *)map, n, keys16[k])
                      : sd_any_above32((const uint32_t *)map, n, keys[k])))
            continue;
        sd_load_map(map, is_half, rows, columns, scratch);
        const uint32_t largest = sd_find_active(rows, columns, keys[k], scratch);
        if (largest > SD_INFINITY_KEY32 && !sd_any_number_above(rows, columns, keys[k], scratch)) continue;
        active[k]++;
        const sd_extent extent = sd_mask_map(largest, thresholds[k], or_equal, rows, columns, scratch, bits);
        if (extent.y_begin >= extent.y_end) continue;
        const int64_t area = sd_count_words(bits, words, extent, labels, count);
        if (area) sd_add_counts(labels, count, area, n_units, k, counters, chance);
        sd_clear(bits, words, extent);
    }
}

SD_CLONED static void sd_count_image_half(const uint16_t *maps, int64_t unit_begin, int64_t unit_end, int64_t n_units,
                                          const float *thresholds, const int32_t *keys, const int16_t *keys16,
                                          int or_equal, const sd_axis *rows, const sd_axis *columns,
                                          const sd_image_labels *labels, const sd_scratch *scratch, uint64_t *bits,
                                          int64_t *count, int64_t *counters, int64_t *chance, int64_t *active)
{
    sd_count_image(maps, 1, unit_begin, unit_end, n_units, thresholds, keys, keys16, or_equal, rows, columns, labels,
                   scratch, bits, count, counters, chance, active);
}

SD_CLONED static void sd_count_image_float(const float *maps, int64_t unit_begin, int64_t unit_end, int64_t n_units,
                                           const float *thresholds, const int32_t *keys, int or_equal,
                                           const sd_axis *rows, const sd_axis *columns, const sd_image_labels *labels,
                                           const sd_scratch *scratch, uint64_t *bits, int64_t *count,
                                           int64_t *counters, int64_t *chance, int64_t *active)
{
    sd_count_image(maps, 0, unit_begin, unit_end, n_units, thresholds, keys, 0, or_equal, rows, columns, labels,
                   scratch, bits, count, counters, chance, active);
}

/* masks: (n_units, n_rows * words) of one image. */
SD_CLONED static void sd_count_image_masks(const uint64_t *masks, int64_t n_units, int n_rows, int words,
                                           const sd_image_labels *labels, int64_t *count, int64_t *counters,
                                           int64_t *chance)
{
    const sd_extent extent = {0, n_rows, 0, words};
    for (int64_t k = 0; k < n_units; k++) {
        const int64_t area = sd_count_words(masks + k * n_rows * words, words, extent, labels, count);
        if (area) sd_add_counts(labels, count, area, n_units, k, counters, chance);
    }
}

SD_CLONED static void sd_mask_one(const float *map, float threshold, int32_t key, int or_equal, const sd_axis *rows,
                                  const sd_axis *columns, const sd_scratch *scratch, uint64_t *bits)
{
    if (!sd_any_above32((const uint32_t *)map, rows->n_source * columns->n_source, key)) return;
    sd_load_map(map, 0, rows, columns, scratch);
    const uint32_t largest = sd_find_active(rows, columns, key, scratch);
    sd_mask_map(largest, threshold, or_equal, rows, columns, scratch, bits);
}

#endif
