/* Attention of sequences with few queries: decoding, which is bound by reading K and V.
 *
 * The unit of work is a block of keys of a sequence, for a range of key/value heads. Rows of k and v are read once each, in
 * the order of memory: a few tokens at a time, all heads of the range, and for each head all queries of its group. The
 * scores of all heads wait in between. Blocks are independent (attention_forward.c states the rule), so threads split
 * them, and after a barrier they split the rows that blocks are merged into.
 *
 * Products are the same chains of multiply-adds as for many queries: scores by the microkernel, on a panel of NR keys that
 * has just been packed into L1; o by adding a few rows of v at a time to what is there.
 *
 * Whether a sequence is decoded depends on its queries and keys alone; its bits do not depend on it. Memory: each block
 * leaves a state and an o for each of its rows ("parts"). Sequences are decoded in rounds, so that there are never
 * more than MOST_PARTS of them (34 MB at D = 128).
 */
#include "attention.h"
#include "workspace.h"

enum {
    FEW_QUERIES = 4,
    MOST_PARTS = 1 << 16,
    ROUND = 64,  // sequences of a round
    ROWS = 4,    // heads of a group that are computed together
    TOKENS = 16, // rows of v between two visits to o
};

static int64_t blocks_of(int64_t keys) { return keys / KEY_BLOCK + (keys % KEY_BLOCK != 0); }

/* A sequence to be decoded: the blocks of keys that its queries see, and its parts (queries, H, blocks), 0 where it is not
 * decoded; and where its blocks, rows of y and parts begin among those of the round. */
struct decoded {
    struct sequence s;
    int64_t first_block, blocks, rows, parts;
    int64_t unit, row, part;
};

static struct decoded decoded_at(const struct attention *a, int64_t index) {
    struct decoded d = {.s = sequence_at(a, index)};
    if (d.s.queries == 0 || d.s.queries > FEW_QUERIES) return d;
    d.first_block = keys_seen(a, d.s.past).begin / KEY_BLOCK;
    d.blocks = blocks_of(d.s.past + d.s.queries) - d.first_block;
    d.rows = d.s.queries * a->H;
    d.parts = d.blocks <= MOST_PARTS / d.rows ? d.rows * d.blocks : 0;
    return d;
}

int attention_decodes(const struct attention *a, const struct sequence *s) { return decoded_at(a, s->index).parts > 0; }

/* One thread's workspace. Row (g, i, head of the group) of a unit is at index ((g - first g) * queries + i) * group + head. */
struct buffers {
    real *panel;   // [D][NR]: keys
    real *scores;  // row, [panel of NR keys][rows of the tile][NR]
    real *p;       // row, [KEY_BLOCK]
    real *q;       // row, [D][rows of the tile]
    real *rotated; // (NR, D): keys, or a query
};

/* The parts of a round. */
struct parts {
    struct state *states; // (parts)
    real *o;              // (parts, columns)
};

/* As in attention_forward.c: the parts of the sequences of a round, then each thread's buffers. */
static int64_t lay_out(const struct attention *a, void *workspace, int thread, struct buffers *w, struct parts *parts) {
    const int64_t D = a->D, rows = FEW_QUERIES * a->H;
    const int64_t most_queries = a->Z ? min_i64(a->N, times_i64(FEW_QUERIES, a->S)) : a->T <= FEW_QUERIES ? a->N : 0;
    const int64_t n = min_i64(MOST_PARTS, times_i64(times_i64(most_queries, a->H), blocks_of(a->T)));
    struct carve at = {workspace, 0};
    if (n == 0) return 0;
    parts->states = carve(&at, n, sizeof *parts->states);
    parts->o = carve(&at, n * round_up(D, NR), sizeof(real));
    for (int i = 0; i <= thread; i++) {
        w->panel = carve(&at, NR * D, sizeof(real));
        w->scores = carve(&at, rows * KEY_BLOCK, sizeof(real));
        w->p = carve(&at, rows * KEY_BLOCK, sizeof(real));
        w->q = carve(&at, rows * D, sizeof(real));
        w->rotated = carve(&at, NR * D, sizeof(real));
    }
    return at.used;
}

