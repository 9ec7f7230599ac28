/* Quantile sketches of many units' streams by one schedule (methods 1.7).

   A sketch keeps levels of sorted keys; a key of level h stands for 2**h values. Values come in gulps: a gulp is
   sorted, joined to level 0, and where a level has become too long its lowest keys are compacted: every other one, the
   even or the odd ones by a coin, joins the next level. All units receive equally many values, so how many keys each
   level compacts is the same for all and is decided beforehand, in Python (quantile/sketch.py); here the decisions are
   carried out unit by unit. Coins come from integers alone, so that no order of units or threads matters.

   REQ and KLL differ in the decisions only. */
#ifndef STREAMDISSECT_SKETCH_H
#define STREAMDISSECT_SKETCH_H

#include "bits.h"
#include "tail.h"

#define SD_GULP 1024
#define SD_LEVELS 48
#define SD_FILLER INT32_MIN /* in place of NaN: below every number */
#define SD_FEW 40           /* keys that are sorted by insertion */

typedef struct { /* of all units */
    int64_t n_levels;
    const int64_t *amounts; /* (gulps, n_levels) keys that each level compacts after each gulp */
    const int64_t *fill;    /* (n_levels,) keys of each level before */
    const int64_t *turn;    /* (n_levels,) compactions of each level before */
    int64_t n_pending;      /* values before the next gulp */
    int64_t room;           /* length of a row */
    int32_t *rows;          /* (n_units, room) keys of the highest level, then of the next, ... down to level 0 */
    int32_t *pending;       /* (n_units, SD_GULP) */
    uint32_t *coins;        /* (n_units, SD_LEVELS) the last coin of each kind, as bits */
    uint64_t seed;
} sd_sketch;

typedef struct { /* of one thread */
    int64_t *fill, *turn, *next; /* (n_levels,) keys and compactions of each level, keys after this gulp */
    int32_t *sorted;             /* (SD_GULP,) */
    int32_t *promoted, *merged;  /* (room + SD_GULP,) */
    int32_t *rebuilt;            /* (room,) the row after this gulp, as far as it changes */
    uint32_t *spare;            /* (2 * SD_GULP,) */
    uint32_t *count;            /* (4 * 256,) */
} sd_sketch_scratch;

/* splitmix64 (Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014): the state to its output */
SD_INLINE uint64_t sd_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

SD_INLINE int64_t sd_count_below(const int32_t *keys, int64_t n, int32_t bound) /* keys < bound, of ascending ones */
{
    int64_t low = 0;
    while (n > 0) {
        const int64_t half = n >> 1;
        const int is_below = keys[low + half] < bound;
        low = is_below ? low + half + 1 : low;
        n = is_below ? n - half - 1 : half;
    }
    return low;
}

/* Two ascending runs to one. Where they do not overlap they are copied: most of what comes lies below what is kept. */
SD_INLINE void sd_merge(const int32_t *SD_RESTRICT kept, int64_t n_kept, const int32_t *SD_RESTRICT come,
                        int64_t n_come, int32_t *SD_RESTRICT merged)
{
    int64_t below = n_come, within = n_kept;
    if (n_kept && n_come) {
        below = sd_count_below(come, n_come, kept[0]);
        within = sd_count_below(kept, n_kept, come[n_come - 1]);
    }
    memcpy(merged, come, sizeof(int32_t) * (size_t)below);
    merged += below, come += below, n_come -= below;
    int64_t i = 0, j = 0, k = 0;
    while (i < within && j < n_come) {
        const int32_t a = kept[i], b = come[j];
        const int is_kept = a < b;
        merged[k++] = is_kept ? a : b;
        i += is_kept;
        j += !is_kept;
    }
    memcpy(merged + k, kept + i, sizeof(int32_t) * (size_t)(within - i));
    k += within - i;
    memcpy(merged + k, come + j, sizeof(int32_t) * (size_t)(n_come - j));
    k += n_come - j;
    memcpy(merged + k, kept + within, sizeof(int32_t) * (size_t)(n_kept - within));
}

