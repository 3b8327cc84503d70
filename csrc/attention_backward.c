/* The backward pass of causal attention (attention_forward.c has the forward):
 *
 *   backward   dy, y (B, T, H D), qkv (B, T, (H + 2G) D), lse (B, H, T)     ->  dqkv (B, T, (H + 2G) D), in the layout of qkv
 *
 * With p_ij = exp(scale * q_i.k_j - lse_i), recomputed, and ds_ij = scale * p_ij (dy_i.v_j - dy_i.y_i) for j <= i (within
 * the window, where there is one), q and k turned where there are rotations, and their gradients turned back at the end:
 *
 *     dv_j = sum_i p_ij dy_i,    dk_j = sum_i ds_ij q_i,    dq_i = sum_j ds_ij k_j      (dk, dv over a group's heads
 * too)
 *
 * Five products, 10 D operations for each pair of a query and a key. The unit of work is a block of QUERIES against a
 * block of KEYS: its p and ds fit L2, and the products run on the packed microkernel. Every element has one order of
 * summation, whoever computes: dq adds its blocks of keys in ascending order; dk and dv add their blocks of queries,
 * head by head, in ascending order.
 *
 * Threads take whole key/value heads while there is one for each. The heads that are left over are shared, block of
 * keys by block of keys: threads split the blocks of queries, whose rows of dq are theirs, and leave their parts of dk
 * and dv to be added in order.
 */
#include "attention.h"
#include "gemm_pack.h" /* pack_panel */

enum { ROW = KEYS + 16 }; // rows of p and ds are not a power of two apart, and end after a tile of MR

typedef struct attention_backward_args args;

/* One thread's workspace. */
struct buffers {
    real *k_lines, *v_lines;  // [panel of NR keys][D][NR]: b of q k^T and dy v^T
    real *k_steps;            // [panel of NR columns][KEYS][NR]: b of ds k
    real *q_steps, *dy_steps; // [panel of NR columns][QUERIES][NR]: b of ds^T q and p^T dy
    real *q_lines, *dy_lines; // [D][MR]: a of q k^T and dy v^T
    real *p, *ds;             // [QUERIES][ROW]
    real *s, *dp;             // [panel of NR keys][MR][NR]
    real *dk, *dv;            // [KEYS][columns], dv right behind dk
    real *rows;               // [KEYS][D]: rows of q or k, turned
    int64_t head, block;      // whose keys are packed
    int keys_are_finite;
};

static int64_t columns_of(int64_t D) { return round_up(D, NR); }
static int64_t gradient_size(int64_t D) { return 2 * KEYS * columns_of(D); }

static int64_t buffers_size(int64_t D) {
    const int64_t columns = columns_of(D);
    return round_up(2 * KEYS * D + KEYS * columns + 2 * QUERIES * columns + 2 * MR * D + 2 * QUERIES * ROW +
                        2 * MR * KEYS + gradient_size(D) + KEYS * D,
                    16);
}

static real *take(real **workspace, int64_t size) {
    real *part = *workspace;
    *workspace += size;
    return part;
}

static struct buffers lay_out(real *at, int64_t D) {
    const int64_t columns = columns_of(D);
    struct buffers w = {.head = -1};
    w.k_lines = take(&at, KEYS * D), w.v_lines = take(&at, KEYS * D);
    w.k_steps = take(&at, KEYS * columns);
    w.q_steps = take(&at, QUERIES * columns), w.dy_steps = take(&at, QUERIES * columns);
    w.p = take(&at, QUERIES * ROW), w.ds = take(&at, QUERIES * ROW);
    w.s = take(&at, MR * KEYS), w.dp = take(&at, MR * KEYS);
    w.dk = take(&at, gradient_size(D)), w.dv = w.dk + KEYS * columns;
    w.q_lines = take(&at, MR * D), w.dy_lines = take(&at, MR * D);
    w.rows = take(&at, KEYS * D);
    memset(w.p, 0, 2 * QUERIES * ROW * sizeof(real)); // tiles read MR rows and columns, also where there are fewer
    return w;
}

