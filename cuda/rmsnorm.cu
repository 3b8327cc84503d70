/* RMSNorm (Zhang & Sennrich 2019):  y = x * r * w,   r = 1 / sqrt(mean(x^2) + eps)   for each row
 *
 *   forward    x (N, C), w (C)            ->  y (N, C), r (N)       y may be x
 *   backward   dy, x (N, C), w (C), r (N) ->  dx (N, C), dw (C)     dx may be dy
 *
 * With g = dy * w:  dx = r * (g - x * r^2 * mean(g * x)),   dw = sum over rows of dy * x * r.
 * Bound by memory: a warp takes a row, whose second reading comes from L1. Backward adds dw first, since dx may overwrite dy.
 */
#include "column_sums.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ROW_WARPS * 32) rmsnorm_forward_kernel(rmsnorm_forward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *x = args.x + n * C; // (C)
    float squares = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i);
        EACH_LANE(k) squares += v.x[k] * v.x[k];
    }
    const float r = 1 / sqrtf(warp_sum(squares) / (float)C + (float)args.eps);
    EACH_VECTOR_OF_ROW(i, C) {
        const int64_t left = C - i;
        const vec w = load_n(args.w + i, left);
        vec v = load_n(x + i, left);
        EACH_LANE(k) v.x[k] = v.x[k] * r * w.x[k];
        store_n(args.y + n * C + i, v, left);
    }
    if (args.r && threadIdx.x % 32 == 0) args.r[n] = r;
}

int rmsnorm_forward(const rmsnorm_forward_args *args, const gollm_team *team) {
    return launch(rmsnorm_forward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
}

__global__ void __launch_bounds__(ROW_WARPS * 32) rmsnorm_backward_kernel(rmsnorm_backward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *dy = args.dy + n * C, *x = args.x + n * C; // (C)
    const float r = args.r[n];
    float sum = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i), g = load_n(dy + i, C - i) * load_n(args.w + i, C - i);
        EACH_LANE(k) sum += g.x[k] * (v.x[k] * r);
    }
    const float mean = warp_sum(sum) / (float)C; // of g * x * r
    EACH_VECTOR_OF_ROW(i, C) {
        const int64_t left = C - i;
        const vec v = load_n(x + i, left), g = load_n(dy + i, left) * load_n(args.w + i, left);
        vec d;
        EACH_LANE(k) d.x[k] = r * (g.x[k] - v.x[k] * r * mean);
        real *dx = args.dx + n * C + i;
        if (args.dx_accumulate) d = d + load_n(dx, left);
        store_n(dx, d, left);
    }
}

struct RMSNormColumns {
    const real *dy, *x;
    const wide *r;
    __device__ vec weight(int64_t n, int64_t at, int64_t left) const {
        const vec v = load_n(x + at, left);
        vec d = load_n(dy + at, left);
        EACH_LANE(k) d.x[k] *= v.x[k] * r[n];
        return d;
    }
    __device__ vec bias(int64_t, int64_t) const { return {}; }
};

int64_t rmsnorm_backward_workspace(const rmsnorm_backward_args *args) { return column_sums_bytes(args->C); }

int rmsnorm_backward(const rmsnorm_backward_args *args, const gollm_team *team) {
    const RMSNormColumns columns = {args->dy, args->x, args->r};
    int status = column_sums(columns, args->N, args->C, {args->dw, args->dw_accumulate}, {nullptr, 0}, team);
    if (status == GOLLM_OK && args->dx)
        status = launch(rmsnorm_backward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
    return status;
}

} // namespace GOLLM_VARIANT
