/* The values of many units' streams, all or the largest, exactly (methods 1.1, 1.6).

   A unit keeps a bound once `capacity` values have come: at least that many lie at or above it, and fewer than that many
   lay above it when it was last raised, which is put off until 64 more have come.
   The bound never falls and never passes the final threshold, so a value at or below it can be forgotten: after a short
   start a few values in a hundred are touched.

   16-bit keys (float16, or the upper half of float32 keys) are counted in bins, 256 to a page, pages taken when first
   needed and returned when the bound has passed them. float32 keys are kept in a buffer that is cut back to the
   `capacity` largest when full. A histogram is the same bins without a bound. */
#ifndef STREAMDISSECT_TAIL_H
#define STREAMDISSECT_TAIL_H

#include "bits.h"

#define SD_PAGE 256
#define SD_NO_BOUND (-32769)

typedef struct { /* (n_units,) each: what one pass over the values also tells */
    int64_t *n_nan, *n_infinite, *n_zero;
    int32_t *lowest, *highest; /* keys; NaN aside */
} sd_stream_counts;

typedef struct {
    int32_t *page_of; /* (n_units, 256) page of each group of 256 bins, or -1 */
    uint32_t *pages;  /* (n_pages, 256) */
    int32_t *vacant;  /* (n_pages,) stack of free pages, all zero */
    int64_t n_vacant;
    int64_t *above; /* (n_units,) values above the bound, all of them counted in bins */
    int32_t *bound; /* (n_units,) key, or SD_NO_BOUND */
} sd_bins;

typedef struct {
    int32_t *values; /* (n_units, room) keys */
    int64_t room;
    int64_t *filled; /* (n_units,) */
    int32_t *bound;  /* (n_units,) key; values above it are kept; -2**31 before the first cut */
} sd_buffer;

/* Lowest, highest, zeros of a map by key; NaN and infinities are looked for only where a key is that large. */
#define SD_DEFINE_SCAN(NAME, BITS, KEY, KEY_OF, INFINITY_KEY)                                                         \
    SD_INLINE KEY NAME(const BITS *SD_RESTRICT map, int n, int64_t unit, const sd_stream_counts *counts, int *any)     \
    {                                                                                                                 \
        KEY low = INFINITY_KEY, high = (KEY)(-INFINITY_KEY - 1);                                                      \
        int zeros = 0, odd = 0;                                                                                       \
        for (int i = 0; i < n; i++) {                                                                                 \
            KEY key = KEY_OF(map[i]);                                                                                 \
            low = key < low ? key : low;                                                                              \
            high = key > high ? key : high;                                                                           \
            zeros += key == 0;                                                                                        \
        }                                                                                                             \
        *any = n;                                                                                                     \
        if (high >= INFINITY_KEY || low <= (KEY)(-INFINITY_KEY - 1)) {                                                \
            int n_nan = 0;                                                                                            \
            low = INFINITY_KEY, high = (KEY)(-INFINITY_KEY - 1);                                                      \
            for (int i = 0; i < n; i++) {                                                                             \
                KEY key = KEY_OF(map[i]);                                                                             \
                if (key > INFINITY_KEY || key < (KEY)(-INFINITY_KEY - 1)) { n_nan++; continue; }                      \
                odd += key == INFINITY_KEY || key == (KEY)(-INFINITY_KEY - 1);                                        \
                low = key < low ? key : low;                                                                          \
                high = key > high ? key : high;                                                                       \
            }                                                                                                         \
            counts->n_nan[unit] += n_nan;                                                                             \
            counts->n_infinite[unit] += odd;                                                                          \
            *any = n - n_nan;                                                                                         \
        }                                                                                                             \
        counts->n_zero[unit] += zeros;                                                                                \
        if (*any) {                                                                                                   \
            if (low < counts->lowest[unit]) counts->lowest[unit] = low;                                               \
            if (high > counts->highest[unit]) counts->highest[unit] = high;                                           \
        }                                                                                                             \
        return high;                                                                                                  \
    }

SD_DEFINE_SCAN(sd_scan16, uint16_t, int16_t, sd_key16, SD_INFINITY_KEY16)
SD_DEFINE_SCAN(sd_scan32, uint32_t, int32_t, sd_key32, SD_INFINITY_KEY32)

