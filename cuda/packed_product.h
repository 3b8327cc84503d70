/* Products with a packed weight and their epilogue, c (M, N) = f(a (M, K) w (N, K)^T), w in panels of 32 outputs.
 *
 * An element of c is summed over CHUNKs of k, each from 0 in the way of the kind of weight, added in ascending order, whatever
 * M, N and the kernel: no result depends on the batch. With few rows a product is bound by reading w once, and chunks are what is
 * read at the same time: a block of threads takes a panel, each warp a chunk of it at a time, and all of a chunk's loads are under
 * way before the first is used. With more rows a block takes ROWS of them, whose sums share what is read of w.
 *
 * A kind of weight is a struct whose multiply(p, panel, m0, chunk, sums) leaves the sums (ROWS, 32) of a chunk, by a warp; those
 * of rows from M on and of outputs from N on may be anything.
 */
#ifndef GOLLM_CUDA_PACKED_PRODUCT_H
#define GOLLM_CUDA_PACKED_PRODUCT_H

#include "gemm.h"
#include "panels.h"

namespace GOLLM_VARIANT {

constexpr int CHUNK = 128, PACKED_WARPS = 16;

struct PackedProduct {
    int64_t M, N, K;
    const real *a;
    Epilogue epilogue;
};

/* Of the arguments of a forward product. */
template <class Args> PackedProduct packed_product_of(const Args *args) {
    return {args->M, args->N, args->K, args->a, forward_epilogue(args)};
}

template <int ROWS> struct ChunkSums {
    float x[ROWS][PANEL + 1];
};
template <int ROWS> struct PackedProductMemory {
    ChunkSums<ROWS> sums[PACKED_WARPS];
};

template <int ROWS, class Weight>
__global__ void __launch_bounds__(PACKED_WARPS * 32) packed_product_kernel(PackedProduct p, Weight weight) {
    constexpr int THREADS = PACKED_WARPS * 32, EACH = (ROWS * PANEL + THREADS - 1) / THREADS;
    PackedProductMemory<ROWS> &memory = shared_memory<PackedProductMemory<ROWS>>();
    const int64_t tiles = ceil_div(p.M, ROWS), chunks = ceil_div(p.K, CHUNK);
    const int64_t panel = blockIdx.x / tiles, m0 = blockIdx.x % tiles * ROWS;
    float total[EACH] = {};
    for (int64_t first = 0; first < chunks; first += PACKED_WARPS) {
        const int warp = threadIdx.x / 32, n = (int)min_i64(PACKED_WARPS, chunks - first);
        if (warp < n) weight.multiply(p, panel, m0, first + warp, memory.sums[warp]);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int i = threadIdx.x + j * THREADS;
            for (int w = 0; w < n && i < ROWS * PANEL; w++) total[j] += memory.sums[w].x[i / PANEL][i % PANEL];
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        const int i = threadIdx.x + j * THREADS;
        const int64_t m = m0 + i / PANEL, n = panel * PANEL + i % PANEL;
        if (i < ROWS * PANEL && m < p.M && n < p.N) p.epilogue(m * p.N + n, n, 1, Single{{total[j]}});
    }
}

template <int ROWS, class Weight>
static int run_packed(const PackedProduct &p, const Weight &weight, const gollm_team *team) {
    const int64_t blocks = ceil_div(p.M, ROWS) * ceil_div(p.N, PANEL);
    return launch(packed_product_kernel<ROWS, Weight>, dim3((unsigned)blocks), PACKED_WARPS * 32,
                  sizeof(PackedProductMemory<ROWS>), team, p, weight);
}

} // namespace GOLLM_VARIANT

#endif
