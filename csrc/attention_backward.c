/* The backward pass of causal attention (attention_forward.c has the forward):
 *
 *   backward   dy, y (B, T, H D), qkv (B, T, (H + 2G) D), lse (B, H, T)    ->  dqkv (B, T, (H + 2G) D), laid out as qkv
 *
 * With rotated q and k where there are rotations, whose gradients are rotated back at the end, and j <= i within the window:
 *
 *     1.  s_ij = q_i.k_j,    dp_ij = dy_i.v_j
 *     2.  p_ij = exp(scale * s_ij - lse_i),    ds_ij = scale * p_ij (dp_ij - dy_i.y_i)
 *     3.  dq_i = sum_j ds_ij k_j
 *     4.  dv_j = sum_i p_ij dy_i,    dk_j = sum_i ds_ij q_i      (over all heads of the group)
 *
 * Cost: five products, 10 D operations for each pair of a query and a key. The unit of work is a block of QUERIES against
 * a block of KEYS: its p and ds fit L2, and the products run on the packed microkernel.
 *
 * Every element has one order of summation, whatever the threads: dq adds its blocks of keys in ascending order; dk and dv
 * add their blocks of queries, head by head, in ascending order.
 *
 * Threads take whole key/value heads while there is one for each. The heads that are left over are shared, one block of
 * keys after the other: in each round, every thread computes up to PARTS products of a block of queries, whose rows of dq
 * are its own, and whose parts of dk and dv are then added in order.
 *
 * Memory: at most n_threads * (buffers + (PARTS + 1) * gradients), where gradients are dk and dv of a block of keys, 2 *
 * KEYS * D reals: 196 KB at D = 128. It does not grow with T or B. Without shared heads, n_threads * buffers.
 */
#include "attention.h"
#include "vec_math.h" /* vec_exp2_negative */
#include "workspace.h"

enum {
    ROW = KEYS + 16, // rows of p and ds are not a power of two apart, and end after a tile of MR
    PARTS = 8        // a thread's in a round: enough that the two barriers of a round do not matter
};
_Static_assert(KEYS % NR == 0 && KEYS % MR == 0 && QUERIES % MR == 0, "tiles fit in a block");

/* One thread's workspace. */
struct buffers {
    struct packed block; // k_lines, v_lines, k_steps of the keys of `head` from first_key on
    int64_t head, first_key;
    real *q_lines, *dy_lines; // [D][MR]
    real *q_steps, *dy_steps; // [panel of NR columns][QUERIES][NR]
    real *s, *dp;             // [panel of NR keys][MR][NR]
    real *p, *ds;             // [QUERIES][ROW]
    real *dq;                 // [panel of NR columns][MR][NR]
    real *gradients;          // dk [KEYS][columns], dv [KEYS][columns]
    real *rotated;            // (MR, D): queries
};

static int64_t gradients_size(int64_t D) { return 2 * KEYS * round_up(D, NR); }

static int64_t blocks_of(int64_t tokens, int64_t block) { return (tokens + block - 1) / block; }

/* As in attention_forward.c. Shared heads have sums (heads, gradients) and parts (a round's, gradients); the team may turn
 * out to be smaller than n_threads. */
static int64_t lay_out(const struct attention *a, void *workspace, int thread, int n_threads, struct buffers *w,
                       real **sums, real **parts) {
    const int64_t D = a->D, columns = round_up(D, NR), heads = times_i64(a->S, a->G);
    int64_t shared = 0;
    for (int n = 1; n <= n_threads; n++) shared = max_i64(shared, heads % n);
    const int64_t all_parts = times_i64(shared, times_i64(a->H / a->G, blocks_of(a->T, QUERIES)));
    struct carve at = {workspace, 0};
    *sums = carve(&at, shared * gradients_size(D), sizeof(real));
    *parts = carve(&at, min_i64(PARTS * n_threads, all_parts) * gradients_size(D), sizeof(real));
    for (int i = 0; i <= thread; i++) {
        w->block = (struct packed){.height = KEYS};
        w->block.k_lines = carve(&at, KEYS * D, sizeof(real));
        w->block.v_lines = carve(&at, KEYS * D, sizeof(real));
        w->block.k_steps = carve(&at, KEYS * columns, sizeof(real));
        w->block.rotated = carve(&at, NR * D, sizeof(real));
        w->q_steps = carve(&at, QUERIES * columns, sizeof(real));
        w->dy_steps = carve(&at, QUERIES * columns, sizeof(real));
        w->p = carve(&at, QUERIES * ROW, sizeof(real));
        w->ds = carve(&at, QUERIES * ROW, sizeof(real));
        w->s = carve(&at, MR * KEYS, sizeof(real));
        w->dp = carve(&at, MR * KEYS, sizeof(real));
        w->gradients = carve(&at, gradients_size(D), sizeof(real));
        w->q_lines = carve(&at, MR * D, sizeof(real));
        w->dy_lines = carve(&at, MR * D, sizeof(real));
        w->dq = carve(&at, MR * columns, sizeof(real));
        w->rotated = carve(&at, MR * D, sizeof(real));
    }
    return at.used;
}

