/* What a mask shares with the label planes of its image: for any CPU; words_avx512.h does the same for AVX-512. */
#ifndef STREAMDISSECT_WORDS_H
#define STREAMDISSECT_WORDS_H

#include "filter.h"

/* Without an instruction that counts bits (x86 before POPCNT) the compiler calls a function for each word. Bits of a
   word are then counted within its bytes, up to 8 each, and 31 words added up before the bytes of the sums are. */
#if defined(SD_NARROW) && defined(__x86_64__) && !defined(__POPCNT__)
#define SD_COUNTS_IN_BYTES 1
#else
#define SD_COUNTS_IN_BYTES 0
#endif
#define SD_WORDS_IN_BYTES 31
#define SD_BLOCK 64 /* planes whose sums of bytes are held at a time */

SD_INLINE uint64_t sd_bits_in_bytes(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    return (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
}

SD_INLINE int64_t sd_sum_of_bytes(uint64_t word)
{
    word = (word & 0x00ff00ff00ff00ff) + (word >> 8 & 0x00ff00ff00ff00ff); /* 8 * 31 fits a byte, not the sum of all */
    return (int64_t)((word * 0x0001000100010001) >> 48);
}

/* See below, for planes first..first+n-1. */
SD_INLINE int64_t sd_count_block(const uint64_t *bits, int words, sd_extent extent, const uint64_t *planes,
                                 int n_planes, int first, int n, int64_t *SD_RESTRICT count)
{
    uint64_t sums[SD_BLOCK] = {0};
    int64_t area = 0;
    int held = 0;
    for (int y = extent.y_begin; y < extent.y_end; y++)
        for (int q = extent.word_begin; q < extent.word_end; q++) {
            const int64_t at = (int64_t)y * words + q;
            const uint64_t word = bits[at];
            if (word == 0) continue;
            const uint64_t *SD_RESTRICT shared = planes + at * n_planes + first;
            area += sd_sum_of_bytes(sd_bits_in_bytes(word));
            for (int p = 0; p < n; p++) sums[p] += sd_bits_in_bytes(word & shared[p]);
            if (++held < SD_WORDS_IN_BYTES) continue;
            for (int p = 0; p < n; p++) count[first + p] += sd_sum_of_bytes(sums[p]), sums[p] = 0;
            held = 0;
        }
    for (int p = 0; p < n; p++) count[first + p] += sd_sum_of_bytes(sums[p]);
    return area;
}

/* count[p] = pixels that the mask (H, words) shares with plane p; returns the pixels of the mask. planes: (H * words,
   n_planes), labels side by side, so that one mask word serves them all. */
SD_INLINE int64_t sd_count_words(const uint64_t *bits, int words, sd_extent extent, const uint64_t *planes,
                                 int n_planes, int64_t *SD_RESTRICT count)
{
    int64_t area = 0;
    for (int p = 0; p < n_planes; p++) count[p] = 0;
    if (SD_COUNTS_IN_BYTES) {
        int first = 0;
        do {
            const int n = n_planes - first < SD_BLOCK ? n_planes - first : SD_BLOCK;
            area = sd_count_block(bits, words, extent, planes, n_planes, first, n, count);
            first += SD_BLOCK;
        } while (first < n_planes);
        return area;
    }
    for (int y = extent.y_begin; y < extent.y_end; y++)
        for (int q = extent.word_begin; q < extent.word_end; q++) {
            const int64_t at = (int64_t)y * words + q;
            const uint64_t word = bits[at];
            if (word == 0) continue;
            const uint64_t *SD_RESTRICT shared = planes + at * n_planes;
            area += sd_popcount64(word);
            for (int p = 0; p < n_planes; p++) count[p] += sd_popcount64(word & shared[p]);
        }
    return area;
}

#endif
