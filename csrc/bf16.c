/* bfloat16: the upper half of a float, 8 bits of exponent and 8 of precision, in 2 bytes.
 *
 *   to      x (N) real  ->  y (N) bf16      rounded to nearest, ties to even; beyond the largest: infinity; NaN stays NaN
 *   from    x (N) bf16  ->  y (N) real      exact
 *
 * half.h has the rounding. Bound by memory: 6N bytes each way (float). The loops have no branches and are
 * vectorised by the compiler.
 */
#include "half.h"

enum { GRAIN = 32 }; // a cache line of bf16

int KERNEL_FN(to_bf16)(const struct to_bf16_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->N, GRAIN, team);
    const real *restrict x = args->x;
    bf16 *restrict y = args->y;
    for (int64_t i = mine.begin; i < mine.end; i++) y[i] = bf16_of_real(x[i]);
    return GOLLM_OK;
}

int KERNEL_FN(from_bf16)(const struct from_bf16_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->N, GRAIN, team);
    const bf16 *restrict x = args->x;
    real *restrict y = args->y;
    for (int64_t i = mine.begin; i < mine.end; i++) y[i] = real_of_bf16(x[i]);
    return GOLLM_OK;
}
