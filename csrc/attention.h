/* What the files of attention share: the layout of queries, keys and values, the mask, and the products of a block.
 *
 *     attention_forward.c   sequences with many queries      attention_backward.c   the gradients
 *     attention_decode.c    sequences with few queries       attention_paged.c      keys and values in pages
 *     attention_row.c       the softmax of a row             kv_cache.c             writing pages
 *
 * Names: S sequences, N rows of queries, H heads of D values, G key/value heads; the H / G heads of a group share one.
 * "lines" are packed for a product over D, "steps" for a sum over keys or queries (gemm_pack.h).
 */
#ifndef GOLLM_ATTENTION_H
#define GOLLM_ATTENTION_H

#include "gemm_pack.h" /* pack_panel, microkernel_rows, MR, NR */
#include "half.h"      /* enum number_format, load_as */
#include "rope.h"
#include "summation_order.h" /* KEY_BLOCK, MAX_HEAD_DIM, KEYS, QUERIES */

struct attention {
    int64_t S, N, H, G, D;
    int64_t T;      // the keys that a sequence can have: T tokens, or L pages of Z
    int64_t window; // of a query, its own key included; 0: no window
    real scale;
    const real *rotations; // (A, D), a row for each position (rope.c); NULL: nothing is rotated
    const real *q;         // row n, head h at q + n * q_stride + h * D
    const real *k, *v;     // without pages: token t, key/value head g at k + t * kv_stride + g * D
    int64_t q_stride, kv_stride;
    real *y;   // (N, H, D)
    real *lse; // (S, H, T) or NULL

    /* Pages: sequence s has the rows query_offsets[s] ... query_offsets[s + 1] - 1, which are the last of its lengths[s]
     * tokens; position j is slot j % Z of page page_table[s][j / Z], and its key has been rotated. Without a table, the
     * sequence has the rows and tokens s * T ... (s + 1) * T - 1. */
    const int32_t *query_offsets, *lengths, *page_table; // (S + 1), (S), (S, L)
    const void *k_pages, *v_pages;                       // (R, G, D, Z), (R, G, Z, D)
    enum number_format format;                           // of the pages
    int64_t L, Z;
};

/* The fields of kernels whose rows of qkv hold queries, keys and values, and of those with pages. */
#define ATTENTION_OVER_ROWS(args)                                                                                      \
    .S = (args)->B, .N = times_i64((args)->B, (args)->T), .H = (args)->H, .G = (args)->G, .D = (args)->D,              \
    .T = (args)->T, .window = (args)->window, .scale = (real)(args)->scale, .rotations = (args)->rotations,            \
    .q = (args)->qkv, .k = (args)->qkv + (args)->H * (args)->D,                                                        \
    .v = (args)->qkv + ((args)->H + (args)->G) * (args)->D, .q_stride = ((args)->H + 2 * (args)->G) * (args)->D,       \
    .kv_stride = ((args)->H + 2 * (args)->G) * (args)->D
#define ATTENTION_OVER_PAGES(args, format_)                                                                            \
    .S = (args)->S, .N = (args)->N, .H = (args)->H, .G = (args)->G, .D = (args)->D,                                    \
    .T = times_i64((args)->L, (args)->Z), .rotations = (args)->rotations, .q = (args)->qkv,                            \
    .q_stride = ((args)->H + 2 * (args)->G) * (args)->D, .query_offsets = (args)->query_offsets,                       \
    .lengths = (args)->lengths, .page_table = (args)->page_table, .k_pages = (args)->k_pages,                          \
    .v_pages = (args)->v_pages, .format = format_, .L = (args)->L, .Z = (args)->Z

/* Whether the heads fit together, and a row of q, k and v is no longer than a size may be. */
static inline int attention_heads_are_good(int64_t H, int64_t G, int64_t D) {
    return 0 < G && G <= H && H <= GOLLM_MAX_SIZE && H % G == 0 && 0 < D && D <= MAX_HEAD_DIM &&
           H + 2 * G <= GOLLM_MAX_SIZE / D;
}

/* What every call of attention is checked for before it runs: heads, pairs to rotate where there are rotations, a window of
 * at most 2^31 - 1, so that sums with it do not overflow, and a finite scale. */
static inline int attention_check(int64_t H, int64_t G, int64_t D, const real *rotations, int64_t window,
                                  double scale) {
    if (!attention_heads_are_good(H, G, D) || (rotations && D % 2)) return GOLLM_BAD_SHAPE;
    return window < 0 || window > INT32_MAX || !isfinite((real)scale) ? GOLLM_BAD_VALUE : GOLLM_OK;
}