/* A product's lines as panels of NR, the last one filled up with its last line. */
static void pack_all_lines(real *to, const real *from, int64_t stride, int64_t lines, int64_t D) {
    for (int64_t j = 0; j < lines; j += NR) {
        const real *line[NR];
        for (int64_t i = 0; i < NR; i++) line[i] = from + min_i64(j + i, lines - 1) * stride;
        pack_panel(to + j * D, NR, line, D);
    }
}

/* Rows as panels of NR columns, filled up with zeros; panels are `height` rows apart. Returns 1 where all are finite. */
static int pack_all_steps(real *to, int64_t height, const real *from, int64_t stride, int64_t rows, int64_t D) {
    vec zeros = vec_set(0); // x - x is 0, or NaN where x is not finite
    for (int64_t d = 0; d < D; d += NR)
        for (int64_t j = 0; j < rows; j++) {
            const real *x = from + j * stride + d;
            real *at = to + d * height + j * NR;
            const vec x0 = vec_load_n(x, D - d), x1 = D - d > VL ? vec_load_n(x + VL, D - d - VL) : vec_set(0);
            zeros += (x0 - x0) + (x1 - x1);
            vec_store(at, x0);
            vec_store(at + VL, x1);
        }
    return vec_sum(zeros) == 0;
}

/* Rows of q or k as they lie in qkv, at positions `first` and on; or, where there are rotations, turned. */
struct rows {
    const real *at;
    int64_t stride;
};

static struct rows turned(const args *a, const real *from, int64_t first, int64_t count, const struct buffers *w) {
    if (!a->rotations) return (struct rows){from, qkv_width(a->H, a->G, a->D)};
    for (int64_t i = 0; i < count; i++)
        rope_turn(w->rows + i * a->D, from + i * qkv_width(a->H, a->G, a->D), a->rotations + (first + i) * a->D, a->D);
    return (struct rows){w->rows, a->D};
}

/* Heads in the order of `head` = sequence * G + key/value head. */
static void pack_keys(const args *a, int64_t head, int64_t block, struct buffers *w) {
    if (w->head == head && w->block == block) return;
    const int64_t D = a->D, first = block * KEYS, keys = min_i64(KEYS, a->T - first);
    const real *k_rows = a->qkv + (head / a->G * a->T + first) * qkv_width(a->H, a->G, a->D) + (a->H + head % a->G) * D;
    const struct rows k = turned(a, k_rows, first, keys, w);
    pack_all_lines(w->k_lines, k.at, k.stride, keys, D);
    pack_all_lines(w->v_lines, k_rows + a->G * D, qkv_width(a->H, a->G, a->D), keys, D);
    w->keys_are_finite = pack_all_steps(w->k_steps, KEYS, k.at, k.stride, keys, D);
    w->head = head;
    w->block = block;
}

/* p and ds of one row, which sees the keys [from, keys); zero in the rest of the block. s and dp are rows of tiles. */
static void softmax_gradient(const real *s, const real *dp, int64_t from, int64_t keys, real scale, real lse,
                             real delta, real *p, real *ds) {
    const vec factor = vec_set(scale * (real)LOG2_E), shift = vec_set(lse * (real)LOG2_E);
    const vec slope = vec_set(scale), less = vec_set(delta);
    ivec lane;
    for (int i = 0; i < VL; i++) lane[i] = (ireal)i;
    const int64_t begin = min_i64(from / VL * VL, KEYS), end = max_i64(begin, round_up(keys, VL));
    for (int64_t j = begin; j < end; j += VL) {
        const int64_t at = j / NR * (MR * NR) + j % NR;
        vec e = exp2_negative(vec_load(s + at) * factor - shift), g = e * (vec_load(dp + at) - less) * slope;
        if (j < from || j + VL > keys) {
            const ivec seen = (lane >= (ireal)(from - j)) & (lane < (ireal)(keys - j));
            e = vec_select(seen, e, vec_set(0));
            g = vec_select(seen, g, vec_set(0));
        }
        vec_store(p + j, e);
        vec_store(ds + j, g);
    }
    memset(p, 0, (size_t)begin * sizeof(real));
    memset(ds, 0, (size_t)begin * sizeof(real));
    memset(p + end, 0, (size_t)(KEYS - end) * sizeof(real));
    memset(ds + end, 0, (size_t)(KEYS - end) * sizeof(real));
}