int64_t attention_decode_size(const struct attention *a, int n_threads) {
    struct buffers w = {0};
    struct parts parts = {0};
    return lay_out(a, NULL, n_threads - 1, &w, &parts);
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

static void add_tokens(int rows, int64_t n, const real *p, const real *const *v, real *o, int64_t o_row, int64_t D) {
    switch (rows) {
    case 1: add_values(1, 4, n, p, v, o, o_row, D); break;
    case 2: add_values(2, 4, n, p, v, o, o_row, D); break;
    case 3: add_values(3, 2, n, p, v, o, o_row, D); break;
    default: add_values(4, 2, n, p, v, o, o_row, D);
    }
}

/* A block of keys of a sequence, for key/value heads `heads`. */
struct unit {
    const struct decoded *d;
    struct range keys, heads;
    int64_t block, tiles; // its number among the sequence's; tiles of a key/value head
};

/* Up to ROWS heads of a group, for one query. */
struct heads {
    int64_t i, h, row, part; // of the first head: query, number, row in the buffers, part of the sequence's
    int rows;
    struct range seen; // keys of the block
};

/* Tile x of the unit, head by head. */
static struct heads tile_at(const struct attention *a, const struct unit *u, int64_t x) {
    const struct sequence *s = &u->d->s;
    const int64_t group = a->H / a->G, tiles = u->tiles / s->queries, i = x % u->tiles / tiles, g = x / u->tiles;
    const int64_t first = x % tiles * ROWS, h = (u->heads.begin + g) * group + first;
    return (struct heads){.i = i,
                          .h = h,
                          .row = (g * s->queries + i) * group + first,
                          .part = (i * a->H + h) * u->d->blocks + u->block,
                          .rows = (int)min_i64(ROWS, group - first),
                          .seen = within(u->keys, keys_seen(a, s->past + i))};
}

/* The parts of a unit, among those of its sequence. */
static void attend(const struct attention *a, const struct unit *u, struct buffers *w, struct parts parts) {
    const struct sequence *s = &u->d->s;
    const int64_t D = a->D, columns = round_up(D, NR), n_heads = u->heads.end - u->heads.begin;
    for (int64_t x = 0; x < n_heads * u->tiles; x++) {
        const struct heads t = tile_at(a, u, x);
        const real *q = a->q + (s->first_row + t.i) * a->q_stride + t.h * D;
        real *to = w->q + t.row * D;
        for (int r = 0; r < t.rows; r++, q += D) {
            const real *row = q;
            rope_rotate_rows(a->rotations, D, 1, &row, &(int64_t){s->past + t.i}, w->rotated);
            for (int64_t d = 0; d < D; d++) to[d * t.rows + r] = row[d];
        }
    }

    // 1. scores = q k^T
    for (int64_t first = u->keys.begin; first < u->keys.end; first += NR)
        for (int64_t g = 0; g < n_heads; g++) {
            const int64_t at = first - u->keys.begin;
            const real *k[NR];
            int64_t offset[NR];
            key_rows(a, s, u->heads.begin + g, first, u->keys.end, k, offset, w->rotated);
            pack_panel(w->panel, NR, k, D);
            for (int64_t x = g * u->tiles; x < (g + 1) * u->tiles; x++) {
                const struct heads t = tile_at(a, u, x);
                if (at < t.seen.end)
                    block_product(t.rows, D, w->q + t.row * D, 1, t.rows, w->panel,
                                  w->scores + t.row * KEY_BLOCK + at * t.rows);
            }
        }

    // 2. m, p and l
    for (int64_t x = 0; x < n_heads * u->tiles; x++) {
        const struct heads t = tile_at(a, u, x);
        for (int r = 0; r < t.rows && t.seen.begin < t.seen.end; r++) {
            const int64_t part = t.part + r * u->d->blocks;
            parts.states[part] = attention_exponentials(w->scores + t.row * KEY_BLOCK + r * NR, t.rows * NR, t.seen,
                                                        t.seen, a->scale, w->p + (t.row + r) * KEY_BLOCK);
            clear(parts.o + part * columns, 0, columns);
        }
    }

    // 3. o = p v
    for (int64_t first = 0; first < u->keys.end - u->keys.begin; first += TOKENS)
        for (int64_t g = 0; g < n_heads; g++) {
            const real *v[TOKENS];
            for (int64_t j = 0; j < TOKENS; j++)
                v[j] = a->v + key_offset(a, s, u->heads.begin + g, min_i64(u->keys.begin + first + j, u->keys.end - 1));
            for (int64_t x = g * u->tiles; x < (g + 1) * u->tiles; x++) {
                const struct heads t = tile_at(a, u, x);
                const int64_t from = max_i64(first, t.seen.begin), to = min_i64(first + TOKENS, t.seen.end);
                if (from < to)
                    add_tokens(t.rows, to - from, w->p + t.row * KEY_BLOCK + from, v + (from - first),
                               parts.o + t.part * columns, u->d->blocks * columns, D);
            }
        }
}

static struct parts parts_from(const struct attention *a, struct parts parts, int64_t part) {
    return (struct parts){parts.states + part, parts.o + part * round_up(a->D, NR)};
}

/* Unit x of a sequence, whose key/value heads are cut into `shares`. */
static void decode_unit(const struct attention *a, const struct decoded *d, int64_t x, int64_t shares,
                        struct buffers *w, struct parts parts) {
    const int64_t group = a->H / a->G, block = x / shares, first = (d->first_block + block) * KEY_BLOCK;
    const struct unit u = {.d = d,
                           .keys = {first, min_i64(first + KEY_BLOCK, d->s.past + d->s.queries)},
                           .heads = split(a->G, 1, x % shares, shares),
                           .block = block,
                           .tiles = d->s.queries * ((group + ROWS - 1) / ROWS)};
    attend(a, &u, w, parts_from(a, parts, d->part));
}

/* 4. y of row x = (query, head) of a sequence, from its parts. */
static void merge(const struct attention *a, const struct decoded *d, int64_t x, struct parts parts) {
    const int64_t i = x / a->H, position = d->s.past + i;
    struct state row;
    for (int64_t b = keys_seen(a, position).begin / KEY_BLOCK; b <= position / KEY_BLOCK; b++) {
        const struct parts at = parts_from(a, parts, d->part + x * d->blocks + b - d->first_block);
        attention_merge(a, &d->s, x % a->H, i, b * KEY_BLOCK, &row, *at.states, at.o, NR);
    }
}

void attention_decode(const struct attention *a, const struct gollm_team *team) {
    struct buffers w = {0};
    struct parts parts = {0};
    lay_out(a, team->workspace, team->thread, &w, &parts);
    for (int64_t index = 0, rounds = 0; index < a->S;) {
        struct decoded round[ROUND], end = {0}; // end: of the units, rows and parts so far
        int n = 0;
        for (; index < a->S && n < ROUND; index++) {
            struct decoded d = decoded_at(a, index);
            if (end.part + d.parts > MOST_PARTS) break;
            if (d.parts == 0) continue;
            d.unit = end.unit, d.row = end.row, d.part = end.part;
            end.unit += d.blocks, end.row += d.rows, end.part += d.parts;
            round[n++] = d;
        }
        if (n == 0) break;
        if (rounds++ > 0) gollm_team_wait(team); // the last round's parts have been merged
        // A few units for each thread: where there are not enough blocks, their heads are split.
        const int64_t shares = min_i64(a->G, 4 * team->n_threads / end.unit + 1);
        const struct range mine = thread_range(end.unit * shares, 1, team), rows = thread_range(end.row, 1, team);
        for (const struct decoded *d = round; d < round + n; d++) {
            const struct range some = within((struct range){d->unit * shares, (d->unit + d->blocks) * shares}, mine);
            for (int64_t x = some.begin; x < some.end; x++) decode_unit(a, d, x, shares, &w, parts);
        }
        gollm_team_wait(team);
        for (const struct decoded *d = round; d < round + n; d++) {
            const struct range some = within((struct range){d->row, d->row + d->rows}, rows);
            for (int64_t x = some.begin; x < some.end; x++) merge(a, d, x, parts);
        }
    }
}
