/* The backward pass of causal attention (csrc/attention_backward.c has the formulas):
 *
 *   backward   dy, y (B, T, H D), qkv (B, T, (H + 2G) D), lse (B, H, T)    ->  dqkv (B, T, (H + 2G) D), laid out as qkv
 *
 * A first kernel computes delta_i = dy_i.y_i. Then one kernel, twice: a block owns ROWS rows of gradients, and goes through
 * blocks of COLUMNS of the other kind, in ascending order, so that nothing is added by two blocks. With p and
 * ds / scale = p (dp - delta) of each pair,
 *
 *                          dk and dv                              dq
 *     rows                 keys of a group's head                 queries of a head
 *     columns              queries that see them, head by head    keys that they see
 *     scores               k q^T = s^T,  v dy^T = dp^T            q k^T = s,  dy v^T = dp
 *     first sum            dk = ds^T q                            dq = ds k
 *     second sum           dv = p^T dy
 *
 * 7 products for a pair, 14D operations, where a single kernel would have 5, and would have to add dq in some order.
 *
 *   bfloat16    64 rows of a block of 4 warps, each with whole rows; all but the operands stays in registers, p and ds rounded
 *   float       16 x 16 threads; p and ds go through shared memory
 */
#ifdef GOLLM_BF16
#include "attention_tiles.h"
#else
#include "attention_floats.h"
#endif

