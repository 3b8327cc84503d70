/* Attention of sequences with few queries: decoding, which is bound by reading K and V.
 *
 * The unit of work is a block of keys of a sequence, for a key/value head: its keys are read once, from front to back, then
 * its values, each for all queries of the group. Blocks are independent (attention_forward.c states the rule), so threads
 * split them, and after a barrier they split the rows that blocks are merged into.
 *
 * Products are the same chains of multiply-adds as for many queries: scores step by step of D, NR keys side by side, which
 * is how they lie in a page; o by adding rows of v to what is there. Budget with AVX-512 and ROWS = 4, for a line of keys or
 * of values: 4 FMA, 4 broadcasts, 1 load (and, where they are narrow, 1 or 2 instructions that widen).
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
    ROUND = 64,                        // sequences of a round
    ROWS = 4,                          // heads of a group that are computed together
    VECTORS = VEC_BYTES == 64 ? 4 : 2, // of o that a row has in registers: ROWS * VECTORS accumulators
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

/* One thread's workspace. Row (query, head of the group) of a unit is at index query * group + head. */
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
    const int64_t D = a->D, rows = FEW_QUERIES * (a->H / a->G);
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

/* Prefetches the lines in which a vector of values begins, `ahead` bytes further. */
static inline __attribute__((always_inline)) void prefetch(const enum number_format format, const int vector,
                                                           const void *array, int64_t i, int64_t ahead) {
    const int bytes = format == REALS ? sizeof(real) : sizeof(uint16_t);
    if (vector * VL * bytes % 64 == 0)
        __builtin_prefetch((const char *)array + (i + vector * VL) * bytes + ahead, 0, 2);
}

/* scores (rows, NR) = q [D][rows] times a panel of keys [D][NR], whose steps are `step` apart. */
static inline __attribute__((always_inline)) void score_panel(const enum number_format format, const int rows,
                                                              int64_t D, const real *q, const void *keys, int64_t step,
                                                              int64_t ahead, real *scores) {
    vec c[ROWS][2];
    UNROLL
    for (int r = 0; r < rows; r++) c[r][0] = c[r][1] = vec_set(0);
    for (int64_t d = 0; d < D; d++) {
        const vec k0 = vec_in_register(load_as(format, keys, d * step));
        const vec k1 = vec_in_register(load_as(format, keys, d * step + VL));
        prefetch(format, 0, keys, d * step, ahead);
        prefetch(format, 1, keys, d * step, ahead);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const vec x = vec_set(q[d * rows + r]);
            c[r][0] += x * k0;
            c[r][1] += x * k1;
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        vec_store(scores + r * NR, c[r][0]);
        vec_store(scores + r * NR + VL, c[r][1]);
    }
}

/* o (rows, up to `vectors` vectors: `columns`), o_row apart, += p (rows, n), KEY_BLOCK apart, times rows of v, v_row apart. */
static inline __attribute__((always_inline)) void add_columns(const enum number_format format, const int rows,
                                                              const int vectors, int64_t columns, int64_t n,
                                                              const real *p, const void *v, int64_t v_row,
                                                              int64_t ahead, real *o, int64_t o_row) {
    vec c[ROWS][VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++) c[r][i] = vec_load(o + r * o_row + i * VL);
    }
    for (int64_t k = 0; k < n; k++) {
        vec x[VECTORS];
        UNROLL
        for (int i = 0; i < vectors; i++) {
            x[i] = vec_in_register(load_as_n(format, v, k * v_row + i * VL, columns - i * VL));
            prefetch(format, i, v, k * v_row, ahead);
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            const vec weight = vec_set(p[r * KEY_BLOCK + k]);
            UNROLL
            for (int i = 0; i < vectors; i++) c[r][i] += weight * x[i];
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++) vec_store(o + r * o_row + i * VL, c[r][i]);
    }
}

/* The same for all D columns. */
static inline __attribute__((always_inline)) void add_values(const enum number_format format, const int rows, int64_t D,
                                                             int64_t n, const real *p, const void *v, int64_t v_row,
                                                             int64_t ahead, real *o, int64_t o_row) {
    int64_t d = 0;
    for (; d + VECTORS * VL <= D; d += VECTORS * VL)
        add_columns(format, rows, VECTORS, VECTORS * VL, n, p, address_of(format, v, d), v_row, ahead, o + d, o_row);
    for (; d + VL <= D; d += VL)
        add_columns(format, rows, 1, VL, n, p, address_of(format, v, d), v_row, ahead, o + d, o_row);
    if (d < D) add_columns(format, rows, 1, D - d, n, p, address_of(format, v, d), v_row, ahead, o + d, o_row);
}

