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

#define SD_LANES 8
typedef float sd_floats __attribute__((vector_size(32)));
typedef int32_t sd_ints __attribute__((vector_size(32)));
typedef int16_t sd_shorts __attribute__((vector_size(32)));
typedef uint64_t sd_longs __attribute__((vector_size(32)));
typedef uint16_t sd_halves __attribute__((vector_size(16)));

SD_INLINE int sd_popcount64(uint64_t word) { return __builtin_popcountll(word); }
SD_INLINE int sd_lowest_bit(uint64_t word) { return __builtin_ctzll(word); }
SD_INLINE int sd_any(sd_longs lanes) { return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0; }

SD_INLINE uint64_t sd_or_lanes(sd_ints lanes)
{
    const sd_longs pairs = (sd_longs)lanes;
    const uint64_t all = (pairs[0] | pairs[2]) | (pairs[1] | pairs[3]);
    return (all | all >> 32) & 0xffffffffu;
}

/* Lanes of 0 or -1 -> bits, lane 0 lowest: each lane keeps its own bit, then all lanes are or-ed. */
SD_INLINE uint64_t sd_pack(sd_ints flags)
{
    const sd_ints own = {1, 2, 4, 8, 16, 32, 64, 128};
    return sd_or_lanes(flags & own);
}

SD_INLINE uint64_t sd_pack16(sd_shorts flags)
{
    const sd_shorts own = {1,   2,   4,    8,    16,   32,   64,    128,
                           256, 512, 1024, 2048, 4096, 8192, 16384, -32768};
    const sd_longs quads = (sd_longs)(flags & own);
    uint64_t all = (quads[0] | quads[2]) | (quads[1] | quads[3]);
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