/* The same, for rows at positions 0 ... T - 1, which have a rotation each where there are any. */
static inline int attention_check_rows(int64_t T, int64_t H, int64_t G, int64_t D, const real *rotations, int64_t A,
                                       int64_t window, double scale) {
    const int status = attention_check(H, G, D, rotations, window, scale);
    if (status != GOLLM_OK || T > INT32_MAX) return status != GOLLM_OK ? status : GOLLM_BAD_SHAPE;
    return rotations && T > A ? GOLLM_BAD_INDEX : GOLLM_OK;
}

/* kv_cache.c: checks query_offsets, lengths and the table of pages, where there are R pages and A rotations. */
#define attention_check_pages KERNEL_FN(attention_check_pages)
int attention_check_pages(const struct attention *a, int64_t R, int64_t A);

struct sequence {
    int64_t index, first_row, queries, past; // query i is row first_row + i, at position past + i
};

static inline struct sequence sequence_at(const struct attention *a, int64_t s) {
    if (!a->page_table) return (struct sequence){s, s * a->T, a->T, 0};
    const int64_t queries = a->query_offsets[s + 1] - a->query_offsets[s];
    return (struct sequence){s, a->query_offsets[s], queries, a->lengths[s] - queries};
}

/* Without pages: where key/value head g of the token at `position` begins, in k and in v. */
static inline int64_t key_offset(const struct attention *a, const struct sequence *s, int64_t g, int64_t position) {
    return (s->index * a->T + position) * a->kv_stride + g * a->D;
}

/* Where key/value head g of the page of `position` begins, in k_pages and in v_pages. */
static inline int64_t page_offset(const struct attention *a, const struct sequence *s, int64_t g, int64_t position) {
    return (a->page_table[s->index * a->L + position / a->Z] * a->G + g) * a->Z * a->D;
}

/* Head h of query i in (N, H, D), and in (S, H, T). */
static inline int64_t head_offset(const struct attention *a, const struct sequence *s, int64_t h, int64_t i) {
    return ((s->first_row + i) * a->H + h) * a->D;
}
static inline int64_t lse_offset(const struct attention *a, const struct sequence *s, int64_t h, int64_t i) {
    return (s->index * a->H + h) * a->T + i;
}

/* The mask: the query at position i sees the key at position j when i - window < j <= i; without a window, when j <= i. */
static inline struct range keys_seen(const struct attention *a, int64_t i) {
    return (struct range){a->window ? max_i64(0, i - a->window + 1) : 0, i + 1};
}
static inline struct range queries_seeing(const struct attention *a, int64_t j) {
    return (struct range){j, a->window ? j + a->window : INT64_MAX};
}

/* The part of r inside `block`, counted from the block's begin. Where ranges ascend at both ends, so do their parts, empty
 * ones included. */
static inline struct range within(struct range block, struct range r) {
    const int64_t n = block.end - block.begin;
    return (struct range){max_i64(0, min_i64(n, r.begin - block.begin)), max_i64(0, min_i64(n, r.end - block.begin))};
}

/* Up to MR rows of the products with a block of keys. Ranges of `seen` ascend. Past `rows` the last row is repeated. */
struct tile {
    int rows;
    int64_t query[MR], head[MR], position[MR];
    const real *q[MR];     // (D)
    struct range seen[MR]; // keys of the block, counted from its first
};

static inline void set_row(const struct attention *a, const struct sequence *s, int64_t h, int64_t i,
                           struct range block, struct tile *t, int r) {
    t->query[r] = i;
    t->head[r] = h;
    t->position[r] = s->past + i;
    t->q[r] = a->q + (s->first_row + i) * a->q_stride + h * a->D;
    t->seen[r] = within(block, keys_seen(a, t->position[r]));
}

/* The keys that some row of a tile sees, from the start of their panel. */
static inline struct range seen_by_some(const struct tile *t) {
    return (struct range){t->seen[0].begin / NR * NR, t->seen[t->rows - 1].end};
}

static inline void prefetch_row(const real *row, int64_t D) {
    for (int64_t d = 0; d < D; d += LINE) __builtin_prefetch(row + d);
}

/* One step of [panel of NR columns][height][NR]: a row of D values, filled up with zeros. Returns zeros, or NaN in lanes
 * where a value is not finite. */
static inline __attribute__((always_inline)) vec pack_step_of(const enum number_format format, real *to, int64_t height,
                                                              const void *row, int64_t D) {
    vec zeros = vec_set(0);
    for (int64_t d = 0; d < D; d += NR, to += height * NR) {
        const vec x0 = load_as_n(format, row, d, D - d);
        const vec x1 = D - d > VL ? load_as_n(format, row, d + VL, D - d - VL) : vec_set(0);
        zeros += (x0 - x0) + (x1 - x1);
        vec_store(to, x0);
        vec_store(to + VL, x1);
    }
    return zeros;
}