SD_INLINE void sd_sort_few(uint32_t *keys, int n)
{
    for (int i = 1; i < n; i++) {
        const uint32_t key = keys[i];
        int j = i;
        for (; j > 0 && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

/* Ascending. The least key, which after a ReLU is most of them, is counted and the others are sorted, by their distance
   from the least of those in as few digits of up to 8 bits as it has. */
SD_INLINE void sd_sort_gulp(const int32_t *SD_RESTRICT keys, int32_t *SD_RESTRICT sorted, uint32_t *SD_RESTRICT spare,
                            uint32_t *SD_RESTRICT count)
{
    int32_t least = keys[0], most = keys[0];
    for (int i = 1; i < SD_GULP; i++) {
        least = keys[i] < least ? keys[i] : least;
        most = keys[i] > most ? keys[i] : most;
    }
    int n = 0;
    for (int i = 0; i < SD_GULP; i++) {
        spare[n] = (uint32_t)keys[i];
        n += keys[i] != least;
    }
    const int n_least = SD_GULP - n;
    for (int i = 0; i < n_least; i++) sorted[i] = least;
    if (n == 0) return;
    int32_t next = most;
    for (int i = 0; i < n; i++) next = (int32_t)spare[i] < next ? (int32_t)spare[i] : next;
    const uint32_t range = (uint32_t)most - (uint32_t)next;
    for (int i = 0; i < n; i++) spare[i] -= (uint32_t)next;
    uint32_t *from = spare, *to = spare + SD_GULP;
    if (n <= SD_FEW) {
        sd_sort_few(from, n);
    } else if (range) {
        const int n_bits = 32 - __builtin_clz(range), n_digits = (n_bits + 7) / 8;
        const int width = (n_bits + n_digits - 1) / n_digits, size = 1 << width;
        const uint32_t mask = (uint32_t)size - 1;
        memset(count, 0, sizeof(uint32_t) * (size_t)(n_digits * size));
        for (int digit = 0; digit < n_digits; digit++)
            for (int i = 0; i < n; i++) count[digit * size + (int)(from[i] >> (digit * width) & mask)]++;
        for (int digit = 0; digit < n_digits; digit++) {
            uint32_t *place = count + digit * size, before = 0;
            for (int i = 0; i < size; i++) {
                const uint32_t here = place[i];
                place[i] = before;
                before += here;
            }
            for (int i = 0; i < n; i++) to[place[from[i] >> (digit * width) & mask]++] = from[i];
            uint32_t *swapped = from;
            from = to, to = swapped;
        }
    }
    for (int i = 0; i < n; i++) sorted[n_least + i] = (int32_t)(from[i] + (uint32_t)next);
}

/* A coin for a compaction: fair, and the same wherever it is thrown. Compactions of a level are of one kind if their
   turns end in equally many ones; with REQ they then reach equally deep. Of two in a row of one kind the second has the
   first's coin turned over, so that their errors tend to cancel. What is compacted has a say, so that sketches of
   different values that are merged later do not err alike. */
SD_INLINE uint32_t sd_coin(uint64_t unit_seed, uint32_t *coins, int64_t level, int64_t turn, const int32_t *keys,
                           int64_t n)
{
    const int kind = __builtin_ctzll(~(uint64_t)turn);
    if (turn >> (kind + 1) & 1) return ~coins[level] >> (kind & 31) & 1;
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (uint32_t)keys[i];
    const uint32_t coin = (uint32_t)(sd_mix(sd_mix(unit_seed ^ ((uint64_t)level << 48 | (uint64_t)turn)) ^ sum) >> 63);
    coins[level] = (coins[level] & ~(1u << (kind & 31))) | coin << (kind & 31);
    return coin;
}

/* A sorted gulp goes up the levels of one unit. The levels that it does not reach stay where they are in the row. */
SD_INLINE void sd_cascade(const sd_sketch *sketch, const sd_sketch_scratch *scratch, int64_t unit, uint64_t unit_seed,
                          const int64_t *amounts)
{
    int32_t *row = sketch->rows + unit * sketch->room, *merged = scratch->merged;
    uint32_t *coins = sketch->coins + unit * SD_LEVELS;
    int64_t *fill = scratch->fill, *next = scratch->next;
    int64_t n_come = SD_GULP, from = 0, to = 0, n_reached = 0;
    for (int64_t level = 0; level < sketch->n_levels; level++) {
        if (n_come || amounts[level]) n_reached = level + 1;
        next[level] = fill[level] + n_come - amounts[level];
        from += fill[level];
        to += next[level];
        n_come = amounts[level] / 2;
    }
    const int64_t end = to;
    const int32_t *come = scratch->sorted;
    n_come = SD_GULP;
    for (int64_t level = 0; level < n_reached; level++) {
        const int64_t n = amounts[level];
        from -= fill[level];
        to -= next[level];
        sd_merge(row + from, fill[level], come, n_come, merged);
        memcpy(scratch->rebuilt + to, merged + n, sizeof(int32_t) * (size_t)next[level]);
        fill[level] = next[level];
        n_come = n / 2;
        if (n == 0) continue;
        const uint32_t coin = sd_coin(unit_seed, coins, level, scratch->turn[level]++, merged, n);
        for (int64_t i = 0; i < n_come; i++) scratch->promoted[i] = merged[2 * i + coin];
        come = scratch->promoted;
    }
    memcpy(row + to, scratch->rebuilt + to, sizeof(int32_t) * (size_t)(end - to));
}

/* values: (n_images, n_units, n). Units unit_begin..unit_end-1; each carries out all gulps. */
#define SD_DEFINE_UPDATE_SKETCH(NAME, BITS, SCAN, KEY, KEY_OF, INFINITY_KEY)                                          \
    SD_CLONED static void NAME(const BITS *values, int64_t n_images, int64_t n_units, int n, int64_t unit_begin,      \
                               int64_t unit_end, const sd_stream_counts *counts, const sd_sketch *sketch,             \
                               const sd_sketch_scratch *scratch, int32_t *highest)                                    \
    {                                                                                                                 \
        for (int64_t unit = unit_begin; unit < unit_end; unit++) {                                                    \
            int32_t *pending = sketch->pending + unit * SD_GULP;                                                      \
            const uint64_t unit_seed = sd_mix(sd_mix(sketch->seed) ^ (uint64_t)unit);                                 \
            const int64_t *amounts = sketch->amounts;                                                                 \
            int filled = (int)sketch->n_pending;                                                                      \
            memcpy(scratch->fill, sketch->fill, sizeof(int64_t) * (size_t)sketch->n_levels);                          \
            memcpy(scratch->turn, sketch->turn, sizeof(int64_t) * (size_t)sketch->n_levels);                          \
            for (int64_t image = 0; image < n_images; image++) {                                                      \
                const BITS *map = values + (image * n_units + unit) * n;                                              \
                int any;                                                                                              \
                KEY high = SCAN(map, n, unit, counts, &any);                                                          \
                highest[image * n_units + unit] = any ? high : INT32_MIN;                                             \
                for (int done = 0; done < n;) {                                                                       \
                    const int some = n - done < SD_GULP - filled ? n - done : SD_GULP - filled;                       \
                    for (int i = 0; i < some; i++) {                                                                  \
                        const KEY key = KEY_OF(map[done + i]);                                                        \
                        const int is_number = (key <= INFINITY_KEY) & (key >= (KEY)(-INFINITY_KEY - 1));              \
                        pending[filled + i] = is_number ? (int32_t)key : SD_FILLER;                                   \
                    }                                                                                                 \
                    done += some;                                                                                     \
                    filled += some;                                                                                   \
                    if (filled < SD_GULP) break;                                                                      \
                    filled = 0;                                                                                       \
                    sd_sort_gulp(pending, scratch->sorted, scratch->spare, scratch->count);                           \
                    sd_cascade(sketch, scratch, unit, unit_seed, amounts);                                            \
                    amounts += sketch->n_levels;                                                                      \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
    }

SD_DEFINE_UPDATE_SKETCH(sd_update_sketch16, uint16_t, sd_scan16, int16_t, sd_key16, SD_INFINITY_KEY16)
SD_DEFINE_UPDATE_SKETCH(sd_update_sketch32, uint32_t, sd_scan32, int32_t, sd_key32, SD_INFINITY_KEY32)

#endif
