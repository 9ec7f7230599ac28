/* The levels at which the counting loops were built, and which of them this CPU can run.

   Each level is a file of its own, compiled with its own flags; only its entry below leads into it, and only levels.c
   hands entries out, to CPUs that have every instruction of the level. */
#ifndef STREAMDISSECT_LEVELS_H
#define STREAMDISSECT_LEVELS_H

#include "filter.h"

typedef struct {                 /* one image */
    const uint64_t *planes;      /* (mask rows * words, n_planes): labels side by side, one mask word serves them all */
    const int32_t *plane_row;    /* (n_planes,) counter row of each plane */
    const int32_t *touch_row;    /* (n_planes,) row that gains the mask's area if the plane meets the mask, or -1 */
    const int32_t *whole_row;    /* (n_whole,) rows that gain the mask's area always */
    const int32_t *present_row;  /* (n_present,) concepts in the image */
    const int64_t *present_area; /* (n_present,) their pixels */
    int32_t n_planes, n_whole, n_present;
} sd_image_labels;

typedef struct {       /* added to */
    int64_t n_units;
    int64_t *counters; /* (C + G + 1, n_units) */
    int64_t *chance;   /* (C, n_units) */
    int64_t *active;   /* (n_units,) maps with a passing value */
} sd_totals;

typedef struct {
    const char *name;
    /* map (h, w) of unit k -> scratch->bits (H, words) of zeros */
    void (*mask_one)(const float *map, const sd_layer *layer, int64_t k, const sd_scratch *scratch);
    /* maps: (n_units, h, w) of one image, float16 bits or float32 */
    void (*count_image)(const void *maps, int is_half, const sd_layer *layer, int64_t unit_begin, int64_t unit_end,
                        const sd_image_labels *labels, const sd_scratch *scratch, const sd_totals *totals);
    /* masks: (n_units, n_rows * words) of one image */
    void (*count_image_masks)(const uint64_t *masks, int n_rows, int words, const sd_image_labels *labels,
                              const sd_scratch *scratch, const sd_totals *totals);
} sd_level;

#define SD_LEVEL(level) {level, sd_mask_one, sd_count_image, sd_count_image_masks}

extern const sd_level sd_avx512, sd_avx2, sd_portable;

/* The i-th level that runs here, fastest first; 0 after the last. */
const sd_level *sd_level_at(int i);

#endif
