/* Causal attention in the flash style (Dao et al. 2022):
 *
 *     y_i = sum_j p_ij v_j,    p_ij = softmax over j <= i of scale * q_i.k_j
 *
 *   forward    qkv (B, T, (H + 2G) D)     ->  y (B, T, H D),  lse (B, H, T) = log sum_j exp(scale * q_i.k_j) for backward
 *
 * A row of qkv is [q of H heads | k of G heads | v of G heads]; H / G heads share keys and values.
 * Where there are rotations (A, D), q and k are first turned by their positions (rope.c). With a window W, the sum goes
 * over i - W < j <= i (Beltagy et al. 2020).
 *
 * What is masked does not matter: a key or value with j > i, before the window, or past the end of a sequence or of its
 * last page is left out by its index, so that neither its score nor a NaN or an infinity in it reaches y_i, lse_i or a
 * gradient of the pair; one that query i sees does, as the formulas send it. scale is any finite number, 0 and negative
 * ones included. This holds for attention_backward.c, attention_decode.c and attention_paged.c, too.
 *
 * The rule that makes a row of y a function of its query and its keys alone, whatever the batch, the chunk, the
 * threads, and the pages of attention_paged.c: keys are taken in blocks of KEY_BLOCK, the first at position 0. With
 * s_j = scale * log2(e) * q.k_j, and every product one chain of multiply-adds, a block gives
 *
 *     m = max_j s_j,    p_j = 2^(s_j - m),    l = sum_j p_j,    o = sum_j p_j v_j
 *
 * and blocks are merged in ascending order; at the end y = o / l:
 *
 *     M = max(m, m'),    l = l 2^(m - M) + l' 2^(m' - M),    o = o 2^(m - M) + o' 2^(m' - M)
 *
 * 4 D operations for each pair of a query and a key, half of the pairs by causality. Memory is O(T): scores exist for
 * one tile of MR rows and one block at a time. A block of K and V is packed once for all queries of a thread and all
 * heads of a group, and stays in L2 (128 KB at D = 64). Threads split the queries, weighted by their number of keys.
 * Sequences with few queries go to attention_decode.c.
 */
#include "attention.h"
#include "gemm_pack.h" /* pack_panel */

enum {
    P_ROW = KEY_BLOCK + 16, // rows of p are not a power of two apart, which would share a set of L1
    LINES = MR > NR ? MR : NR
};

/* One thread's workspace. */
struct buffers {
    real *keys;   // [panel][D][NR]
    real *values; // [panel of NR columns][KEY_BLOCK][NR]
    real *q;      // [D][MR]
    real *scores; // [panel][MR][NR]
    real *p;      // [MR][P_ROW]
    real *o;      // [panel of NR columns][MR][NR]
    real *rows;   // [LINES][D]: rows of k or q, turned
    int values_are_finite;
};

static int64_t buffers_size(int64_t D) {
    const int64_t columns = round_up(D, NR);
    return round_up(KEY_BLOCK * D + KEY_BLOCK * columns + MR * (D + KEY_BLOCK + P_ROW + columns) + LINES * D, 16);
}

static struct buffers lay_out(real *workspace, int64_t D) {
    const int64_t columns = round_up(D, NR);
    struct buffers w = {.values = workspace, .values_are_finite = 1};
    w.keys = w.values + KEY_BLOCK * columns;
    w.scores = w.keys + KEY_BLOCK * D;
    w.p = w.scores + MR * KEY_BLOCK;
    w.o = w.p + MR * P_ROW;
    w.q = w.o + MR * columns;
    w.rows = w.q + MR * D;
    memset(w.p, 0, MR * P_ROW * sizeof(real)); // the microkernel reads all MR rows, also where there are fewer
    return w;
}

/* Keys and values [begin, begin + count) of a sequence and key/value head. Rows are far apart, which the hardware's
 * prefetcher does not see through: while a panel is packed, the next one's rows are fetched. */
