/* Attention over keys and values in pages (csrc/attention_paged.c has the layout, csrc/attention_forward.c the formulas):
 *
 *   attention_paged   qkv (N, (H + 2G) D), k_pages (R, G, D, Z), v_pages (R, G, Z, D)     ->  y (N, H D)
 *
 * A row of y is a function of its query and its keys alone, whatever the batch and the chunks: keys are taken in blocks of
 * KEY_BLOCK, the first at position 0, and blocks are folded one by one, in ascending order (`fold`).
 *
 * The unit of work is a block of keys, for ROWS rows: pairs of a query and a head of a group, which share keys and values. More
 * than 8 rows do not fit into the registers of two blocks a multiprocessor; of pages of 2 bytes, 8 rows fill those of one.
 *
 *     1.  scores: a thread has PER keys side by side, the 16 bytes that it reads at once, and a part of D; four parts are added by
 *         shuffles, and two (pages of 2 bytes) through shared memory
 *     2.  a warp a row: maximum, powers of two, and their sum
 *     3.  o: a thread has PER columns of v, which it reads at once, and is one of `ways`, of which each takes every n-th key; the
 *         ways of a column are added in order
 *
 * A key that a row does not see is left out by its index. With few rows, as in decoding, each unit is a block of its own, which
 * leaves its maximum, sum and o in the workspace, and a second kernel folds them (split-KV); with many rows, a block goes
 * through all keys of its rows and folds as it goes. Both fold alike. Decoding is bound by reading keys and values once.
 */
#include "pages.h"

namespace GOLLM_VARIANT {

constexpr int KEY_BLOCK = 256, PAGED_THREADS = KEY_BLOCK, PAGED_WARPS = PAGED_THREADS / 32, FOLD_WARPS = 4;

/* Units that keep a GPU busy, 4 on each of 132 multiprocessors: with more, each block folds for itself. And the parts for
 * which there is workspace: 136 MB at D = 128. */
constexpr int64_t BUSY_UNITS = 528, MOST_PARTS = 1 << 18;

struct PagedAttention {
    Pages pages;
    real *y;      // (N, H D)
    float factor; // scale log2(e)
    int64_t window;
    int64_t n_blocks; // of the keys that a sequence can have
    float2 *states;   // (N H, n_blocks): the maximum and the sum of a part; NULL: rows are folded at once
    float *parts;     // (N H, n_blocks, D)

    __device__ int first_seen(int position) const {
        return window && position >= (int)window ? position - (int)window + 1 : 0;
    }
};

/* The blocks of a row so far, and the next. */
struct Fold {
    float max, sum;
    float keep, add; // o = o keep + o' add
    bool any;

