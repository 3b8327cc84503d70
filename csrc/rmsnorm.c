/* RMSNorm (Zhang & Sennrich 2019):  y = x * r * w,   r = 1 / sqrt(mean(x^2) + eps)   for each row
 *
 *   forward    x (N, C), w (C)            ->  y (N, C), r (N)       y may be x
 *   backward   dy, x (N, C), w (C), r (N) ->  dx (N, C), dw (C)     dx may be dy
 *
 * With g = dy * w:  dx = r * (g - x * r^2 * mean(g * x)),   dw = sum over rows of dy * x * r.
 * Bound by memory: forward moves 2NC reals, backward 3NC. Rows are split among threads; dw is summed over ROW_BLOCKS partial
 * sums, in order.
 */
#include "summation_order.h" /* ROW_BLOCKS */
#include "vec.h"

int KERNEL_FN(rmsnorm_forward)(const struct rmsnorm_forward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    const struct range rows = thread_range(args->N, 1, team);
    for (int64_t n = rows.begin; n < rows.end; n++) {
        const real *x = args->x + n * C; // (C)
        real *y = args->y + n * C;       // (C)
        vec squares = vec_set(0);
        for (int64_t i = 0; i < C; i += VL) {
            const vec v = vec_load_n(x + i, C - i);
            squares += v * v;
        }
        const real r = 1 / (real)sqrt(vec_sum(squares) / (real)C + (real)args->eps);
        for (int64_t i = 0; i < C; i += VL) {
            const int64_t left = C - i;
            vec_store_n(y + i, vec_load_n(x + i, left) * vec_set(r) * vec_load_n(args->w + i, left), left);
        }
        if (args->r) args->r[n] = r;
    }
    return GOLLM_OK;
}

/* Partial sums of dw: (ROW_BLOCKS, C) */
int64_t KERNEL_FN(rmsnorm_backward_workspace)(const struct rmsnorm_backward_args *args, int n_threads) {
    (void)n_threads;
    return times_i64(sizeof(real) * ROW_BLOCKS, args->C);
}

static void backward_row(const struct rmsnorm_backward_args *args, int64_t n, real *dw /* (C), added to */) {
    const int64_t C = args->C;
    const real *dy = args->dy + n * C, *x = args->x + n * C; // (C)
    const vec r = vec_set(args->r[n]);
    vec sum = vec_set(0);
    for (int64_t i = 0; i < C; i += VL) {
        const int64_t left = C - i;
        const vec d = vec_load_n(dy + i, left), h = vec_load_n(x + i, left) * r;
        sum += d * vec_load_n(args->w + i, left) * h;
        vec_store_n(dw + i, vec_load_n(dw + i, left) + d * h, left);
    }
    if (!args->dx) return;
    const vec mean = vec_set(vec_sum(sum) / (real)C); // of g * x * r
    real *dx = args->dx + n * C;                      // (C)
    for (int64_t i = 0; i < C; i += VL) {
        const int64_t left = C - i;
        const vec h = vec_load_n(x + i, left) * r, g = vec_load_n(dy + i, left) * vec_load_n(args->w + i, left);
        vec d = r * (g - h * mean);
        if (args->dx_accumulate) d += vec_load_n(dx + i, left);
        vec_store_n(dx + i, d, left);
    }
}

int KERNEL_FN(rmsnorm_backward)(const struct rmsnorm_backward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    real *partial = team->workspace; // (ROW_BLOCKS, C)
    const struct range blocks = thread_range(ROW_BLOCKS, 1, team);
    for (int64_t block = blocks.begin; block < blocks.end; block++) {
        real *dw = partial + block * C; // (C)
        memset(dw, 0, (size_t)C * sizeof(real));
        const struct range rows = split(args->N, 1, block, ROW_BLOCKS);
        for (int64_t n = rows.begin; n < rows.end; n++) backward_row(args, n, dw);
    }
    gollm_team_wait(team);
    if (!args->dw) return GOLLM_OK;
    const struct range columns = thread_range(C, LINE, team);
    for (int64_t i = columns.begin; i < columns.end; i += VL) {
        const int64_t left = columns.end - i;
        vec dw = vec_set(0);
        for (int64_t block = 0; block < ROW_BLOCKS; block++) dw += vec_load_n(partial + block * C + i, left);
        vec_store_n(args->dw + i, args->dw_accumulate ? vec_load_n(args->dw + i, left) + dw : dw, left);
    }
    return GOLLM_OK;
}
