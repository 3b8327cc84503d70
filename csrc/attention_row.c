/* One row of attention: the softmax of a block of scores, and the merging of blocks (attention_forward.c states the
 * rule).
 *
 * Both ways of attending, for many queries and for few, call these, and so get the same bits from the same numbers.
 */
#include "attention.h"

static inline real largest(vec v) {
    real lanes[VL];
    vec_store(lanes, v);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
    return lanes[0];
}

/* The lanes of x among [from, n), and `other` in the rest. */
static inline vec seen(int64_t from, int64_t n, vec x, vec other) {
    ivec lane;
    for (int i = 0; i < VL; i++) lane[i] = (ireal)i;
    return vec_select((lane >= (ireal)from) & (lane < (ireal)n), x, other);
}

/* A row of scores, in panels of NR that lie `panel` apart, of which it sees the keys [from, n), the first in the first
 * panel  ->  p (n) = 2^(scale log2(e) score - max), zero before `from` and from n to the end of its vector; the maximum,
 * and the sum of p: by lanes, even and odd vectors apart, so that zeros do not matter. What is not seen is left out by its
 * index, whatever its score and the scale. */
static inline __attribute__((always_inline)) struct state exponentials(const real *scores, int64_t panel, int64_t from,
                                                                       int64_t n, real scale, real *restrict p) {
    const vec factor = vec_set(scale * (real)LOG2_E), lowest = vec_set(-(real)INFINITY), zero = vec_set(0);
    const int64_t begin = from ? NR : 0, whole = max_i64(begin, n / NR * NR); // panels [begin, whole) are seen whole
    const int64_t first = from ? min_i64(NR, n) : 0; // keys of the first panel, where it is not
    const real *row = from ? scores + panel : scores;
    vec m0 = lowest, m1 = lowest;
    for (int64_t j = 0; j < first; j += VL)
        m0 = vec_max(m0, seen(from - j, first - j, vec_load(scores + j) * factor, lowest));
    for (int64_t j = begin; j < whole; j += NR, row += panel) {
        m0 = vec_max(m0, vec_load(row) * factor);
        m1 = vec_max(m1, vec_load(row + VL) * factor);
    }
    for (int64_t j = whole; j < n; j += VL, row += VL) m0 = vec_max(m0, seen(0, n - j, vec_load(row) * factor, lowest));
    const real max = largest(vec_max(m0, m1));
    const vec shift = vec_set(max == -(real)INFINITY ? 0 : max); // all scores -inf: p = 0, not NaN
    vec s0 = zero, s1 = zero;
    row = from ? scores + panel : scores;
    for (int64_t j = 0; j < first; j += VL) {
        const vec e = seen(from - j, first - j, exp2_negative(vec_load(scores + j) * factor - shift), zero);
        if (j == 0)
            s0 += e;
        else
            s1 += e;
        vec_store(p + j, e);
    }
    for (int64_t j = begin; j < whole; j += NR, row += panel) {
        const vec e0 = exp2_negative(vec_load(row) * factor - shift),
                  e1 = exp2_negative(vec_load(row + VL) * factor - shift);
        s0 += e0;
        s1 += e1;
        vec_store(p + j, e0);
        vec_store(p + j + VL, e1);
    }
    for (int64_t j = whole; j < n; j += VL, row += VL) {
        const vec e = seen(0, n - j, exp2_negative(vec_load(row) * factor - shift), zero);
        if (j == whole)
            s0 += e;
        else
            s1 += e;
        vec_store(p + j, e);
    }
    return (struct state){max, vec_sum(s0 + s1)};
}

/* Most rows see their first panel whole: for them all that depends on `from` is compiled away. */
struct state attention_exponentials(const real *scores, int64_t panel, int64_t from, int64_t n, real scale, real *p) {
    return from ? exponentials(scores, panel, from, n, scale, p) : exponentials(scores, panel, 0, n, scale, p);
}

static inline real exp2_of(real x) { return exp2_negative(vec_set(x))[0]; }

/* Merges a block's maximum, sum and o into a row: y is o so far, and o / sum after the last. o's panels of NR lie
 * `panel` apart. */
void attention_merge(real *y, int64_t D, struct state *row, int first, int last, struct state block, const real *o,
                     int64_t panel) {
    real keep = 0, add = 1;
    if (!first) {
        const real max = row->max > block.max ? row->max : block.max, shift = max == -(real)INFINITY ? 0 : max;
        keep = exp2_of(row->max - shift);
        add = exp2_of(block.max - shift);
        block = (struct state){max, row->sum * keep + block.sum * add};
    }
    *row = block;
    const vec kept = vec_set(keep), added = vec_set(add), inverse = vec_set(last ? 1 / block.sum : 1);
    for (int64_t d = 0; d < D; d += VL) {
        vec x =
            vec_load(o + d / NR * panel + d % NR) + vec_set(0); // -0, which one more key of p = 0 changes, becomes 0
        if (!first) x = vec_load_n(y + d, D - d) * kept + x * added;
        vec_store_n(y + d, x * inverse, D - d);
    }
}

void attention_write_lse(const struct attention *a, const struct sequence *s, int64_t h, int64_t i, struct state row) {
    if (a->lse)
        a->lse[(s->index * a->H + h) * a->T + i] =
            row.max * (real)LN_2 + (sizeof(real) == 4 ? logf((float)row.sum) : (real)log(row.sum));
}
