/* Products with few rows, c (M, N) = a (M, K) b (N, K)^T with M at most FEW_ROWS, as in decoding, which is bound by reading b.
 *
 * The bits are those of gemm.h: an element of c is one chain over k in ascending order (16 at a time in a tensor core), so that no
 * result depends on the batch. A row of b is therefore not split among lanes: a warp, which is a block of its own, takes some rows
 * of b, and FEW_STAGES tiles of them are on their way, copied 16 bytes at a time.
 *
 *   floats      32 rows of b, a lane each, with a chain for each row of a
 *   bfloat16    16 rows of b as the left operand of mma.sync; the rows of a are the columns of the right one
 */
#ifndef GOLLM_CUDA_FEW_ROWS_H
#define GOLLM_CUDA_FEW_ROWS_H

#include "gemm.h"

namespace GOLLM_VARIANT {

constexpr int FEW_ROWS = 8;

/* Columns k0 ... k0 + WIDTH - 1 of ROWS rows from `first` on of a matrix (rows, K), in chunks of 16 bytes, of which chunk c of row r
 * goes to at(r, c); what is outside of the matrix is 0. */
template <int ROWS, int WIDTH, class At>
__device__ __forceinline__ void copy_rows(const real *x, int64_t first, int64_t rows, int64_t K, int64_t k0,
                                          const At &at) {
    constexpr int CHUNKS = WIDTH / VL;
    const bool aligned = is_aligned(x) && K % VL == 0;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += 32) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const int64_t k = k0 + chunk * VL, left = first + row < rows ? K - k : 0;
        const int valid = left >= VL ? VL : left > 0 ? (int)left : 0;
        const real *from = valid ? x + (first + row) * K + k : x;
        real *to = at(row, chunk);
        if (aligned)
            copy_async16(shared_address(to), from, valid * (int)sizeof(real));
        else
            for (int j = 0; j < VL; j++) to[j] = j < valid ? from[j] : real{};
    }
}

/* A warp's part of a product with at most ROWS rows: OUTPUTS of each. */
#ifndef GOLLM_BF16
struct alignas(16) FourFloats {
    float x[4];
};