namespace GOLLM_VARIANT {

struct Gradients {
    Attention a;
    const real *dy; // token n of B * T, head h at dy + n * dy_row + h * a.head
    int64_t dy_row;
    const float *lse, *delta; // (B, H, T)
    real *dqkv;               // (B, T, H + 2G, D)
    int64_t accumulate;
};

/* The block's rows and, step by step, its blocks of columns. KEYS: the rows are keys. */
template <bool KEYS, int ROWS, int COLUMNS> struct BackwardWork {
    int first, begin, each, steps; // each: steps of a head
    int64_t b, g, head, group, token;

    __device__ __forceinline__ BackwardWork(const Attention &a, int64_t index, int n_blocks) {
        const int block = (int)(index % n_blocks); // the longest first: the first keys, the last queries
        const int64_t heads = KEYS ? a.G : a.H;
        first = (KEYS ? block : n_blocks - 1 - block) * ROWS;
        begin = (KEYS ? first : a.first_key(first)) / COLUMNS * COLUMNS;
        const int last = first + ROWS < a.T ? first + ROWS : a.T, end = KEYS ? a.end_of_queries(last - 1) : last;
        each = (end - begin + COLUMNS - 1) / COLUMNS;
        b = index / n_blocks / heads, token = b * a.T;
        head = index / n_blocks % heads, group = a.H / a.G, g = KEYS ? head : head / group;
        steps = KEYS ? each * (int)group : each;
    }
    __device__ __forceinline__ int column(int step) const { return begin + step % each * COLUMNS; }
    __device__ __forceinline__ int64_t query_head(int step) const { return KEYS ? g * group + step / each : head; }
    __device__ __forceinline__ bool masked(const Attention &a, int column) const {
        return KEYS ? !a.all_see(column, COLUMNS, first, ROWS) : !a.all_see(first, ROWS, column, COLUMNS);
    }
    __device__ __forceinline__ bool sees(const Attention &a, int row, int column) const {
        return KEYS ? a.sees(column, first + row) : a.sees(first + row, column);
    }
    __device__ __forceinline__ int64_t output(const Attention &a, int position) const {
        return ((token + position) * (a.H + 2 * a.G) + (KEYS ? a.H + g : head)) * a.D;
    }
};

/* The operands whose rows are keys and those whose rows are queries, of a block's tokens; and what goes with a query. */
struct Operands {
    const real *q, *k, *v, *dy;
    __device__ __forceinline__ Operands(const Gradients &p, int64_t token, int64_t g)
        : q(p.a.q + token * p.a.row), k(p.a.k + token * p.a.row + g * p.a.head),
          v(p.a.v + token * p.a.row + g * p.a.head), dy(p.dy + token * p.dy_row) {}
};
struct QueryState {
    float lse, delta; // lse in powers of two
    __device__ __forceinline__ QueryState() : lse(0), delta(0) {}
    __device__ __forceinline__ QueryState(const Gradients &p, int64_t b, int64_t h, int query) : QueryState() {
        const int64_t at = (b * p.a.H + h) * p.a.T + query;
        if (query < p.a.T) lse = p.lse[at] * LOG2_E, delta = p.delta[at];
    }
};

/* A pair of a row of gradients, the first of those of scores (`of_scores`) or of values: multiplied by the scale and turned
 * back, or as it is; and written or added. */
__device__ __forceinline__ void put_gradient(const Gradients &p, real *row, int position, int d, bool of_scores,
                                             float x0, float x1) {
    if (d >= p.a.D) return;
    if (of_scores) x0 *= p.a.scale, x1 *= p.a.scale;
    if (of_scores && p.a.rotations) {
        const real *rotation = p.a.rotations + (int64_t)position * p.a.D + d;
        const float cos = to_float(rotation[0]), sin = to_float(rotation[1]), x = x0;
        x0 = x * cos + x1 * sin;
        x1 = x1 * cos - x * sin;
    }
    if (p.accumulate) {
        x0 += to_float(row[d]);
        if (d + 1 < p.a.D) x1 += to_float(row[d + 1]);
    }
    put_pair(row, d, p.a.D, x0, x1);
}

/* delta (B, H, T) = dy.y of each row of D values; `lanes` of a warp take a row. */
__global__ void __launch_bounds__(ELEMENT_THREADS)
    attention_delta_kernel(float *delta, const real *dy, const real *y, int64_t rows, int64_t T, int64_t H, int64_t D,
                           int lanes) {
    const int64_t at = (int64_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x, n = at / lanes; // row (b, t, h)
    float sum = 0;
    for (int64_t i = at % lanes * VL; i < D && n < rows; i += lanes * VL) {
        const vec v = load_n(dy + n * D + i, D - i) * load_n(y + n * D + i, D - i);
        EACH_LANE(k) sum += v.x[k];
    }
    for (int mask = lanes / 2; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (n < rows && at % lanes == 0) delta[(n / H / T * H + n % H) * T + n / H % T] = sum;
}

#ifdef GOLLM_BF16
template <int HD> struct BackwardMemory {
    static constexpr int ROWS = ATTENTION_WARPS * 16, COLUMNS = HD <= 64 ? 64 : 4096 / HD; // registers: sums, s, dp
    HeadTile<ROWS, HD> rows[2];                                                            // k and v, or q and dy
    struct Stage {
        HeadTile<COLUMNS, HD> columns[2]; // q and dy, or k and v
        QueryState queries[COLUMNS];
    } stages[2];
};

/* KEYS: the rows are keys. WIDTH: of the head's columns, those that a block has sums of. */
template <int HD, bool KEYS, int WIDTH>
__global__ void __launch_bounds__(ATTENTION_THREADS) attention_backward_kernel(Gradients p, int n_blocks) {
    typedef BackwardMemory<HD> Memory;
    constexpr int ROWS = Memory::ROWS, COLUMNS = Memory::COLUMNS, PARTS = HD / WIDTH;
    Memory &memory = shared_memory<Memory>();
    const Attention &a = p.a;
    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16, column0 = blockIdx.x % PARTS * WIDTH;
    const BackwardWork<KEYS, ROWS, COLUMNS> work(a, blockIdx.x / PARTS, n_blocks);
    const Operands from(p, work.token, work.g);
    auto load = [&](int step) {
        if (step < work.steps) {
            typename Memory::Stage &stage = memory.stages[step % 2];
            const int column = work.column(step);
            const int64_t h = work.query_head(step);
            load_tile(stage.columns[0], KEYS ? from.q + h * a.head : from.k, a.row, column, a.T, a.D);
            load_tile(stage.columns[1], KEYS ? from.dy + h * a.head : from.v, KEYS ? p.dy_row : a.row, column, a.T,
                      a.D);
            if (KEYS && threadIdx.x < COLUMNS)
                stage.queries[threadIdx.x] = QueryState(p, work.b, h, column + (int)threadIdx.x);
        }
        copy_commit();
    };
    load_tile(memory.rows[0], KEYS ? from.k : from.q + work.head * a.head, a.row, work.first, a.T, a.D);
    load_tile(memory.rows[1], KEYS ? from.v : from.dy + work.head * a.head, KEYS ? a.row : p.dy_row, work.first, a.T,
              a.D);
    load(0);
    QueryState rows[2]; // lane / 4 and lane / 4 + 8
    for (int half = 0; half < 2 && !KEYS; half++)
        rows[half] = QueryState(p, work.b, work.head, work.first + row0 + lane / 4 + half * 8);
    float sums[2][1][WIDTH / 8][4] = {};
    const float c = a.scale * LOG2_E;
    for (int step = 0; step < work.steps; step++) {
        const typename Memory::Stage &stage = memory.stages[step % 2];
        const int column = work.column(step);
        const bool masked = work.masked(a, column);
        auto sees = [&](int row, int n) { return work.sees(a, row0 + row, column + n); };
        copy_wait<0>();
        const bool careful = __syncthreads_or(
            masked && !(copied_finite(stage.columns[0]) && (!KEYS || copied_finite(stage.columns[1]))));
        load(step + 1); // into the stage that all have left
        float s[1][COLUMNS / 8][4] = {}, dp[1][COLUMNS / 8][4] = {};
        add_scores<HD>(s, memory.rows[0], row0, stage.columns[0]);
        add_scores<HD>(dp, memory.rows[1], row0, stage.columns[1]);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = n * 8 + lane % 4 * 2 + e % 2;
                const QueryState query = KEYS ? stage.queries[at] : rows[e / 2];
                const float weight = fast_exp2(s[0][n][e] * c - query.lse);
                const float slope = weight * (dp[0][n][e] - query.delta);
                const bool seen = !masked || sees(lane / 4 + e / 2 * 8, at);
                s[0][n][e] = seen ? weight : 0;
                dp[0][n][e] = seen ? slope : 0;
            }
        uint32_t weights[2][1][COLUMNS / 16][4]; // ds and p
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 16) {
            weights_of(weights[0][0][n / 16], dp[0], n);
            if (KEYS) weights_of(weights[1][0][n / 16], s[0], n);
        }
        add_weighted<true, HD, WIDTH>(sums[0], weights[0], stage.columns[0], column0, careful, sees);
        if (KEYS) add_weighted<false, HD, WIDTH>(sums[1], weights[1], stage.columns[1], column0, careful, sees);
    }
    copy_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int position = work.first + row0 + lane / 4 + half * 8;
        if (position >= a.T) continue;
        bf16 *row = p.dqkv + work.output(a, position);
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            const int d = column0 + n * 8 + lane % 4 * 2, e = half * 2;
            put_gradient(p, row, position, d, true, sums[0][0][n][e], sums[0][0][n][e + 1]);
            if (KEYS) put_gradient(p, row + a.G * a.D, position, d, false, sums[1][0][n][e], sums[1][0][n][e + 1]);
        }
    }
}
#else
template <int HD> struct BackwardMemory {
    static constexpr int ROWS = HD <= 128 ? 64 : 32, COLUMNS = 32; // at most 140 KB
    HeadTile<ROWS, HD> rows[2];                                    // k and v, or q and dy
    HeadTile<COLUMNS, HD> columns[2];                              // q and dy, or k and v
    Weights<ROWS, COLUMNS> ds, p;
    QueryState queries[COLUMNS];
};