static inline vec pack_step(real *to, int64_t height, const real *row, int64_t D) {
    return pack_step_of(REALS, to, height, row, D);
}

/* A packed block of keys and values; NULL for what is not wanted. */
struct packed {
    real *k_lines, *v_lines; // [panel of NR keys][D][NR]
    real *k_steps, *v_steps; // [panel of NR columns][height][NR]
    int64_t height;          // keys that steps have room for
    int steps_are_finite;
    real *rotated; // (NR, D), for the rows being packed
};

/* Without pages: rows `first` ... `first` + NR - 1 of k, past `end` the last one again, rotated where there are rotations;
 * rotated ones lie in `rotated` (NR, D). `offset` is where they begin in k and v. */
static inline void key_rows(const struct attention *a, const struct sequence *s, int64_t g, int64_t first, int64_t end,
                            const real **k, int64_t *offset, real *rotated) {
    int64_t position[NR];
    for (int64_t r = 0; r < NR; r++) {
        position[r] = min_i64(first + r, end - 1);
        offset[r] = key_offset(a, s, g, position[r]);
        k[r] = a->k + offset[r];
    }
    rope_rotate_rows(a->rotations, a->D, NR, k, position, rotated);
}

/* Packs the keys and values at positions `keys` of a sequence. Rows are far apart, which the hardware's prefetcher does
 * not see through: while a panel is packed, the rows of the next one are fetched. */
static inline void pack_rows(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                             struct packed *b) {
    const int64_t D = a->D;
    vec zeros = vec_set(0);
    for (int64_t first = keys.begin; first < keys.end; first += NR) {
        const real *k[NR], *v[NR];
        int64_t offset[NR], at = first - keys.begin;
        key_rows(a, s, g, first, keys.end, k, offset, b->rotated);
        for (int r = 0; r < NR; r++) v[r] = a->v + offset[r];
        pack_panel(b->k_lines + at * D, NR, k, D);
        if (b->v_lines) pack_panel(b->v_lines + at * D, NR, v, D);
        for (int64_t r = 0; r < min_i64(NR, keys.end - first); r++) {
            const int64_t next = key_offset(a, s, g, min_i64(first + NR + r, keys.end - 1));
            prefetch_row(a->k + next, D);
            prefetch_row(a->v + next, D);
            if (b->k_steps) zeros += pack_step(b->k_steps + (at + r) * NR, b->height, k[r], D);
            if (b->v_steps) zeros += pack_step(b->v_steps + (at + r) * NR, b->height, v[r], D);
        }
    }
    b->steps_are_finite = vec_sum(zeros) == 0;
}

/* In pages, a panel of NR keys from position `first`, a multiple of NR, on: whether it lies in one page, so that step d of
 * it is NR neighbours there. Those past the end of the sequence are undefined. */
static inline int panels_lie_in_pages(const struct attention *a) { return a->Z % NR == 0; }

/* Gathers one that does not, up to position `end`: to [D][NR]. */
static inline __attribute__((always_inline)) void gather_panel(const enum number_format format,
                                                               const struct attention *a, const struct sequence *s,
                                                               int64_t g, int64_t first, int64_t end, real *to) {
    for (int64_t r = 0; r < NR; r++) {
        const int64_t position = min_i64(first + r, end - 1), at = page_offset(a, s, g, position) + position % a->Z;
        for (int64_t d = 0; d < a->D; d++) to[d * NR + r] = value_as(format, a->k_pages, at + d * a->Z);
    }
}

/* As pack_rows, k_lines and v_steps alone, from pages. */
static inline __attribute__((always_inline)) void pack_pages(const enum number_format format, const struct attention *a,
                                                             const struct sequence *s, int64_t g, struct range keys,
                                                             struct packed *b) {
    const int64_t D = a->D, Z = a->Z;
    vec zeros = vec_set(0);
    for (int64_t first = keys.begin; first < keys.end; first += NR) {
        real *to = b->k_lines + (first - keys.begin) * D;
        if (panels_lie_in_pages(a)) {
            const int64_t at = page_offset(a, s, g, first) + first % Z;
            for (int64_t d = 0; d < D; d++, to += NR) {
                vec_store(to, load_as(format, a->k_pages, at + d * Z));
                vec_store(to + VL, load_as(format, a->k_pages, at + d * Z + VL));
            }
        } else {
            gather_panel(format, a, s, g, first, keys.end, to);
        }
    }
    for (int64_t first = keys.begin, end; first < keys.end; first = end) { // a page at a time
        end = min_i64(keys.end, (first / Z + 1) * Z);
        int64_t at = page_offset(a, s, g, first) + first % Z * D;
        for (int64_t r = first - keys.begin; r < end - keys.begin; r++, at += D)
            zeros += pack_step_of(format, b->v_steps + r * NR, b->height, address_of(format, a->v_pages, at), D);
    }
    b->steps_are_finite = vec_sum(zeros) == 0;
}

