/* Rotary position embedding, as csrc/rope.c has it: a row of the table has cos and sin of each pair side by side. */
#ifndef GOLLM_CUDA_ROPE_H
#define GOLLM_CUDA_ROPE_H

#include "kernel.h"

namespace GOLLM_VARIANT {

/* Value d of a row x (D), rotated by a row of the table; unchanged where there is none. */
__device__ __forceinline__ float rotated(const real *x, const real *rotation, int d) {
    const float mine = to_float(x[d]);
    if (!rotation) return mine;
    const float cosine = to_float(rotation[d & ~1]), sine = to_float(rotation[d | 1]);
    return mine * cosine + to_float(x[d ^ 1]) * (d & 1 ? sine : -sine);
}

} // namespace GOLLM_VARIANT

#endif
