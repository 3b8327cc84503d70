/* Drawing a token from logits, for S rows at once, each with its own options (csrc/sample.c says what they mean):
 * logits (S, V), options (S) each  ->  tokens (S).
 *
 * The tokens are the CPU's, one and all, since every number that decides is the CPU's, bit for bit:
 *   - a token's weight comes from the same operations in single and double precision, each rounded by itself: none is
 *     contracted to a multiply-add, which the names of gpu.h (add_rn, ...) see to
 *   - a sum of weights is that of the blocks of 64 tokens, in order, each the sum of 16 partial sums, added pairwise
 *   - a cut keeps the tokens up to a rank: larger logits, and of equal ones smaller ids, first. That of top_k is found by
 *     counting; that of top_p is the first at which the sum of all that is kept, added as above, reaches p. Such a sum only
 *     grows with the tokens that are kept, although it is rounded, so there is one such rank, however it is found
 *
 * A block of threads takes a row; a warp a block of 64 tokens at a time. Cuts are looked for among candidates, those tokens
 * that a bound does not rule out, DIGIT_BITS bits of the rank at a time, each warp trying one digit. Bound by the passes over
 * the row, which stays in L2, and by adding up the blocks' sums one by one (V / 64 additions).
 */
#include "philox.h"

namespace GOLLM_VARIANT {

constexpr int DRAW_THREADS = 512, DRAW_WARPS = DRAW_THREADS / 32, DIGIT_BITS_OF_RANK = 4, TOKENS = 64;
static_assert(DRAW_WARPS == 1 << DIGIT_BITS_OF_RANK, "a warp tries a digit");

struct DrawMemory {
    float largest[DRAW_WARPS];
    uint64_t ranks[DRAW_WARPS];
    double measures[DRAW_WARPS];
    double sums[DRAW_THREADS];
    double total;
    int32_t n, token;
};

/* A row and what is known of it, in the workspace. */
struct DrawnRow {
    const real *z;       // (V) logits
    int64_t V, n_blocks; // of the vocabulary, and of TOKENS of it
    double *sums;        // (n_blocks) of weights; then the sums of all blocks up to each
    float *largest;      // (n_blocks) logit
    float *w;            // (V) weights, 0 for tokens that are not kept
    int32_t *list;       // (V) candidates
};

__device__ __forceinline__ uint64_t rank_of(float z, int64_t id) {
    const uint32_t bits = __float_as_uint(z == 0 ? 0.0f : z), key = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)key << 32 | (uint32_t) ~(uint32_t)id;
}
__device__ __forceinline__ uint64_t rank_in(const DrawnRow &row, int64_t i) { return rank_of(to_float(row.z[i]), i); }

/* e^x for x <= 0, csrc/vec_math.h's vec_exp. */
__device__ __forceinline__ float exp_of_weight(float x) {
    x = -104.0f > x ? -104.0f : x; // NaN stays
    const float round = 12582912.0f, shifted = add_rn(mul_rn(x, 1.44269504f), round), n = sub_rn(shifted, round);
    const float s = sub_rn(x, mul_rn(n, 0.693359375f)), r = sub_rn(s, mul_rn(n, -2.12194440e-4f));
    float p = 1.3888889e-3f;
    p = add_rn(mul_rn(p, r), 8.3333333e-3f);
    p = add_rn(mul_rn(p, r), 4.1666667e-2f);
    p = add_rn(mul_rn(p, r), 1.6666667e-1f);
    p = add_rn(mul_rn(p, r), 0.5f);
    p = add_rn(add_rn(mul_rn(p, mul_rn(r, r)), r), 1.0f);
    const int32_t i = (int32_t)(__float_as_uint(shifted) - __float_as_uint(round)), half = i >> 1;
    return mul_rn(mul_rn(p, __uint_as_float((uint32_t)(half + 127) << 23)),
                  __uint_as_float((uint32_t)(i - half + 127) << 23));
}

/* e^((z - max) / T), with the factor 1 / T. */
__device__ __forceinline__ float weight_of(float z, double max, double factor) {
    return exp_of_weight((float)mul_rn(sub_rn((double)z, max), factor));
}

/* The sum of a block's weights, of which a lane has numbers `lane` and `lane` + 32, in lane 0. */
__device__ __forceinline__ double sum_of_tokens(float low, float high) {
    const double a = (double)low, c = (double)high;
    const double b = __shfl_xor_sync(0xffffffffu, a, 16), d = __shfl_xor_sync(0xffffffffu, c, 16);
    double sum = add_rn(add_rn(add_rn(a, b), c), d);
#pragma unroll
    for (int half = 8; half; half /= 2) sum = add_rn(sum, __shfl_xor_sync(0xffffffffu, sum, half));
    return sum;
}