template <int HD, bool KEYS, int WIDTH>
__global__ void __launch_bounds__(ATTENTION_THREADS, 1) attention_backward_kernel(Gradients p, int n_blocks) {
    typedef BackwardMemory<HD> Memory;
    constexpr int ROWS = Memory::ROWS, COLUMNS = Memory::COLUMNS, R = ROWS / 16, N = COLUMNS / 16;
    Memory &memory = shared_memory<Memory>();
    const Attention &a = p.a;
    const int x = threadIdx.x % 16, row0 = threadIdx.x / 16 * R;
    const BackwardWork<KEYS, ROWS, COLUMNS> work(a, blockIdx.x, n_blocks);
    const Operands from(p, work.token, work.g);
    load_tile(memory.rows[0], KEYS ? from.k : from.q + work.head * a.head, a.row, work.first, a.T, a.D);
    load_tile(memory.rows[1], KEYS ? from.v : from.dy + work.head * a.head, KEYS ? a.row : p.dy_row, work.first, a.T,
              a.D);
    QueryState rows[R];
    for (int r = 0; r < R && !KEYS; r++) rows[r] = QueryState(p, work.b, work.head, work.first + row0 + r);
    float first[R][HD / 16] = {}, second[R][HD / 16] = {};
    for (int step = 0; step < work.steps; step++) {
        const int column = work.column(step);
        const int64_t h = work.query_head(step);
        const bool masked = work.masked(a, column);
        auto sees = [&](int row, int n) { return work.sees(a, row, column + n); };
        __syncthreads();
        load_tile(memory.columns[0], KEYS ? from.q + h * a.head : from.k, a.row, column, a.T, a.D);
        load_tile(memory.columns[1], KEYS ? from.dy + h * a.head : from.v, KEYS ? p.dy_row : a.row, column, a.T, a.D);
        if (KEYS && threadIdx.x < COLUMNS)
            memory.queries[threadIdx.x] = QueryState(p, work.b, h, column + (int)threadIdx.x);
        __syncthreads();
        float s[R][N] = {}, dp[R][N] = {};
        add_scores(s, memory.rows[0], memory.columns[0]);
        add_scores(dp, memory.rows[1], memory.columns[1]);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int n = 0; n < N; n++) {
                const int at = x + n * 16;
                const QueryState query = KEYS ? memory.queries[at] : rows[r];
                const float weight = fast_exp2(s[r][n] * (a.scale * LOG2_E) - query.lse);
                memory.ds.values[row0 + r][at] = weight * (dp[r][n] - query.delta);
                memory.p.values[row0 + r][at] = weight;
            }
        __syncwarp(); // a row's threads are of one warp
        add_weighted(first, memory.ds, memory.columns[0], masked, sees);
        if (KEYS) add_weighted(second, memory.p, memory.columns[1], masked, sees);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int d = 0; d < HD / 16; d++) { // to where a thread finds pairs
            memory.rows[0].values[row0 + r][x + d * 16] = first[r][d];
            memory.rows[1].values[row0 + r][x + d * 16] = second[r][d];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * HD / 2; i += ATTENTION_THREADS) {
        const int row = i / (HD / 2), d = i % (HD / 2) * 2, position = work.first + row;
        if (position >= a.T) break;
        float *to = p.dqkv + work.output(a, position);
        const float *dx = memory.rows[0].values[row] + d, *dv = memory.rows[1].values[row] + d;
        put_gradient(p, to, position, d, true, dx[0], dx[1]);
        if (KEYS) put_gradient(p, to + a.G * a.D, position, d, false, dv[0], dv[1]);
    }
}
#endif