/* to (rows, count) = tile, or += */
static void put(real *to, int64_t stride, int64_t rows, int64_t count, const real *tile, int add) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < min_i64(NR, count); j += VL) {
            real *at = to + r * stride + j;
            vec x = vec_load(tile + r * NR + j);
            vec_store_n(at, add ? vec_load_n(at, count - j) + x : x, count - j);
        }
}

static real dot(const real *a, const real *b, int64_t D) {
    vec sum = vec_set(0);
    for (int64_t d = 0; d < D; d += VL) sum += vec_load_n(a + d, D - d) * vec_load_n(b + d, D - d);
    return vec_sum(sum);
}

/* The queries of a block, from position `first` on, that see the key at `position`: all from its own on, as far as its
 * window reaches. */
static struct range queries_seeing(const args *a, int64_t first, int64_t queries, int64_t position) {
    const int64_t beyond = a->window ? position + a->window - first : queries;
    return (struct range){max_i64(0, position - first), min_i64(queries, beyond)};
}

/* to (columns) += sum over the queries [begin, end) of weights, ROW apart, times rows of x: one key's dk or dv. */
static void add_queries(struct range queries, const real *weights, const real *x, int64_t D, real *to) {
    const int64_t n = queries.end - queries.begin;
    for (int64_t d = 0; d < D && n > 0; d += NR)
        microkernel_rows(1, n, weights + queries.begin * ROW, 1, ROW, x + d * QUERIES + queries.begin * NR, NR, to + d,
                         0, 1);
}

/* A block of queries of head h against a block of keys: adds to dq, and to dk and dv (KEYS, columns).
 *
 * p and ds are 0 beyond the mask, but 0 * inf is NaN: where not all is finite, each row meets only what it sees, one by
 * one. */