/* Which of up to 64 values have a key in bound+1 .. infinity, as bits. */
#define SD_DEFINE_CANDIDATES(NAME, BITS, VECTOR, LANES, KEYS, PACK, KEY, INFINITY_KEY)                                \
    SD_INLINE uint64_t NAME(const BITS *map, int n, KEY bound)                                                        \
    {                                                                                                                 \
        uint64_t mask = 0;                                                                                            \
        for (int i = 0; i < n; i += LANES) {                                                                          \
            VECTOR keys = {0};                                                                                        \
            if (i + LANES <= n) memcpy(&keys, map + i, sizeof keys);                                                  \
            else memcpy(&keys, map + i, sizeof(BITS) * (size_t)(n - i));                                              \
            keys = KEYS(keys);                                                                                        \
            mask |= PACK((keys > bound) & (keys <= INFINITY_KEY)) << i;                                               \
        }                                                                                                             \
        return n < 64 ? mask & ((1ull << n) - 1) : mask;                                                              \
    }

SD_DEFINE_CANDIDATES(sd_candidates16, uint16_t, sd_shorts, 16, sd_keys16, sd_pack16, int16_t, SD_INFINITY_KEY16)
SD_DEFINE_CANDIDATES(sd_candidates32, uint32_t, sd_ints, 8, sd_keys, sd_pack, int32_t, SD_INFINITY_KEY32)

SD_INLINE uint32_t *sd_bin_at(sd_bins *bins, int64_t unit, int32_t key)
{
    const uint32_t bin = (uint32_t)(key + 32768);
    int32_t *page = bins->page_of + unit * SD_PAGE + (bin >> 8);
    if (*page < 0) *page = bins->vacant[--bins->n_vacant];
    return bins->pages + (int64_t)*page * SD_PAGE + (bin & 255);
}

SD_INLINE void sd_bin(sd_bins *bins, int64_t unit, int32_t key) { ++*sd_bin_at(bins, unit, key); }

/* Raise the bound as far as it goes: fewer than `capacity` values above, at least that many at or above. */
static void sd_raise_bound(sd_bins *bins, int64_t unit, int64_t capacity)
{
    int32_t *pages = bins->page_of + unit * SD_PAGE;
    int32_t bound = bins->bound[unit];
    int64_t above = bins->above[unit];
    while (above >= capacity) {
        bound++;
        const uint32_t bin = (uint32_t)(bound + 32768);
        const int32_t page = pages[bin >> 8];
        if (page >= 0) {
            uint32_t *count = bins->pages + (int64_t)page * SD_PAGE + (bin & 255);
            above -= *count;
            *count = 0;
            if ((bin & 255) == 255) {
                pages[bin >> 8] = -1;
                bins->vacant[bins->n_vacant++] = page;
            }
        } else {
            bound |= 255; /* an absent page holds nothing: on to its last bin (-32768 is a multiple of 256) */
        }
    }
    bins->bound[unit] = bound;
    bins->above[unit] = above;
}

/* values: (n_images, n_units, n). Units from `unit` on, until the vacant pages might not do for the next one: then the
   caller finds more and calls again. Returns the next unit. highest: (n_images, n_units) key of each map's largest. */
#define SD_DEFINE_UPDATE_BINS(NAME, BITS, SCAN, CANDIDATES, KEY, KEY_OF, BOUND_OF, BIN_OF)                            \
    SD_CLONED static int64_t NAME(const BITS *values, int64_t n_images, int64_t n_units, int n, int64_t unit,         \
                                  int64_t capacity, const sd_stream_counts *counts, sd_bins *bins, int32_t *highest)  \
    {                                                                                                                 \
        for (; unit < n_units && bins->n_vacant >= SD_PAGE; unit++)                                                   \
            for (int64_t image = 0; image < n_images; image++) {                                                      \
                const BITS *map = values + (image * n_units + unit) * n;                                              \
                int any;                                                                                              \
                KEY high = SCAN(map, n, unit, counts, &any);                                                          \
                highest[image * n_units + unit] = any ? high : INT32_MIN;                                             \
                int32_t bound = bins->bound[unit];                                                                    \
                if (!any || BIN_OF(high) <= bound) continue;                                                          \
                for (int i = 0; i < n; i += 64) {                                                                     \
                    const int block = n - i < 64 ? n - i : 64;                                                        \
                    uint64_t mask = CANDIDATES(map + i, block, BOUND_OF(bound));                                      \
                    bins->above[unit] += sd_popcount64(mask);                                                         \
                    for (; mask; mask &= mask - 1) sd_bin(bins, unit, BIN_OF(KEY_OF(map[i + sd_lowest_bit(mask)])));  \
                }                                                                                                     \
                if (bins->above[unit] >= capacity + 64) sd_raise_bound(bins, unit, capacity);                         \
            }                                                                                                         \
        return unit;                                                                                                  \
    }

