/* Products with weights in panels, [panel of 32 outputs][K][32], and their epilogues:
 *
 *   matmul_packed              c (M, N) = f(a (M, K) w (N, K)^T + bias) * factor + residual     w of reals
 *   matmul_bf16, matmul_f16    the same, w of 2 bytes, widened exactly
 *   pack_weight                w (N, K)  ->  panels, the rows past the last zeros
 *
 * The sums of a chunk (packed_product.h) are chains of multiply-adds in ascending k: a lane has an output, and neighbouring lanes
 * read neighbouring weights. Where both factors are bfloat16, they are chains of mma.sync over 16 k: w is the left operand,
 * of 16 outputs, whose registers a lane fills from 8 bytes of four lines of the panel; 8 rows of a are the right one.
 */
#include "packed_product.h"

namespace GOLLM_VARIANT {

/* Chains of multiply-adds. */
template <class Number> struct PlainWeight {
    const Number *b; // (panels, K, 32)

    template <int ROWS>
    __device__ __forceinline__ void multiply(const PackedProduct &p, int64_t panel, int64_t m0, int64_t chunk,
                                             ChunkSums<ROWS> &sums) const {
        constexpr int AT_ONCE = ROWS <= 4 ? 16 : VL; // weights on their way
        const int lane = threadIdx.x % 32;
        const int64_t begin = chunk * CHUNK, end = min_i64(p.K, begin + CHUNK);
        const Number *w = b + panel * p.K * PANEL + lane; // PANEL apart
        float chain[ROWS] = {};
#pragma unroll 1
        for (int64_t k = begin; k < end; k += AT_ONCE) {
            float x[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) x[i] = k + i < end ? to_float(w[(k + i) * PANEL]) : 0;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const real *row = p.a + min_i64(m0 + r, p.M - 1) * p.K + k;
#pragma unroll
                for (int j = 0; j < AT_ONCE; j += VL) {
                    const vec a = load_n(row + j, end - k - j); // the same in every lane
                    EACH_LANE(i) chain[r] = fmaf(a.x[i], x[j + i], chain[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums.x[r][lane] = chain[r];
    }
};

template <class Number> static int run_plain(const PackedProduct &p, const Number *b, const gollm_team *team) {
    const PlainWeight<Number> weight = {b};
    return p.M == 1   ? run_packed<1>(p, weight, team)
           : p.M <= 4 ? run_packed<4>(p, weight, team)
                      : run_packed<16>(p, weight, team);
}

#ifdef GOLLM_BF16
/* Two neighbours, of which the first `left` are there; and four. ALIGNED: all begin at a multiple of their bytes. */
template <bool ALIGNED> __device__ __forceinline__ uint32_t load_pair(const bf16 *p, int64_t left) {
    if (ALIGNED) return left > 0 ? *(const uint32_t *)p : 0;
    return (left > 0 ? p[0].bits : 0) | (left > 1 ? (uint32_t)p[1].bits << 16 : 0);
}
struct alignas(8) Four {
    uint32_t x, y;
};
template <bool ALIGNED> __device__ __forceinline__ Four load_four(const bf16 *p) {
    if (ALIGNED) return *(const Four *)p;
    return {load_pair<false>(p, 2), load_pair<false>(p + 2, 2)};
}

/* Chains of mma.sync. */
template <bool ALIGNED> struct TensorWeight {
    const bf16 *b; // (panels, K, 32)

    template <int ROWS>
    __device__ __forceinline__ void multiply(const PackedProduct &p, int64_t panel, int64_t m0, int64_t chunk,
                                             ChunkSums<ROWS> &sums) const {
        constexpr int TILES = ROWS / 8,
                      STEPS = ROWS == 8 ? CHUNK / 16 : 2; // STEPS: of 16 k, whose weights are on their way
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
        const int64_t begin = chunk * CHUNK, end = min_i64(p.K, begin + CHUNK);
        const bf16 *w = b + panel * p.K * PANEL + 4 * g; // outputs 4g ... 4g + 3
        float c[2][TILES][4] = {};                       // of outputs 4g, 4g + 1, and of 4g + 2, 4g + 3
#pragma unroll 1
        for (int64_t k0 = begin; k0 < end; k0 += STEPS * 16) {
            Four line[STEPS][4];
#pragma unroll
            for (int i = 0; i < STEPS * 4; i++) {
                const int64_t k = k0 + i / 4 * 16 + t + i / 2 % 2 * 8 + i % 2;
                line[i / 4][i % 4] = k < end ? load_four<ALIGNED>(w + k * PANEL) : Four{0, 0};
            }
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                const Four(&l)[4] = line[step];
                const uint32_t a[2][4] = {{low_halves(l[0].x, l[1].x), high_halves(l[0].x, l[1].x),
                                           low_halves(l[2].x, l[3].x), high_halves(l[2].x, l[3].x)},
                                          {low_halves(l[0].y, l[1].y), high_halves(l[0].y, l[1].y),
                                           low_halves(l[2].y, l[3].y), high_halves(l[2].y, l[3].y)}};
                const int64_t k = k0 + step * 16 + t;
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    const bf16 *row = p.a + min_i64(m0 + tile * 8 + g, p.M - 1) * p.K + k;
                    const uint32_t b0 = load_pair<ALIGNED>(row, end - k), b1 = load_pair<ALIGNED>(row + 8, end - k - 8);
                    mma_bf16(c[0][tile], a[0], b0, b1);
                    mma_bf16(c[1][tile], a[1], b0, b1);
                }
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums.x[tile * 8 + t + e % 2][4 * g + 2 * i + e / 2] = c[i][tile][e];
    }
};

template <bool ALIGNED> static int run_tensor(const PackedProduct &p, const bf16 *b, const gollm_team *team) {
    const TensorWeight<ALIGNED> weight = {b};
    return p.M <= 8 ? run_packed<8>(p, weight, team) : run_packed<32>(p, weight, team);
}

static int run_plain(const PackedProduct &p, const bf16 *b, const gollm_team *team) {
    const bool aligned = (uintptr_t)b % 8 == 0 && (uintptr_t)p.a % 4 == 0 && p.K % 2 == 0;
    return aligned ? run_tensor<true>(p, b, team) : run_tensor<false>(p, b, team);
}
#endif

int matmul_packed(const matmul_packed_args *args, const gollm_team *team) {
    return run_plain(packed_product_of(args), args->b, team);
}
int matmul_bf16(const matmul_bf16_args *args, const gollm_team *team) {
    return run_plain(packed_product_of(args), args->b, team);
}
int matmul_f16(const matmul_f16_args *args, const gollm_team *team) {
    return run_plain(packed_product_of(args), args->b, team);
}

constexpr int PACK_STEP = 32;

struct PackMemory {
    real tile[PANEL][PACK_STEP + 1];
};

/* A block packs PACK_STEP steps of k of a panel, through shared memory: read along k, written along the outputs. */
__global__ void __launch_bounds__(ELEMENT_THREADS) pack_weight_kernel(pack_weight_args args) {
    PackMemory &memory = shared_memory<PackMemory>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t steps = ceil_div(args.K, PACK_STEP), panel = blockIdx.x / steps, k0 = blockIdx.x % steps * PACK_STEP;
    for (int i = warp; i < PANEL; i += ELEMENT_THREADS / 32) {
        const int64_t n = panel * PANEL + i;
        memory.tile[i][lane] = n < args.N && k0 + lane < args.K ? args.w[n * args.K + k0 + lane] : real{0};
    }
    __syncthreads();
    for (int i = warp; i < PACK_STEP && k0 + i < args.K; i += ELEMENT_THREADS / 32)
        args.packed[(panel * args.K + k0 + i) * PANEL + lane] = memory.tile[lane][i];
}

int pack_weight(const pack_weight_args *args, const gollm_team *team) {
    const int64_t blocks = ceil_div(args->N, PANEL) * ceil_div(args->K, PACK_STEP);
    return launch(pack_weight_kernel, dim3((unsigned)blocks), ELEMENT_THREADS, sizeof(PackMemory), team, *args);
}

} // namespace GOLLM_VARIANT
