/* The norm of the gradient and the factor that clips it:
 *
 *   norm = sqrt(sum g^2),  scale = min(1, max_norm / (norm + 1e-6))          g (N)  ->  norm, scale (1)
 *
 * In double precision; scale is 1 when max_norm is not above 0, and when the norm is not finite. Bound by memory: N reals.
 * Squares are summed by blocks whose number depends on N alone, at most NORM_BLOCKS, and a last block adds their sums.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

constexpr int NORM_BLOCKS = 256, NORM_THREADS = 256;

struct NormMemory {
    double partial[32];
};

__global__ void __launch_bounds__(NORM_THREADS) squares_kernel(double *partial, const real *g, int64_t N) {
    double sum = 0;
    EACH_VECTOR(i, N) {
        const vec v = load_n(g + i, N - i);
        EACH_LANE(k) sum += (double)v.x[k] * (double)v.x[k];
    }
    sum = block_sum(sum, shared_memory<NormMemory>().partial);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(NORM_BLOCKS)
    gradient_norm_kernel(gradient_norm_args args, const double *partial, int n) {
    const double mine = (int)threadIdx.x < n ? partial[threadIdx.x] : 0;
    const double norm = sqrt(block_sum(mine, shared_memory<NormMemory>().partial));
    const double scale = args.max_norm / (norm + 1e-6);
    if (threadIdx.x != 0) return;
    *args.norm = norm;
    *args.scale = args.max_norm > 0 && isfinite(norm) && scale < 1 ? scale : 1;
}

int64_t gradient_norm_workspace(const gradient_norm_args *) { return sizeof(double) * NORM_BLOCKS; }

int gradient_norm(const gradient_norm_args *args, const gollm_team *team) {
    double *partial = (double *)team->workspace; // (NORM_BLOCKS)
    const int n = (int)min_i64(NORM_BLOCKS, ceil_div(args->N, NORM_THREADS * VL));
    const int status =
        launch(squares_kernel, dim3(grid_size(n)), NORM_THREADS, sizeof(NormMemory), team, partial, args->g, args->N);
    if (status != GOLLM_OK) return status;
    return launch(gradient_norm_kernel, dim3(1), NORM_BLOCKS, sizeof(NormMemory), team, *args, partial, n);
}

} // namespace GOLLM_VARIANT
