/* The sum of e^x over a row, in one pass: the largest x so far, and the sum of e^(x - largest), which is scaled down where a
 * larger x comes. */
#ifndef GOLLM_CUDA_SUM_EXP_H
#define GOLLM_CUDA_SUM_EXP_H

#include "kernel.h"

namespace GOLLM_VARIANT {

/* A block takes a row of n values: as many threads as have something to do. */
constexpr int MOST_SUM_THREADS = 1024;
static inline int sum_exp_threads(int64_t n) { return n >= 16384 ? MOST_SUM_THREADS : n >= 2048 ? 256 : 32; }

struct SumExp {
    float max, sum;
};
struct SumExpMemory {
    float partial[MOST_SUM_THREADS / 32];
};

/* Of x (n), in every thread. NaN or +inf in x makes the sum NaN, and so does a row of nothing but -inf, as e^(x - max) has it. */
__device__ __forceinline__ SumExp block_sum_exp(const real *x, int64_t n, SumExpMemory &memory) {
    SumExp mine = {-INFINITY, 0};
    for (int64_t i = (int64_t)threadIdx.x * VL; i < n; i += (int64_t)blockDim.x * VL) {
        const vec v = load_n(x + i, n - i, -INFINITY);
        float max = mine.max, sum = 0;
        EACH_LANE(k) max = fmaxf(max, v.x[k]);
        const float from = max == -INFINITY ? 0 : max; // nothing but -inf so far: e^x is 0
        EACH_LANE(k) sum += expf(v.x[k] - from);
        mine = {max, mine.sum * expf(mine.max - from) + sum};
    }
    const float max = block_max(mine.max, memory.partial);
    return {max, block_sum(mine.sum * expf(mine.max - max), memory.partial)};
}

} // namespace GOLLM_VARIANT

#endif