/* p and ds (KEYS) of one row, 0 where a key is not seen. s and dp are a row of [panel][MR][NR]. */
static void softmax_gradient(const real *s, const real *dp, struct range seen, real scale, real lse, real delta,
                             real *p, real *ds) {
    const vec factor = vec_set(scale * (real)LOG2_E), shift = vec_set(lse * (real)LOG2_E), zero = vec_set(0);
    const vec slope = vec_set(scale), less = vec_set(delta);
    const int64_t begin = seen.begin / VL * VL, end = max_i64(begin, round_up(seen.end, VL));
    for (int64_t j = begin; j < end; j += VL) {
        const int64_t at = j / NR * (MR * NR) + j % NR;
        vec e = vec_exp2_negative(vec_load(s + at) * factor - shift), g = e * (vec_load(dp + at) - less) * slope;
        if (j < seen.begin || j + VL > seen.end) {
            e = vec_keep(e, seen.begin - j, seen.end - j, zero);
            g = vec_keep(g, seen.begin - j, seen.end - j, zero);
        }
        vec_store(p + j, e);
        vec_store(ds + j, g);
    }
    clear(p, 0, begin);
    clear(ds, 0, begin);
    clear(p, end, KEYS);
    clear(ds, end, KEYS);
}

static real dot(const real *a, const real *b, int64_t D) {
    vec sum = vec_set(0);
    for (int64_t d = 0; d < D; d += VL) sum += vec_load_n(a + d, D - d) * vec_load_n(b + d, D - d);
    return vec_sum(sum);
}

/* to (D) = x, or += where `add` */
static void put(real *to, const real *x, int64_t D, int add) {
    for (int64_t d = 0; d < D; d += VL) {
        const vec v = vec_load(x + d);
        vec_store_n(to + d, add ? vec_load_n(to + d, D - d) + v : v, D - d);
    }
}

/* dv += p^T dy and dk += ds^T q for `rows` keys of the block, from key j on, over the block's queries i. */
static inline __attribute__((always_inline)) void add_keys(const int rows, int64_t j, struct range i, int64_t D,
                                                           const struct buffers *w, real *dk, real *dv) {
    const int64_t columns = round_up(D, NR), n = i.end - i.begin;
    for (int64_t d = 0; d < D && n > 0; d += NR) {
        microkernel_rows(rows, n, w->p + i.begin * ROW + j, 1, ROW, w->dy_steps + d * QUERIES + i.begin * NR, NR,
                         dv + j * columns + d, columns, 1);
        microkernel_rows(rows, n, w->ds + i.begin * ROW + j, 1, ROW, w->q_steps + d * QUERIES + i.begin * NR, NR,
                         dk + j * columns + d, columns, 1);
    }
}

/* A block of queries of head h of a group against the block of keys from first_key on: adds to dq, and to dk and dv in
 * `gradients`. Key/value heads are numbered `head` = sequence * G + g. */
