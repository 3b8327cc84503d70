/* Layer normalisation (Ba, Kiros & Hinton 2016):  y = (x - mean) * rstd * w + b,  rstd = 1 / sqrt(var + eps)  for each row
 *
 *   forward    x (N, C), w (C), b (C) or NULL              ->  y (N, C), mean (N), rstd (N)             y may be x
 *   backward   dy, x (N, C), w (C), mean (N), rstd (N)     ->  dx (N, C), dw (C), db (C)                dx may be dy
 *
 * With g = dy * w and h = (x - mean) * rstd:  dx = rstd * (g - mean(g) - h * mean(g * h)),
 * dw = sum over rows of dy * h, db = sum over rows of dy.
 * Bound by memory: forward moves 2NC reals, backward 3NC. Rows are split among threads; dw and db are summed over ROW_BLOCKS
 * partial sums, in order.
 */
#include "summation_order.h" /* ROW_BLOCKS */
#include "vec.h"

int KERNEL_FN(layernorm_forward)(const struct layernorm_forward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    struct range rows = thread_range(args->N, 1, team);
    for (int64_t n = rows.begin; n < rows.end; n++) {
        const real *x = args->x + n * C; // (C)
        real *y = args->y + n * C;       // (C)
        vec sum = vec_set(0), squares = vec_set(0);
        for (int64_t i = 0; i < C; i += VL) sum += vec_load_n(x + i, C - i);
        real mean = vec_sum(sum) / (real)C;
        for (int64_t i = 0; i + VL <= C; i += VL) {
            vec d = vec_load(x + i) - vec_set(mean);
            squares += d * d;
        }
        real variance = vec_sum(squares);
        for (int64_t i = C / VL * VL; i < C; i++) variance += (x[i] - mean) * (x[i] - mean);
        real rstd = 1 / (real)sqrt(variance / (real)C + (real)args->eps);
        for (int64_t i = 0; i < C; i += VL) {
            vec h = (vec_load_n(x + i, C - i) - vec_set(mean)) * vec_set(rstd) * vec_load_n(args->w + i, C - i);
            if (args->b) h += vec_load_n(args->b + i, C - i);
            vec_store_n(y + i, h, C - i);
        }
        if (args->mean) args->mean[n] = mean;
        if (args->rstd) args->rstd[n] = rstd;
    }
    return GOLLM_OK;
}

/* Partial sums of dw and db: (ROW_BLOCKS, 2, C) */
int64_t KERNEL_FN(layernorm_backward_workspace)(const struct layernorm_backward_args *args, int n_threads) {
    (void)n_threads;
    return times_i64(sizeof(real) * ROW_BLOCKS * 2, args->C);
}

static void backward_row(const struct layernorm_backward_args *args, int64_t n,
                         real *dw, // (C), added to
                         real *db  // (C), added to
) {
    const int64_t C = args->C;
    const real *dy = args->dy + n * C, *x = args->x + n * C; // (C)
    const vec mean = vec_set(args->mean[n]), rstd = vec_set(args->rstd[n]);
    vec sum_g = vec_set(0), sum_gh = vec_set(0);
    for (int64_t i = 0; i < C; i += VL) {
        int64_t left = C - i;
        vec d = vec_load_n(dy + i, left), h = (vec_load_n(x + i, left) - mean) * rstd,
            g = d * vec_load_n(args->w + i, left);
        sum_g += g;
        sum_gh += g * h;
        vec_store_n(dw + i, vec_load_n(dw + i, left) + d * h, left);
        vec_store_n(db + i, vec_load_n(db + i, left) + d, left);
    }
    if (!args->dx) return;
    const vec mean_g = vec_set(vec_sum(sum_g) / (real)C), mean_gh = vec_set(vec_sum(sum_gh) / (real)C);
    real *dx = args->dx + n * C; // (C)
    for (int64_t i = 0; i < C; i += VL) {
        int64_t left = C - i;
        vec h = (vec_load_n(x + i, left) - mean) * rstd, g = vec_load_n(dy + i, left) * vec_load_n(args->w + i, left);
        vec d = rstd * (g - mean_g - h * mean_gh);
        if (args->dx_accumulate) d += vec_load_n(dx + i, left);
        vec_store_n(dx + i, d, left);
    }
}

int KERNEL_FN(layernorm_backward)(const struct layernorm_backward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    real *partial = team->workspace; // (ROW_BLOCKS, 2, C)
    struct range blocks = thread_range(ROW_BLOCKS, 1, team);
    for (int64_t block = blocks.begin; block < blocks.end; block++) {
        real *dw = partial + block * 2 * C, *db = dw + C; // (C)
        memset(dw, 0, (size_t)(2 * C) * sizeof(real));
        struct range rows = split(args->N, 1, block, ROW_BLOCKS);
        for (int64_t n = rows.begin; n < rows.end; n++) backward_row(args, n, dw, db);
    }
    gollm_team_wait(team);
    struct range columns = thread_range(C, LINE, team);
    for (int64_t i = columns.begin; i < columns.end; i += VL) {
        const int64_t left = columns.end - i;
        vec dw = vec_set(0), db = vec_set(0);
        for (int64_t block = 0; block < ROW_BLOCKS; block++) {
            dw += vec_load_n(partial + block * 2 * C + i, left);
            db += vec_load_n(partial + block * 2 * C + C + i, left);
        }
        if (args->dw) vec_store_n(args->dw + i, args->dw_accumulate ? vec_load_n(args->dw + i, left) + dw : dw, left);
        if (args->db) vec_store_n(args->db + i, args->db_accumulate ? vec_load_n(args->db + i, left) + db : db, left);
    }
    return GOLLM_OK;
}
