/* Layer normalisation (Ba, Kiros & Hinton 2016):  y = (x - mean) * rstd * w + b,  rstd = 1 / sqrt(var + eps)  for each row
 *
 *   forward    x (N, C), w (C), b (C) or NULL              ->  y (N, C), mean (N), rstd (N)             y may be x
 *   backward   dy, x (N, C), w (C), mean (N), rstd (N)     ->  dx (N, C), dw (C), db (C)                dx may be dy
 *
 * With g = dy * w and h = (x - mean) * rstd:  dx = rstd * (g - mean(g) - h * mean(g * h)),
 * dw = sum over rows of dy * h, db = sum over rows of dy.
 * Bound by memory: a warp takes a row, whose second and third reading come from L1. Backward adds dw and db first, since dx
 * may overwrite dy: column_sums.h.
 */
#include "column_sums.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ROW_WARPS * 32) layernorm_forward_kernel(layernorm_forward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *x = args.x + n * C; // (C)
    float sum = 0, squares = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i);
        EACH_LANE(k) sum += v.x[k];
    }
    const float mean = warp_sum(sum) / (float)C;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i, mean);
        EACH_LANE(k) squares += (v.x[k] - mean) * (v.x[k] - mean);
    }
    const float rstd = 1 / sqrtf(warp_sum(squares) / (float)C + (float)args.eps);
    EACH_VECTOR_OF_ROW(i, C) {
        const int64_t left = C - i;
        const vec w = load_n(args.w + i, left);
        vec v = load_n(x + i, left);
        EACH_LANE(k) v.x[k] = (v.x[k] - mean) * rstd * w.x[k];
        if (args.b) v = v + load_n(args.b + i, left);
        store_n(args.y + n * C + i, v, left);
    }
    if (threadIdx.x % 32 == 0) {
        if (args.mean) args.mean[n] = mean;
        if (args.rstd) args.rstd[n] = rstd;
    }
}

int layernorm_forward(const layernorm_forward_args *args, const gollm_team *team) {
    return launch(layernorm_forward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
}

__global__ void __launch_bounds__(ROW_WARPS * 32) layernorm_backward_kernel(layernorm_backward_args args) {
    const int64_t n = row_of_warp(), C = args.C;
    if (n >= args.N) return;
    const real *dy = args.dy + n * C, *x = args.x + n * C; // (C)
    const float mean = args.mean[n], rstd = args.rstd[n];
    float sum_g = 0, sum_gh = 0;
    EACH_VECTOR_OF_ROW(i, C) {
        const vec v = load_n(x + i, C - i), g = load_n(dy + i, C - i) * load_n(args.w + i, C - i);
        EACH_LANE(k) {
            sum_g += g.x[k];
            sum_gh += g.x[k] * ((v.x[k] - mean) * rstd);
        }
    }
    const float mean_g = warp_sum(sum_g) / (float)C, mean_gh = warp_sum(sum_gh) / (float)C;
    EACH_VECTOR_OF_ROW(i, C) {
        const int64_t left = C - i;
        const vec v = load_n(x + i, left), g = load_n(dy + i, left) * load_n(args.w + i, left);
        vec d;
        EACH_LANE(k) d.x[k] = rstd * (g.x[k] - mean_g - (v.x[k] - mean) * rstd * mean_gh);
        real *dx = args.dx + n * C + i;
        if (args.dx_accumulate) d = d + load_n(dx, left);
        store_n(dx, d, left);
    }
}

struct LayerNormColumns {
    const real *dy, *x;
    const wide *mean, *rstd;
    __device__ vec weight(int64_t n, int64_t at, int64_t left) const {
        const vec v = load_n(x + at, left);
        vec d = load_n(dy + at, left);
        EACH_LANE(k) d.x[k] *= (v.x[k] - mean[n]) * rstd[n];
        return d;
    }
    __device__ vec bias(int64_t at, int64_t left) const { return load_n(dy + at, left); }
};

int64_t layernorm_backward_workspace(const layernorm_backward_args *args) { return column_sums_bytes(args->C); }

int layernorm_backward(const layernorm_backward_args *args, const gollm_team *team) {
    const LayerNormColumns columns = {args->dy, args->x, args->mean, args->rstd};
    int status =
        column_sums(columns, args->N, args->C, {args->dw, args->dw_accumulate}, {args->db, args->db_accumulate}, team);
    if (status == GOLLM_OK && args->dx)
        status = launch(layernorm_backward_kernel, row_blocks(args->N), ROW_WARPS * 32, 0, team, *args);
    return status;
}

} // namespace GOLLM_VARIANT
