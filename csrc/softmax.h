/* The two passes of a stable softmax over a row, shared by softmax.c and the head. */
#ifndef GOLLM_SOFTMAX_H
#define GOLLM_SOFTMAX_H

#include "vec_math.h" /* vec_exp */

static inline real row_max(const real *x, int64_t n) {
    vec largest = vec_set(-(real)INFINITY);
    for (int64_t i = 0; i < n; i += VL) largest = vec_max(largest, vec_load_n_or(x + i, n - i, -(real)INFINITY));
    return vec_largest(largest);
}

/* y = e^(x - max), where y is not NULL, and returns their sum. NaN anywhere in x makes the sum NaN. */
static inline real row_exp(real *y, const real *x, int64_t n, real max) {
    vec sum = vec_set(0);
    for (int64_t i = 0; i < n; i += VL) {
        const vec e = vec_exp(vec_load_n_or(x + i, n - i, -(real)INFINITY) - vec_set(max));
        if (y) vec_store_n(y + i, e, n - i);
        sum += e;
    }
    return vec_sum(sum);
}

#endif