static void add_block(const args *a, int64_t head, int64_t block, int64_t h, int64_t query_block, struct buffers *w,
                      real *dk) {
    const int64_t D = a->D, columns = columns_of(D), first_of_keys = block * KEYS, first = query_block * QUERIES;
    const int64_t keys = min_i64(KEYS, a->T - first_of_keys), queries = min_i64(QUERIES, a->T - first);
    const int64_t row = head / a->G * a->T + first, h_all = head % a->G * (a->H / a->G) + h;
    const real *dy = a->dy + row * a->H * a->D + h_all * D,
               *y = a->y + row * a->H * a->D + h_all * D;                   // (queries, D), rows P apart
    const real *lse = a->lse + (head / a->G * a->H + h_all) * a->T + first; // (queries)
    real *dq = a->dqkv + row * qkv_width(a->H, a->G, a->D) + h_all * D, *dv = dk + KEYS * columns;
    real tile[MR * NR] __attribute__((aligned(64)));
    pack_keys(a, head, block, w);
    const struct rows q =
        turned(a, a->qkv + row * qkv_width(a->H, a->G, a->D) + h_all * D, first, queries, w); // (queries, D)
    const int queries_are_finite = pack_all_steps(w->q_steps, QUERIES, q.at, q.stride, queries, D) &
                                   pack_all_steps(w->dy_steps, QUERIES, dy, a->H * a->D, queries, D);
    for (int64_t i = 0; i < queries; i += MR) {
        const int64_t rows = min_i64(MR, queries - i), most = min_i64(keys, first + i + rows - first_of_keys);
        const int64_t begin = first_key(a->window, first + i); // what the tile's first row sees
        const int64_t least = max_i64(0, begin - first_of_keys) / NR * NR;
        if (begin >= first_of_keys + keys) { // no row sees the block
            memset(w->p + i * ROW, 0, (size_t)(rows * ROW) * sizeof(real));
            memset(w->ds + i * ROW, 0, (size_t)(rows * ROW) * sizeof(real));
            continue;
        }
        const real *q_line[MR], *dy_line[MR];
        for (int64_t r = 0; r < MR; r++) {
            q_line[r] = q.at + min_i64(i + r, queries - 1) * q.stride;
            dy_line[r] = dy + min_i64(i + r, queries - 1) * a->H * a->D;
        }
        pack_panel(w->q_lines, MR, q_line, D);
        pack_panel(w->dy_lines, MR, dy_line, D);
        for (int64_t j = least; j < most; j += NR) {
            microkernel_packed(D, w->q_lines, w->k_lines + j * D, w->s + j * MR);
            microkernel_packed(D, w->dy_lines, w->v_lines + j * D, w->dp + j * MR);
        }
        for (int64_t r = 0; r < rows; r++) {
            const int64_t position = first + i + r;
            softmax_gradient(w->s + r * NR, w->dp + r * NR, max_i64(0, first_key(a->window, position) - first_of_keys),
                             min_i64(keys, position - first_of_keys + 1), (real)a->scale, lse[i + r],
                             dot(dy_line[r], y + (i + r) * a->H * a->D, D), w->p + (i + r) * ROW,
                             w->ds + (i + r) * ROW);
        }
        for (int64_t d = 0; d < D; d += NR) {
            microkernel(most - least, w->ds + i * ROW + least, ROW, 1, w->k_steps + d * KEYS + least * NR, NR, tile);
            for (int64_t r = 0; r < rows && !w->keys_are_finite; r++) {
                const int64_t from = min_i64(keys, max_i64(0, first_key(a->window, first + i + r) - first_of_keys));
                const int64_t seen = max_i64(0, min_i64(keys, first + i + r - first_of_keys + 1) - from);
                microkernel_rows(1, seen, w->ds + (i + r) * ROW + from, ROW, 1, w->k_steps + d * KEYS + from * NR, NR,
                                 tile + r * NR, NR, 0);
            }
            for (int64_t r = 0; r < rows && a->rotations; r++)
                rope_turn_back(tile + r * NR, tile + r * NR, a->rotations + (first + i + r) * D + d,
                               min_i64(NR, D - d));
            put(dq + i * qkv_width(a->H, a->G, a->D) + d, qkv_width(a->H, a->G, a->D), rows, D - d, tile,
                block > begin / KEYS || a->dqkv_accumulate);
        }
    }
    for (int64_t j = 0; j < keys && !queries_are_finite; j++) {
        const struct range seeing = queries_seeing(a, first, queries, first_of_keys + j);
        add_queries(seeing, w->p + j, w->dy_steps, D, dv + j * columns);
        add_queries(seeing, w->ds + j, w->q_steps, D, dk + j * columns);
    }
    for (int64_t j = 0; j < keys && queries_are_finite; j += MR) { // those that see one of MR keys
        const int64_t i = queries_seeing(a, first, queries, first_of_keys + j).begin;
        const int64_t end = queries_seeing(a, first, queries, first_of_keys + j + MR - 1).end;
        for (int64_t d = 0; d < D && i < end; d += NR) {
            microkernel_rows(MR, end - i, w->p + i * ROW + j, 1, ROW, w->dy_steps + d * QUERIES + i * NR, NR,
                             dv + j * columns + d, columns, 1);
            microkernel_rows(MR, end - i, w->ds + i * ROW + j, 1, ROW, w->q_steps + d * QUERIES + i * NR, NR,
                             dk + j * columns + d, columns, 1);
        }
    }
}

/* The finished dk and dv of a key: the sum of `parts`, in order, into dqkv. */
static void write_key(const args *a, int64_t head, int64_t key, const real *dk /* (D) */, int64_t parts,
                      int64_t part_size) {
    const int64_t D = a->D, columns = columns_of(D);
    real *to = a->dqkv + (head / a->G * a->T + key) * qkv_width(a->H, a->G, a->D) + (a->H + head % a->G) * D;
    real row[MAX_HEAD_DIM];
    for (int half = 0; half < 2; half++, to += a->G * D, dk += KEYS * columns) {
        for (int64_t d = 0; d < D; d += VL) {
            vec sum = vec_load(dk + d);
            for (int64_t x = 1; x < parts; x++) sum += vec_load(dk + x * part_size + d);
            vec_store_n(row + d, sum, D - d);
        }
        if (half == 0 && a->rotations) rope_turn_back(row, row, a->rotations + key * D, D);
        for (int64_t d = 0; d < D; d += VL) {
            vec x = vec_load_n(row + d, D - d);
            if (a->dqkv_accumulate) x += vec_load_n(to + d, D - d);
            vec_store_n(to + d, x, D - d);
        }
    }
}

static int64_t blocks_of(int64_t tokens, int64_t block) { return (tokens + block - 1) / block; }

