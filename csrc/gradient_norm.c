/* The norm of the gradient and the factor that clips it:
 *
 *   norm = sqrt(sum g^2),  scale = min(1, max_norm / (norm + 1e-6))          g (N)  ->  norm, scale (1)
 *
 * As torch.nn.utils.clip_grad_norm_ computes them, but in double precision. scale is 1 when max_norm is not above 0, and when
 * the norm is not finite: the caller sees that in norm, and no gradient turns into NaN before it could look. Bound by memory:
 * N reals. Squares are summed over ROW_BLOCKS ranges, in LANES partial sums each, added in order.
 */
#include "summation_order.h" /* ROW_BLOCKS, LANES */
#include "vec.h"

int64_t KERNEL_FN(gradient_norm_workspace)(const struct gradient_norm_args *args, int n_threads) {
    (void)args, (void)n_threads;
    return (int64_t)sizeof(double) * ROW_BLOCKS;
}

static double sum_of_squares(const real *g, int64_t n) {
    double sums[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += (double)g[i + j] * (double)g[i + j];
    for (; i < n; i++) sums[i % LANES] += (double)g[i] * (double)g[i];
    for (int j = 0; j < LANES; j++) sum += sums[j];
    return sum;
}

int KERNEL_FN(gradient_norm)(const struct gradient_norm_args *args, const struct gollm_team *team) {
    double *partial = team->workspace; // (ROW_BLOCKS)
    struct range blocks = thread_range(ROW_BLOCKS, 1, team);
    for (int64_t block = blocks.begin; block < blocks.end; block++) {
        struct range part = split(args->N, LANES, block, ROW_BLOCKS);
        partial[block] = sum_of_squares(args->g + part.begin, part.end - part.begin);
    }
    gollm_team_wait(team);
    if (team->thread != 0) return GOLLM_OK;
    double sum = 0;
    for (int block = 0; block < ROW_BLOCKS; block++) sum += partial[block];
    double norm = sqrt(sum), scale = args->max_norm / (norm + 1e-6);
    args->norm[0] = norm;
    args->scale[0] = args->max_norm > 0 && isfinite(norm) && scale < 1 ? scale : 1;
    return GOLLM_OK;
}
