/* The counting loops with AVX-512 and VPOPCNTDQ: x86-64 CPUs since Ice Lake and Zen 4. */
#define STREAMDISSECT_AVX512
#include "count.h"

const sd_level sd_avx512 = SD_LEVEL("avx512");