/* Before the first bound every value that is no NaN qualifies; negative NaN keys lie below -infinity's. */
#define SD_BOUND16(bound) ((int16_t)((bound) < -SD_INFINITY_KEY16 - 1 ? -SD_INFINITY_KEY16 - 2 : (bound)))
#define SD_BOUND32(bound)                                                                                             \
    ((bound) == SD_NO_BOUND ? -SD_INFINITY_KEY32 - 2 : (int32_t)((uint32_t)(bound) << 16 | 0xffffu))
#define SD_BIN16(key) ((int32_t)(key))
#define SD_BIN32(key) ((key) >> 16)

SD_DEFINE_UPDATE_BINS(sd_update_bins16, uint16_t, sd_scan16, sd_candidates16, int16_t, sd_key16, SD_BOUND16, SD_BIN16)
SD_DEFINE_UPDATE_BINS(sd_update_bins32, uint32_t, sd_scan32, sd_candidates32, int32_t, sd_key32, SD_BOUND32, SD_BIN32)

/* Move the `kept` largest of n to the front, in no order (Hoare's selection, median of three). */
static void sd_keep_largest(int32_t *values, int64_t n, int64_t kept)
{
    int64_t low = 0, high = n - 1;
    while (low < high) {
        int32_t a = values[low], b = values[low + (high - low) / 2], c = values[high];
        int32_t pivot = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) i++;
            while (values[j] < pivot) j--;
            if (i <= j) {
                int32_t swapped = values[i];
                values[i++] = values[j];
                values[j--] = swapped;
            }
        }
        if (kept - 1 <= j) high = j;
        else if (kept - 1 >= i) low = i;
        else break;
    }
}

static void sd_cut_buffer(sd_buffer *buffer, int64_t unit, int64_t capacity)
{
    int32_t *values = buffer->values + unit * buffer->room;
    if (buffer->filled[unit] <= capacity) return;
    sd_keep_largest(values, buffer->filled[unit], capacity);
    int32_t least = values[0];
    for (int64_t i = 1; i < capacity; i++) least = values[i] < least ? values[i] : least;
    buffer->filled[unit] = capacity;
    buffer->bound[unit] = least;
}

SD_CLONED static void sd_update_buffer(const uint32_t *values, int64_t n_images, int64_t n_units, int n,
                                       int64_t capacity, const sd_stream_counts *counts, sd_buffer *buffer,
                                       int32_t *highest)
{
    for (int64_t unit = 0; unit < n_units; unit++)
        for (int64_t image = 0; image < n_images; image++) {
            const uint32_t *map = values + (image * n_units + unit) * n;
            int any;
            int32_t high = sd_scan32(map, n, unit, counts, &any);
            highest[image * n_units + unit] = any ? high : INT32_MIN;
            if (!any || high <= buffer->bound[unit]) continue;
            for (int i = 0; i < n; i += 64) {
                const int block = n - i < 64 ? n - i : 64;
                if (buffer->filled[unit] + 64 > buffer->room) sd_cut_buffer(buffer, unit, capacity);
                int32_t bound = buffer->bound[unit];
                if (bound < -SD_INFINITY_KEY32 - 2) bound = -SD_INFINITY_KEY32 - 2; /* no NaN of either sign */
                uint64_t mask = sd_candidates32(map + i, block, bound);
                int32_t *out = buffer->values + unit * buffer->room + buffer->filled[unit];
                buffer->filled[unit] += sd_popcount64(mask);
                for (; mask; mask &= mask - 1) *out++ = sd_key32(map[i + sd_lowest_bit(mask)]);
            }
        }
}

/* Which of up to 64 values are numbers other than zero, as bits. */
#define SD_DEFINE_NONZERO(NAME, BITS, VECTOR, LANES, KEYS, PACK, INFINITY_KEY)                                        \
    SD_INLINE uint64_t NAME(const BITS *map, int n)                                                                   \
    {                                                                                                                 \
        uint64_t mask = 0;                                                                                            \
        for (int i = 0; i < n; i += LANES) {                                                                          \
            VECTOR keys = {0};                                                                                        \
            if (i + LANES <= n) memcpy(&keys, map + i, sizeof keys);                                                  \
            else memcpy(&keys, map + i, sizeof(BITS) * (size_t)(n - i));                                              \
            keys = KEYS(keys);                                                                                        \
            mask |= PACK((keys != 0) & (keys <= INFINITY_KEY) & (keys >= -INFINITY_KEY - 1)) << i;                    \
        }                                                                                                             \
        return mask;                                                                                                  \
    }

SD_DEFINE_NONZERO(sd_nonzero16, uint16_t, sd_shorts, 16, sd_keys16, sd_pack16, SD_INFINITY_KEY16)
SD_DEFINE_NONZERO(sd_nonzero32, uint32_t, sd_ints, 8, sd_keys, sd_pack, SD_INFINITY_KEY32)

