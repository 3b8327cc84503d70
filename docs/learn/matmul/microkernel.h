/* The microkernel: c (MR, NR) = the sum over k < steps of a column of a (MR) times a row of b (NR); += where `add` is 1.
 *
 * The tile of c stays in registers for all steps. A step takes 2 loads of b, MR broadcasts of a, and 2 MR multiply-adds of
 * vectors: with AVX-512 16 multiply-adds for 10 loads, where step 3 has a load, a load and a store for each one.
 *
 *     a(i, k) is a[i * a_row + k * a_step],   b(k, j) is b[k * b_step + j],   c(i, j) is c[i * c_row + j]
 */
#ifndef MICROKERNEL_H
#define MICROKERNEL_H

#include "matmul.h"

static inline __attribute__((always_inline)) void microkernel(int steps, const float *restrict a, long a_row,
                                                              long a_step, const float *restrict b, long b_step,
                                                              float *restrict c, long c_row, int add) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) { // c is on its way while the sums are computed
        __builtin_prefetch(c + i * c_row, 1);
        __builtin_prefetch(c + i * c_row + VL, 1);
    }
    vec sum[MR][2] = {0};
    for (int k = 0; k < steps; k++, a += a_step, b += b_step) {
        const vec b0 = load(b), b1 = load(b + VL);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) { // all of it unrolled, so that every sum has a register
            sum[i][0] += a[i * a_row] * b0;
            sum[i][1] += a[i * a_row] * b1;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
        float *to = c + i * c_row;
        store(to, add ? load(to) + sum[i][0] : sum[i][0]);
        store(to + VL, add ? load(to + VL) + sum[i][1] : sum[i][1]);
    }
}

#endif