static inline void pack_keys(const struct attention *a, const struct sequence *s, int64_t g, struct range keys,
                             struct packed *b) {
    if (!a->page_table)
        pack_rows(a, s, g, keys, b);
    else if (a->format == REALS)
        pack_pages(REALS, a, s, g, keys, b);
    else if (a->format == BF16)
        pack_pages(BF16, a, s, g, keys, b);
    else
        pack_pages(F16, a, s, g, keys, b);
}

/* to (rows, NR) = a (rows, steps) b (steps, NR), on the microkernel for 1, 2, 3, 4 or MR rows, at least `rows`. */
static inline __attribute__((always_inline)) void block_product(int rows, int64_t steps, const real *a, int64_t a_row,
                                                                int64_t a_step, const real *b, real *to) {
    switch (rows) {
    case 1: microkernel_rows(1, steps, a, a_row, a_step, b, NR, to, NR, 0); break;
    case 2: microkernel_rows(2, steps, a, a_row, a_step, b, NR, to, NR, 0); break;
    case 3: microkernel_rows(3, steps, a, a_row, a_step, b, NR, to, NR, 0); break;
    case 4: microkernel_rows(4, steps, a, a_row, a_step, b, NR, to, NR, 0); break;
    default: microkernel_rows(MR, steps, a, a_row, a_step, b, NR, to, NR, 0);
    }
}

/* scores [panel of NR keys][MR][NR] = q k^T for the panels in `keys`; q [D][MR], lines [panel][D][NR]. */
static inline void q_times_keys(int rows, int64_t D, struct range keys, const real *q, const real *lines,
                                real *scores) {
    for (int64_t j = keys.begin; j < keys.end; j += NR)
        block_product(rows, D, q, 1, MR, lines + j * D, scores + j * MR);
}

/* o [panel of NR columns][MR][NR] = p v over the keys that each row sees; p has rows p_row apart, steps [panel][height]
 * [NR]. Outside of what a row sees p is 0, but 0 * inf is NaN: where not all steps are finite, each row is multiplied by
 * the keys that it sees alone. */
static inline void p_times_values(const struct tile *t, int64_t D, const real *p, int64_t p_row, const real *steps,
                                  int64_t height, int steps_are_finite, real *o) {
    const struct range keys = seen_by_some(t);
    for (int64_t d = 0; d < D; d += NR)
        block_product(t->rows, keys.end - keys.begin, p + keys.begin, p_row, 1, steps + d * height + keys.begin * NR,
                      o + d * MR);
    for (int r = 0; r < t->rows && !steps_are_finite; r++) {
        const struct range seen = t->seen[r];
        for (int64_t d = 0; d < D; d += NR)
            block_product(1, seen.end - seen.begin, p + r * p_row + seen.begin, p_row, 1,
                          steps + d * height + seen.begin * NR, o + d * MR + r * NR);
    }
}

/* Zeros in [begin, end), multiples of VL. */
static inline void clear(real *row, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += VL) vec_store(row + j, vec_set(0));
}

/* attention_row.c */
struct state {
    real max, sum; // of the keys so far, in powers of two; the row's o is in y
};
#define attention_exponentials KERNEL_FN(attention_exponentials)
#define attention_merge KERNEL_FN(attention_merge)
struct state attention_exponentials(const real *scores, int64_t panel, struct range seen, struct range span, real scale,
                                    real *p);
void attention_merge(const struct attention *a, const struct sequence *s, int64_t h, int64_t i, int64_t first_key,
                     struct state *row, struct state block, const real *o, int64_t panel);

/* attention_forward.c: y of all rows, and lse if wanted. Called by every thread of the team; bytes of workspace. */
#define attention_run KERNEL_FN(attention_run)
#define attention_run_size KERNEL_FN(attention_run_size)
void attention_run(const struct attention *a, const struct gollm_team *team);
int64_t attention_run_size(const struct attention *a, int n_threads);

/* attention_decode.c: the same for the sequences that attention_decodes chooses. */
#define attention_decodes KERNEL_FN(attention_decodes)
#define attention_decode KERNEL_FN(attention_decode)
#define attention_decode_size KERNEL_FN(attention_decode_size)
int attention_decodes(const struct attention *a, const struct sequence *s);
void attention_decode(const struct attention *a, const struct gollm_team *team);
int64_t attention_decode_size(const struct attention *a, int n_threads);

#endif
