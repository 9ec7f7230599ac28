/* Label maps -> label planes, and the rows of the counters that they feed (methods 3.2, 3.3).

   A whole image is looked through once. Each label that is met gets a plane, and planes lie one after the other; in the
   end those that count are laid side by side, as the counting kernels take them. A word of 64 pixels is compared with
   the labels that its column of words has lately met, and where pixels are left, with those of these pixels. */
#ifndef STREAMDISSECT_PLANES_H
#define STREAMDISSECT_PLANES_H

#include "bits.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#if SD_HAS_CLONES
#include <immintrin.h>
#endif

#define SD_PALETTE 8      /* labels that are compared with every word */
#define SD_REMEMBERED 8   /* rows after which those not met again are dropped */
#define SD_UNSEEN (-1)
#define SD_NOWHERE 0      /* the plane of what is no concept; nobody reads it */
#define SD_SOMEWHERE 1    /* a category has labels ... */
#define SD_EVERYWHERE 2   /* ... at every pixel */

typedef struct {
    const int32_t *column_of; /* (65536,) column of a label number, -1: no concept */
    const int32_t *category;  /* (n_concepts,) */
    const int32_t *ignore;    /* (n_categories,) label number not judged, 0: none */
    int64_t n_concepts, n_categories;
    int as_set, touch, labelled_only;
} sd_label_rules;

typedef struct {
    const uint16_t **layers; /* n_layers of (height, width) */
    const int32_t *whole;          /* (n_whole,) label numbers that hold at every pixel */
    int64_t n_layers, n_whole, height, width;
} sd_labels;

typedef struct {
    uint64_t *planes; /* (room, stride) as they are found */
    int64_t room, stride, n_planes;
    int32_t *slot_of; /* (65536,) plane of a number, SD_UNSEEN before and after a call */
    int32_t *seen;    /* (65536,) the numbers that slot_of knows */
    int64_t n_seen;
    int64_t *key; /* (room,) of a plane: category, layer and number of its concept */
    int32_t *number, *column;
    int64_t *area, *order;    /* (room,) order: of the n_laid planes that count */
    int32_t *ignored, *state; /* (n_categories,) plane of the pixels not judged, or -1; SD_SOMEWHERE, SD_EVERYWHERE */
    int32_t *whole_column;    /* (n_whole,) */
    int32_t *plane_row, *touch_row; /* (room,); see PlaneBatch for these and the next */
    int32_t *whole_row;             /* (n_whole + n_categories + 1,) */
    int32_t *present_row;           /* (room + n_whole,) */
    int64_t *present_area;
    int64_t *category_pixels; /* (n_categories,) out */
    int64_t n_whole_column, n_laid, n_whole_row, n_present;
} sd_found;

/* 64 pixels, ready to be compared with a label, and bits of those that carry it. SSE2 is in every x86-64. */
#ifdef __SSE2__
typedef struct {
    __m128i part[8];
} sd_pixels;
typedef __m128i sd_label;

SD_INLINE sd_label sd_label_of(uint16_t number) { return _mm_set1_epi16((short)number); }

SD_INLINE sd_pixels sd_load_pixels(const uint16_t *at)
{
    sd_pixels pixels;
    memcpy(&pixels, at, sizeof pixels);
    return pixels;
}

SD_INLINE uint64_t sd_equal_half(const __m128i *part, sd_label label)
{
    const __m128i low = _mm_packs_epi16(_mm_cmpeq_epi16(part[0], label), _mm_cmpeq_epi16(part[1], label));
    const __m128i high = _mm_packs_epi16(_mm_cmpeq_epi16(part[2], label), _mm_cmpeq_epi16(part[3], label));
    return (uint32_t)_mm_movemask_epi8(low) | (uint64_t)_mm_movemask_epi8(high) << 16;
}