template <int ROWS> struct FewRows {
    static constexpr int OUTPUTS = 32, WIDTH = 32, STAGES = 8;
    struct Stage { // rows of 36: eight lanes that read 16 bytes of a row each hit all banks once
        alignas(16) float b[OUTPUTS][WIDTH + 4], a[ROWS][WIDTH];
    };
    float c[ROWS] = {};

    __device__ __forceinline__ static void load(Stage &stage, const Product &p, int64_t n0, int64_t k0) {
        copy_rows<OUTPUTS, WIDTH>(p.b, n0, p.N, p.K, k0, [&](int r, int chunk) { return &stage.b[r][chunk * VL]; });
        copy_rows<ROWS, WIDTH>(p.a, 0, p.M, p.K, k0, [&](int r, int chunk) { return &stage.a[r][chunk * VL]; });
    }
    __device__ __forceinline__ static FourFloats four(const float *p, bool narrow) {
        FourFloats v = *(const FourFloats *)p;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (narrow) v.x[i] = to_float(bf16{bf16_of_float(v.x[i])});
        return v;
    }
    __device__ __forceinline__ void multiply(const Stage &stage, const Product &p, int64_t k0) {
        const bool narrow = p.compute == GOLLM_BFLOAT16;
        const int end = p.K - k0 < WIDTH ? (int)ceil_div(p.K - k0, STEP) * STEP : WIDTH; // zeros as in gemm.h
#pragma unroll 2
        for (int k = 0; k < end; k += 4) {
            const FourFloats b = four(&stage.b[threadIdx.x][k], narrow);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const FourFloats a = four(&stage.a[r][k], narrow);
#pragma unroll
                for (int i = 0; i < 4; i++) c[r] += a.x[i] * b.x[i];
            }
        }
    }
    __device__ __forceinline__ void store(float (&sums)[ROWS][OUTPUTS]) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r][threadIdx.x] = c[r];
    }
};
#else
template <int ROWS> struct FewRows {
    static constexpr int OUTPUTS = 16, WIDTH = STEP, STAGES = 12;
    struct Stage { // chunks.h
        bf16 b[OUTPUTS * WIDTH], a[ROWS * WIDTH];
    };
    float c[4] = {};

    __device__ __forceinline__ static void load(Stage &stage, const Product &p, int64_t n0, int64_t k0) {
        const auto chunk_of = [](bf16 *tile) {
            return [tile](int row, int chunk) { return tile + row * WIDTH + (chunk ^ (row & 7)) * VL; };
        };
        copy_rows<OUTPUTS, WIDTH>(p.b, n0, p.N, p.K, k0, chunk_of(stage.b));
        copy_rows<ROWS, WIDTH>(p.a, 0, p.M, p.K, k0, chunk_of(stage.a));
    }
    __device__ __forceinline__ void multiply(const Stage &stage, const Product &, int64_t) {
        const int lane = threadIdx.x;
        const uint32_t tb = shared_address(stage.b), ta = shared_address(stage.a);
#pragma unroll
        for (int k = 0; k < WIDTH; k += 32) {
            uint32_t rows[4]; // of a: k ... k + 31
            ldmatrix4(rows, chunk_address(ta, lane % 8, k / 8 + lane / 8));
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t weights[4];
                ldmatrix4(weights, chunk_address(tb, lane % 16, k / 8 + half * 2 + lane / 16));
                mma_bf16(c, weights, rows[half * 2], rows[half * 2 + 1]);
            }
        }
    }
    __device__ __forceinline__ void store(float (&sums)[ROWS][OUTPUTS]) const {
#pragma unroll
        for (int e = 0; e < 4; e++) sums[threadIdx.x % 4 * 2 + e % 2][threadIdx.x / 4 + e / 2 * 8] = c[e];
    }
};
#endif

template <int ROWS> union FewRowsMemory {
    typename FewRows<ROWS>::Stage stages[FewRows<ROWS>::STAGES];
    float sums[ROWS][FewRows<ROWS>::OUTPUTS];
};

template <int ROWS> __global__ void __launch_bounds__(32) few_rows_kernel(Product p) {
    using Warp = FewRows<ROWS>;
    constexpr int STAGES = Warp::STAGES, OUTPUTS = Warp::OUTPUTS;
    FewRowsMemory<ROWS> &memory = shared_memory<FewRowsMemory<ROWS>>();
    const int64_t n0 = (int64_t)blockIdx.x * OUTPUTS;
    const int steps = (int)ceil_div(p.K, Warp::WIDTH);
    Warp warp;
    const auto load = [&](int step) {
        if (step < steps) Warp::load(memory.stages[step % STAGES], p, n0, (int64_t)step * Warp::WIDTH);
        copy_commit();
    };
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1); // into the stage that all lanes have left
        warp.multiply(memory.stages[step % STAGES], p, (int64_t)step * Warp::WIDTH);
    }
    __syncthreads();
    warp.store(memory.sums);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < p.M * OUTPUTS; i += 32) {
        const int64_t m = i / OUTPUTS, n = n0 + i % OUTPUTS;
        if (n < p.N) p.epilogue(m * p.c_stride + n, n, 1, Single{{memory.sums[m][i % OUTPUTS]}});
    }
}

template <int ROWS> int launch_few_rows(const Product &p, const gollm_team *team) {
    const dim3 warps(grid_size(ceil_div(p.N, FewRows<ROWS>::OUTPUTS)));
    return launch(few_rows_kernel<ROWS>, warps, 32, sizeof(FewRowsMemory<ROWS>), team, p);
}

static inline int run_few_rows(const Product &p, const gollm_team *team) {
#ifndef GOLLM_BF16
    if (p.M == 1) return launch_few_rows<1>(p, team);
#endif
    return launch_few_rows<FEW_ROWS>(p, team);
}

} // namespace GOLLM_VARIANT

#endif
