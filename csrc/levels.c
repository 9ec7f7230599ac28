#include "levels.h"

/* setup.py defines STREAMDISSECT_WITH_AVX512 and STREAMDISSECT_WITH_AVX2 where those files were compiled, and for each
   asks here for the very instructions that its flags allow. __builtin_cpu_supports also asks whether the operating
   system keeps the wide registers. */
#ifdef STREAMDISSECT_WITH_AVX2
static int sd_runs_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}
#endif

#ifdef STREAMDISSECT_WITH_AVX512
static int sd_runs_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt");
}
#endif

const sd_level *sd_level_at(int i)
{
    const sd_level *levels[4] = {0};
    int n = 0;
#if defined(STREAMDISSECT_WITH_AVX2) || defined(STREAMDISSECT_WITH_AVX512)
    __builtin_cpu_init();
#endif
#ifdef STREAMDISSECT_WITH_AVX512
    if (sd_runs_avx512()) levels[n++] = &sd_avx512;
#endif
#ifdef STREAMDISSECT_WITH_AVX2
    if (sd_runs_avx2()) levels[n++] = &sd_avx2;
#endif
    levels[n++] = &sd_portable;
    return i < n ? levels[i] : 0;
}
