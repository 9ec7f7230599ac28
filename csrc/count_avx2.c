/* The counting loops with AVX2 and POPCNT: x86-64 CPUs since Haswell and Zen. */
#include "count.h"

const sd_level sd_avx2 = SD_LEVEL("avx2");