/* Calls a function of (format, rows, ...) with both as constants. */
#define WITH_ROWS(function, format, rows, ...)                                                                         \
    switch (rows) {                                                                                                    \
    case 1: function(format, 1, __VA_ARGS__); break;                                                                   \
    case 2: function(format, 2, __VA_ARGS__); break;                                                                   \
    case 3: function(format, 3, __VA_ARGS__); break;                                                                   \
    default: function(format, 4, __VA_ARGS__);                                                                         \
    }
#define WITH_CONSTANTS(function, format, rows, ...)                                                                    \
    switch (format) {                                                                                                  \
    case REALS: WITH_ROWS(function, REALS, rows, __VA_ARGS__); break;                                                  \
    case BF16: WITH_ROWS(function, BF16, rows, __VA_ARGS__); break;                                                    \
    case F16: WITH_ROWS(function, F16, rows, __VA_ARGS__);                                                             \
    }

/* Pages are read in the order of this function: the keys of a head in the pages of a block, its values, the next head; the
 * next block. Reading a page's keys or values fetches the same lines of what comes next, `ahead` bytes further: the
 * hardware's prefetcher does not know the order of pages, and starts anew in each page of memory. */
static int64_t bytes_ahead(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                           int64_t position, int values) {
    const int64_t next = (position / a->Z + 1) * a->Z;
    const void *pages = values ? a->v_pages : a->k_pages, *then = pages;
    const int64_t here = page_offset(a, s, g, position);
    int64_t there = here;
    if (next < keys.end)
        there = page_offset(a, s, g, next);
    else if (!values)
        then = a->v_pages, there = page_offset(a, s, g, keys.begin);
    else if (g + 1 < a->G)
        then = a->k_pages, there = page_offset(a, s, g + 1, keys.begin);
    else if (next < s->past + s->queries)
        then = a->k_pages, there = page_offset(a, s, 0, next);
    return (const char *)address_of(a->format, then, there) - (const char *)address_of(a->format, pages, here);
}

/* Where NR keys lie: [D][NR], `step` apart. */
struct panel {
    enum number_format format;
    const void *keys;
    int64_t step, ahead;
};

/* The panel of keys from position `first` on: where it lies in a page, or made in the buffers. */
static struct panel panel_at(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                             int64_t first, const struct buffers *w) {
    if (!a->page_table) {
        const real *k[NR];
        int64_t offset[NR];
        key_rows(a, s, g, first, keys.end, k, offset, w->rotated);
        pack_panel(w->panel, NR, k, a->D);
    } else if (panels_lie_in_pages(a)) {
        const int64_t at = page_offset(a, s, g, first) + first % a->Z;
        return (struct panel){a->format, address_of(a->format, a->k_pages, at), a->Z,
                              bytes_ahead(a, s, g, keys, first, 0)};
    } else {
        gather_panel(a->format, a, s, g, first, keys.end, w->panel);
    }
    return (struct panel){REALS, w->panel, NR, 0};
}

/* Rows of v, `row` apart, from position `first` on: those up to `end`, or to the end of a page. */
struct rows {
    enum number_format format;
    const void *values;
    int64_t row, end, ahead;
};

static struct rows rows_at(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                           int64_t first) {
    if (!a->page_table) return (struct rows){REALS, a->v + key_offset(a, s, g, first), a->kv_stride, keys.end, 0};
    const int64_t at = page_offset(a, s, g, first) + first % a->Z * a->D;
    return (struct rows){a->format, address_of(a->format, a->v_pages, at), a->D,
                         min_i64(keys.end, (first / a->Z + 1) * a->Z), bytes_ahead(a, s, g, keys, first, 1)};
}

/* Up to ROWS heads of a group, for one query: rows of a unit. */
struct heads {
    int64_t i, h, row; // of the first head: query, number, row in the buffers
    int rows;
    struct range seen; // keys of the block
};

/* Tile x of the block of keys `keys` for key/value head g. */
static struct heads tile_at(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                            int64_t x) {
    const int64_t group = a->H / a->G, tiles = (group + ROWS - 1) / ROWS, i = x / tiles, first = x % tiles * ROWS;
    return (struct heads){.i = i,
                          .h = g * group + first,
                          .row = i * group + first,
                          .rows = (int)min_i64(ROWS, group - first),
                          .seen = within(keys, keys_seen(a, s->past + i))};
}

