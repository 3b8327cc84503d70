/* Attention of sequences with few queries: decoding, which is bound by the reading of K and V.
 *
 * The unit of work is a block of keys for a range of heads: tokens are read row by row as they lie in memory, all heads
 * at a time, once for k and once for v, and the scores of all heads wait in between. Blocks are independent
 * (attention_forward.c states the rule), so threads split them, and then the rows that they are merged into. What a
 * key/value head's group shares is read once.
 *
 * Products are the same chains of multiply-adds as for many queries: scores through a panel of NR keys, which is packed
 * into L1; o by adding a few rows of v at a time to what is there.
 */
#include "attention.h"
#include "gemm_pack.h" /* pack_panel */

enum { ROWS = 4, TOKENS = 16 }; // heads of a group that are computed together; rows of v between two visits to o

/* The heads of a group that query i computes together. */
struct tile {
    int64_t i, head, from, keys; // it sees the keys [from, keys) of the block
    int rows;
};

/* One thread's workspace. Row (g, i, head of the group) of the item is at index ((g - first g) * queries + i) * group +
 * head. */
struct buffers {
    real *panel;  // [D][NR]
    real *scores; // row, [panel of NR keys][rows of the tile][NR]
    real *p;      // row, [KEY_BLOCK]
    real *q;      // row, [D][rows of the tile]
    real *rows;   // [NR][D]: rows of q or k, turned
};

static int64_t buffers_size(const struct attention *a) {
    return round_up(2 * NR * a->D + FEW_QUERIES * a->H * (2 * KEY_BLOCK + a->D), 16);
}

static struct buffers lay_out(const struct attention *a, real *workspace) {
    const int64_t rows = FEW_QUERIES * a->H;
    return (struct buffers){.panel = workspace,
                            .scores = workspace + NR * a->D,
                            .p = workspace + NR * a->D + rows * KEY_BLOCK,
                            .q = workspace + NR * a->D + 2 * rows * KEY_BLOCK,
                            .rows = workspace + NR * a->D + rows * (2 * KEY_BLOCK + a->D)};
}

static int64_t blocks_of(int64_t keys) { return keys / KEY_BLOCK + (keys % KEY_BLOCK != 0); }
static int64_t most_blocks(const struct attention *a) {
    return blocks_of(a->page_table ? times_i64(a->L, a->Z) : a->T);
}
static int64_t most_rows(const struct attention *a) { return times_i64(min_i64(a->N, FEW_QUERIES * a->S), a->H); }

int attention_may_decode(const struct attention *a) {
    enum { MOST_PARTS = 1 << 16 }; // bounds the memory
    const int64_t blocks = most_blocks(a), rows = most_rows(a);
    return blocks > 0 && rows > 0 && (a->page_table || a->T <= FEW_QUERIES) && blocks <= MOST_PARTS / rows;
}

/* Each thread's buffers, then (rows, blocks) states, then (rows, blocks, columns) of o. */
static int64_t states_size(const struct attention *a) { return round_up(2 * most_rows(a) * most_blocks(a), 16); }

int64_t attention_decode_size(const struct attention *a, int n_threads) {
    if (!attention_may_decode(a)) return 0;
    return n_threads * buffers_size(a) + states_size(a) + most_rows(a) * most_blocks(a) * round_up(a->D, NR);
}

static void q_times_keys(const struct tile *t, int64_t D, const real *q, const real *keys, real *scores) {
    switch (t->rows) {
    case 1: microkernel_rows(1, D, q, 1, 1, keys, NR, scores, NR, 0); break;
    case 2: microkernel_rows(2, D, q, 1, 2, keys, NR, scores, NR, 0); break;
    case 3: microkernel_rows(3, D, q, 1, 3, keys, NR, scores, NR, 0); break;
    default: microkernel_rows(4, D, q, 1, 4, keys, NR, scores, NR, 0);
    }
}

