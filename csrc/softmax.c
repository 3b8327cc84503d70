/* Softmax over the last axis:  y = e^(x - max x) / sum of e^(x - max x)  for each row
 *
 *   forward    x (N, C)         ->  y (N, C)       y may be x
 *   backward   dy, y (N, C)     ->  dx (N, C)      dx may be dy
 *
 * dx = y * (dy - sum(dy * y)). A row with NaN or +inf in it, or of nothing but -inf, becomes NaN, as the formula has
 * it. Bound by memory and, from the caches, by the exponential. Rows are split among threads.
 */
#include "softmax.h"

int KERNEL_FN(softmax_forward)(const struct softmax_forward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    const struct range rows = thread_range(args->N, 1, team);
    for (int64_t n = rows.begin; n < rows.end; n++) {
        const real *x = args->x + n * C; // (C)
        real *y = args->y + n * C;       // (C)
        const vec inverse = vec_set(1 / row_exp(y, x, C, row_max(x, C)));
        for (int64_t i = 0; i < C; i += VL) vec_store_n(y + i, vec_load_n(y + i, C - i) * inverse, C - i);
    }
    return GOLLM_OK;
}

int KERNEL_FN(softmax_backward)(const struct softmax_backward_args *args, const struct gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    const int64_t C = args->C;
    const struct range rows = thread_range(args->N, 1, team);
    for (int64_t n = rows.begin; n < rows.end; n++) {
        const real *dy = args->dy + n * C, *y = args->y + n * C; // (C)
        real *dx = args->dx + n * C;                             // (C)
        vec sum = vec_set(0);
        for (int64_t i = 0; i < C; i += VL) sum += vec_load_n(dy + i, C - i) * vec_load_n(y + i, C - i);
        const vec mean = vec_set(vec_sum(sum)); // of dy, with the weights y
        for (int64_t i = 0; i < C; i += VL) {
            const int64_t left = C - i;
            vec d = vec_load_n(y + i, left) * (vec_load_n(dy + i, left) - mean);
            if (args->dx_accumulate) d += vec_load_n(dx + i, left);
            vec_store_n(dx + i, d, left);
        }
    }
    return GOLLM_OK;
}
