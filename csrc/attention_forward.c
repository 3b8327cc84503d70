/* Causal attention in the flash style (Dao et al. 2022):
 *
 *     y_i = sum_j p_ij v_j,    p_ij = softmax over j <= i of scale * q_i.k_j
 *
 *   forward    qkv (B, T, (H + 2G) D)    ->  y (B, T, H D),  lse (B, H, T) = log sum_j exp(scale * q_i.k_j) for backward
 *
 * A row of qkv is [q of H heads | k of G heads | v of G heads]; H / G heads share keys and values. With rotations (A, D),
 * q and k are first rotated by their positions (rope.c). With a window W, the sum goes over i - W < j <= i (Beltagy et
 * al. 2020).
 *
 * A masked key (j > i, or before the window, or past the end of a sequence or of its last page) is left out by its index:
 * neither its score nor a NaN or an infinity in its k or v reaches y_i, lse_i or a gradient of the pair. A key that query i
 * sees takes part as the formulas say. scale is any finite number, 0 and negative numbers included. This holds for all
 * files of attention.
 *
 * A row of y is a function of its query and its keys alone, whatever the batch, the chunk, the threads, and the pages of
 * attention_paged.c, by this rule: keys are taken in blocks of KEY_BLOCK, the first at position 0. For each block,
 * with every product one chain of multiply-adds,
 *
 *     1.  s_j = scale * log2(e) * q.k_j
 *     2.  m = max_j s_j,    p_j = 2^(s_j - m),    l = sum_j p_j
 *     3.  o = sum_j p_j v_j
 *     4.  M = max(m, m'),   l = l 2^(m - M) + l' 2^(m' - M),   o = o 2^(m - M) + o' 2^(m' - M)
 *
 * where step 4 merges a block (') into those before it, in ascending order. At the end y = o / l.
 *
 * Cost: 4 D operations for each pair of a query and a key, half of the pairs by causality. A block of K and V is packed
 * once for all queries of a thread and all heads of a group, and stays in L2 (256 KB at D = 128). Threads split the
 * queries, weighted by their number of keys. Sequences with few queries go to attention_decode.c.
 *
 * Memory: O(T). A thread's buffers hold the packed block, and the scores of one tile of MR rows; there is a state (m, l)
 * for each row of y.
 */
#include "attention.h"
#include "workspace.h"

enum { P_ROW = KEY_BLOCK + 16 }; // rows of p are not a power of two apart, which would share a set of L1

/* One thread's workspace. */
struct buffers {
    struct packed block; // k_lines, v_steps
    real *q;             // [D][MR]
    real *scores;        // [panel of NR keys][MR][NR]
    real *p;             // [MR][P_ROW]
    real *o;             // [panel of NR columns][MR][NR]
    real *rotated;       // (MR, D): queries
};

/* The workspace of a team: its states (N, H), then each thread's buffers. Returns the bytes that it takes up to the
 * buffers of `thread`, which are in *w. */
static int64_t lay_out(const struct attention *a, void *workspace, int thread, struct buffers *w,
                       struct state **states) {
    const int64_t D = a->D, columns = round_up(D, NR);
    struct carve at = {workspace, 0};
    *states = carve(&at, times_i64(a->N, a->H), sizeof **states);
    for (int i = 0; i <= thread; i++) {
        w->block = (struct packed){.height = KEY_BLOCK};
        w->block.k_lines = carve(&at, KEY_BLOCK * D, sizeof(real));
        w->block.v_steps = carve(&at, KEY_BLOCK * columns, sizeof(real));
        w->block.rotated = carve(&at, NR * D, sizeof(real));
        w->q = carve(&at, MR * D, sizeof(real));
        w->scores = carve(&at, MR * KEY_BLOCK, sizeof(real));
        w->p = carve(&at, MR * P_ROW, sizeof(real));
        w->o = carve(&at, MR * columns, sizeof(real));
        w->rotated = carve(&at, MR * D, sizeof(real));
    }
    return at.used;
}

/* Queries [begin, end) of a sequence, for one key/value head: all of their y. Row x of the tiles is query x / group and
 * head x % group of the group. */
