/* Is the bilinear value of four corners above a threshold, in real arithmetic (methods 2.5)?

   The weights are integers over Dy * Dx. Each is cut into pieces of 29 bits; a piece times a float32 (24 bits) is exact
   in a double, and the sign of the sum of those products is found without rounding by a nonoverlapping expansion
   (Shewchuk, Adaptive precision floating-point arithmetic, 1997: grow-expansion with zero elimination). The widths are
   worked out in docs/exactness.md. */
#ifndef STREAMDISSECT_EXACT_H
#define STREAMDISSECT_EXACT_H

#include "bits.h"

#define SD_PIECE_BITS 29
#define SD_MAX_TERMS 15 /* five products, three pieces each: weights up to 2**62 */

/* float32 bits -> the same value as a double, also where the FPU would read a subnormal as zero. */
SD_INLINE double sd_double_of(uint32_t bits)
{
    uint32_t exponent = (bits >> 23) & 0xff, fraction = bits & 0x7fffff;
    if (exponent == 0) {
        double value = (double)(int32_t)fraction * 0x1p-149;
        return bits >> 31 ? -value : value;
    }
    uint64_t wide = ((uint64_t)(bits >> 31) << 63) | ((uint64_t)(exponent + 896) << 52) | ((uint64_t)fraction << 29);
    double value;
    memcpy(&value, &wide, 8);
    return value;
}

static int sd_sum_sign(const double *terms, int n_terms)
{
    double expansion[SD_MAX_TERMS + 1];
    int length = 0;
    for (int t = 0; t < n_terms; t++) {
        double carry = terms[t];
        int kept = 0;
        for (int i = 0; i < length; i++) {
            double part = expansion[i], sum = carry + part, virtual_part = sum - carry;
            double error = (carry - (sum - virtual_part)) + (part - virtual_part);
            if (error != 0) expansion[kept++] = error;
            carry = sum;
        }
        if (carry != 0) expansion[kept++] = carry;
        length = kept;
    }
    if (length == 0) return 0;
    return expansion[length - 1] > 0 ? 1 : -1;
}

/* corners: float32 bits of (top left, top right, bottom left, bottom right); weights: of the bottom and of the right.
   Corners of weight zero have no say. NaN, or both infinities: off. +inf: on where the threshold is below it. */
static int sd_exact_above(const uint32_t corners[4], int64_t bottom, int64_t rows_denominator, int64_t right,
                          int64_t columns_denominator, uint32_t threshold, int or_equal)
{
    int64_t top = rows_denominator - bottom, left = columns_denominator - right;
    const int64_t weights[4] = {top * left, top * right, bottom * left, bottom * right};
    if ((threshold & 0x7fffffff) == 0) threshold = 0; /* both zeros are one number */
    const int32_t threshold_key = sd_key32(threshold);
    int n_plus = 0, n_minus = 0, n_above = 0, n_below = 0;
    if ((threshold & 0x7fffffff) > SD_INFINITY_KEY32) return 0;
    for (int i = 0; i < 4; i++) {
        if (weights[i] == 0) continue;
        uint32_t magnitude = corners[i] & 0x7fffffff;
        if (magnitude > SD_INFINITY_KEY32) return 0;
        if (magnitude == SD_INFINITY_KEY32) { if (corners[i] >> 31) n_minus++; else n_plus++; }
        int32_t key = magnitude == 0 ? 0 : sd_key32(corners[i]);
        n_above += key > threshold_key;
        n_below += key < threshold_key;
    }
    if (n_plus && n_minus) return 0;
    if (n_plus) return or_equal || threshold_key < SD_INFINITY_KEY32;
    if (n_minus) return or_equal && threshold == 0xff800000u;
    if ((threshold & 0x7fffffff) == SD_INFINITY_KEY32) return threshold >> 31; /* a finite value and an infinite T */
    if (n_below == 0) return or_equal || n_above > 0;
    if (n_above == 0) return 0;
    double terms[SD_MAX_TERMS];
    int n_terms = 0;
    for (int i = 0; i < 5; i++) {
        double value = i < 4 ? sd_double_of(corners[i]) : -sd_double_of(threshold);
        uint64_t weight = i < 4 ? (uint64_t)weights[i] : (uint64_t)(rows_denominator * columns_denominator);
        for (int piece = 0; piece < 3; piece++) {
            uint64_t part = (weight >> (SD_PIECE_BITS * piece)) & ((1ull << SD_PIECE_BITS) - 1);
            if (part == 0 || value == 0) continue;
            terms[n_terms++] = value * ((double)(int64_t)part * (double)(1ull << (SD_PIECE_BITS * piece)));
        }
    }
    int sign = sd_sum_sign(terms, n_terms);
    return or_equal ? sign >= 0 : sign > 0;
}

#endif