template <int HD, bool KEYS> int run_backward(const Gradients &p, int64_t B, const gollm_team *team) {
    constexpr int WIDTH = KEYS && HD > 128 && sizeof(real) < 4 ? HD / 2 : HD; // as many sums as there are registers for
    const int64_t blocks = ceil_div(p.a.T, BackwardMemory<HD>::ROWS), heads = KEYS ? p.a.G : p.a.H;
    return launch(attention_backward_kernel<HD, KEYS, WIDTH>, dim3(grid_size(blocks * heads * B * (HD / WIDTH))),
                  ATTENTION_THREADS, sizeof(BackwardMemory<HD>), team, p, blocks);
}

/* The workspace: rows of qkv and of dy, where they have to be packed, and delta. */
static int64_t dy_bytes(const attention_backward_args *args) {
    return is_packed(args->dy, args->D) ? 0 : packed_bytes(args->B * args->T, args->H, args->D);
}
static int64_t aligned16(int64_t bytes) { return ceil_div(bytes, 16) * 16; }

int64_t attention_backward_workspace(const attention_backward_args *args) {
    return aligned16(attention_rows_bytes(args)) + aligned16(dy_bytes(args)) +
           (int64_t)sizeof(float) * args->B * args->H * args->T;
}

int attention_backward(const attention_backward_args *args, const gollm_team *team) {
    if (!args->dqkv) return GOLLM_OK;
    const int64_t H = args->H, D = args->D, T = args->T, tokens = args->B * T, head = padded_head(D);
    real *dy = (real *)((char *)team->workspace + aligned16(attention_rows_bytes(args)));
    float *delta = (float *)((char *)dy + aligned16(dy_bytes(args)));
    Gradients p = {{}, args->dy, H * D, args->lse, delta, args->dqkv, args->dqkv_accumulate};
    int status = attention_rows(&p.a, args, team);
    if (status == GOLLM_OK && dy_bytes(args) > 0) {
        const PackedHeads packed = {dy, args->dy, nullptr, tokens, H * D, H, 0, D, head, T};
        p.dy = dy, p.dy_row = H * head;
        status = launch(attention_pack_kernel, element_blocks(tokens * H * head), ELEMENT_THREADS, 0, team, packed);
    }
    int lanes = 1;
    while (lanes < 32 && lanes * VL < D) lanes *= 2;
    if (status == GOLLM_OK)
        status = launch(attention_delta_kernel, dim3(grid_size(ceil_div(tokens * H * lanes, ELEMENT_THREADS))),
                        ELEMENT_THREADS, 0, team, delta, args->dy, args->y, tokens * H, T, H, D, lanes);
    if (status != GOLLM_OK) return status;
    return with_head_size(D, [&](auto size) {
        constexpr int HD = decltype(size)::value;
        const int keys = run_backward<HD, true>(p, args->B, team);
        return keys == GOLLM_OK ? run_backward<HD, false>(p, args->B, team) : keys;
    });
}

} // namespace GOLLM_VARIANT