SD_INLINE uint64_t sd_equal(const sd_pixels *pixels, sd_label label)
{
    return sd_equal_half(pixels->part, label) | sd_equal_half(pixels->part + 4, label) << 32;
}
#else
#define SD_PARTS (128 / SD_VECTOR)
typedef struct {
    sd_shorts part[SD_PARTS];
} sd_pixels;
typedef sd_shorts sd_label;

SD_INLINE sd_label sd_label_of(uint16_t number) { return (sd_label){0} + (int16_t)number; }

SD_INLINE sd_pixels sd_load_pixels(const uint16_t *at)
{
    sd_pixels pixels;
    memcpy(&pixels, at, sizeof pixels);
    return pixels;
}

SD_INLINE uint64_t sd_equal(const sd_pixels *pixels, sd_label label)
{
    uint64_t bits = 0;
    for (int i = 0; i < SD_PARTS; i++) bits |= sd_pack16(pixels->part[i] == label) << SD_VECTOR / 2 * i;
    return bits;
}
#endif

/* The same with AVX2, which clones cannot name: half the instructions. Packing works on halves of a vector, so pixels
   are loaded crosswise. */
#if SD_HAS_CLONES
#define SD_WIDE __attribute__((target("avx2,bmi")))

typedef struct {
    __m256i part[4];
} sd_wide_pixels;
typedef __m256i sd_wide_label;

SD_WIDE SD_INLINE sd_wide_label sd_wide_label_of(uint16_t number) { return _mm256_set1_epi16((short)number); }

SD_WIDE SD_INLINE sd_wide_pixels sd_load_wide_pixels(const uint16_t *at)
{
    const __m128i *from = (const __m128i *)at;
    sd_wide_pixels pixels;
    for (int i = 0; i < 4; i++) {
        const int first = i / 2 * 4 + i % 2;
        pixels.part[i] = _mm256_loadu2_m128i(from + first + 2, from + first);
    }
    return pixels;
}

SD_WIDE SD_INLINE uint64_t sd_wide_equal_half(const __m256i *part, sd_wide_label label)
{
    const __m256i flags = _mm256_packs_epi16(_mm256_cmpeq_epi16(part[0], label), _mm256_cmpeq_epi16(part[1], label));
    return (uint32_t)_mm256_movemask_epi8(flags);
}

SD_WIDE SD_INLINE uint64_t sd_wide_equal(const sd_wide_pixels *pixels, sd_wide_label label)
{
    return sd_wide_equal_half(pixels->part, label) | sd_wide_equal_half(pixels->part + 2, label) << 32;
}
#endif

SD_INLINE int64_t sd_words(const sd_labels *labels) { return (labels->width + 63) / 64; }
SD_INLINE int64_t sd_n_words(const sd_labels *labels) { return labels->height * sd_words(labels); }
SD_INLINE int64_t sd_padded(const sd_labels *labels) { return (sd_n_words(labels) + 7) / 8 * 8; }
SD_INLINE uint64_t sd_last_valid(const sd_labels *labels) { return ~(uint64_t)0 >> (-labels->width & 63); }
SD_INLINE uint64_t *sd_plane(const sd_found *found, int64_t slot) { return found->planes + slot * found->stride; }

/* An empty plane; -1 where there is no room for it. */
SD_INLINE int64_t sd_new_plane(const sd_labels *labels, sd_found *found, int64_t key, int32_t number, int32_t column)
{
    const int64_t slot = found->n_planes;
    if (slot == found->room) return -1;
    memset(sd_plane(found, slot), 0, sd_padded(labels) * sizeof(uint64_t));
    found->key[slot] = key;
    found->number[slot] = number;
    found->column[slot] = column;
    found->n_planes = slot + 1;
    return slot;
}

SD_INLINE int sd_is_among(const int32_t *some, int64_t n, int32_t one)
{
    for (int64_t i = 0; i < n; i++)
        if (some[i] == one) return 1;
    return 0;
}

