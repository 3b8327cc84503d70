/* What the attention kernels share: how queries, keys and values lie in memory, and how the keys are cut into blocks.
 *
 * Names: S sequences of T tokens (training) or of their own lengths (pages); N query rows; H heads of D values, the H /
 * G of a group share one of G key/value heads.
 */
#ifndef GOLLM_ATTENTION_H
#define GOLLM_ATTENTION_H

#include "gemm_microkernel.h" /* MR, NR */
#include "summation_order.h"  /* KEY_BLOCK, MAX_HEAD_DIM, KEYS, QUERIES */

struct attention {
    int64_t H, G, D, S;
    real scale;
    const real *q;     // row n, head h at q + n * q_stride + h * D
    real *y;           // (N, H, D)
    real *lse;         // (S, H, T) or NULL
    const real *k, *v; // key/value head g of token t at k + t * kv_stride + g * D
    int64_t q_stride, kv_stride;
    int64_t N, T;                           // T is not used with pages: sequence s then has rows query_offsets[s] ...,
    const int32_t *query_offsets, *lengths; // (S + 1), (S), which are the last of its lengths[s] tokens
    const int32_t *page_table;              // (S, L), or NULL: token t of sequence s is then s * T + t
    int64_t L, Z;                           // position j of a sequence is token page_table[s][j / Z] * Z + j % Z
    const real *rotations;                  // (A, D), rope.c: a row for each position; NULL: nothing is turned
    int64_t window;                         // a query sees the last `window` keys, its own included; 0: all of them
};

/* Values of a row of qkv. */
static inline int64_t qkv_width(int64_t H, int64_t G, int64_t D) { return (H + 2 * G) * D; }

/* 0 unless the heads fit together and a row of qkv is no longer than a size may be. */
static inline int attention_heads_are_good(int64_t H, int64_t G, int64_t D) {
    return 0 < G && G <= H && H <= GOLLM_MAX_SIZE && H % G == 0 && 0 < D && D <= MAX_HEAD_DIM &&
           H + 2 * G <= GOLLM_MAX_SIZE / D;
}

/* What every call of attention is checked for before it runs: heads, pairs to turn where there are rotations, a window of
 * at most what lengths go to, so that sums with it do not overflow, and a finite scale. */
static inline int attention_check(int64_t H, int64_t G, int64_t D, const real *rotations, int64_t window,
                                  double scale) {
    if (!attention_heads_are_good(H, G, D) || (rotations && D % 2)) return GOLLM_BAD_SHAPE;
    return window < 0 || window > INT32_MAX || !isfinite((real)scale) ? GOLLM_BAD_VALUE : GOLLM_OK;
}

/* And for positions 0 ... T - 1, which have a rotation each where there are any. */
static inline int attention_check_positions(int64_t T, const real *rotations, int64_t A) {
    if (T > INT32_MAX) return GOLLM_BAD_SHAPE;
    return rotations && T > A ? GOLLM_BAD_INDEX : GOLLM_OK;
}

/* The first position that a query at `position` sees. */
static inline int64_t first_key(int64_t window, int64_t position) {
    return window ? max_i64(0, position - window + 1) : 0;
}

/* rope.c: y (D) = x (D), turned by a row of the table of rotations, and turned back. y may be x. rope_turn_lines turns n
 * rows by their positions where there are rotations; their lines then lie in `rows` (n, D). */
#define rope_turn KERNEL_FN(rope_turn)
#define rope_turn_back KERNEL_FN(rope_turn_back)
#define rope_turn_lines KERNEL_FN(rope_turn_lines)
void rope_turn(real *y, const real *x, const real *rotation, int64_t D);
void rope_turn_back(real *y, const real *x, const real *rotation, int64_t D);
void rope_turn_lines(const real *rotations, int64_t D, int n, const real **line, const int64_t *position, real *rows);

#define LOG2_E 1.44269504088896340736
#define LN_2 0.69314718055994530942

