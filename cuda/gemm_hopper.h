/* Products of bfloat16 on a Hopper (sm_90a): TMA, wgmma, warps with one job each, blocks that stay.
 *
 * A block takes a tile of 128 x 256 of c (and a part of k) after the other. Its first four warps bring boxes of 64 steps of k into
 * a ring of STAGES stages, a single thread's work; four warps each multiply the tile's upper and lower half, with 128 sums
 * a thread. A stage has two barriers: `full`, which its bytes end, and `empty`, at which each multiplying warp arrives.
 *
 *     shared memory    4 stages of 16 KB of a and 32 KB of b, and 4 KB a warp through which its sums get to whole rows
 *     registers        24 for those that copy, 240 for those that multiply
 *     bound            by the tensor cores: a stage is 4 wgmma of 64 x 256 x 16 for 48 KB from L2
 *
 * The sums are chains in the order of mma.sync's kernel, 16 steps of k at a time, which a Hopper's tensor cores add alike.
 */
#ifndef GOLLM_CUDA_GEMM_HOPPER_H
#define GOLLM_CUDA_GEMM_HOPPER_H

#include "product.h"

namespace GOLLM_VARIANT {

struct HopperMemory {
    static constexpr int M = 128, N = 256, STAGES = 4, HALVES = 2, THREADS = 384, CHUNK = 64;
    struct Stage {
        bf16 a[M * STEP], b[N * STEP]; // K-major: M or N rows of 128 bytes; MN-major: slabs of 64 rows (k)
    } stages[STAGES];
    float sums[HALVES * 4][16][CHUNK + 4]; // a warp's 16 rows, CHUNK columns at a time
    uint64_t full[STAGES], empty[STAGES];
};

/* The tile and the part of k that an item of work is. */
struct HopperItem {
    int64_t m0, n0, part;
    ProductSteps steps;