/* o (rows, D), o_row apart, += p (rows, n), KEY_BLOCK apart, times rows of v. */
static inline __attribute__((always_inline)) void add_values(const int rows, const int vectors, int64_t n,
                                                             const real *p, const real *const *v, real *o,
                                                             int64_t o_row, int64_t D) {
    int64_t d = 0;
    vec c[ROWS][4];
    for (; d + vectors * VL <= D; d += vectors * VL) {
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int i = 0; i < vectors; i++) c[r][i] = vec_load(o + r * o_row + d + i * VL);
        }
        for (int64_t k = 0; k < n; k++) {
            UNROLL
            for (int i = 0; i < vectors; i++) {
                const vec x = vec_load(v[k] + d + i * VL);
                UNROLL
                for (int r = 0; r < rows; r++) c[r][i] += vec_set(p[r * KEY_BLOCK + k]) * x;
            }
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int i = 0; i < vectors; i++) vec_store(o + r * o_row + d + i * VL, c[r][i]);
        }
    }
    for (; d < D; d += VL)
        for (int r = 0; r < rows; r++) {
            vec sum = vec_load(o + r * o_row + d);
            for (int64_t k = 0; k < n; k++) sum += vec_set(p[r * KEY_BLOCK + k]) * vec_load_n(v[k] + d, D - d);
            vec_store(o + r * o_row + d, sum);
        }
}

static void p_times_values(const struct tile *t, int64_t n, const real *p, const real *const *v, real *o, int64_t o_row,
                           int64_t D) {
    switch (t->rows) {
    case 1: add_values(1, 4, n, p, v, o, o_row, D); break;
    case 2: add_values(2, 4, n, p, v, o, o_row, D); break;
    case 3: add_values(3, 2, n, p, v, o, o_row, D); break;
    default: add_values(4, 2, n, p, v, o, o_row, D);
    }
}

/* One block of a sequence's keys, for some heads. */
struct item {
    struct sequence s;
    int64_t first_row;  // the sequence's, among those of decoding
    int64_t begin, end; // positions of the keys
    int64_t g0, g1;
};

/* Tile x of key/value head g; no keys: there is no such tile, its query comes before the block, or its window after. */
static struct tile tile_at(const struct attention *a, const struct item *item, int64_t g, int64_t x) {
    const int64_t group = a->H / a->G, tiles = (group + ROWS - 1) / ROWS, i = x / tiles, first = x % tiles * ROWS;
    const int64_t position = item->s.past + i, keys = min_i64(item->end, position + 1) - item->begin;
    const int64_t from = max_i64(0, first_key(a->window, position) - item->begin);
    return (struct tile){i, g * group + first, from, from < keys ? keys : 0, (int)min_i64(ROWS, group - first)};
}

static int64_t tiles_of(const struct attention *a, const struct item *item) {
    return item->s.queries * ((a->H / a->G + ROWS - 1) / ROWS);
}

static int64_t row_of(const struct attention *a, const struct item *item, const struct tile *t) {
    const int64_t group = a->H / a->G, g = t->head / group;
    return ((g - item->g0) * item->s.queries + t->i) * group + t->head % group;
}

static void attend(const struct attention *a, const struct item *item, const struct buffers *w, struct state *states,
                   real *o) {
    const int64_t D = a->D, columns = round_up(D, NR), blocks = most_blocks(a), n_tiles = tiles_of(a, item);
    const int64_t count = item->end - item->begin;
    for (int64_t g = item->g0; g < item->g1; g++)
        for (int64_t x = 0; x < n_tiles; x++) {
            const struct tile t = tile_at(a, item, g, x);
            const real *q = a->q + (item->s.first_row + t.i) * a->q_stride + t.head * D;
            real *to = w->q + row_of(a, item, &t) * D;
            for (int r = 0; r < t.rows; r++, q += D) {
                if (a->rotations) rope_turn(w->rows, q, a->rotations + (item->s.past + t.i) * D, D);
                const real *row = a->rotations ? w->rows : q;
                for (int64_t d = 0; d < D; d++) to[d * t.rows + r] = row[d];
            }
        }
    for (int64_t first = 0; first < count; first += NR)
        for (int64_t g = item->g0; g < item->g1; g++) {
            const real *line[NR];
            int64_t position[NR];
            for (int64_t j = 0; j < NR; j++) {
                position[j] = item->begin + min_i64(first + j, count - 1);
                line[j] = a->k + key_offset(a, &item->s, g, position[j]);
            }
            if (!a->page_table) rope_turn_lines(a->rotations, D, NR, line, position, w->rows);
            pack_panel(w->panel, NR, line, D);
            for (int64_t x = 0; x < n_tiles; x++) {
                const struct tile t = tile_at(a, item, g, x);
                const int64_t row = row_of(a, item, &t);
                if (first < t.keys)
                    q_times_keys(&t, D, w->q + row * D, w->panel, w->scores + row * KEY_BLOCK + first * t.rows);
            }
        }
    for (int64_t g = item->g0; g < item->g1; g++)
        for (int64_t x = 0; x < n_tiles; x++) {
            const struct tile t = tile_at(a, item, g, x);
            for (int r = 0; r < t.rows && t.keys > 0; r++) {
                const int64_t row = row_of(a, item, &t),
                              at = ((item->first_row + t.i) * a->H + t.head + r) * blocks + item->begin / KEY_BLOCK;
                const int64_t begin = t.from / NR * NR;
                const real *scores = w->scores + row * KEY_BLOCK + r * NR + begin * t.rows;
                states[at] = attention_exponentials(scores, t.rows * NR, t.from - begin, t.keys - begin, a->scale,
                                                    w->p + (row + r) * KEY_BLOCK + begin);
                memset(o + at * columns, 0, (size_t)columns * sizeof(real));
            }
        }
    for (int64_t first = 0; first < count; first += TOKENS)
        for (int64_t g = item->g0; g < item->g1; g++) {
            const real *line[TOKENS];
            for (int64_t j = 0; j < TOKENS; j++)
                line[j] = a->v + key_offset(a, &item->s, g, item->begin + min_i64(first + j, count - 1));
            for (int64_t x = 0; x < n_tiles; x++) {
                const struct tile t = tile_at(a, item, g, x);
                const int64_t at = ((item->first_row + t.i) * a->H + t.head) * blocks + item->begin / KEY_BLOCK;
                const int64_t from = max_i64(first, t.from), to = min_i64(first + TOKENS, t.keys);
                if (from < to)
                    p_times_values(&t, to - from, w->p + row_of(a, item, &t) * KEY_BLOCK + from, line + (from - first),
                                   o + at * columns, blocks * columns, D);
            }
        }
}