/* Block number `block` of a sequence for key/value head g: its parts, among those of the sequence. */
static void attend(const struct attention *a, const struct decoded *decoded, int64_t block, int64_t g,
                   struct buffers *w, struct parts parts) {
    const struct sequence *s = &decoded->s;
    const int64_t D = a->D, columns = round_up(D, NR), group = a->H / a->G;
    const int64_t n_tiles = s->queries * ((group + ROWS - 1) / ROWS);
    const int64_t part_row = decoded->blocks; // from a head's part to the next one's
    const int64_t begin = (decoded->first_block + block) * KEY_BLOCK;
    const struct range keys = {begin, min_i64(begin + KEY_BLOCK, s->past + s->queries)};
    const int64_t first_seen = within(keys, keys_seen(a, s->past)).begin;

    for (int64_t x = 0; x < n_tiles; x++) {
        const struct heads t = tile_at(a, s, g, keys, x);
        const real *q = a->q + (s->first_row + t.i) * a->q_stride + t.h * D;
        real *to = w->q + t.row * D;
        for (int r = 0; r < t.rows; r++, q += D) {
            const real *row = q;
            rope_rotate_rows(a->rotations, D, 1, &row, &(int64_t){s->past + t.i}, w->rotated);
            for (int64_t d = 0; d < D; d++) to[d * t.rows + r] = row[d];
        }
    }

    // 1. scores = q k^T
    for (int64_t at = first_seen / NR * NR; at < keys.end - begin; at += NR) {
        const struct panel k = panel_at(a, s, g, keys, begin + at, w);
        for (int64_t x = 0; x < n_tiles; x++) {
            const struct heads t = tile_at(a, s, g, keys, x);
            if (at < t.seen.end)
                WITH_CONSTANTS(score_panel, k.format, t.rows, D, w->q + t.row * D, k.keys, k.step, k.ahead,
                               w->scores + t.row * KEY_BLOCK + at * t.rows);
        }
    }

    // 2. m, p and l
    for (int64_t x = 0; x < n_tiles; x++) {
        const struct heads t = tile_at(a, s, g, keys, x);
        for (int r = 0; r < t.rows && t.seen.begin < t.seen.end; r++) {
            const int64_t part = (t.i * a->H + t.h + r) * part_row + block;
            parts.states[part] = attention_exponentials(w->scores + t.row * KEY_BLOCK + r * NR, t.rows * NR, t.seen,
                                                        t.seen, a->scale, w->p + (t.row + r) * KEY_BLOCK);
            clear(parts.o + part * columns, 0, columns);
        }
    }

    // 3. o = p v
    for (int64_t first = begin + first_seen; first < keys.end;) {
        const struct rows v = rows_at(a, s, g, keys, first);
        for (int64_t x = 0; x < n_tiles; x++) {
            const struct heads t = tile_at(a, s, g, keys, x);
            const int64_t from = max_i64(first - begin, t.seen.begin), to = min_i64(v.end - begin, t.seen.end);
            if (from < to)
                WITH_CONSTANTS(add_values, v.format, t.rows, D, to - from, w->p + t.row * KEY_BLOCK + from,
                               address_of(v.format, v.values, (from - (first - begin)) * v.row), v.row, v.ahead,
                               parts.o + ((t.i * a->H + t.h) * part_row + block) * columns, part_row * columns);
        }
        first = v.end;
    }
}

static struct parts parts_from(const struct attention *a, struct parts parts, int64_t part) {
    return (struct parts){parts.states + part, parts.o + part * round_up(a->D, NR)};
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
            end.unit += d.blocks * a->G, end.row += d.rows, end.part += d.parts;
            round[n++] = d;
        }
        if (n == 0) break;
        if (rounds++ > 0) gollm_team_wait(team); // the last round's parts have been merged
        const struct range mine = thread_range(end.unit, 1, team), rows = thread_range(end.row, 1, team);
        for (const struct decoded *d = round; d < round + n; d++) {
            const struct range some = within((struct range){d->unit, d->unit + d->blocks * a->G}, mine);
            for (int64_t x = some.begin; x < some.end; x++)
                attend(a, d, x / a->G, x % a->G, &w, parts_from(a, parts, d->part));
        }
        gollm_team_wait(team);
        for (const struct decoded *d = round; d < round + n; d++) {
            const struct range some = within((struct range){d->row, d->row + d->rows}, rows);
            for (int64_t x = some.begin; x < some.end; x++) merge(a, d, x, parts);
        }
    }
}
