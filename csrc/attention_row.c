/* One row of attention: the softmax of a block of scores, and the merging of blocks (attention_forward.c states the
 * rule).
 *
 * Sequences with many queries and with few both use these, and so get the same bits from the same scores.
 */
#include "attention.h"
#include "vec_math.h" /* vec_exp2_negative */

/* A row of scores in panels of NR, which lie `panel` apart, and of which it sees the keys `seen`
 *
 *     ->  p (span) = 2^(scale log2(e) score - max) where seen, 0 elsewhere;  the maximum and the sum of p
 *
 * Keys that are not seen are left out by their index, whatever their score and the scale. span begins at a panel and
 * contains `seen`. The sum goes by lanes, over even and odd vectors apart, so that zeros do not change it. */
struct state attention_exponentials(const real *scores, int64_t panel, struct range seen, struct range span, real scale,
                                    real *restrict p) {
    const vec factor = vec_set(scale * (real)LOG2_E), lowest = vec_set(-(real)INFINITY), zero = vec_set(0);
    const int64_t begin = seen.begin / NR * NR, end = round_up(seen.end, NR);
    vec m0 = lowest, m1 = lowest;
    const real *row = scores + begin / NR * panel;
    for (int64_t j = begin; j < end; j += NR, row += panel) {
        vec s0 = vec_load(row) * factor, s1 = vec_load(row + VL) * factor;
        if (j < seen.begin || j + NR > seen.end) {
            s0 = vec_keep(s0, seen.begin - j, seen.end - j, lowest);
            s1 = vec_keep(s1, seen.begin - j - VL, seen.end - j - VL, lowest);
        }
        m0 = vec_max(m0, s0);
        m1 = vec_max(m1, s1);
    }
    const real max = vec_largest(vec_max(m0, m1));
    const vec shift = vec_set(max == -(real)INFINITY ? 0 : max); // all scores -inf: p = 0, not NaN
    vec sum0 = zero, sum1 = zero;
    row = scores + begin / NR * panel;
    for (int64_t j = begin; j < end; j += NR, row += panel) {
        vec e0 = vec_exp2_negative(vec_load(row) * factor - shift);
        vec e1 = vec_exp2_negative(vec_load(row + VL) * factor - shift);
        if (j < seen.begin || j + NR > seen.end) {
            e0 = vec_keep(e0, seen.begin - j, seen.end - j, zero);
            e1 = vec_keep(e1, seen.begin - j - VL, seen.end - j - VL, zero);
        }
        sum0 += e0;
        sum1 += e1;
        vec_store(p + j, e0);
        vec_store(p + j + VL, e1);
    }
    clear(p, span.begin, begin);
    clear(p, end, span.end);
    return (struct state){max, vec_sum(sum0 + sum1)};
}

static inline real exp2_of(real x) { return vec_exp2_negative(vec_set(x))[0]; }

/* Merges a block's maximum, sum and o into the row of head h and query i: y is o so far, and o / sum after the last
 * block. o's panels of NR columns lie `panel` apart. */
void attention_merge(const struct attention *a, const struct sequence *s, int64_t h, int64_t i, int64_t first_key,
                     struct state *row, struct state block, const real *o, int64_t panel) {
    const int64_t D = a->D, position = s->past + i;
    const int first = keys_seen(a, position).begin >= first_key, last = position < first_key + KEY_BLOCK;
    real *y = a->y + head_offset(a, s, h, i), keep = 0, add = 1;
    if (!first) {
        const real max = row->max > block.max ? row->max : block.max, shift = max == -(real)INFINITY ? 0 : max;
        keep = exp2_of(row->max - shift);
        add = exp2_of(block.max - shift);
        block = (struct state){max, row->sum * keep + block.sum * add};
    }
    *row = block;
    const vec kept = vec_set(keep), added = vec_set(add), inverse = vec_set(last ? 1 / block.sum : 1);
    for (int64_t d = 0; d < D; d += VL) {
        vec x = vec_load(o + d / NR * panel + d % NR) + vec_set(0); // -0 becomes 0, as one more key of p = 0 would do
        if (!first) x = vec_load_n(y + d, D - d) * kept + x * added;
        vec_store_n(y + d, x * inverse, D - d);
    }
    if (last && a->lse)
        a->lse[lse_offset(a, s, h, i)] =
            row->max * (real)LN_2 + (sizeof(real) == 4 ? logf((float)row->sum) : (real)log(row->sum));
}