    __device__ __forceinline__ HopperItem(const Product &p, int64_t item, int64_t tiles, int64_t parts)
        : part(item / tiles), steps(p.K, part, parts) {
        const TilePlace tile(item % tiles, ceil_div(p.M, HopperMemory::M), ceil_div(p.N, HopperMemory::N));
        m0 = tile.row * HopperMemory::M, n0 = tile.column * HopperMemory::N;
    }
};

/* The stage that comes next, and how often the ring has gone round, modulo 2. */
struct Ring {
    int stage, round;
    __device__ __forceinline__ Ring() : stage(0), round(0) {}
    __device__ __forceinline__ void advance() {
        if (++stage < HopperMemory::STAGES) return;
        stage = 0, round ^= 1;
    }
};

#if HAS_HOPPER
template <bool MN_MAJOR, int ROWS>
__device__ __forceinline__ void load_operand(const bf16 *to, const TensorMap *map, uint32_t full, int64_t mn, int k) {
    if constexpr (MN_MAJOR) {
#pragma unroll
        for (int slab = 0; slab < ROWS / 64; slab++)
            load_box(shared_address(to + slab * 64 * STEP), map, full, (int)mn + slab * 64, k);
    } else
        load_box(shared_address(to), map, full, k, (int)mn);
}

template <bool A_MN, bool B_MN>
__device__ __forceinline__ void copy_items(const Product &p, HopperMemory &memory, const TensorMap *map_a,
                                           const TensorMap *map_b, int64_t tiles, int64_t parts) {
    Ring ring;
    for (int64_t i = blockIdx.x; i < tiles * parts; i += gridDim.x) {
        const HopperItem item(p, i, tiles, parts);
        for (int step = item.steps.begin; step < item.steps.end; step++, ring.advance()) {
            HopperMemory::Stage &stage = memory.stages[ring.stage];
            const uint32_t full = shared_address(&memory.full[ring.stage]);
            barrier_wait(shared_address(&memory.empty[ring.stage]), ring.round ^ 1);
            barrier_expect(full, sizeof stage);
            load_operand<A_MN, HopperMemory::M>(stage.a, map_a, full, item.m0, step * STEP);
            load_operand<B_MN, HopperMemory::N>(stage.b, map_b, full, item.n0, step * STEP);
        }
    }
}

/* Rows 64 half ... of the tiles. */
template <bool A_MN, bool B_MN>
__device__ __forceinline__ void multiply_items(const Product &p, HopperMemory &memory, int half, int64_t tiles,
                                               int64_t parts) {
    constexpr int CHUNK = HopperMemory::CHUNK;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    float(&staged)[16][CHUNK + 4] = memory.sums[half * 4 + warp];
    Ring ring;
    for (int64_t i = blockIdx.x; i < tiles * parts; i += gridDim.x) {
        const HopperItem item(p, i, tiles, parts);
        float sums[128];
        int before = 0; // the stage of the products that are still under way
        for (int step = item.steps.begin; step < item.steps.end; step++, ring.advance()) {
            const HopperMemory::Stage &stage = memory.stages[ring.stage];
            barrier_wait(shared_address(&memory.full[ring.stage]), ring.round);
            const uint32_t a = shared_address(stage.a) + half * (64 * STEP * 2), b = shared_address(stage.b);
            wgmma_begin(sums);
#pragma unroll
            for (int k = 0; k < STEP; k += 16)
                wgmma<A_MN, B_MN>(sums, wgmma_operand(a + k * (A_MN ? 128 : 2), 0),
                                  wgmma_operand(b + k * (B_MN ? 128 : 2), B_MN ? 64 * STEP * 2 : 0),
                                  step > item.steps.begin || k > 0);
            wgmma_commit();
            wgmma_wait<1>(sums);
            if (step > item.steps.begin && lane == 0) barrier_arrive(shared_address(&memory.empty[before]));
            before = ring.stage;
        }
        wgmma_wait<0>(sums);
        if (lane == 0) barrier_arrive(shared_address(&memory.empty[before]));
#pragma unroll 1 // the epilogue is compiled once
        for (int n = 0; n < HopperMemory::N; n += CHUNK) {
#pragma unroll
            for (int i = 0; i < 128; i++)
                if (i / (CHUNK / 2) == n / CHUNK)
                    staged[lane / 4 + i / 2 % 2 * 8][i % (CHUNK / 2) / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
            __syncwarp();
#pragma unroll 1
            for (int j = lane; j < 16 * CHUNK / VL; j += 32) {
                const int row = j / (CHUNK / VL), column = j % (CHUNK / VL) * VL;
                write_sums(p, item.m0 + half * 64 + warp * 16 + row, item.n0 + n + column, item.part, parts,
                           load_n(&staged[row][column], VL));
            }
            __syncwarp();
        }
    }
}

#endif

template <bool A_MN, bool B_MN>
__global__ void __launch_bounds__(HopperMemory::THREADS, 1)
    hopper_product_kernel(Product p, const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
                          int64_t parts) {
#if HAS_HOPPER
    HopperMemory &memory = shared_memory<HopperMemory>();
    const int64_t tiles = ceil_div(p.M, HopperMemory::M) * ceil_div(p.N, HopperMemory::N);
    if (threadIdx.x == 0) {
        for (int s = 0; s < HopperMemory::STAGES; s++) {
            barrier_init(shared_address(&memory.full[s]), 1);
            barrier_init(shared_address(&memory.empty[s]), HopperMemory::HALVES * 4);
        }
        barrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        fewer_registers<24>();
        if (threadIdx.x == 0) copy_items<A_MN, B_MN>(p, memory, &map_a, &map_b, tiles, parts);
    } else {
        more_registers<240>();
        multiply_items<A_MN, B_MN>(p, memory, (int)threadIdx.x / 128 - 1, tiles, parts);
    }
#endif
}

/* Whether the kernel takes the product: TMA wants aligned rows, and something in them. */
static inline bool takes_product(const Product &p) {
    const int64_t largest = max_i64(p.M, max_i64(p.N, p.K));
    return p.K > 0 && largest <= INT32_MAX && is_aligned(p.a) && is_aligned(p.b) && p.a_stride % 8 == 0 &&
           p.b_stride % 8 == 0;
}

template <bool A_MN, bool B_MN>
int run_hopper_product(const Product &p, int64_t parts, int processors, const gollm_team *team) {
    constexpr int M = HopperMemory::M, N = HopperMemory::N;
    TensorMap map_a, map_b;
    int status = gollm_cuda_tensor_map(&map_a, p.a, A_MN ? p.K : p.M, A_MN ? p.M : p.K, p.a_stride, A_MN ? STEP : M);
    if (status == GOLLM_OK)
        status = gollm_cuda_tensor_map(&map_b, p.b, B_MN ? p.K : p.N, B_MN ? p.N : p.K, p.b_stride, B_MN ? STEP : N);
    if (status != GOLLM_OK) return status;
    const int64_t items = ceil_div(p.M, M) * ceil_div(p.N, N) * parts;
    return launch(hopper_product_kernel<A_MN, B_MN>, dim3(grid_size(min_i64(items, processors))), HopperMemory::THREADS,
                  sizeof(HopperMemory), team, p, map_a, map_b, parts);
}

} // namespace GOLLM_VARIANT

#endif
