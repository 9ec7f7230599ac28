/* What the kernels share: CPU clones, vectors, popcount, packing of flags, integers that order like floats. */
#ifndef STREAMDISSECT_BITS_H
#define STREAMDISSECT_BITS_H

#include <stdint.h>
#include <string.h>

/* setup.py defines STREAMDISSECT_CLONES where the compiler builds and dispatches x86-64-v3 clones; elsewhere one plain
   build serves. Code inside a clone sees the clone's instructions (AVX2, POPCNT, F16C) only if it is inlined into it. */
#ifdef STREAMDISSECT_CLONES
#define SD_CLONED __attribute__((target_clones("arch=x86-64-v3", "default")))
#define SD_HAS_CLONES 1
#else
#define SD_CLONED
#define SD_HAS_CLONES 0
#endif
#define SD_COMPILER __VERSION__

/* GCC and Clang: vectors are written with their vector extensions, which every target lowers to what it has. Another
   compiler does not build this file, and Numba serves. */
#define SD_INLINE static inline __attribute__((always_inline))
#define SD_RESTRICT __restrict__

/* Vectors of 32 bytes; of 16 where a file asks for them, since GCC compares lane by lane what is wider than the vectors
   that the target has. */
#ifdef SD_NARROW
#define SD_VECTOR 16
#else
#define SD_VECTOR 32
#endif
#define SD_LANES (SD_VECTOR / 4)
typedef float sd_floats __attribute__((vector_size(SD_VECTOR)));
typedef int32_t sd_ints __attribute__((vector_size(SD_VECTOR)));
typedef int16_t sd_shorts __attribute__((vector_size(SD_VECTOR)));
typedef uint64_t sd_longs __attribute__((vector_size(SD_VECTOR)));
typedef uint16_t sd_halves __attribute__((vector_size(SD_VECTOR / 2)));

SD_INLINE int sd_popcount64(uint64_t word) { return __builtin_popcountll(word); }
SD_INLINE int sd_lowest_bit(uint64_t word) { return __builtin_ctzll(word); }

SD_INLINE uint64_t sd_or_longs(sd_longs lanes)
{
    uint64_t all = lanes[0] | lanes[1];
    for (int lane = 2; lane < SD_VECTOR / 8; lane++) all |= lanes[lane];
    return all;
}

SD_INLINE int sd_any(sd_longs lanes) { return sd_or_longs(lanes) != 0; }

SD_INLINE uint64_t sd_or_lanes(sd_ints lanes)
{
    const uint64_t all = sd_or_longs((sd_longs)lanes);
    return (all | all >> 32) & 0xffffffffu;
}

SD_INLINE sd_ints sd_lane_numbers(void)
{
    sd_ints numbers;
    for (int lane = 0; lane < SD_LANES; lane++) numbers[lane] = lane;
    return numbers;
}

SD_INLINE sd_ints sd_own_bits(void)
{
    sd_ints own;
    for (int lane = 0; lane < SD_LANES; lane++) own[lane] = 1 << lane;
    return own;
}

/* Lanes of 0 or -1 -> bits, lane 0 lowest: each lane keeps its own bit, then all lanes are or-ed. */
SD_INLINE uint64_t sd_pack(sd_ints flags) { return sd_or_lanes(flags & sd_own_bits()); }

SD_INLINE uint64_t sd_pack16(sd_shorts flags)
{
    sd_shorts own;
    for (int lane = 0; lane < SD_VECTOR / 2; lane++) own[lane] = (int16_t)(1u << lane);
    uint64_t all = sd_or_longs((sd_longs)(flags & own));
    all |= all >> 32;
    return (all | all >> 16) & 0xffff;
}

/* Integers in the order of the floats they stand for: -0.0 is one below +0.0, NaN beyond the infinities. Comparing
   keys instead of floats gives the same answer when the caller's thread flushes subnormals to zero. */
SD_INLINE int16_t sd_key16(uint16_t bits)
{
    int16_t value = (int16_t)bits;
    return (int16_t)(value ^ ((value >> 15) & 0x7fff));
}

SD_INLINE int32_t sd_key32(uint32_t bits)
{
    int32_t value = (int32_t)bits;
    return value ^ ((value >> 31) & 0x7fffffff);
}

#define SD_INFINITY_KEY16 0x7c00
#define SD_INFINITY_KEY32 0x7f800000

SD_INLINE sd_ints sd_keys(sd_ints bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
SD_INLINE sd_shorts sd_keys16(sd_shorts bits) { return bits ^ ((bits >> 15) & 0x7fff); }

/* float16 bits -> float32 bits, by integers and normal floats alone, so that no mode of the FPU matters. */
SD_INLINE sd_ints sd_widen(sd_halves half)
{
    const sd_ints bits = __builtin_convertvector(half, sd_ints), magnitude = bits & 0x7fff;
    const sd_ints small = (sd_ints)(__builtin_convertvector(magnitude, sd_floats) * 0x1p-24f);
    const sd_ints is_small = magnitude < 0x0400, is_odd = magnitude >= 0x7c00;
    const sd_ints normal = (magnitude << 13) + (112 << 23) + (is_odd & (112 << 23));
    return (small & is_small) | (normal & ~is_small) | ((bits & 0x8000) << 16);
}

#endif
