/* Products of matrices with their epilogue, c (M, N) = op(a) op(b): two kernels, both for every layout and size.
 *
 *   products of floats      64 x 64 of c a block, 4 x 4 a thread, in fp32; operands rounded to bfloat16 first where asked
 *   products of bfloat16    128 x 128 of c a block, 64 x 64 a warp, mma.sync, tiles of 64 of k copied three stages ahead
 *
 * An operand lies with k contiguous (K-major) or with its other axis (MN-major). An element of c is one chain over k in
 * ascending order (16 at a time in a tensor core), whatever M and N are: no result depends on the batch.
 *
 * A weight's gradient may have few elements and a long k, too few blocks to fill a GPU. Where it has memory for it, such a
 * product is cut into parts of k, whose sums a second kernel adds in order. Into how many depends on its sizes alone.
 */
#ifndef GOLLM_CUDA_GEMM_H
#define GOLLM_CUDA_GEMM_H

#include "activation.h"
#include "chunks.h"

namespace GOLLM_VARIANT {

/* The steps on the finished sum v, as csrc/epilogue.h has them. Matrices are (M, N); NULL and GOLLM_NONE leave one out. */
struct Epilogue {
    real *c;
    int64_t accumulate;
    const real *bias;        /* (N)  v += bias */
    real *pre;               /*      pre = v */
    int64_t activation;      /*      v = activation(v), unless gradient_of is given */
    const real *factor;      /*      v *= factor */
    const real *residual;    /*      v += residual */
    const real *gradient_of; /*      v *= activation'(gradient_of); of a gate also dfactor and product */
    real *dfactor, *product;

    __device__ __forceinline__ void operator()(int64_t at, int64_t n, float v) const {
        if (bias) v += to_float(bias[n]);
        if (pre) put(pre + at, v);
        const float times = factor ? to_float(factor[at]) : 1;
        if (gradient_of) {
            const float x = to_float(gradient_of[at]);
            if (dfactor) {
                const float f = GOLLM_VARIANT::activation(activation, x);
                put(product + at, f * times);
                put(dfactor + at, f * v);
            }
            v *= activation_gradient(activation, x);
        } else
            v = GOLLM_VARIANT::activation(activation, v);
        if (factor) v *= times;
        if (residual) v += to_float(residual[at]);
        if (accumulate) v += to_float(c[at]);
        put(c + at, v);
    }
};

/* Strides are those of rows: of k where an operand is K-major, else of its other axis. */
struct Product {
    const real *a, *b;
    int64_t M, N, K, compute, a_stride, b_stride, c_stride;
    Epilogue epilogue;
    float *partial; // (product_parts, M, N), where there are parts; or NULL: there is one
};

#ifdef GOLLM_BF16
constexpr int TILE = 128, STEP = 64, STAGES = 3, PRODUCT_THREADS = 128;
#else
constexpr int TILE = 64, STEP = 16, PRODUCT_THREADS = 256;
#endif
/* Two blocks for each multiprocessor of an H100; and a part is long enough that its sums do not cost more than it. */
constexpr int64_t ENOUGH_BLOCKS = 264, LEAST_K = 512;

static inline int64_t product_blocks(int64_t M, int64_t N) { return ceil_div(M, TILE) * ceil_div(N, TILE); }
static inline int64_t product_parts(int64_t M, int64_t N, int64_t K) {
    return max_i64(1, min_i64(ENOUGH_BLOCKS / max_i64(1, product_blocks(M, N)), K / LEAST_K));
}
static inline int64_t product_bytes(int64_t M, int64_t N, int64_t K) {
    const int64_t parts = product_parts(M, N, K);
    return parts > 1 ? parts * M * N * (int64_t)sizeof(float) : 0;
}

/* The block's tile and its steps of k. */
struct ProductBlock {
    int64_t m0, n0;
    int begin, end;

    __device__ __forceinline__ ProductBlock(const Product &p) {
        const int64_t tiles = ceil_div(p.M, TILE), steps = ceil_div(p.K, STEP);
        m0 = blockIdx.x % tiles * TILE, n0 = blockIdx.x / tiles * TILE;
        begin = (int)(steps * blockIdx.y / gridDim.y), end = (int)(steps * (blockIdx.y + 1) / gridDim.y);
    }
};

/* The finished sums of a tile, from shared memory, so that the epilogue is compiled once and neighbouring threads write
 * neighbouring elements. */
__device__ __forceinline__ void write_tile(const Product &p, const float (&sums)[TILE][TILE + 4],
                                           const ProductBlock &block) {
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * TILE; i += PRODUCT_THREADS) {
        const int64_t m = block.m0 + i / TILE, n = block.n0 + i % TILE;
        if (m >= p.M || n >= p.N) continue;
        const float sum = sums[i / TILE][i % TILE];
        if (gridDim.y > 1)
            p.partial[(blockIdx.y * p.M + m) * p.N + n] = sum;
        else
            p.epilogue(m * p.c_stride + n, n, sum);
    }
}

static __global__ void __launch_bounds__(ELEMENT_THREADS) add_products_kernel(Product p, int parts) {
    const int64_t i = (int64_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x, m = i / p.N, n = i % p.N;
    if (m >= p.M) return;
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += p.partial[part * p.M * p.N + i];
    p.epilogue(m * p.c_stride + n, n, sum);
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
    const ProductBlock block(p);
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float c[4][4] = {};
    for (int step = block.begin; step < block.end; step++) {
        const int64_t k0 = (int64_t)step * STEP;
        __syncthreads();
        load_product_tile<A_MN>(tiles.a, p.a, p.a_stride, block.m0, k0, p.M, p.K, p.compute);
        load_product_tile<B_MN>(tiles.b, p.b, p.b_stride, block.n0, k0, p.N, p.K, p.compute);
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
    write_tile(p, memory.sums, block);
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
    const ProductBlock block(p);
    float c[4][8][4] = {};
    auto load = [&](int step) {
        if (step < block.end) {
            ProductTiles::Stage &stage = tiles.stages[step % STAGES];
            load_product_tile<A_MN>(stage.a, p.a, p.a_stride, block.m0, (int64_t)step * STEP, p.M, p.K);
            load_product_tile<B_MN>(stage.b, p.b, p.b_stride, block.n0, (int64_t)step * STEP, p.N, p.K);
        }
        copy_commit();
    };
    for (int step = 0; step < STAGES - 1; step++) load(block.begin + step);
    for (int step = block.begin; step < block.end; step++) {
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
    write_tile(p, memory.sums, block);
}
#endif

template <bool A_MN, bool B_MN> int run_product(const Product &p, const gollm_team *team) {
    const int64_t parts = p.partial ? product_parts(p.M, p.N, p.K) : 1;
    const dim3 blocks(grid_size(product_blocks(p.M, p.N)), (unsigned)parts);
    const int status = launch(product_kernel<A_MN, B_MN>, blocks, PRODUCT_THREADS, sizeof(ProductMemory), team, p);
    if (status != GOLLM_OK || parts == 1) return status;
    return launch(add_products_kernel, dim3(grid_size(ceil_div(p.M * p.N, ELEMENT_THREADS))), ELEMENT_THREADS, 0, team,
                  p, parts);
}

} // namespace GOLLM_VARIANT

#endif