static void pack_block(const struct attention *a, const struct sequence *s, int64_t g, int64_t begin, int64_t count,
                       struct buffers *w) {
    const int64_t D = a->D;
    ivec finite = vec_set(0) == vec_set(0);
    for (int64_t first = 0; first < count; first += NR) {
        const real *line[NR];
        int64_t position[NR], offset[NR];
        for (int64_t i = 0; i < NR; i++) {
            position[i] = begin + min_i64(first + i, count - 1);
            offset[i] = key_offset(a, s, g, position[i]);
            line[i] = a->k + offset[i];
        }
        if (!a->page_table) rope_turn_lines(a->rotations, D, NR, line, position, w->rows); // in pages they are turned
        pack_panel(w->keys + first * D, NR, line, D);
        for (int64_t j = first; j < min_i64(first + NR, count); j++) {
            const int64_t next = key_offset(a, s, g, begin + min_i64(j + NR, count - 1));
            prefetch_row(a->k + next, D);
            prefetch_row(a->v + next, D);
            const real *v = a->v + offset[j - first]; // (D)
            for (int64_t d = 0; d < D; d += VL) {
                const vec x = vec_load_n(v + d, D - d);
                finite &= x - x == vec_set(0);
                vec_store(w->values + d / NR * NR * KEY_BLOCK + j * NR + d % NR, x);
            }
            if (D % NR && D % NR <= VL) vec_store(w->values + D / NR * NR * KEY_BLOCK + j * NR + VL, vec_set(0));
        }
    }
    w->values_are_finite = 1;
    for (int i = 0; i < VL; i++) w->values_are_finite &= (int)-finite[i];
}

/* The microkernel for at least `rows` rows; a tile's rows are NR apart. */
static void q_times_keys(int rows, int64_t D, const real *q, const real *keys, real *scores) {
    if (rows == 1)
        microkernel_rows(1, D, q, 1, MR, keys, NR, scores, NR, 0);
    else if (rows <= 4)
        microkernel_rows(4, D, q, 1, MR, keys, NR, scores, NR, 0);
    else
        microkernel(D, q, 1, MR, keys, NR, scores);
}
static void p_times_values(int rows, int64_t keys, const real *p, const real *values, real *o) {
    if (rows == 1)
        microkernel_rows(1, keys, p, P_ROW, 1, values, NR, o, NR, 0);
    else if (rows <= 4)
        microkernel_rows(4, keys, p, P_ROW, 1, values, NR, o, NR, 0);
    else
        microkernel(keys, p, P_ROW, 1, values, NR, o);
}

/* Rows of a sequence and key/value head in a block: query i, head g * group + j is row i * group + j. A row sees the
 * keys [from, keys) of the block, at least one; both ascend. */
struct tile {
    int rows;
    const real *q[MR];
    int64_t query[MR], head[MR], position[MR], from[MR], keys[MR];
};

/* One block for the rows of a tile: w->o, and each row's maximum and sum. */
static void attend_block(const struct attention *a, const struct buffers *w, struct tile *t, struct state *parts) {
    const int64_t D = a->D, most = t->keys[t->rows - 1], least = t->from[0] / NR * NR;
    rope_turn_lines(a->rotations, D, MR, t->q, t->position, w->rows);
    pack_panel(w->q, MR, t->q, D);
    for (int64_t j = least; j < most; j += NR) q_times_keys(t->rows, D, w->q, w->keys + j * D, w->scores + j * MR);
    for (int r = 0; r < t->rows; r++) {
        real *p = w->p + r * P_ROW;
        const int64_t begin = t->from[r] / NR * NR;
        for (int64_t j = least; j < begin; j += VL) vec_store(p + j, vec_set(0));
        parts[r] = attention_exponentials(w->scores + r * NR + begin * MR, MR * NR, t->from[r] - begin,
                                          t->keys[r] - begin, a->scale, p + begin);
        for (int64_t j = round_up(t->keys[r], VL); j < most; j += VL) vec_store(p + j, vec_set(0));
    }
    for (int64_t d = 0; d < D; d += NR)
        p_times_values(t->rows, most - least, w->p + least, w->values + d * KEY_BLOCK + least * NR, w->o + d * MR);
    if (w->values_are_finite) return;
    for (int r = 0; r < t->rows; r++) { // 0 * inf is NaN: a row must not even multiply by a value that it does not see
        const int64_t from = t->from[r];
        for (int64_t d = 0; d < D; d += NR)
            p_times_values(1, t->keys[r] - from, w->p + r * P_ROW + from, w->values + d * KEY_BLOCK + from * NR,
                           w->o + d * MR + r * NR);
    }
}