static void add_block(const struct attention *a, const struct attention_backward_args *args, int64_t head,
                      int64_t first_key, int64_t h, int64_t first_query, struct buffers *w, real *gradients) {
    const int64_t D = a->D, columns = round_up(D, NR), g = head % a->G;
    const struct sequence s = sequence_at(a, head / a->G);
    const struct range keys = {first_key, min_i64(a->T, first_key + KEYS)};
    const struct range queries = {first_query, min_i64(a->T, first_query + QUERIES)};
    if (w->head != head || w->first_key != first_key) pack_keys(a, &s, g, keys, &w->block);
    w->head = head;
    w->first_key = first_key;
    vec zeros = vec_set(0);
    for (int64_t i = 0; i < queries.end - first_query; i += MR) {
        struct tile t = {.rows = (int)min_i64(MR, queries.end - first_query - i)};
        const real *dy[MR];
        for (int r = 0; r < MR; r++) {
            set_row(a, &s, g * (a->H / a->G) + h, first_query + i + min_i64(r, t.rows - 1), keys, &t, r);
            dy[r] = args->dy + head_offset(a, &s, t.head[r], t.query[r]);
        }
        real *dq = args->dqkv + (t.q[0] - args->qkv);
        rope_rotate_rows(a->rotations, D, MR, t.q, t.position, w->rotated);
        for (int r = 0; r < t.rows; r++)
            zeros += pack_step(w->q_steps + (i + r) * NR, QUERIES, t.q[r], D) +
                     pack_step(w->dy_steps + (i + r) * NR, QUERIES, dy[r], D);
        if (t.seen[0].begin == t.seen[t.rows - 1].end) continue; // no row sees a key of the block
        pack_panel(w->q_lines, MR, t.q, D);
        pack_panel(w->dy_lines, MR, dy, D);

        // 1. s = q k^T,  dp = dy v^T
        const struct range some = seen_by_some(&t);
        q_times_keys(t.rows, D, some, w->q_lines, w->block.k_lines, w->s);
        q_times_keys(t.rows, D, some, w->dy_lines, w->block.v_lines, w->dp);

        // 2. p and ds
        for (int r = 0; r < t.rows; r++) {
            const real *y = args->y + head_offset(a, &s, t.head[r], t.query[r]);
            softmax_gradient(w->s + r * NR, w->dp + r * NR, t.seen[r], a->scale,
                             args->lse[lse_offset(a, &s, t.head[r], t.query[r])], dot(dy[r], y, D),
                             w->p + (i + r) * ROW, w->ds + (i + r) * ROW);
        }

        // 3. dq += ds k
        const int add = keys_seen(a, t.position[0]).begin < first_key || args->dqkv_accumulate;
        p_times_values(&t, D, w->ds + i * ROW, ROW, w->block.k_steps, KEYS, w->block.steps_are_finite, w->dq);
        for (int r = 0; r < t.rows; r++)
            for (int64_t d = 0; d < D; d += NR) {
                real *row = w->dq + d * MR + r * NR;
                if (a->rotations) rope_rotate_back(row, row, a->rotations + t.position[r] * D + d, min_i64(NR, D - d));
                put(dq + r * a->q_stride + d, row, min_i64(NR, D - d), add);
            }
    }

    // 4. dv += p^T dy,  dk += ds^T q: where not all is finite, key by key, since 0 * inf is NaN
    real *dk = gradients, *dv = gradients + KEYS * columns;
    const int together = vec_sum(zeros) == 0 ? MR : 1;
    for (int64_t j = 0; j < keys.end - first_key; j += together) {
        const struct range i = {within(queries, queries_seeing(a, first_key + j)).begin,
                                within(queries, queries_seeing(a, first_key + j + together - 1)).end};
        if (together == MR)
            add_keys(MR, j, i, D, w, dk, dv);
        else
            add_keys(1, j, i, D, w, dk, dv);
    }
}

/* The finished dk and dv of a key into dqkv; gradients begin at its row. */
static void write_key(const struct attention *a, const struct attention_backward_args *args, int64_t head, int64_t key,
                      real *gradients) {
    const int64_t D = a->D;
    const struct sequence s = sequence_at(a, head / a->G);
    real *dk = args->dqkv + a->H * D + key_offset(a, &s, head % a->G, key);
    if (a->rotations) rope_rotate_back(gradients, gradients, a->rotations + key * D, D);
    put(dk, gradients, D, args->dqkv_accumulate != 0);
    put(dk + a->G * D, gradients + KEYS * round_up(D, NR), D, args->dqkv_accumulate != 0);
}

/* The blocks of queries that see a key of a block. */
static struct range query_blocks(const struct attention *a, int64_t first_key) {
    const int64_t last_key = min_i64(a->T, first_key + KEYS) - 1;
    return (struct range){first_key / QUERIES, blocks_of(min_i64(a->T, queries_seeing(a, last_key).end), QUERIES)};
}

static void whole_head(const struct attention *a, const struct attention_backward_args *args, int64_t head,
                       struct buffers *w) {
    for (int64_t first_key = 0; first_key < a->T; first_key += KEYS) {
        const struct range blocks = query_blocks(a, first_key);
        clear(w->gradients, 0, gradients_size(a->D));
        for (int64_t h = 0; h < a->H / a->G; h++)
            for (int64_t i = blocks.begin; i < blocks.end; i++)
                add_block(a, args, head, first_key, h, i * QUERIES, w, w->gradients);
        for (int64_t j = 0; j < min_i64(KEYS, a->T - first_key); j++)
            write_key(a, args, head, first_key + j, w->gradients + j * round_up(a->D, NR));
    }
}