/* Each block of tokens that a warp takes; a lane has its numbers `lane` and `lane` + 32. */
#define EACH_BLOCK_OF_TOKENS(block, row)                                                                               \
    for (int64_t block = threadIdx.x / 32; block < (row).n_blocks; block += DRAW_WARPS)

/* The largest rank that a thread brings, in every thread. */
__device__ __forceinline__ uint64_t block_largest(uint64_t rank, DrawMemory &memory) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) {
        const uint64_t other = __shfl_xor_sync(0xffffffffu, rank, mask);
        rank = other > rank ? other : rank;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) memory.ranks[threadIdx.x / 32] = rank;
    __syncthreads();
    for (int i = 0; i < DRAW_WARPS; i++) rank = memory.ranks[i] > rank ? memory.ranks[i] : rank;
    return rank;
}

/* sums become the sums of all blocks up to each; the last is the sum of all. */
__device__ __forceinline__ double add_up(double *sums, int64_t n, DrawMemory &memory) {
    if (threadIdx.x == 0) memory.total = 0;
    for (int64_t first = 0; first < n; first += DRAW_THREADS) {
        const int64_t i = first + threadIdx.x, left = n - first;
        __syncthreads();
        if (i < n) memory.sums[threadIdx.x] = sums[i];
        __syncthreads();
        if (threadIdx.x == 0)
            for (int j = 0; j < DRAW_THREADS && j < left; j++)
                memory.total = memory.sums[j] = add_rn(memory.total, memory.sums[j]);
        __syncthreads();
        if (i < n) sums[i] = memory.sums[threadIdx.x];
    }
    __syncthreads();
    return memory.total;
}

/* The sum of the weights up to a rank. */
__device__ __forceinline__ double sum_up_to(const DrawnRow &row, uint64_t cut, DrawMemory &memory) {
    const int lane = threadIdx.x % 32;
    EACH_BLOCK_OF_TOKENS(block, row) {
        float w[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int64_t i = block * TOKENS + lane + j * 32;
            w[j] = i < row.V && rank_in(row, i) >= cut ? row.w[i] : 0;
        }
        const double sum = sum_of_tokens(w[0], w[1]);
        if (lane == 0) row.sums[block] = sum;
    }
    return add_up(row.sums, row.n_blocks, memory);
}

/* Makes a list of those of 0 ... n - 1 that are chosen; returns how many. Their order says nothing. */
template <class Chosen>
__device__ __forceinline__ int32_t list_of(int32_t *list, int64_t n, const Chosen &chosen, DrawMemory &memory) {
    __syncthreads();
    if (threadIdx.x == 0) memory.n = 0;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int64_t first = 0; first < n; first += DRAW_THREADS) {
        const int64_t i = first + threadIdx.x;
        const bool mine = i < n && chosen(i);
        const uint32_t all = __ballot_sync(0xffffffffu, mine);
        int32_t at = 0;
        if (lane == 0 && all) at = atomicAdd(&memory.n, __popc(all));
        at = __shfl_sync(0xffffffffu, at, 0);
        if (mine) list[at + __popc(all & ((1u << lane) - 1))] = (int32_t)i;
    }
    __syncthreads();
    return memory.n;
}

/* The largest rank at which what is listed, down from the largest, measures at least `target`. */
template <class Rank, class Measure>
__device__ __forceinline__ uint64_t find_rank(const int32_t *list, int32_t n, double target, const Rank &rank,
                                              const Measure &measure, DrawMemory &memory) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t found = 0;
    for (int shift = 64 - DIGIT_BITS_OF_RANK; shift >= 0; shift -= DIGIT_BITS_OF_RANK) {
        if (shift == 32 - DIGIT_BITS_OF_RANK) { // the logit is found: mostly, that is the token
            uint64_t mine = 0;
            int count = 0;
            for (int32_t i = threadIdx.x; i < n; i += DRAW_THREADS)
                if (const uint64_t r = rank(list[i]); r >> 32 == found >> 32) mine = r, count++;
            if (!__syncthreads_or(count > 1) && __syncthreads_count(count) == 1) return block_largest(mine, memory);
        }
        const uint64_t from = found | (uint64_t)warp << shift;
        double sum = 0;
        for (int32_t i = lane; i < n; i += 32)
            if (rank(list[i]) >= from) sum += measure(list[i]);
        sum = warp_sum(sum);
        __syncthreads();
        if (lane == 0) memory.measures[warp] = sum;
        __syncthreads();
        int digit = DRAW_WARPS - 1;
        while (digit > 0 && memory.measures[digit] < target) digit--;
        found |= (uint64_t)digit << shift;
    }
    return found;
}

