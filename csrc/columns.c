/* Some of the columns of a matrix, from `begin` on, and the way back; each is the other's gradient.
 *
 *   take   whole (M, W)    ->  part (M, N) = whole[:, begin : begin + N], overwritten or added to
 *   put    part (M, N)  ->  whole (M, W), zeros but for whole[:, begin : begin + N] = part; or part added to those
 *
 * Bound by memory. Rows are split among threads.
 */
#include <string.h> /* memset */

#include "vec.h"

static int columns_check(int64_t W, int64_t N, int64_t begin) {
    return begin < 0 || N > W || begin > W - N ? GOLLM_BAD_VALUE : GOLLM_OK;
}

/* y (n) = x, or y += x */
static void move(real *y, const real *x, int64_t n, int accumulate) {
    for (int64_t i = 0; i < n; i += VL) {
        vec v = vec_load_n(x + i, n - i);
        if (accumulate) v += vec_load_n(y + i, n - i);
        vec_store_n(y + i, v, n - i);
    }
}

int KERNEL_FN(columns_take_check)(const struct columns_take_args *args) {
    return columns_check(args->W, args->N, args->begin);
}

int KERNEL_FN(columns_take)(const struct columns_take_args *args, const struct gollm_team *team) {
    if (!args->part) return GOLLM_OK;
    const struct range rows = thread_range(args->M, 1, team);
    for (int64_t m = rows.begin; m < rows.end; m++)
        move(args->part + m * args->N, args->whole + m * args->W + args->begin, args->N, args->part_accumulate != 0);
    return GOLLM_OK;
}

int KERNEL_FN(columns_put_check)(const struct columns_put_args *args) {
    return args->whole ? columns_check(args->W, args->N, args->begin) : GOLLM_OK; // else W is not known
}

int KERNEL_FN(columns_put)(const struct columns_put_args *args, const struct gollm_team *team) {
    if (!args->whole) return GOLLM_OK;
    const struct range rows = thread_range(args->M, 1, team);
    for (int64_t m = rows.begin; m < rows.end; m++) {
        real *row = args->whole + m * args->W;
        if (!args->whole_accumulate) memset(row, 0, (size_t)args->W * sizeof(real));
        move(row + args->begin, args->part + m * args->N, args->N, args->whole_accumulate != 0);
    }
    return GOLLM_OK;
}