static struct tile tile_at(const struct attention *a, const struct sequence *s, int64_t g, int64_t block, int64_t row,
                           int64_t end) {
    const int64_t group = a->H / a->G;
    int64_t query = row / group, head = row % group;
    struct tile t = {.rows = (int)min_i64(MR, end - row)};
    for (int r = 0; r < MR; r++) { // past the end the last row again
        if (r > 0 && r < t.rows && ++head == group) head = 0, query++;
        t.query[r] = query;
        t.head[r] = g * group + head;
        t.position[r] = s->past + t.query[r];
        t.from[r] = max_i64(0, first_key(a->window, t.position[r]) - block);
        t.keys[r] = min_i64(KEY_BLOCK, t.position[r] - block + 1);
        t.q[r] = a->q + (s->first_row + t.query[r]) * a->q_stride + t.head[r] * a->D;
    }
    return t;
}

/* All of y for queries [begin, end) of a sequence and key/value head. */
static void attend_queries(const struct attention *a, const struct sequence *s, int64_t g, int64_t begin, int64_t end,
                           struct buffers *w, struct state *states /* (N, H) */) {
    const int64_t group = a->H / a->G, D = a->D;
    int64_t block = first_key(a->window, s->past + begin) / KEY_BLOCK * KEY_BLOCK;
    for (; block < s->past + end; block += KEY_BLOCK) {
        // The queries from the first that comes after a key of the block to the last whose window reaches back to one.
        const int64_t from = max_i64(begin, block - s->past);
        const int64_t to = a->window ? min_i64(end, block + KEY_BLOCK - 1 + a->window - s->past) : end;
        pack_block(a, s, g, block, min_i64(KEY_BLOCK, s->past + to - block), w);
        for (int64_t row = from * group; row < to * group; row += MR) {
            struct tile t = tile_at(a, s, g, block, row, to * group);
            struct state parts[MR];
            attend_block(a, w, &t, parts);
            for (int r = 0; r < t.rows; r++) {
                const int64_t at = (s->first_row + t.query[r]) * a->H + t.head[r];
                const int first = first_key(a->window, t.position[r]) >= block;
                const int last = t.position[r] < block + KEY_BLOCK;
                attention_merge(a->y + at * D, D, &states[at], first, last, parts[r], w->o + r * NR, MR * NR);
                if (last) attention_write_lse(a, s, t.head[r], t.query[r], states[at]);
            }
        }
    }
}

/* Where the work is cut between two threads: before query i of key/value head g of sequence s. */
struct cut {
    int64_t s, g, i;
};

/* The keys that the first n queries of a sequence see, in one head; 0 where attention_decode.c takes it. */
static int64_t cost_before(const struct attention *a, const struct sequence *s, int64_t n) {
    if (s->queries <= FEW_QUERIES && attention_may_decode(a)) return 0;
    const int64_t all = a->window ? max_i64(0, min_i64(n, a->window - s->past)) : n; // queries that see all before them
    return all * s->past + all * (all + 1) / 2 + (n - all) * a->window;
}

static int64_t cost_of(const struct attention *a, const struct sequence *s) { return cost_before(a, s, s->queries); }