static void attend(const struct attention *a, const struct sequence *s, int64_t g, int64_t begin, int64_t end,
                   struct buffers *w, struct state *states) {
    const int64_t D = a->D, group = a->H / a->G;
    int64_t first_key = keys_seen(a, s->past + begin).begin / KEY_BLOCK * KEY_BLOCK;
    for (; first_key < s->past + end; first_key += KEY_BLOCK) {
        const struct range block = {first_key, min_i64(first_key + KEY_BLOCK, s->past + end)};
        const int64_t last_seen = queries_seeing(a, first_key + KEY_BLOCK - 1).end; // position, plus 1
        const int64_t from = max_i64(begin, first_key - s->past), to = min_i64(end, last_seen - s->past);
        pack_keys(a, s, g, block, &w->block);
        for (int64_t x = from * group; x < to * group; x += MR) {
            struct tile t = {.rows = (int)min_i64(MR, to * group - x)};
            for (int r = 0; r < MR; r++) {
                const int64_t row = x + min_i64(r, t.rows - 1);
                set_row(a, s, g * group + row % group, row / group, block, &t, r);
            }
            rope_rotate_rows(a->rotations, D, MR, t.q, t.position, w->rotated);
            pack_panel(w->q, MR, t.q, D);
            const struct range keys = seen_by_some(&t);

            // 1. scores = q k^T
            q_times_keys(t.rows, D, keys, w->q, w->block.k_lines, w->scores);

            // 2. m, p and l of each row
            struct state blocks[MR];
            for (int r = 0; r < t.rows; r++)
                blocks[r] =
                    attention_exponentials(w->scores + r * NR, MR * NR, t.seen[r], keys, a->scale, w->p + r * P_ROW);

            // 3. o = p v
            p_times_values(&t, D, w->p, P_ROW, w->block.v_steps, KEY_BLOCK, w->block.steps_are_finite, w->o);

            // 4. into the rows' states and y
            for (int r = 0; r < t.rows; r++)
                attention_merge(a, s, t.head[r], t.query[r], first_key,
                                &states[(s->first_row + t.query[r]) * a->H + t.head[r]], blocks[r], w->o + r * NR,
                                MR * NR);
        }
    }
}

/* The pairs of the first n queries of a sequence and the keys that they see. */
static int64_t pairs(const struct attention *a, const struct sequence *s, int64_t n) {
    const int64_t full =
        a->window ? max_i64(0, min_i64(n, a->window - s->past)) : n; // queries that see all before them
    return full * s->past + full * (full + 1) / 2 + (n - full) * a->window;
}

/* The query before which about `count` of a sequence's pairs lie: where the work is cut between two threads. */
static int64_t query_after(const struct attention *a, const struct sequence *s, int64_t count) {
    int64_t i = 0, end = s->queries + 1; // pairs(i) <= count < pairs(end), or end is past the last
    if (count <= 0) return 0;
    while (end - i > 1) {
        const int64_t middle = (i + end) / 2;
        *(pairs(a, s, middle) <= count ? &i : &end) = middle;
    }
    return min_i64(s->queries, round_up(i, MR));
}

/* The sequences that are not decoded. Returns 0 if there are none. */
static int prefill(const struct attention *a, const struct gollm_team *team) {
    int64_t work = 0, before = 0; // pairs
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        if (!attention_decodes(a, &s)) work += a->G * pairs(a, &s, s.queries);
    }
    const struct range mine = thread_range(work, 1, team);
    struct buffers w = {0};
    struct state *states = NULL;
    lay_out(a, team->workspace, team->thread, &w, &states);
    if (work > 0) memset(w.p, 0, MR * P_ROW * sizeof(real)); // products read MR rows, also where there are fewer
    for (int64_t index = 0; index < a->S && before < mine.end; index++) {
        const struct sequence s = sequence_at(a, index);
        const int64_t all = attention_decodes(a, &s) ? 0 : pairs(a, &s, s.queries);
        for (int64_t g = 0; g < a->G; g++, before += all) {
            if (before + all <= mine.begin || mine.end <= before) continue;
            const int64_t begin = query_after(a, &s, mine.begin - before);
            const int64_t end = query_after(a, &s, mine.end - before);
            if (begin < end) attend(a, &s, g, begin, end, &w, states);
        }
    }
    return work > 0;
}

/* Decoding comes afterwards and takes the same place. */
int64_t attention_run_size(const struct attention *a, int n_threads) {
    struct buffers w = {0};
    struct state *states = NULL;
    return max_i64(lay_out(a, NULL, n_threads - 1, &w, &states), attention_decode_size(a, n_threads));
}

void attention_run(const struct attention *a, const struct gollm_team *team) {
    if (prefill(a, team)) gollm_team_wait(team);
    attention_decode(a, team);
}

int64_t KERNEL_FN(attention_forward_workspace)(const struct attention_forward_args *args, int n_threads) {
    if (!attention_heads_are_good(args->H, args->G, args->D)) return 0;
    const struct attention a = {ATTENTION_OVER_ROWS(args)};
    return attention_run_size(&a, n_threads);
}

int KERNEL_FN(attention_forward_check)(const struct attention_forward_args *args) {
    return attention_check_rows(args->T, args->H, args->G, args->D, args->rotations, args->A, args->window,
                                args->scale);
}

int KERNEL_FN(attention_forward)(const struct attention_forward_args *args, const struct gollm_team *team) {
    const struct attention a = {ATTENTION_OVER_ROWS(args), .y = args->y, .lse = args->lse};
    attention_run(&a, team);
    return GOLLM_OK;
}
