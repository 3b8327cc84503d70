/* Some of the columns of a matrix, from `begin` on, and the way back; each is the other's gradient.
 *
 *   take   whole (M, W)    ->  part (M, N) = whole[:, begin : begin + N], overwritten or added to
 *   put    part (M, N)  ->  whole (M, W), zeros but for whole[:, begin : begin + N] = part; or part added to those
 *
 * Bound by memory: a warp takes a row.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

/* y (n) = x, or y += x */
__device__ __forceinline__ void move_row(real *y, const real *x, int64_t n, bool accumulate) {
    EACH_VECTOR_OF_ROW(i, n) {
        const vec v = load_n(x + i, n - i);
        store_n(y + i, accumulate ? v + load_n(y + i, n - i) : v, n - i);
    }
}

__global__ void __launch_bounds__(ROW_WARPS * 32) columns_take_kernel(columns_take_args args) {
    const int64_t m = row_of_warp();
    if (m < args.M)
        move_row(args.part + m * args.N, args.whole + m * args.W + args.begin, args.N, args.part_accumulate);
}

int columns_take(const columns_take_args *args, const gollm_team *team) {
    if (!args->part) return GOLLM_OK;
    return launch(columns_take_kernel, row_blocks(args->M), ROW_WARPS * 32, 0, team, *args);
}

__global__ void __launch_bounds__(ROW_WARPS * 32) columns_put_kernel(columns_put_args args) {
    const int64_t m = row_of_warp(), end = args.begin + args.N;
    if (m >= args.M) return;
    real *row = args.whole + m * args.W; // (W)
    if (!args.whole_accumulate) {
        EACH_VECTOR_OF_ROW(i, args.begin) store_n(row + i, vec{}, args.begin - i);
        EACH_VECTOR_OF_ROW(i, args.W - end) store_n(row + end + i, vec{}, args.W - end - i);
    }
    move_row(row + args.begin, args.part + m * args.N, args.N, args.whole_accumulate);
}

int columns_put(const columns_put_args *args, const gollm_team *team) {
    if (!args->whole) return GOLLM_OK;
    return launch(columns_put_kernel, row_blocks(args->M), ROW_WARPS * 32, 0, team, *args);
}

} // namespace GOLLM_VARIANT