    __device__ __forceinline__ void next(float block_max, float block_sum) {
        const float largest = any ? fmaxf(max, block_max) : block_max;
        const float shift = largest == -INFINITY ? 0 : largest; // all scores -inf: 0, not NaN
        keep = any ? exp2f(max - shift) : 0;
        add = any ? exp2f(block_max - shift) : 1;
        sum = fmaf(any ? sum : 0, keep, block_sum * add);
        max = largest, any = true;
    }
};

template <int ROWS, class Page> struct PagedMemory {
    static constexpr int PER = 16 / sizeof(Page);
    float q[MAX_HEAD_DIM][ROWS];
    float p[KEY_BLOCK][ROWS]; // scores, then powers
    union {
        float half[KEY_BLOCK][ROWS];            // scores of the other part of D
        float ways[PAGED_THREADS * PER * ROWS]; // of o: (ways, ROWS, D rounded up to PER)
    };
    int64_t k[KEY_BLOCK], v[KEY_BLOCK]; // where the key, Z apart, and its values begin in the pages
    int begin[ROWS], end[ROWS];         // the keys of the block that a row sees
    uint32_t seen_by[KEY_BLOCK];        // the same: a bit for each row
    Fold fold[ROWS];
};

/* 16 bytes of a page, widened. */
template <class Page> struct PageVector {
    static constexpr int PER = 16 / sizeof(Page);
    float x[PER];

    __device__ __forceinline__ static PageVector load(const Page *p) {
        struct alignas(16) Bytes {
            Page x[PER];
        };
        const Bytes bytes = *(const Bytes *)p;
        PageVector v;
#pragma unroll
        for (int i = 0; i < PER; i++) v.x[i] = to_float(bytes.x[i]);
        return v;
    }
};

template <int ROWS, class Page>
__global__ void __launch_bounds__(PAGED_THREADS, (ROWS == 4 ? 2 : 1) + (sizeof(Page) == 4))
    attention_paged_kernel(PagedAttention a, const Page *k_pages, const Page *v_pages) {
    using Memory = PagedMemory<ROWS, Page>;
    using Vector = PageVector<Page>;
    constexpr int PER = Memory::PER;
    Memory &memory = shared_memory<Memory>();
    const Pages &p = a.pages;
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int D = (int)p.D, group = (int)p.H / (int)p.G;
    const int g = blockIdx.y;
    const int64_t Z = p.Z;
    if (blockIdx.x == 0 && g == 0 && blockIdx.z == 0) check_sequences(p);
    if (p.S == 0) return;

    // The tiles of sequence s begin at number offset group / ROWS + s, which leaves room for all of them.
    int64_t low = 0, high = p.S;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if ((int64_t)p.query_offsets[middle] * group / ROWS + middle <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    Sequence s;
    if (!find_sequence(p, low, &s)) {
        *p.error = GOLLM_BAD_INDEX;
        return;
    }
    const int first = (int)(blockIdx.x - (s.first_row * group / ROWS + low)) * ROWS; // N H is below 2^31
    const int left = (int)s.queries * group - first, rows = left < ROWS ? left : ROWS;
    if (left <= 0) return;
    const int past = (int)s.past, first_row = (int)s.first_row;
    auto position_of = [&](int r) { return past + (first + (r < rows ? r : rows - 1)) / group; }; // ascending
    auto head_of = [&](int r) { return g * group + (first + r) % group; };
    auto row_of = [&](int r) { return first_row + (first + r) / group; };
    const int lowest = a.first_seen(position_of(0)), newest = position_of(rows - 1);
    int block = lowest / KEY_BLOCK, last = newest / KEY_BLOCK;
    if (a.states) {
        if ((int)blockIdx.z < block || (int)blockIdx.z > last) return;
        block = last = blockIdx.z;
    }

    for (int i = t; i < D * ROWS; i += PAGED_THREADS) {
        const int r = i / D, d = i % D;
        memory.q[d][r] = r < rows ? rotated(p.row(row_of(r)) + head_of(r) * D, p.rotation(position_of(r)), d) : 0;
    }
    if (t < ROWS) memory.fold[t] = {0, 0, 0, 0, false};
    // Scores: 8 groups of keys side by side in a warp, four parts of D; warps go on with the keys, then with the parts of D.
    constexpr int WARP_KEYS = 8 * PER, KEY_WARPS = KEY_BLOCK / WARP_KEYS, PARTS = 4 * PAGED_WARPS / KEY_WARPS;
    const int own_keys = warp % KEY_WARPS * WARP_KEYS + lane % 8 * PER, part_of_d = warp / KEY_WARPS * 4 + lane / 8;
    const bool wide_keys = is_aligned(k_pages) && Z % PER == 0, wide_values = is_aligned(v_pages) && D % PER == 0;
    // o
    const int groups = (D + PER - 1) / PER, n_ways = PAGED_THREADS / groups, way = t / groups, own = t % groups * PER;
    float o[ROWS] = {}; // folded: of elements t, t + PAGED_THREADS, ... of (ROWS, D)

    for (; block <= last; block++) {
        const int key0 = block * KEY_BLOCK, key = key0 + t;
        __syncthreads();
        if (t < ROWS) {
            const int position = position_of(t);
            memory.begin[t] = (int)max_i64(0, min_i64(KEY_BLOCK, a.first_seen(position) - key0));
            memory.end[t] = (int)max_i64(0, min_i64(KEY_BLOCK, position - key0 + 1));
        }
        const bool seen = key >= lowest && key <= newest;
        const Slot slot = seen ? slot_of(p, s.index, g, key) : Slot{0, 0};
        if (slot.page < 0) *p.error = GOLLM_BAD_INDEX;
        memory.k[t] = slot.page + slot.slot;
        memory.v[t] = slot.page + slot.slot * D;
        if (__syncthreads_or(slot.page < 0)) return;

        float score[PER][ROWS] = {};
        const int seen_from = lowest - key0 - own_keys, seen_to = newest - key0 - own_keys; // of the thread's keys
        if (seen_from < PER && seen_to >= 0) {
            const int some = seen_from > 0 ? seen_from : 0; // a key that is seen, whose neighbours are in its page
            const Page *k = k_pages + memory.k[own_keys + some] - some;
#pragma unroll 4
            for (int i = part_of_d; i < D; i += PARTS) {
                Vector x;
                if (wide_keys)
                    x = Vector::load(k + i * Z);
                else
#pragma unroll
                    for (int j = 0; j < PER; j++)
                        x.x[j] = j >= seen_from && j <= seen_to ? to_float(k_pages[memory.k[own_keys + j] + i * Z]) : 0;
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const float q = memory.q[i][r];
#pragma unroll
                    for (int j = 0; j < PER; j++) score[j][r] = fmaf(q, x.x[j], score[j][r]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < PER; j++)
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                score[j][r] += __shfl_xor_sync(0xffffffffu, score[j][r], 8);
                score[j][r] += __shfl_xor_sync(0xffffffffu, score[j][r], 16);
                if (lane / 8 == j % 4) (part_of_d < 4 ? memory.p : memory.half)[own_keys + j][r] = score[j][r];
            }
        __syncthreads();
        uint32_t seen_by = 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const bool sees = t >= memory.begin[r] && t < memory.end[r];
            const float sum = PARTS == 4 ? memory.p[t][r] : memory.p[t][r] + memory.half[t][r];
            memory.p[t][r] = sees ? sum * a.factor : -INFINITY;
            seen_by |= (uint32_t)sees << r;
        }
        memory.seen_by[t] = seen_by;
        __syncthreads();

        for (int r = warp; r < rows; r += PAGED_WARPS) {
            float max = -INFINITY, sum = 0;
            for (int j = lane; j < KEY_BLOCK; j += 32) max = fmaxf(max, memory.p[j][r]);
            max = warp_max(max);
            const float shift = max == -INFINITY ? 0 : max;
            for (int j = lane; j < KEY_BLOCK; j += 32) {
                const float e = exp2f(memory.p[j][r] - shift);
                sum += e;
                memory.p[j][r] = e;
            }
            sum = warp_sum(sum);
            if (lane == 0 && memory.begin[r] < memory.end[r]) memory.fold[r].next(max, sum);
        }
        __syncthreads();

        // From `begin` to `end` all rows see all keys.
        float x[ROWS][PER] = {};
        const int begin = memory.begin[rows - 1], end = memory.end[0];
        const int from = memory.begin[0], to = memory.end[rows - 1];
        auto add_keys = [&](int j, int until, bool all) {
#pragma unroll 4
            for (j += (way + n_ways - j % n_ways) % n_ways; j < until; j += n_ways) {
                const Page *values = v_pages + memory.v[j] + own;
                Vector v;
                if (wide_values)
                    v = Vector::load(values);
                else
#pragma unroll
                    for (int i = 0; i < PER; i++) v.x[i] = own + i < D ? to_float(values[i]) : 0;
                const uint32_t seen_by = all ? 0 : memory.seen_by[j];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    if (all || seen_by >> r & 1) {
                        const float weight = memory.p[j][r];
#pragma unroll
                        for (int i = 0; i < PER; i++) x[r][i] = fmaf(weight, v.x[i], x[r][i]);
                    }
            }
        };
        const int width = groups * PER;
        if (way < n_ways) {
            const bool some = begin < end;
            add_keys(from, some ? begin : to, false);
            if (some) {
                add_keys(begin, end, true);
                add_keys(end, to, false);
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int i = 0; i < PER; i++) memory.ways[(way * ROWS + r) * width + own + i] = x[r][i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int element = t + i * PAGED_THREADS, r = element / D, d = element % D;
            if (r >= rows) break;
            float sum = 0;
            for (int w = 0; w < n_ways; w++) sum += memory.ways[(w * ROWS + r) * width + d];
            if (a.states) // a part
                o[i] = sum;
            else if (memory.begin[r] < memory.end[r])
                o[i] = fmaf(o[i], memory.fold[r].keep, sum * memory.fold[r].add);
        }
    }

#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int element = t + i * PAGED_THREADS, r = element / D, d = element % D;
        if (r >= rows) break;
        const int64_t row = (int64_t)row_of(r) * p.H + head_of(r), part = row * a.n_blocks + last;
        if (!a.states)
            put(a.y + row * D + d, o[i] * (1 / memory.fold[r].sum));
        else if (memory.begin[r] < memory.end[r]) {
            a.parts[part * D + d] = o[i];
            if (d == 0) a.states[part] = {memory.fold[r].max, memory.fold[r].sum};
        }
    }
}

/* A warp a row: folds its parts. */
__global__ void __launch_bounds__(FOLD_WARPS * 32) fold_parts_kernel(PagedAttention a) {
    const Pages &p = a.pages;
    const int lane = threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * FOLD_WARPS + threadIdx.x / 32, D = p.D, n = (uint32_t)row / (uint32_t)p.H;
    Sequence s;
    if (n >= p.N || p.S == 0 || !find_sequence(p, sequence_of_row(p, n), &s) || n >= s.first_row + s.queries) return;
    const int position = (int)(s.past + n - s.first_row);
    Fold fold = {0, 0, 0, 0, false};
    float o[MAX_HEAD_DIM / 32] = {};
    for (int block = a.first_seen(position) / KEY_BLOCK; block <= position / KEY_BLOCK; block++) {
        const int64_t part = row * a.n_blocks + block;
        const float2 state = a.states[part];
        fold.next(state.x, state.y);
#pragma unroll
        for (int i = 0; i < MAX_HEAD_DIM / 32; i++)
            if (const int d = lane + i * 32; d < D) o[i] = fmaf(o[i], fold.keep, a.parts[part * D + d] * fold.add);
    }
#pragma unroll
    for (int i = 0; i < MAX_HEAD_DIM / 32; i++)
        if (const int d = lane + i * 32; d < D) put(a.y + row * D + d, o[i] * (1 / fold.sum));
}

/* How a call is computed, which its sizes alone decide. */
struct PagedPlan {
    int rows;
    int64_t tiles, n_blocks, parts; // parts: 0 where blocks fold for themselves
};

template <class Args> static PagedPlan plan_of(const Args *args) {
    PagedPlan plan = {};
    if (args->N == 0 || args->G <= 0 || args->H < args->G) return plan;
    const int64_t group = args->H / args->G;
    plan.rows = args->N <= args->S && group <= 4 ? 4 : 8;
    plan.tiles = args->N * group / plan.rows + args->S;
    const double keys = fmin((double)args->L * (double)args->Z, INT32_MAX);
    plan.n_blocks = ceil_div((int64_t)keys, KEY_BLOCK);
    const double parts = (double)args->N * (double)args->H * (double)plan.n_blocks;
    const bool few = (double)plan.tiles * (double)args->G < BUSY_UNITS && parts <= MOST_PARTS;
    plan.parts = few && plan.n_blocks > 1 && plan.n_blocks <= UINT16_MAX ? (int64_t)parts : 0;
    return plan;
}

template <class Args> static int64_t paged_workspace(const Args *args) {
    return plan_of(args).parts * (int64_t)(sizeof(float2) + sizeof(float) * (size_t)args->D);
}

template <class Args, class Page>
static int attend(const Args *args, const Page *k_pages, const Page *v_pages, const gollm_team *team) {
    if (args->N > INT32_MAX / args->H) return GOLLM_BAD_SHAPE;
    const PagedPlan plan = plan_of(args);
    PagedAttention a = {
        pages_of(args, team), args->y, (float)args->scale * 1.44269504f, args->window, plan.n_blocks, nullptr, nullptr};
    if (plan.parts) {
        a.states = (float2 *)team->workspace;
        a.parts = (float *)(a.states + plan.parts);
    }
    const dim3 units((unsigned)plan.tiles, (unsigned)args->G, plan.parts ? (unsigned)plan.n_blocks : 1);
    int status = plan.rows == 4 ? launch(attention_paged_kernel<4, Page>, units, PAGED_THREADS,
                                         sizeof(PagedMemory<4, Page>), team, a, k_pages, v_pages)
                                : launch(attention_paged_kernel<8, Page>, units, PAGED_THREADS,
                                         sizeof(PagedMemory<8, Page>), team, a, k_pages, v_pages);
    if (status == GOLLM_OK && plan.parts)
        status = launch(fold_parts_kernel, dim3((unsigned)ceil_div(args->N * args->H, FOLD_WARPS)), FOLD_WARPS * 32, 0,
                        team, a);
    return status;
}

#define ATTENTION_PAGED(kernel)                                                                                        \
    int64_t kernel##_workspace(const kernel##_args *args) { return paged_workspace(args); }                            \
    int kernel(const kernel##_args *args, const gollm_team *team) {                                                    \
        return attend(args, args->k_pages, args->v_pages, team);                                                       \
    }
ATTENTION_PAGED(attention_paged)
ATTENTION_PAGED(attention_paged_bf16)
ATTENTION_PAGED(attention_paged_f16)

} // namespace GOLLM_VARIANT
