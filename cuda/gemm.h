/* Products of matrices with their epilogue, c (M, N) = op(a) op(b): two kernels, both for every layout and size.
 *
 *   products of floats      64 x 64 of c a block, 4 x 4 a thread, in fp32; operands rounded to bfloat16 first where asked
 *   products of bfloat16    128 x 128 of c a block, 64 x 64 a warp, mma.sync, tiles of 64 of k copied three stages ahead;
 *                           on a Hopper 128 x 256 (gemm_hopper.h), where the operands are aligned, with the same bits
 *
 * An operand lies with k contiguous (K-major) or with its other axis (MN-major). An element of c is one chain over k in
 * ascending order (16 at a time in a tensor core), whatever M and N are: no result depends on the batch.
 */
#ifndef GOLLM_CUDA_GEMM_H
#define GOLLM_CUDA_GEMM_H

#include "product.h"
#ifdef GOLLM_BF16
#include "chunks.h"
#include "gemm_hopper.h"
#endif

namespace GOLLM_VARIANT {

/* A tile's, from shared memory, so that the epilogue is compiled once and neighbouring threads write neighbouring elements. */
__device__ __forceinline__ void write_tile(const Product &p, const float (&sums)[TILE][TILE + 4], int64_t m0,
                                           int64_t n0) {
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * TILE / VL; i += PRODUCT_THREADS) {
        const int m = i / (TILE / VL), n = i % (TILE / VL) * VL;
        write_sums(p, m0 + m, n0 + n, blockIdx.y, gridDim.y, load_n(&sums[m][n], VL));
    }
}

static __global__ void __launch_bounds__(ELEMENT_THREADS) add_products_kernel(Product p, int parts) {
    const int64_t vectors = ceil_div(p.N, VL), i = (int64_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    const int64_t m = i / vectors, n = i % vectors * VL;
    if (m >= p.M) return;
    vec sums = {};
    for (int part = 0; part < parts; part++) sums = sums + load_n(p.partial + (part * p.M + m) * p.N + n, p.N - n);
    p.epilogue(m * p.c_stride + n, n, p.N - n, sums);
}

#ifndef GOLLM_BF16
struct ProductTiles {
    float a[STEP][TILE + 4], b[STEP][TILE + 4];
};
union ProductMemory {
    ProductTiles tiles;
    float sums[TILE][TILE + 4];
};

__device__ __forceinline__ float operand(const real *x, int64_t at, int64_t compute) {
    const float v = to_float(x[at]);
    return compute == GOLLM_BFLOAT16 ? to_float(bf16{bf16_of_float(v)}) : v;
}

template <bool MN_MAJOR>
__device__ __forceinline__ void load_product_tile(float (&tile)[STEP][TILE + 4], const real *x, int64_t stride,
                                                  int64_t mn0, int64_t k0, int64_t mn_size, int64_t k_size,
                                                  int64_t compute) {
    for (int i = threadIdx.x; i < TILE * STEP; i += PRODUCT_THREADS) {
        const int mn = MN_MAJOR ? i % TILE : i / STEP, k = MN_MAJOR ? i / TILE : i % STEP;
        const int64_t row = mn0 + mn, step = k0 + k;
        tile[k][mn] = row < mn_size && step < k_size
                          ? operand(x, MN_MAJOR ? step * stride + row : row * stride + step, compute)
                          : 0;
    }
}

template <bool A_MN, bool B_MN> __global__ void __launch_bounds__(PRODUCT_THREADS, 2) product_kernel(Product p) {
    ProductMemory &memory = shared_memory<ProductMemory>();
    ProductTiles &tiles = memory.tiles;
    const TilePlace tile(blockIdx.x, ceil_div(p.M, TILE), ceil_div(p.N, TILE));
    const ProductSteps steps(p.K, blockIdx.y, gridDim.y);
    const int64_t m0 = tile.row * TILE, n0 = tile.column * TILE;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float c[4][4] = {};
    for (int step = steps.begin; step < steps.end; step++) {
        const int64_t k0 = (int64_t)step * STEP;
        __syncthreads();
        load_product_tile<A_MN>(tiles.a, p.a, p.a_stride, m0, k0, p.M, p.K, p.compute);
        load_product_tile<B_MN>(tiles.b, p.b, p.b_stride, n0, k0, p.N, p.K, p.compute);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) c[i][j] += tiles.a[k][row + i] * tiles.b[k][column + j];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) memory.sums[row + i][column + j] = c[i][j];
    __syncthreads();
    write_tile(p, memory.sums, m0, n0);
}

#else
/* Products of bfloat16. A tile is 128 (m or n) x 64 (k): K-major 128 rows, MN-major two slabs of 64 rows (k) (chunks.h). */
struct ProductTiles {
    struct Stage {
        bf16 a[TILE * STEP], b[TILE * STEP];
    } stages[STAGES];
};
union ProductMemory {
    ProductTiles tiles;
    float sums[TILE][TILE + 4];
};