/* 2^x for x <= 0, give or take a rounding; 0 below -126, so that there are no denormals. x = n + f with |f| <= 1/2, a
 * polynomial in f, fitted for the smallest relative error (2e-9), and n put into the exponent: below 1 ulp. NaN -> NaN,
 * -inf -> 0. Softmax in powers of two saves the reduction of e^x, and scale * log2(e) is one factor. */
static inline vec exp2_negative(vec x) {
#ifdef GOLLM_F64
    for (int i = 0; i < VL; i++) x[i] = exp2(x[i]);
    return x;
#else
    const vec round =
        vec_set(12582912.0f + 127); // adding it leaves round(x) + 127, the exponent of a float, in the low bits
    const vec shifted = x + round, f = x - (shifted - round);
    vec p = vec_set(1.5353362e-4f);
    p = p * f + vec_set(1.3398875e-3f);
    p = p * f + vec_set(9.6184369e-3f);
    p = p * f + vec_set(5.5503324e-2f);
    p = p * f + vec_set(2.4022648e-1f);
    p = p * f + vec_set(6.9314718e-1f);
    p = p * f + vec_set(1);
    return vec_select(x < vec_set(-126), vec_set(0), p * (vec)((ivec)shifted << 23));
#endif
}

struct sequence {
    int64_t index, first_row, queries, past; // query i is row first_row + i, at position past + i
};

static inline struct sequence sequence_at(const struct attention *a, int64_t s) {
    if (!a->page_table) return (struct sequence){s, s * a->T, a->T, 0};
    const int64_t queries = a->query_offsets[s + 1] - a->query_offsets[s];
    return (struct sequence){s, a->query_offsets[s], queries, a->lengths[s] - queries};
}

/* Of key/value head g of the token at `position`, in k and in v. */
static inline int64_t key_offset(const struct attention *a, const struct sequence *s, int64_t g, int64_t position) {
    int64_t token = a->page_table ? a->page_table[s->index * a->L + position / a->Z] * a->Z + position % a->Z
                                  : s->index * a->T + position;
    return token * a->kv_stride + g * a->D;
}

static inline void prefetch_row(const real *row, int64_t D) {
    for (int64_t d = 0; d < D; d += 64 / (int64_t)sizeof(real)) __builtin_prefetch(row + d);
}

/* y, and lse if wanted, of all rows: softmax(scale q k^T, causal) v. Called by every thread of the team. */
#define attention_run KERNEL_FN(attention_run)
#define attention_run_size KERNEL_FN(attention_run_size)
void attention_run(const struct attention *a, const struct gollm_team *team);
int64_t attention_run_size(const struct attention *a, int n_threads); // bytes of workspace

/* attention_decode.c: the sequences with few queries, for which attention_may_decode; from the start of the workspace.
 */
#define attention_may_decode KERNEL_FN(attention_may_decode)
#define attention_decode KERNEL_FN(attention_decode)
#define attention_decode_size KERNEL_FN(attention_decode_size)
enum { FEW_QUERIES = 4 };
int attention_may_decode(const struct attention *a);
void attention_decode(const struct attention *a, const struct gollm_team *team);
int64_t attention_decode_size(const struct attention *a, int n_threads); // in reals

/* attention_row.c: one row of scores in a block of keys, and how a block is merged into a row. */
struct state {
    real max, sum; // of the keys so far, in powers of two; the row's o is in y
};
#define attention_exponentials KERNEL_FN(attention_exponentials)
#define attention_merge KERNEL_FN(attention_merge)
#define attention_write_lse KERNEL_FN(attention_write_lse)
struct state attention_exponentials(const real *scores, int64_t panel, int64_t from, int64_t n, real scale, real *p);
void attention_merge(real *y, int64_t D, struct state *row, int first, int last, struct state block, const real *o,
                     int64_t panel);
void attention_write_lse(const struct attention *a, const struct sequence *s, int64_t h, int64_t i, struct state row);

#endif