/* Adds a round's parts of dk and dv of a key to its sum, in order; the first part of a head starts the sum. */
static void add_parts(real *sum, const real *part, int64_t n, int starts, int64_t D) {
    for (int half = 0; half < 2; half++, sum += KEYS * round_up(D, NR), part += KEYS * round_up(D, NR))
        for (int64_t d = 0; d < D; d += VL) {
            vec x = starts ? vec_set(0) : vec_load(sum + d);
            for (int64_t i = 0; i < n; i++) x += vec_load(part + i * gradients_size(D) + d);
            vec_store(sum + d, x);
        }
}

/* Heads first_head ... first_head + heads - 1, by all threads. */
static void shared_heads(const struct attention *a, const struct attention_backward_args *args, int64_t first_head,
                         int64_t heads, struct buffers *w, real *sums, real *parts, const struct gollm_team *team) {
    const int64_t size = gradients_size(a->D), columns = round_up(a->D, NR);
    for (int64_t first_key = 0; first_key < a->T; first_key += KEYS) {
        const struct range blocks = query_blocks(a, first_key);
        const int64_t n_blocks = blocks.end - blocks.begin, each = a->H / a->G * n_blocks; // parts of a head
        const int64_t keys = min_i64(KEYS, a->T - first_key);
        for (int64_t begin = 0, end; begin < heads * each; begin = end) { // a round: parts [begin, end)
            end = min_i64(heads * each, begin + PARTS * team->n_threads);
            const struct range mine = thread_range(end - begin, 1, team);
            for (int64_t x = mine.begin; x < mine.end; x++) {
                const int64_t head = (begin + x) / each, part = (begin + x) % each;
                clear(parts + x * size, 0, size);
                add_block(a, args, first_head + head, first_key, part / n_blocks,
                          (blocks.begin + part % n_blocks) * QUERIES, w, parts + x * size);
            }
            gollm_team_wait(team);
            const int64_t head = begin / each, n_heads = (end - 1) / each + 1 - head;
            const struct range added = thread_range(n_heads * keys, 1, team);
            for (int64_t x = added.begin; x < added.end; x++) {
                const int64_t c = head + x / keys, j = x % keys;
                const struct range of_head = {max_i64(begin, c * each), min_i64(end, (c + 1) * each)};
                real *sum = sums + c * size + j * columns;
                add_parts(sum, parts + (of_head.begin - begin) * size + j * columns, of_head.end - of_head.begin,
                          of_head.begin == c * each, a->D);
                if (of_head.end == (c + 1) * each) write_key(a, args, first_head + c, first_key + j, sum);
            }
            gollm_team_wait(team); // the next round takes the same place
        }
    }
}

int64_t KERNEL_FN(attention_backward_workspace)(const struct attention_backward_args *args, int n_threads) {
    if (!attention_heads_are_good(args->H, args->G, args->D)) return 0;
    const struct attention a = {ATTENTION_OVER_ROWS(args)};
    struct buffers w = {0};
    real *sums = NULL, *parts = NULL;
    return lay_out(&a, NULL, n_threads - 1, n_threads, &w, &sums, &parts);
}

int KERNEL_FN(attention_backward_check)(const struct attention_backward_args *args) {
    return attention_check_rows(args->T, args->H, args->G, args->D, args->rotations, args->A, args->window,
                                args->scale);
}

int KERNEL_FN(attention_backward)(const struct attention_backward_args *args, const struct gollm_team *team) {
    if (!args->dqkv) return GOLLM_OK;
    const struct attention a = {ATTENTION_OVER_ROWS(args)};
    struct buffers w = {.head = -1};
    real *sums = NULL, *parts = NULL;
    lay_out(&a, team->workspace, team->thread, team->n_threads, &w, &sums, &parts);
    memset(w.p, 0, QUERIES * ROW * sizeof(real)); // products read whole tiles, also where there are fewer rows
    memset(w.ds, 0, QUERIES * ROW * sizeof(real));
    const int64_t heads = a.S * a.G, n = heads / team->n_threads, whole = n * team->n_threads;
    for (int64_t head = team->thread * n; head < (team->thread + 1) * n; head++) whole_head(&a, args, head, &w);
    if (heads > whole) shared_heads(&a, args, whole, heads - whole, &w, sums, parts, team);
    return GOLLM_OK;
}
