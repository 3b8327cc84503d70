/* bfloat16: the upper half of a float, 8 bits of exponent and 8 of precision, in 2 bytes.
 *
 *   to      x (N) real  ->  y (N) bf16      rounded to nearest, ties to even; beyond the largest: infinity; NaN stays NaN
 *   from    x (N) bf16  ->  y (N) real      exact
 *
 * Adding 0x7fff, or 0x8000 where the lower half's neighbour is odd, carries into the upper half exactly where it is rounded
 * up. Doubles are rounded to float first. Bound by memory: 6N bytes each way (float). The loops have no branches and are
 * vectorised by the compiler.
 */
#include <string.h> /* memcpy */

#include "kernel.h"

enum { GRAIN = 32 }; // a cache line of bf16

static inline bf16 round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40;
    return (bf16)((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

int KERNEL_FN(to_bf16)(const struct to_bf16_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->N, GRAIN, team);
    const real *restrict x = args->x;
    bf16 *restrict y = args->y;
    for (int64_t i = mine.begin; i < mine.end; i++) y[i] = round_to_bf16((float)x[i]);
    return GOLLM_OK;
}

int KERNEL_FN(from_bf16)(const struct from_bf16_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->N, GRAIN, team);
    const bf16 *restrict x = args->x;
    real *restrict y = args->y;
    for (int64_t i = mine.begin; i < mine.end; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        float wide;
        memcpy(&wide, &bits, sizeof wide);
        y[i] = (real)wide;
    }
    return GOLLM_OK;
}