/* The plane of a number that is met for the first time; -1 where there is no room. */
static int64_t sd_meet(const sd_label_rules *rules, const sd_labels *labels, sd_found *found, int64_t layer,
                       uint16_t number)
{
    int64_t slot = SD_NOWHERE, key = 0;
    int32_t column = rules->column_of[number];
    if (column >= 0 && rules->as_set && sd_is_among(found->whole_column, found->n_whole_column, column)) column = -1;
    if (column >= 0) key = (int64_t)rules->category[column] << 32 | layer << 16 | number;
    if (column >= 0 || (number && sd_is_among(rules->ignore, rules->n_categories, number))) {
        slot = sd_new_plane(labels, found, key, number, column);
        if (slot < 0) return -1;
    }
    found->slot_of[number] = (int32_t)slot;
    found->seen[found->n_seen++] = number;
    return slot;
}

SD_INLINE void sd_forget(sd_found *found)
{
    for (int64_t i = 0; i < found->n_seen; i++) found->slot_of[found->seen[i]] = SD_UNSEEN;
    found->n_seen = 0;
}

/* Sets the pixels of one label map in the planes of its numbers. 0 where there is no room for another plane. */
#define SD_DEFINE_SCAN(NAME, PIXELS, LOAD, LABEL, LABEL_OF, EQUAL)                                                     \
    static int NAME(const sd_label_rules *rules, const sd_labels *labels, sd_found *found, int64_t layer)              \
    {                                                                                                                  \
        const uint16_t *map = labels->layers[layer], *end = map + labels->height * labels->width;                      \
        const int64_t words = sd_words(labels), stride = found->stride;                                                \
        LABEL palette[SD_PALETTE];                                                                                     \
        int64_t offset[SD_PALETTE];                                                                                    \
        uint64_t met[SD_PALETTE];                                                                                      \
        uint16_t rest[64] = {0};                                                                                       \
        for (int64_t q = 0; q < words; q++) {                                                                          \
            const uint64_t valid = q == words - 1 ? sd_last_valid(labels) : ~(uint64_t)0;                              \
            int64_t n_palette = 0;                                                                                     \
            for (int64_t y = 0; y < labels->height; y++) {                                                             \
                const uint16_t *at = map + y * labels->width + q * 64;                                                 \
                uint64_t *word = found->planes + y * words + q, left = valid;                                          \
                if (end - at < 64) /* where the map ends, memory may end too */                                        \
                    at = (const uint16_t *)memcpy(rest, at, (end - at) * sizeof *at);                                  \
                const PIXELS pixels = LOAD(at);                                                                        \
                if (y % SD_REMEMBERED == 0) {                                                                          \
                    int64_t n = 0;                                                                                     \
                    for (int64_t i = 0; i < n_palette; i++)                                                            \
                        if (met[i]) {                                                                                  \
                            palette[n] = palette[i];                                                                   \
                            offset[n] = offset[i];                                                                     \
                            met[n++] = 0;                                                                              \
                        }                                                                                              \
                    n_palette = n;                                                                                     \
                }                                                                                                      \
                for (int64_t i = 0; i < n_palette; i++) {                                                              \
                    const uint64_t bits = EQUAL(&pixels, palette[i]) & valid;                                          \
                    word[offset[i]] |= bits;                                                                           \
                    met[i] |= bits;                                                                                    \
                    left &= ~bits;                                                                                     \
                }                                                                                                      \
                while (left) {                                                                                         \
                    const uint16_t number = at[sd_lowest_bit(left)];                                                   \
                    const LABEL label = LABEL_OF(number);                                                              \
                    const uint64_t bits = EQUAL(&pixels, label) & valid;                                               \
                    int64_t slot = found->slot_of[number];                                                             \
                    if (slot == SD_UNSEEN) slot = sd_meet(rules, labels, found, layer, number);                        \
                    if (slot < 0) return 0;                                                                            \
                    if (n_palette < SD_PALETTE) {                                                                      \
                        palette[n_palette] = label;                                                                    \
                        offset[n_palette] = slot * stride;                                                             \
                        met[n_palette++] = bits;                                                                       \
                    }                                                                                                  \
                    word[slot * stride] |= bits;                                                                       \
                    left &= ~bits;                                                                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

SD_DEFINE_SCAN(sd_scan_map, sd_pixels, sd_load_pixels, sd_label, sd_label_of, sd_equal)
#if SD_HAS_CLONES
SD_WIDE SD_DEFINE_SCAN(sd_scan_map_wide, sd_wide_pixels, sd_load_wide_pixels, sd_wide_label, sd_wide_label_of,
                       sd_wide_equal)
#endif

SD_INLINE int sd_scan_layer(const sd_label_rules *rules, const sd_labels *labels, sd_found *found, int64_t layer)
{
#if SD_HAS_CLONES
    const int is_wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
    const int has_room = is_wide ? sd_scan_map_wide(rules, labels, found, layer)
                                 : sd_scan_map(rules, labels, found, layer);
#else
    const int has_room = sd_scan_map(rules, labels, found, layer);
#endif
    if (!rules->as_set) sd_forget(found); /* the same label in another map counts again */
    return has_room;
}

/* The columns of labels that hold at every pixel: as given, or each once, ascending. */
SD_INLINE void sd_find_whole(const sd_label_rules *rules, const sd_labels *labels, sd_found *found)
{
    int32_t *columns = found->whole_column;
    int64_t n = 0;
    for (int64_t i = 0; i < labels->n_whole; i++) {
        const int32_t column = rules->column_of[labels->whole[i]];
        int64_t at = n;
        if (column < 0 || (rules->as_set && sd_is_among(columns, n, column))) continue;
        for (; rules->as_set && at > 0 && columns[at - 1] > column; at--) columns[at] = columns[at - 1];
        columns[at] = column;
        n++;
    }
    found->n_whole_column = n;
}

SD_INLINE void sd_fill(const sd_labels *labels, uint64_t *plane)
{
    const int64_t words = sd_words(labels);
    for (int64_t y = 0; y < labels->height; y++) {
        for (int64_t q = 0; q < words; q++) plane[y * words + q] = ~(uint64_t)0;
        plane[y * words + words - 1] = sd_last_valid(labels);
    }
}

SD_INLINE void sd_add(uint64_t *SD_RESTRICT plane, const uint64_t *SD_RESTRICT other, int64_t n)
{
    for (int64_t i = 0; i < n; i++) plane[i] |= other[i];
}

SD_INLINE void sd_take(uint64_t *SD_RESTRICT plane, const uint64_t *SD_RESTRICT other, int64_t n)
{
    for (int64_t i = 0; i < n; i++) plane[i] &= ~other[i];
}

/* Four sums, since each waits for the one before; planes are padded with zeros. */
SD_INLINE int64_t sd_area(const sd_labels *labels, const uint64_t *plane)
{
    int64_t sum[4] = {0};
    for (int64_t w = 0; w < sd_padded(labels); w += 4)
        for (int i = 0; i < 4; i++) sum[i] += sd_popcount64(plane[w + i]);
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* Planes of the pixels not judged for a category. 0 where there is no room. */
SD_INLINE int sd_find_ignored(const sd_label_rules *rules, const sd_labels *labels, sd_found *found)
{
    const int64_t n_labels = found->n_planes, n_words = sd_n_words(labels);
    for (int64_t g = 0; g < rules->n_categories; g++) {
        const int32_t code = rules->ignore[g];
        found->ignored[g] = -1;
        if (!code) continue;
        const int everywhere = sd_is_among(labels->whole, labels->n_whole, code);
        if (!everywhere && !sd_is_among(found->number, n_labels, code)) continue;
        const int64_t slot = sd_new_plane(labels, found, 0, 0, -1);
        if (slot < 0) return 0;
        found->ignored[g] = (int32_t)slot;
        if (everywhere) sd_fill(labels, sd_plane(found, slot));
        for (int64_t i = 0; i < n_labels; i++)
            if (found->number[i] == code) sd_add(sd_plane(found, slot), sd_plane(found, i), n_words);
    }
    return 1;
}

/* Ascending keys, and no two are equal (Shell's sort: rarely more than 30). */
SD_INLINE void sd_sort_planes(const int64_t *key, int64_t *order, int64_t n)
{
    int64_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (int64_t i = gap; i < n; i++) {
            const int64_t one = order[i];
            int64_t at = i;
            for (; at >= gap && key[order[at - gap]] > key[one]; at -= gap) order[at] = order[at - gap];
            order[at] = one;
        }
}

SD_INLINE void sd_lay_next(sd_found *found, int64_t slot, int32_t row)
{
    found->order[found->n_laid] = slot;
    found->touch_row[found->n_laid] = -1;
    found->plane_row[found->n_laid++] = row;
}

/* A plane of the pixels judged for a category. */
SD_INLINE int64_t sd_judged(const sd_labels *labels, sd_found *found, int32_t category, int32_t column)
{
    const int64_t slot = sd_new_plane(labels, found, 0, 0, column), ignored = found->ignored[category];
    if (slot < 0) return -1;
    sd_fill(labels, sd_plane(found, slot));
    if (ignored >= 0) sd_take(sd_plane(found, slot), sd_plane(found, ignored), sd_n_words(labels));
    return slot;
}

/* Planes of concepts: those of maps by category, then those of labels that no longer hold at every pixel. */
SD_INLINE int sd_lay_concepts(const sd_label_rules *rules, const sd_labels *labels, sd_found *found, int64_t n_labels)
{
    const int64_t n_words = sd_n_words(labels);
    int64_t n = 0;
    for (int64_t i = 1; i < n_labels; i++) {
        if (found->column[i] < 0) continue;
        const int64_t ignored = found->ignored[rules->category[found->column[i]]];
        if (ignored >= 0) sd_take(sd_plane(found, i), sd_plane(found, ignored), n_words);
        found->area[i] = sd_area(labels, sd_plane(found, i));
        if (found->area[i]) found->order[n++] = i;
    }
    sd_sort_planes(found->key, found->order, n);
    found->n_laid = 0;
    for (int64_t i = 0; i < n; i++) sd_lay_next(found, found->order[i], found->column[found->order[i]]);
    n = 0;
    for (int64_t i = 0; i < found->n_whole_column; i++) {
        const int32_t column = found->whole_column[i], category = rules->category[column];
        if (found->ignored[category] < 0) {
            found->whole_column[n++] = column;
            continue;
        }
        const int64_t slot = sd_judged(labels, found, category, column);
        if (slot < 0) return 0;
        found->area[slot] = sd_area(labels, sd_plane(found, slot));
        sd_lay_next(found, slot, column);
    }
    found->n_whole_column = n;
    return 1;
}

SD_INLINE void sd_add_present(const sd_label_rules *rules, sd_found *found, int32_t column, int64_t area, int state)
{
    int32_t *at = &found->slot_of[column]; /* no longer of numbers: a concept's place in the list */
    if (*at == SD_UNSEEN) {
        found->seen[found->n_seen++] = column;
        found->present_row[found->n_present] = column;
        found->present_area[found->n_present] = 0;
        *at = (int32_t)found->n_present++;
    }
    found->present_area[*at] += area;
    found->state[rules->category[column]] |= state;
}

SD_INLINE void sd_list_present(const sd_label_rules *rules, const sd_labels *labels, sd_found *found)
{
    found->n_present = 0;
    memset(found->state, 0, rules->n_categories * sizeof *found->state);
    for (int64_t i = 0; i < found->n_laid; i++)
        sd_add_present(rules, found, found->plane_row[i], found->area[found->order[i]], SD_SOMEWHERE);
    for (int64_t i = 0; i < found->n_whole_column; i++)
        sd_add_present(rules, found, found->whole_column[i], labels->height * labels->width,
                       SD_SOMEWHERE | SD_EVERYWHERE);
    sd_forget(found);
}

/* Rows of the unit's area: over all images, and over those with a category, where part of an image may count. */
SD_INLINE int sd_lay_categories(const sd_label_rules *rules, const sd_labels *labels, sd_found *found)
{
    const int64_t n_words = sd_n_words(labels), n_pixels = labels->height * labels->width, n = found->n_laid;
    found->n_whole_row = found->n_whole_column + 1;
    memcpy(found->whole_row, found->whole_column, found->n_whole_column * sizeof *found->whole_row);
    found->whole_row[found->n_whole_column] = (int32_t)(rules->n_concepts + rules->n_categories);
    for (int64_t g = 0; g < rules->n_categories; g++) {
        const int32_t row = (int32_t)(rules->n_concepts + g);
        const int is_partly = !(found->state[g] & SD_EVERYWHERE), by_label = rules->labelled_only && is_partly;
        int64_t slot = -1;
        found->category_pixels[g] = found->state[g] ? n_pixels : 0;
        if (!found->state[g]) continue;
        if (by_label) {
            slot = sd_new_plane(labels, found, 0, 0, -1);
            if (slot < 0) return 0;
            for (int64_t i = 0; i < n; i++) /* of which no pixel is ignored */
                if (rules->category[found->plane_row[i]] == g)
                    sd_add(sd_plane(found, slot), sd_plane(found, found->order[i]), n_words);
        } else if (found->ignored[g] >= 0) {
            slot = sd_judged(labels, found, (int32_t)g, -1);
            if (slot < 0) return 0;
        }
        if (slot >= 0) found->category_pixels[g] = sd_area(labels, sd_plane(found, slot));
        if (found->category_pixels[g] < n_pixels) {
            sd_lay_next(found, slot, row);
        } else if (rules->touch && is_partly) {
            for (int64_t i = 0; i < n; i++)
                if (rules->category[found->plane_row[i]] == g) found->touch_row[i] = row;
        } else {
            found->whole_row[found->n_whole_row++] = row;
        }
    }
    return 1;
}

/* Everything about an image but the planes side by side. 0 where there is no room: to be called with more. */
SD_CLONED static int sd_index_labels(const sd_label_rules *rules, const sd_labels *labels, sd_found *found)
{
    found->n_planes = 0;
    sd_find_whole(rules, labels, found);
    int has_room = sd_new_plane(labels, found, 0, 0, -1) == SD_NOWHERE;
    for (int64_t i = 0; has_room && i < labels->n_layers; i++) has_room = sd_scan_layer(rules, labels, found, i);
    sd_forget(found);
    const int64_t n_labels = found->n_planes;
    if (!has_room || !sd_find_ignored(rules, labels, found) || !sd_lay_concepts(rules, labels, found, n_labels))
        return 0;
    sd_list_present(rules, labels, found);
    return sd_lay_categories(rules, labels, found);
}

/* (n_words, n_laid) planes side by side, eight words of each at a time. */
SD_CLONED static void sd_lay_planes(const sd_found *found, int64_t n_words, uint64_t *out)
{
    const int64_t n = found->n_laid;
    for (int64_t begin = 0; begin < n_words; begin += 8) {
        const int64_t end = begin + 8 < n_words ? begin + 8 : n_words;
        for (int64_t p = 0; p < n; p++) {
            const uint64_t *plane = sd_plane(found, found->order[p]);
            if (end - begin == 8)
                for (int i = 0; i < 8; i++) out[(begin + i) * n + p] = plane[begin + i];
            else
                for (int64_t w = begin; w < end; w++) out[w * n + p] = plane[w];
        }
    }
}

#endif