template <bool MN_MAJOR>
__device__ __forceinline__ void load_product_tile(bf16 *tile, const bf16 *x, int64_t stride, int64_t mn0, int64_t k0,
                                                  int64_t mn_size, int64_t k_size) {
    const bool aligned = is_aligned(x) && stride % 8 == 0;
    for (int i = threadIdx.x; i < TILE * STEP / 8; i += PRODUCT_THREADS) {
        const int row = i / 8, chunk = i % 8;
        const int64_t mn = MN_MAJOR ? mn0 + row / 64 * 64 + chunk * 8 : mn0 + row;
        const int64_t k = MN_MAJOR ? k0 + row % 64 : k0 + chunk * 8;
        const int64_t left = MN_MAJOR ? (k < k_size ? mn_size - mn : 0) : (mn < mn_size ? k_size - k : 0);
        const int valid = left >= 8 ? 8 : left > 0 ? (int)left : 0;
        const bf16 *from = valid ? (MN_MAJOR ? x + k * stride + mn : x + mn * stride + k) : x;
        if (aligned)
            copy_async16(chunk_address(shared_address(tile), row, chunk), from, valid * 2);
        else
            for (int j = 0; j < 8; j++) tile[row * 64 + (chunk ^ (row & 7)) * 8 + j] = j < valid ? from[j] : bf16{0};
    }
}

template <bool A_MN, bool B_MN> __global__ void __launch_bounds__(PRODUCT_THREADS) product_kernel(Product p) {
    ProductMemory &memory = shared_memory<ProductMemory>();
    ProductTiles &tiles = memory.tiles;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / 2 * 64, wn = warp % 2 * 64;
    const TilePlace tile(blockIdx.x, ceil_div(p.M, TILE), ceil_div(p.N, TILE));
    const ProductSteps steps(p.K, blockIdx.y, gridDim.y);
    const int64_t m0 = tile.row * TILE, n0 = tile.column * TILE;
    float c[4][8][4] = {};
    auto load = [&](int step) {
        if (step < steps.end) {
            ProductTiles::Stage &stage = tiles.stages[step % STAGES];
            load_product_tile<A_MN>(stage.a, p.a, p.a_stride, m0, (int64_t)step * STEP, p.M, p.K);
            load_product_tile<B_MN>(stage.b, p.b, p.b_stride, n0, (int64_t)step * STEP, p.N, p.K);
        }
        copy_commit();
    };
    for (int step = 0; step < STAGES - 1; step++) load(steps.begin + step);
    for (int step = steps.begin; step < steps.end; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1); // into the stage that all have left
        const uint32_t ta = shared_address(tiles.stages[step % STAGES].a);
        const uint32_t tb = shared_address(tiles.stages[step % STAGES].b);
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            uint32_t a[4][4], b[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int m = wm + i * 16, n = wn + i * 16;
                if (A_MN)
                    ldmatrix4_transposed(
                        a[i], chunk_address(ta, m / 64 * 64 + k + lane % 8 + lane / 16 * 8, m % 64 / 8 + lane / 8 % 2));
                else
                    ldmatrix4(a[i], chunk_address(ta, m + lane % 16, k / 8 + lane / 16));
                if (B_MN)
                    ldmatrix4_transposed(b[i], chunk_address(tb, n / 64 * 64 + k + lane % 16, n % 64 / 8 + lane / 16));
                else
                    ldmatrix4(b[i], chunk_address(tb, n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) mma_bf16(c[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
    copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int m = wm + i * 16 + lane / 4 + e / 2 * 8, n = wn + j * 8 + lane % 4 * 2 + e % 2;
                memory.sums[m][n] = c[i][j][e];
            }
    __syncthreads();
    write_tile(p, memory.sums, m0, n0);
}
#endif

template <bool A_MN, bool B_MN> int run_parts(const Product &p, int64_t parts, const gollm_team *team) {
#ifdef GOLLM_BF16
    if (takes_product(p))
        if (const int processors = gollm_cuda_hopper_processors(); processors > 0)
            return run_hopper_product<A_MN, B_MN>(p, parts, processors, team);
#endif
    const dim3 blocks(grid_size(product_blocks(p.M, p.N)), (unsigned)parts);
    return launch(product_kernel<A_MN, B_MN>, blocks, PRODUCT_THREADS, sizeof(ProductMemory), team, p);
}

template <bool A_MN, bool B_MN> int run_product(const Product &p, const gollm_team *team) {
    const int64_t parts = p.partial ? product_parts(p.M, p.N, p.K) : 1;
    const int status = run_parts<A_MN, B_MN>(p, parts, team);
    if (status != GOLLM_OK || parts == 1) return status;
    return launch(add_products_kernel, dim3(grid_size(ceil_div(p.M * ceil_div(p.N, VL), ELEMENT_THREADS))),
                  ELEMENT_THREADS, 0, team, p, parts);
}

} // namespace GOLLM_VARIANT

#endif
