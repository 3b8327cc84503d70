/* The register microkernel: one MR x NR tile of a product over one block of k, every element by one chain of fused
 * multiply-adds that starts from 0 (where the instruction set has no FMA: multiply, then add).
 *
 * The rule of the house: a product's element is the sum of its blocks of KC steps of k, added in ascending order.
 * Whoever keeps to it (matmul, attention, the head) gets the same bits for any tiling, batch, chunk and number of
 * threads.
 *
 * Budget per step of k:
 *
 *   AVX-512    8 x 32   16 accumulators of 32 registers: 16 FMA, 2 loads, 8 broadcasts
 *   AVX2       6 x 16   12 accumulators of 16 registers: 12 FMA, 2 loads, 6 broadcasts; 12 cover a latency of 4 on 2 units
 *   NEON       8 x 8    16 accumulators of 32 registers
 *   SSE        6 x 8    12 accumulators of 16 registers
 *
 * Bound by the FMA units as long as b's panel comes from L1 and a's at least from L2 (or the other way round).
 */
#ifndef GOLLM_GEMM_MICROKERNEL_H
#define GOLLM_GEMM_MICROKERNEL_H

#include "summation_order.h" /* KC */
#include "vec.h"

/* Tuning: the tile. With AVX-512, 8 x 32, 12 x 32, 14 x 32, 8 x 48 and 6 x 64 all reach the FMA peak (docs/performance.md), so
 * MR is what batches are multiples of. The others fill the registers. */
#if VEC_BYTES == 64 || defined(__aarch64__)
enum { MR = 8 };
#else
enum { MR = 6 };
#endif
enum { NR = 2 * VL };

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* to[i][j] (+)= sum over k < steps of a(i, k) * b(k, j), where a(i, k) is a[i * a_row + k * a_step], b(k, j) is b[k *
 * b_step + j] and to[i][j] is to[i * to_row + j], in the first `rows` rows and the first `vectors` (1 or 2) vectors of
 * columns. rows and vectors are constants, and so are the strides of packed panels: a_row 1, a_step MR, b_step NR. steps
 * <= KC. */
static inline __attribute__((always_inline)) void
microkernel_part(const int rows, const int vectors, int64_t steps, const real *restrict a, int64_t a_row,
                 int64_t a_step, const real *restrict b, int64_t b_step, real *restrict to, int64_t to_row, int add) {
    vec c[MR][2];
    UNROLL
    for (int i = 0; i < rows; i++) c[i][0] = c[i][1] = vec_set(0);
    for (int64_t k = 0; k < steps; k++) {
        const vec b0 = vec_load(b), b1 = vectors > 1 ? vec_load(b + VL) : b0;
        UNROLL
        for (int i = 0; i < rows; i++) {
            const vec ai = vec_set(a[i * a_row]);
            c[i][0] += ai * b0;
            if (vectors > 1) c[i][1] += ai * b1;
        }
        a += a_step;
        b += b_step;
    }
    if (add) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            c[i][0] += vec_load(to + i * to_row);
            if (vectors > 1) c[i][1] += vec_load(to + i * to_row + VL);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        vec_store(to + i * to_row, c[i][0]);
        if (vectors > 1) vec_store(to + i * to_row + VL, c[i][1]);
    }
}

/* The same in all columns. */
static inline __attribute__((always_inline)) void
microkernel_rows(const int rows, int64_t steps, const real *restrict a, int64_t a_row, int64_t a_step,
                 const real *restrict b, int64_t b_step, real *restrict to, int64_t to_row, int add) {
    microkernel_part(rows, 2, steps, a, a_row, a_step, b, b_step, to, to_row, add);
}

#endif
