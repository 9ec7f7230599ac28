/* Masks and label planes -> counters (methods 3.4), at the level of the file that includes this. Counters are
   concept-major: the few labels of one image then walk contiguous streams as the unit index rises. */
#ifndef STREAMDISSECT_COUNT_H
#define STREAMDISSECT_COUNT_H

#include "levels.h"
#ifdef STREAMDISSECT_AVX512
#include "mask_avx512.h"
#include "words_avx512.h"
#else
#include "mask.h"
#include "words.h"
#endif

/* Where the chance level of a unit will be added to. Nearly every active map comes to it: it shall be near by then. */
SD_INLINE void sd_prefetch(const sd_image_labels *labels, int64_t unit, const sd_totals *totals)
{
    for (int s = 0; s < labels->n_present; s++)
        __builtin_prefetch(totals->chance + labels->present_row[s] * totals->n_units + unit, 1);
}

SD_INLINE void sd_add_counts(const sd_image_labels *labels, const int64_t *count, int64_t area, int64_t unit,
                             const sd_totals *totals)
{
    const int64_t n_units = totals->n_units;
    int64_t *const counters = totals->counters + unit, *const chance = totals->chance + unit;
    int32_t touched = -1;
    for (int p = 0; p < labels->n_planes; p++) {
        if (count[p] == 0) continue;
        counters[labels->plane_row[p] * n_units] += count[p];
        const int32_t touch = labels->touch_row[p];
        if (touch >= 0 && touch != touched) { /* planes of a category stand together */
            touched = touch;
            counters[touch * n_units] += area;
        }
    }
    for (int s = 0; s < labels->n_whole; s++) counters[labels->whole_row[s] * n_units] += area;
    for (int s = 0; s < labels->n_present; s++)
        chance[labels->present_row[s] * n_units] += area * labels->present_area[s];
}

SD_INLINE int sd_any_above(const void *map, int is_half, const sd_layer *layer, int64_t k)
{
    const int n = layer->rows->n_source * layer->columns->n_source;
    return is_half ? sd_any_above16((const uint16_t *)map, n, layer->keys16[k])
                   : sd_any_above32((const uint32_t *)map, n, layer->keys[k]);
}

/* The map is masked into scratch->bits; 0: it has no number that passes. */
SD_INLINE int sd_mask(const void *map, int is_half, const sd_layer *layer, int settles, int64_t k,
                      const sd_scratch *scratch, sd_extent *extent)
{
    const uint32_t largest = sd_take_map(map, is_half, layer, layer->keys[k], scratch);
    if (largest > SD_INFINITY_KEY32 && !sd_any_number_above(layer, layer->keys[k], scratch)) return 0;
    *extent = sd_mask_map(layer, sd_filter_of(layer, k, largest), settles, scratch);
    return 1;
}

SD_INLINE void sd_count_units(const void *maps, int is_half, const sd_layer *layer, int settles, int64_t unit_begin,
                              int64_t unit_end, const sd_image_labels *labels, const sd_scratch *scratch,
                              const sd_totals *totals)
{
    const int64_t n = (int64_t)layer->rows->n_source * layer->columns->n_source;
    const int words = sd_words(layer->columns);
    for (int64_t k = unit_begin; k < unit_end; k++) {
        const void *map = is_half ? (const void *)((const uint16_t *)maps + k * n)
                                  : (const void *)((const uint32_t *)maps + k * n);
        sd_extent extent;
        if (!sd_any_above(map, is_half, layer, k)) continue;
        sd_prefetch(labels, k, totals);
        if (!sd_mask(map, is_half, layer, settles, k, scratch, &extent)) continue;
        totals->active[k]++;
        if (extent.y_begin >= extent.y_end) continue;
        const int64_t area =
            sd_count_words(scratch->bits, words, extent, labels->planes, labels->n_planes, scratch->count);
        if (area) sd_add_counts(labels, scratch->count, area, k, totals);
        const int64_t first = (int64_t)extent.y_begin * words + extent.word_begin;
        const int64_t last = (int64_t)(extent.y_end - 1) * words + extent.word_end;
        memset(scratch->bits + first, 0, sizeof(uint64_t) * (size_t)(last - first));
    }
}

static void sd_count_image(const void *maps, int is_half, const sd_layer *layer, int64_t unit_begin, int64_t unit_end,
                           const sd_image_labels *labels, const sd_scratch *scratch, const sd_totals *totals)
{
    if (layer->margin == 0) {
        if (is_half) sd_count_units(maps, 1, layer, 0, unit_begin, unit_end, labels, scratch, totals);
        else sd_count_units(maps, 0, layer, 0, unit_begin, unit_end, labels, scratch, totals);
    } else if (is_half) {
        sd_count_units(maps, 1, layer, 1, unit_begin, unit_end, labels, scratch, totals);
    } else {
        sd_count_units(maps, 0, layer, 1, unit_begin, unit_end, labels, scratch, totals);
    }
}

static void sd_count_image_masks(const uint64_t *masks, int n_rows, int words, const sd_image_labels *labels,
                                 const sd_scratch *scratch, const sd_totals *totals)
{
    const sd_extent extent = {0, n_rows, 0, words};
    for (int64_t k = 0; k < totals->n_units; k++) {
        const int64_t area = sd_count_words(masks + k * n_rows * words, words, extent, labels->planes,
                                            labels->n_planes, scratch->count);
        if (area) sd_add_counts(labels, scratch->count, area, k, totals);
    }
}

static void sd_mask_one(const float *map, const sd_layer *layer, int64_t k, const sd_scratch *scratch)
{
    sd_extent extent;
    if (!sd_any_above(map, 0, layer, k)) return;
    if (layer->margin == 0) sd_mask(map, 0, layer, 0, k, scratch, &extent);
    else sd_mask(map, 0, layer, 1, k, scratch, &extent);
}

#endif