/* The blocks of queries that see a key of a block. */
static struct range queries_of(const args *a, int64_t block) {
    const int64_t last_key = min_i64(a->T, (block + 1) * KEYS) - 1;
    const int64_t beyond = a->window ? min_i64(a->T, last_key + a->window) : a->T; // the last one's position, plus 1
    return (struct range){block * KEYS / QUERIES, blocks_of(beyond, QUERIES)};
}

static void whole_head(const args *a, int64_t head, struct buffers *w) {
    const int64_t group = a->H / a->G, columns = columns_of(a->D);
    for (int64_t block = 0; block < blocks_of(a->T, KEYS); block++) {
        memset(w->dk, 0, (size_t)gradient_size(a->D) * sizeof(real));
        const struct range queries = queries_of(a, block);
        for (int64_t h = 0; h < group; h++)
            for (int64_t i = queries.begin; i < queries.end; i++) add_block(a, head, block, h, i, w, w->dk);
        for (int64_t key = block * KEYS; key < min_i64(a->T, (block + 1) * KEYS); key++)
            write_key(a, head, key, w->dk + (key - block * KEYS) * columns, 1, 0);
    }
}

/* Heads `first` ... `first + count` - 1, by all threads. parts: (count, group * blocks of queries, gradient_size). */
static void shared_heads(const args *a, int64_t first, int64_t count, real *parts, struct buffers *w,
                         const struct gollm_team *team) {
    const int64_t group = a->H / a->G, columns = columns_of(a->D), size = gradient_size(a->D);
    for (int64_t block = 0; block < blocks_of(a->T, KEYS); block++) {
        const struct range queries = queries_of(a, block);
        const int64_t query_blocks = queries.end - queries.begin, each = group * query_blocks;
        const struct range mine = thread_range(count * each, 1, team);
        for (int64_t x = mine.begin; x < mine.end; x++) {
            memset(parts + x * size, 0, (size_t)size * sizeof(real));
            add_block(a, first + x / each, block, x % each / query_blocks, queries.begin + x % query_blocks, w,
                      parts + x * size);
        }
        gollm_team_wait(team);
        const int64_t keys = min_i64(KEYS, a->T - block * KEYS);
        const struct range written = thread_range(count * keys, 1, team);
        for (int64_t x = written.begin; x < written.end; x++)
            write_key(a, first + x / keys, block * KEYS + x % keys, parts + x / keys * each * size + x % keys * columns,
                      each, size);
        gollm_team_wait(team); // parts are overwritten by the next block
    }
}

/* Each thread's buffers, then the parts of shared heads. */
int64_t KERNEL_FN(attention_backward_workspace)(const args *a, int n_threads) {
    if (!attention_heads_are_good(a->H, a->G, a->D)) return 0;
    const int64_t heads = times_i64(a->B, a->G);
    int64_t shared = 0; // at most, since the team may turn out to be smaller
    for (int n = 1; n <= n_threads; n++) shared = max_i64(shared, heads % n);
    const int64_t parts = times_i64(shared, times_i64(a->H / a->G, blocks_of(a->T, QUERIES)));
    return times_i64(sizeof(real), plus_i64(n_threads * buffers_size(a->D), times_i64(parts, gradient_size(a->D))));
}

int KERNEL_FN(attention_backward_check)(const args *a) {
    const int status = attention_check(a->H, a->G, a->D, a->rotations, a->window, a->scale);
    return status != GOLLM_OK ? status : attention_check_positions(a->T, a->rotations, a->A);
}

int KERNEL_FN(attention_backward)(const args *a, const struct gollm_team *team) {
    if (!a->dqkv) return GOLLM_OK;
    real *workspace = team->workspace;
    struct buffers w = lay_out(workspace + team->thread * buffers_size(a->D), a->D);
    const int64_t heads = a->B * a->G, n = heads / team->n_threads;
    for (int64_t head = team->thread * n; head < (team->thread + 1) * n; head++) whole_head(a, head, &w);
    if (heads > n * team->n_threads)
        shared_heads(a, n * team->n_threads, heads - n * team->n_threads,
                     workspace + team->n_threads * buffers_size(a->D), &w, team);
    return GOLLM_OK;
}