/* The cut with `cost` before it, where a query costs as many units as it has keys. */
static struct cut cut_at(const struct attention *a, int64_t cost) {
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        const int64_t all = cost_of(a, &s);
        if (cost >= all * a->G) {
            cost -= all * a->G;
            continue;
        }
        int64_t i = 0, beyond = s.queries; // cost_before(i) <= cost % all < cost_before(beyond)
        while (beyond - i > 1) {
            const int64_t middle = (i + beyond) / 2;
            *(cost_before(a, &s, middle) <= cost % all ? &i : &beyond) = middle;
        }
        return (struct cut){index, cost / all, min_i64(s.queries, round_up(i, MR))};
    }
    return (struct cut){a->S, 0, 0};
}

static void prefill(const struct attention *a, const struct gollm_team *team, struct buffers *w, struct state *states) {
    int64_t cost = 0;
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        cost += cost_of(a, &s) * a->G;
    }
    const int64_t each = cost / team->n_threads, rest = cost % team->n_threads;
    const struct cut from = cut_at(a, each * team->thread + rest * team->thread / team->n_threads);
    const struct cut to = cut_at(a, each * (team->thread + 1) + rest * (team->thread + 1) / team->n_threads);
    for (int64_t index = from.s; index <= to.s && index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        if (cost_of(a, &s) == 0) continue;
        const int64_t last_head = index == to.s ? to.g : a->G - 1;
        for (int64_t g = index == from.s ? from.g : 0; g <= last_head; g++) {
            const int64_t begin = index == from.s && g == from.g ? from.i : 0;
            const int64_t end = index == to.s && g == to.g ? to.i : s.queries;
            if (begin < end) attend_queries(a, &s, g, begin, end, w, states);
        }
    }
}

/* Each thread's buffers, then (N, H) states; decoding comes afterwards and takes the same place. */
static int64_t prefill_size(const struct attention *a, int n_threads) {
    return plus_i64(buffers_size(a->D) * n_threads, times_i64(2, times_i64(a->N, a->H)));
}

int64_t attention_run_size(const struct attention *a, int n_threads) {
    return times_i64(sizeof(real), max_i64(prefill_size(a, n_threads), attention_decode_size(a, n_threads)));
}

void attention_run(const struct attention *a, const struct gollm_team *team) {
    real *workspace = team->workspace;
    struct buffers w = lay_out(workspace + team->thread * buffers_size(a->D), a->D);
    prefill(a, team, &w, (struct state *)(workspace + team->n_threads * buffers_size(a->D)));
    if (attention_may_decode(a)) attention_decode(a, team);
}

static struct attention attention_of(const struct attention_forward_args *a) {
    const real *k = a->qkv + a->H * a->D;
    return (struct attention){.H = a->H,
                              .G = a->G,
                              .D = a->D,
                              .S = a->B,
                              .N = times_i64(a->B, a->T),
                              .T = a->T,
                              .scale = (real)a->scale,
                              .q = a->qkv,
                              .k = k,
                              .v = k + a->G * a->D,
                              .q_stride = qkv_width(a->H, a->G, a->D),
                              .kv_stride = qkv_width(a->H, a->G, a->D),
                              .y = a->y,
                              .lse = a->lse,
                              .rotations = a->rotations,
                              .window = a->window};
}

int64_t KERNEL_FN(attention_forward_workspace)(const struct attention_forward_args *a, int n_threads) {
    if (!attention_heads_are_good(a->H, a->G, a->D)) return 0;
    const struct attention all = attention_of(a);
    return attention_run_size(&all, n_threads);
}

int KERNEL_FN(attention_forward_check)(const struct attention_forward_args *a) {
    const int status = attention_check(a->H, a->G, a->D, a->rotations, a->window, a->scale);
    return status != GOLLM_OK ? status : attention_check_positions(a->T, a->rotations, a->A);
}

int KERNEL_FN(attention_forward)(const struct attention_forward_args *a, const struct gollm_team *team) {
    const struct attention all = attention_of(a);
    attention_run(&all, team);
    return GOLLM_OK;
}
