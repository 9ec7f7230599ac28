/* What a mask shares with the label planes of its image: words.h for AVX-512 with VPOPCNTDQ, eight planes at a time. */
#ifndef STREAMDISSECT_WORDS_AVX512_H
#define STREAMDISSECT_WORDS_AVX512_H

#include <immintrin.h>

#include "filter.h"

#define SD_CHUNK 512 /* words whose list fits into the first-level cache */

typedef struct {               /* the words of a chunk that are not 0: nearly all are, without a pattern to predict */
    uint64_t word[SD_CHUNK + 8];
    int32_t at[SD_CHUNK + 16]; /* within the chunk */
    int n;
} sd_word_list;

/* Returns the pixels of the chunk's n words. */
SD_INLINE int64_t sd_list_words(const uint64_t *bits, int n, sd_word_list *list)
{
    __m512i area = _mm512_setzero_si512();
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    list->n = 0;
    for (int i = 0; i < n; i += 8) {
        const __mmask8 inside = n - i < 8 ? (__mmask8)((1u << (n - i)) - 1) : 0xff;
        const __m512i words = _mm512_maskz_loadu_epi64(inside, bits + i);
        const __mmask8 on = _mm512_test_epi64_mask(words, words);
        area = _mm512_add_epi64(area, _mm512_popcnt_epi64(words));
        _mm512_storeu_si512(list->word + list->n, _mm512_maskz_compress_epi64(on, words));
        _mm256_storeu_si256((__m256i *)(list->at + list->n), _mm256_maskz_compress_epi32(on, index));
        index = _mm256_add_epi32(index, _mm256_set1_epi32(8));
        list->n += __builtin_popcount(on);
    }
    return _mm512_reduce_add_epi64(area);
}

/* Eight planes a group, the last group of so many `lanes`; `groups` is known when this is compiled. */
SD_INLINE void sd_count_groups(const sd_word_list *list, const uint64_t *planes, int n_planes, int groups,
                               __mmask8 lanes, int64_t *count)
{
    __m512i sum[4];
    for (int g = 0; g < groups; g++) sum[g] = _mm512_setzero_si512();
    for (int i = 0; i < list->n; i++) {
        const __m512i word = _mm512_set1_epi64((int64_t)list->word[i]);
        const uint64_t *shared = planes + (int64_t)list->at[i] * n_planes;
        for (int g = 0; g < groups; g++) {
            const __mmask8 inside = g == groups - 1 ? lanes : 0xff;
            const __m512i both = _mm512_and_si512(word, _mm512_maskz_loadu_epi64(inside, shared + 8 * g));
            sum[g] = _mm512_add_epi64(sum[g], _mm512_popcnt_epi64(both));
        }
    }
    for (int g = 0; g < groups; g++) {
        const __mmask8 inside = g == groups - 1 ? lanes : 0xff;
        const __m512i before = _mm512_maskz_loadu_epi64(inside, count + 8 * g);
        _mm512_mask_storeu_epi64(count + 8 * g, inside, _mm512_add_epi64(before, sum[g]));
    }
}

/* See words.h. */
SD_INLINE int64_t sd_count_words(const uint64_t *bits, int words, sd_extent extent, const uint64_t *planes,
                                 int n_planes, int64_t *SD_RESTRICT count)
{
    sd_word_list list;
    int64_t area = 0, begin = (int64_t)extent.y_begin * words + extent.word_begin;
    const int64_t end = (int64_t)(extent.y_end - 1) * words + extent.word_end;
    for (int p = 0; p < n_planes; p++) count[p] = 0;
    for (; begin < end; begin += SD_CHUNK) {
        area += sd_list_words(bits + begin, (int)(end - begin < SD_CHUNK ? end - begin : SD_CHUNK), &list);
        if (list.n == 0) continue;
        for (int p = 0; p < n_planes; p += 32) {
            const int some = n_planes - p < 32 ? n_planes - p : 32;
            const __mmask8 lanes = some % 8 ? (__mmask8)((1u << (some % 8)) - 1) : 0xff;
            const uint64_t *from = planes + begin * n_planes + p;
            switch ((some + 7) / 8) {
            case 1: sd_count_groups(&list, from, n_planes, 1, lanes, count + p); break;
            case 2: sd_count_groups(&list, from, n_planes, 2, lanes, count + p); break;
            case 3: sd_count_groups(&list, from, n_planes, 3, lanes, count + p); break;
            default: sd_count_groups(&list, from, n_planes, 4, lanes, count + p);
            }
        }
    }
    return area;
}

#endif