/* The rank of the k-th token. Of the k blocks with the largest logits each has a token that is at least the k-th block's. */
__device__ __forceinline__ uint64_t top_k_cut(const DrawnRow &row, int64_t k, DrawMemory &memory) {
    auto one = [](int64_t) { return 1.0; };
    uint64_t floor = 0;
    if (k < row.n_blocks) {
        const int32_t n = list_of(row.list, row.n_blocks, [](int64_t) { return true; }, memory);
        auto rank = [&](int64_t i) { return rank_of(row.largest[i], i); };
        floor = find_rank(row.list, n, (double)k, rank, one, memory) >> 32 << 32;
    }
    const int32_t n = list_of(row.list, row.V, [&](int64_t i) { return rank_in(row, i) >= floor; }, memory);
    return find_rank(row.list, n, (double)k, [&](int64_t i) { return rank_in(row, i); }, one, memory);
}

/* The largest rank up to which the weights add up to at least p of all, `total`. Tokens with less than (1 - p) / 2V of it
 * have less than 1 - p of it together, and are no candidates. What is found among these by sums in another order is then
 * put right, a token at a time, by the sums that count. */
__device__ __forceinline__ uint64_t top_p_cut(const DrawnRow &row, double p, double total, DrawMemory &memory) {
    const double target = mul_rn(p, total), least = (1 - p) / 2 * total / (double)row.V;
    auto rank = [&](int64_t i) { return rank_in(row, i); };
    const int32_t n = list_of(row.list, row.V, [&](int64_t i) { return row.w[i] > 0 && row.w[i] >= least; }, memory);
    uint64_t cut = find_rank(row.list, n, target, rank, [&](int64_t i) { return (double)row.w[i]; }, memory);
    /* The largest rank below `limit`, or (as its complement) the smallest from there on. */
    auto neighbour = [&](uint64_t limit, bool below) {
        uint64_t best = 0;
        for (int64_t i = threadIdx.x; i < row.V; i += DRAW_THREADS) {
            const uint64_t r = rank(i), mine = below ? r : ~r;
            if (row.w[i] > 0 && (r < limit) == below && mine > best) best = mine;
        }
        return block_largest(best, memory);
    };
    bool grown = false;
    while (sum_up_to(row, cut, memory) < target) {
        const uint64_t next = neighbour(cut, true);
        if (next == 0) return 0; // all
        cut = next, grown = true;
    }
    while (!grown) {
        const uint64_t without_last = ~neighbour(cut, false) + 1;
        if (sum_up_to(row, without_last, memory) < target) break;
        cut = without_last;
    }
    return cut;
}

/* u from [0, 1), of 53 bits. */
__device__ __forceinline__ double uniform(int64_t seed, int64_t choice, int64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)((uint64_t)position >> 32), (uint32_t)choice, 0};
    philox(c, (uint32_t)seed, (uint32_t)((uint64_t)seed >> 32));
    return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * 0x1p-53;
}

/* The first token at which the sum of the weights exceeds u times their sum; where rounding leaves none, the last one that
 * has a weight. row.sums are added up. */
__device__ __forceinline__ int32_t draw(const DrawnRow &row, double u, double total, DrawMemory &memory) {
    const double bound = mul_rn(u, total);
    uint64_t first = 0; // as its complement: the first block that exceeds
    for (int64_t block = threadIdx.x; block < row.n_blocks; block += DRAW_THREADS)
        if (row.sums[block] > bound && ~(uint64_t)block > first) first = ~(uint64_t)block;
    first = block_largest(first, memory);
    const int64_t block = first ? (int64_t)~first : row.n_blocks - 1, end = min_i64(row.V, (block + 1) * TOKENS);
    if (threadIdx.x == 0) {
        memory.token = -1;
        double sum = block > 0 ? row.sums[block - 1] : 0;
        for (int64_t i = block * TOKENS; first && i < end; i++) {
            sum = add_rn(sum, (double)row.w[i]);
            if (sum > bound) {
                memory.token = (int32_t)i;
                break;
            }
        }
    }
    __syncthreads();
    if (memory.token >= 0) return memory.token;
    uint64_t last = 0;
    for (int64_t i = threadIdx.x; i < end; i += DRAW_THREADS)
        if (row.w[i] > 0) last = (uint64_t)i;
    return (int32_t)block_largest(last, memory);
}