/* The first block of keys that a query at `position` sees. */
static int64_t first_block(const struct attention *a, int64_t position) {
    return first_key(a->window, position) / KEY_BLOCK;
}

/* How many blocks of keys a sequence has to be decoded, from first_block on; 0 when it is not. */
static int64_t blocks_at(const struct attention *a, const struct sequence *s) {
    return s->queries > 0 && s->queries <= FEW_QUERIES ? blocks_of(s->past + s->queries) - first_block(a, s->past) : 0;
}

void attention_decode(const struct attention *a, const struct gollm_team *team) {
    real *workspace = team->workspace;
    const struct buffers w = lay_out(a, workspace + team->thread * buffers_size(a));
    const int64_t columns = round_up(a->D, NR), most = most_blocks(a);
    struct state *states = (struct state *)(workspace + team->n_threads * buffers_size(a)); // (rows, blocks)
    real *o = (real *)states + states_size(a);                                              // (rows, blocks, columns)
    int64_t blocks = 0, rows = 0;
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        blocks += blocks_at(a, &s);
        rows += blocks_at(a, &s) ? s.queries : 0;
    }
    if (blocks == 0) return;
    gollm_team_wait(team); // the workspace was that of the other sequences
    // A few items for each thread, from parts of the heads where there are not enough blocks.
    const int64_t parts = min_i64(a->G, 4 * team->n_threads / max_i64(1, blocks) + 1);
    const struct range mine = thread_range(blocks * parts, 1, team);
    int64_t before = 0, first_row = 0;
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        const int64_t count = blocks_at(a, &s) * parts;
        for (int64_t x = max_i64(0, mine.begin - before); x < min_i64(count, mine.end - before); x++) {
            const int64_t begin = (first_block(a, s.past) + x / parts) * KEY_BLOCK;
            const struct range heads = split(a->G, 1, x % parts, parts);
            const struct item item = {s,           first_row, begin, min_i64(begin + KEY_BLOCK, s.past + s.queries),
                                      heads.begin, heads.end};
            attend(a, &item, &w, states, o);
        }
        before += count;
        first_row += count ? s.queries : 0;
    }
    gollm_team_wait(team);
    const struct range merged = thread_range(rows * a->H, 1, team);
    first_row = 0;
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        if (!blocks_at(a, &s)) continue;
        const int64_t end = (first_row + s.queries) * a->H;
        for (int64_t at = max_i64(merged.begin, first_row * a->H); at < min_i64(merged.end, end); at++) {
            const int64_t i = at / a->H - first_row, h = at % a->H, n = blocks_of(s.past + i + 1);
            real *y = a->y + ((s.first_row + i) * a->H + h) * a->D;
            const int64_t first = first_block(a, s.past + i);
            struct state row;
            for (int64_t b = first; b < n; b++)
                attention_merge(y, a->D, &row, b == first, b == n - 1, states[at * most + b],
                                o + (at * most + b) * columns, NR);
            attention_write_lse(a, &s, h, i, row);
        }
        first_row += s.queries;
    }
}
