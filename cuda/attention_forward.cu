/* Causal attention in the flash style (csrc/attention_forward.c has the formulas and the mask):
 *
 *   forward    qkv (B, T, (H + 2G) D)    ->  y (B, T, H D),  lse (B, H, T)
 *
 * A block takes a block of queries of one head, and goes through the blocks of KEYS keys that some of them see, in ascending
 * order, the first of which begins at a multiple of KEYS: what a row sums does not depend on the batch, nor on T. For each,
 * with m the largest score of a row so far,
 *
 *     s = q k^T,    p = 2^(c s - c m),    l = l 2^(c m' - c m) + sum p,    o = o 2^(c m' - c m) + p v,    c = scale log2(e)
 *
 * and at the end y = o / l. The longest blocks, of the last queries, are launched first. 4D operations a pair.
 *
 *   bfloat16    QUERIES x 64 scores of a block of 4 warps, each with whole rows; s, p and o stay in registers, p rounded
 *   float       32 keys, 16 x 16 threads; p goes through shared memory
 */
#ifdef GOLLM_BF16
#include "attention_tiles.h"
#else
#include "attention_floats.h"
#endif

namespace GOLLM_VARIANT {

/* The block's queries, and where its heads begin. */
template <int QUERIES> struct ForwardWork {
    int first, end;
    int64_t b, h;
    const real *q, *k, *v;

    __device__ __forceinline__ ForwardWork(const Attention &a, int n_blocks) {
        first = (n_blocks - 1 - (int)(blockIdx.x % n_blocks)) * QUERIES;
        end = first + QUERIES < a.T ? first + QUERIES : a.T;
        b = blockIdx.x / n_blocks / a.H, h = blockIdx.x / n_blocks % a.H;
        const int64_t at = b * a.T * a.row, g = h / (a.H / a.G) * a.head;
        q = a.q + at + h * a.head, k = a.k + at + g, v = a.v + at + g;
    }
};

#ifdef GOLLM_BF16
template <int HD> struct ForwardMemory {
    static constexpr int M = HD <= 128 ? 2 : 1, QUERIES = ATTENTION_WARPS * M * 16; // registers: o and s
    static constexpr int KEYS = HD <= 64 ? 64 : 32;
    HeadTile<QUERIES, HD> q;
    HeadTile<KEYS, HD> k[2], v[2];
};

template <int HD>
__global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_forward_kernel(Attention a, real *y, float *lse, int n_blocks) {
    typedef ForwardMemory<HD> Memory;
    constexpr int M = Memory::M, QUERIES = Memory::QUERIES, KEYS = Memory::KEYS;
    Memory &memory = shared_memory<Memory>();
    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * (M * 16);
    const ForwardWork<QUERIES> work(a, n_blocks);
    const int first = work.first, end = work.end;
    auto load = [&](int key) {
        if (key < end) {
            load_tile(memory.k[key / KEYS % 2], work.k, a.row, key, a.T, a.D);
            load_tile(memory.v[key / KEYS % 2], work.v, a.row, key, a.T, a.D);
        }
        copy_commit();
    };
    float o[M][HD / 8][4] = {}, max[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) max[m][0] = max[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0;
    const float c = a.scale > 0 ? a.scale * LOG2_E : 1; // else scores are scaled, before the largest is found
    int key = a.first_key(first) / KEYS * KEYS;
    load_tile(memory.q, work.q, a.row, first, a.T, a.D);
    load(key);
    for (; key < end; key += KEYS) {
        const HeadTile<KEYS, HD> &keys = memory.k[key / KEYS % 2], &values = memory.v[key / KEYS % 2];
        const bool masked = !a.all_see(first, QUERIES, key, KEYS);
        copy_wait<0>();
        const bool careful = __syncthreads_or(masked && !copied_finite(values));
        load(key + KEYS); // into the tiles that all have left
        float s[M][KEYS / 8][4] = {};
        add_scores<HD>(s, memory.q, row0, keys);
        if (!(a.scale > 0))
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) s[m][n][e] *= a.scale * LOG2_E;
        if (masked)
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (!a.sees(first + row0 + m * 16 + lane / 4 + e / 2 * 8, key + n * 8 + lane % 4 * 2 + e % 2))
                            s[m][n][e] = -INFINITY;
        uint32_t p[M][KEYS / 16][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) { // rows lane / 4 and lane / 4 + 8, of four lanes each
                float largest = max[m][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
                    largest = fmaxf(largest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
                largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
                const float from = largest == -INFINITY ? 0 : largest * c; // no key so far: 2^-inf is 0
                const float less = fast_exp2(max[m][half] * c - from);
                float added = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++) {
                        s[m][n][e] = fast_exp2(s[m][n][e] * c - from);
                        added += s[m][n][e];
                    }
                max[m][half] = largest;
                sum[m][half] = sum[m][half] * less + added;
#pragma unroll
                for (int n = 0; n < HD / 8; n++) o[m][n][half * 2] *= less, o[m][n][half * 2 + 1] *= less;
            }
#pragma unroll
            for (int n = 0; n < KEYS; n += 16) weights_of(p[m][n / 16], s[m], n);
        }
        add_weighted<false, HD, HD>(o, p, values, 0, careful,
                                    [&](int row, int n) { return a.sees(first + row0 + row, key + n); });
    }
    copy_wait<0>();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = sum[m][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            const int query = first + row0 + m * 16 + lane / 4 + half * 8;
            if (query >= a.T) continue;
            if (lse && lane % 4 == 0) lse[(work.b * a.H + work.h) * a.T + query] = max[m][half] * c * LN_2 + logf(all);
            bf16 *row = y + ((work.b * a.T + query) * a.H + work.h) * a.D; // (D)
            const float inverse = 1 / all;
#pragma unroll
            for (int n = 0; n < HD / 8; n++)
                put_pair(row, n * 8 + lane % 4 * 2, a.D, o[m][n][half * 2] * inverse, o[m][n][half * 2 + 1] * inverse);
        }
}
#else
template <int HD> struct ForwardMemory {
    static constexpr int QUERIES = HD <= 128 ? 64 : 32, KEYS = 32; // at most 140 KB
    HeadTile<QUERIES, HD> q;
    HeadTile<KEYS, HD> k, v;
    Weights<QUERIES, KEYS> p;
};

template <int HD>
__global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_forward_kernel(Attention a, real *y, float *lse, int n_blocks) {
    typedef ForwardMemory<HD> Memory;
    constexpr int QUERIES = Memory::QUERIES, KEYS = Memory::KEYS, R = QUERIES / 16, N = KEYS / 16;
    Memory &memory = shared_memory<Memory>();
    const int x = threadIdx.x % 16, row0 = threadIdx.x / 16 * R;
    const ForwardWork<QUERIES> work(a, n_blocks);
    load_tile(memory.q, work.q, a.row, work.first, a.T, a.D);
    float o[R][HD / 16] = {}, max[R], sum[R] = {};
#pragma unroll
    for (int r = 0; r < R; r++) max[r] = -INFINITY;
    for (int key = a.first_key(work.first) / KEYS * KEYS; key < work.end; key += KEYS) {
        const bool masked = !a.all_see(work.first, QUERIES, key, KEYS);
        auto sees = [&](int row, int n) { return a.sees(work.first + row, key + n); };
        __syncthreads();
        load_tile(memory.k, work.k, a.row, key, a.T, a.D);
        load_tile(memory.v, work.v, a.row, key, a.T, a.D);
        __syncthreads();
        float s[R][N] = {};
        add_scores(s, memory.q, memory.k);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float largest = max[r], added = 0;
#pragma unroll
            for (int n = 0; n < N; n++) {
                s[r][n] = !masked || sees(row0 + r, x + n * 16) ? s[r][n] * (a.scale * LOG2_E) : -INFINITY;
                largest = fmaxf(largest, s[r][n]);
            }
            largest = row_max(largest);
            const float from = largest == -INFINITY ? 0 : largest; // no key so far: 2^-inf is 0
            const float less = fast_exp2(max[r] - from);
#pragma unroll
            for (int n = 0; n < N; n++) {
                const float p = fast_exp2(s[r][n] - from);
                memory.p.values[row0 + r][x + n * 16] = p;
                added += p;
            }
            max[r] = largest;
            sum[r] = sum[r] * less + added;
#pragma unroll
            for (int d = 0; d < HD / 16; d++) o[r][d] *= less;
        }
        __syncwarp(); // a row's threads are of one warp
        add_weighted(o, memory.p, memory.v, masked, sees);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        const float all = row_sum(sum[r]);
        const int query = work.first + row0 + r;
        if (query >= a.T) continue;
        if (lse && x == 0) lse[(work.b * a.H + work.h) * a.T + query] = max[r] * LN_2 + logf(all);
        float *row = y + ((work.b * a.T + query) * a.H + work.h) * a.D; // (D)
#pragma unroll
        for (int d = 0; d < HD / 16; d++)
            if (x + d * 16 < a.D) row[x + d * 16] = o[r][d] / all;
    }
}
#endif

int64_t attention_forward_workspace(const attention_forward_args *args) { return attention_rows_bytes(args); }

int attention_forward(const attention_forward_args *args, const gollm_team *team) {
    Attention a;
    const int status = attention_rows(&a, args, team);
    if (status != GOLLM_OK) return status;
    return with_head_size(args->D, [&](auto size) {
        constexpr int HD = decltype(size)::value;
        typedef ForwardMemory<HD> Memory;
        const int64_t blocks = ceil_div(args->T, Memory::QUERIES);
        return launch(attention_forward_kernel<HD>, dim3(grid_size(blocks * args->H * args->B)), ATTENTION_THREADS,
                      sizeof(Memory), team, a, args->y, args->lse, blocks);
    });
}

} // namespace GOLLM_VARIANT