__device__ __forceinline__ int32_t sample_row(const DrawnRow &row, double temperature, int64_t top_k, double top_p,
                                              double min_p, double u, DrawMemory &memory) {
    const int lane = threadIdx.x % 32;
    float largest = -INFINITY;
    bool odd = false;
    EACH_BLOCK_OF_TOKENS(block, row) {
        float z[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int64_t i = block * TOKENS + lane + j * 32;
            z[j] = i < row.V ? to_float(row.z[i]) : -INFINITY;
            odd = odd || z[j] != z[j];
        }
        const float of_block = warp_max(fmaxf(z[0], z[1]));
        if (lane == 0) row.largest[block] = of_block;
        largest = fmaxf(largest, of_block);
    }
    odd = __syncthreads_or(odd);
    largest = block_max(largest, memory.largest);
    if (odd || !isfinite(largest)) return -1;
    if (temperature == 0) {
        uint64_t best = 0;
        for (int64_t i = threadIdx.x; i < row.V; i += DRAW_THREADS)
            if (const uint64_t r = rank_in(row, i); r > best) best = r;
        return (int32_t) ~(uint32_t)block_largest(best, memory);
    }

    const uint64_t cut = top_k > 0 && top_k < row.V ? top_k_cut(row, top_k, memory) : 0;
    const double factor = fmin(1 / temperature, 1.7976931348623157e308);
    for (int64_t i = threadIdx.x; i < row.V; i += DRAW_THREADS)
        row.w[i] = rank_in(row, i) >= cut ? weight_of(to_float(row.z[i]), (double)largest, factor) : 0;
    __syncthreads();
    double total = sum_up_to(row, 0, memory);
    if (top_p < 1 || min_p > 0) {
        const uint64_t nucleus = top_p < 1 ? top_p_cut(row, top_p, total, memory) : 0;
        for (int64_t i = threadIdx.x; i < row.V; i += DRAW_THREADS)
            if (rank_in(row, i) < nucleus || (min_p > 0 && row.w[i] < (float)min_p)) row.w[i] = 0;
        __syncthreads();
        total = sum_up_to(row, 0, memory);
    }
    return draw(row, u, total, memory);
}

__host__ __device__ static inline int64_t token_blocks(int64_t V) { return ceil_div(V, TOKENS); }

/* Of a row, in units of 8 bytes: sums, largest, w, list. */
__host__ __device__ static inline int64_t row_words(int64_t V) { return token_blocks(V) * 2 + V + 1; }

__global__ void __launch_bounds__(DRAW_THREADS, 1) sample_kernel(sample_args args, double *workspace, int32_t *error) {
    DrawMemory &memory = shared_memory<DrawMemory>();
    const int64_t s = blockIdx.x, n_blocks = token_blocks(args.vocab_size);
    const double temperature = args.temperature[s], top_p = args.top_p[s], min_p = args.min_p[s];
    const int64_t top_k = args.top_k[s], choice = args.choice[s], position = args.position[s];
    const bool good = temperature >= 0 && isfinite(temperature) && top_k >= 0 && top_p > 0 && top_p <= 1 &&
                      min_p >= 0 && min_p <= 1 && choice >= 0 && choice <= UINT32_MAX && position >= 0;
    if (!good) {
        if (threadIdx.x == 0) *error = GOLLM_BAD_VALUE;
        return;
    }
    DrawnRow row = {args.logits + s * args.V,
                    args.vocab_size,
                    n_blocks,
                    workspace + s * row_words(args.V),
                    nullptr,
                    nullptr,
                    nullptr};
    row.largest = (float *)(row.sums + n_blocks);
    row.w = row.largest + n_blocks;
    row.list = (int32_t *)(row.w + row.V);
    const int32_t token =
        sample_row(row, temperature, top_k, top_p, min_p, uniform(args.seed[s], choice, position), memory);
    if (threadIdx.x == 0) args.tokens[s] = token;
}

int64_t sample_workspace(const sample_args *args) {
    const int64_t words = row_words(min_i64(args->V, INT32_MAX));
    return args->S > INT64_MAX / 8 / words ? INT64_MAX : args->S * words * 8;
}

int sample(const sample_args *args, const gollm_team *team) {
    return launch(sample_kernel, dim3((unsigned)args->S), DRAW_THREADS, sizeof(DrawMemory), team, *args,
                  (double *)team->workspace, team->error);
}

} // namespace GOLLM_VARIANT
