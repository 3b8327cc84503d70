/* Softmax over the last axis:  y = e^(x - max x) / sum of e^(x - max x)  for each row
 *
 *   forward    x (N, C)         ->  y (N, C)       y may be x
 *   backward   dy, y (N, C)     ->  dx (N, C)      dx may be dy
 *
 * dx = y * (dy - sum(dy * y)). A row with NaN or +inf in it, or of nothing but -inf, becomes NaN, as the formula has it. Bound
 * by memory: a warp takes a row, which it reads again from L1.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ROW_WARPS * 32) softmax_forward_kernel(softmax_forward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *x = args.x + n * C; // (C)
    float max = -INFINITY, sum = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i, -INFINITY);
        EACH_LANE(k) max = fmaxf(max, v.x[k]);
    }
    max = warp_max(max);
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i, -INFINITY);
        EACH_LANE(k) if (i + k < C) sum += expf(v.x[k] - max);
    }
    const float inverse = 1 / warp_sum(sum);
    EACH_VECTOR_OF_ROW(i, C) {
        vec v = load_n(x + i, C - i);
        EACH_LANE(k) v.x[k] = expf(v.x[k] - max) * inverse;
        store_n(args.y + n * C + i, v, C - i);
    }
}

int softmax_forward(const softmax_forward_args *args, const gollm_team *team) {
    return launch(softmax_forward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
}

__global__ void __launch_bounds__(ROW_WARPS * 32) softmax_backward_kernel(softmax_backward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *dy = args.dy + n * C, *y = args.y + n * C; // (C)
    float sum = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(dy + i, C - i) * load_n(y + i, C - i);
        EACH_LANE(k) sum += v.x[k];
    }
    const float mean = warp_sum(sum); // of dy, with the weights y
    EACH_VECTOR_OF_ROW(i, C) {
        const int64_t left = C - i;
        vec d = load_n(dy + i, left);
        EACH_LANE(k) d.x[k] -= mean;
        d = d * load_n(y + i, left);
        real *dx = args.dx + n * C + i;
        if (args.dx_accumulate) d = d + load_n(dx, left);
        store_n(dx, d, left);
    }
}

int softmax_backward(const softmax_backward_args *args, const gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    return launch(softmax_backward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
}

} // namespace GOLLM_VARIANT