/* Every number but zero, which the counts tell of, into its bin. Units from `unit` on, as for the tail's bins. The bins
   of one unit alone exceed a first cache, those of all units the last: each block's are asked for before they count. */
#define SD_DEFINE_UPDATE_HISTOGRAM(NAME, BITS, SCAN, NONZERO, KEY, KEY_OF, BIN_OF)                                    \
    SD_CLONED static int64_t NAME(const BITS *values, int64_t n_images, int64_t n_units, int n, int64_t unit,         \
                                  const sd_stream_counts *counts, sd_bins *bins, int32_t *highest)                    \
    {                                                                                                                 \
        for (; unit < n_units && bins->n_vacant >= SD_PAGE; unit++)                                                   \
            for (int64_t image = 0; image < n_images; image++) {                                                      \
                const BITS *map = values + (image * n_units + unit) * n;                                              \
                const int64_t n_zero = counts->n_zero[unit];                                                          \
                int any;                                                                                              \
                KEY high = SCAN(map, n, unit, counts, &any);                                                          \
                highest[image * n_units + unit] = any ? high : INT32_MIN;                                             \
                if (counts->n_zero[unit] - n_zero == n) continue;                                                     \
                for (int i = 0; i < n; i += 64) {                                                                     \
                    uint64_t mask = NONZERO(map + i, n - i < 64 ? n - i : 64);                                        \
                    uint32_t *at[64];                                                                                 \
                    int n_at = 0;                                                                                     \
                    for (; mask; mask &= mask - 1) {                                                                  \
                        at[n_at] = sd_bin_at(bins, unit, BIN_OF(KEY_OF(map[i + sd_lowest_bit(mask)])));               \
                        __builtin_prefetch(at[n_at++], 1);                                                            \
                    }                                                                                                 \
                    for (int j = 0; j < n_at; j++) ++*at[j];                                                          \
                }                                                                                                     \
            }                                                                                                         \
        return unit;                                                                                                  \
    }

SD_DEFINE_UPDATE_HISTOGRAM(sd_update_histogram16, uint16_t, sd_scan16, sd_nonzero16, int16_t, sd_key16, SD_BIN16)
SD_DEFINE_UPDATE_HISTOGRAM(sd_update_histogram32, uint32_t, sd_scan32, sd_nonzero32, int32_t, sd_key32, SD_BIN32)

typedef struct { /* a second pass: (n_slots,) each but the pool */
    const int32_t *unit, *low, *high; /* whose values, and which keys are looked for */
    int64_t *n_above, *n_high, *n_low; /* values above `high`, at it, and at `low` where that is another key */
    int64_t *pool; /* (room,) slot << 32 | key + 2**31 of the values between the two */
    int64_t room, filled;
} sd_brackets;

/* Slots from `slot` on, until the pool might not do for the next one. Returns the next slot. */
#define SD_DEFINE_COLLECT(NAME, BITS, CANDIDATES, KEY, KEY_OF)                                                        \
    SD_CLONED static int64_t NAME(const BITS *values, int64_t n_images, int64_t n_units, int n, int64_t slot,         \
                                  int64_t n_slots, sd_brackets *in)                                                   \
    {                                                                                                                 \
        for (; slot < n_slots && in->filled + n_images * n <= in->room; slot++) {                                     \
            const KEY low = (KEY)in->low[slot], high = (KEY)in->high[slot];                                           \
            for (int64_t image = 0; image < n_images; image++) {                                                      \
                const BITS *map = values + (image * n_units + in->unit[slot]) * n;                                    \
                for (int i = 0; i < n; i += 64) {                                                                     \
                    const int block = n - i < 64 ? n - i : 64;                                                        \
                    uint64_t mask = CANDIDATES(map + i, block, (KEY)(low - 1));                                       \
                    if (!mask) continue;                                                                              \
                    const uint64_t above = CANDIDATES(map + i, block, high);                                          \
                    in->n_above[slot] += sd_popcount64(above);                                                        \
                    for (mask &= ~above; mask; mask &= mask - 1) {                                                    \
                        const KEY key = KEY_OF(map[i + sd_lowest_bit(mask)]);                                         \
                        if (key == high) in->n_high[slot]++;                                                          \
                        else if (key == low) in->n_low[slot]++;                                                       \
                        else in->pool[in->filled++] = slot << 32 | ((int64_t)key + 0x80000000ll);                     \
                    }                                                                                                 \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        return slot;                                                                                                  \
    }

SD_DEFINE_COLLECT(sd_collect16, uint16_t, sd_candidates16, int16_t, sd_key16)
SD_DEFINE_COLLECT(sd_collect32, uint32_t, sd_candidates32, int32_t, sd_key32)

#endif
