/* Packing: a block is copied to where the microkernel reads it from front to back.
 *
 *     b   [panel of NR columns][k][NR]        a   [panel of MR rows][k][MR]
 */
#ifndef PACKING_H
#define PACKING_H

#include "matmul.h"

/* Rows [0, steps) and columns [0, columns) of b, from where it points. */
static inline void pack_b(float *restrict to, const float *restrict b, int n, int steps, int columns) {
    for (int j = 0; j < columns; j += NR)
        for (int k = 0; k < steps; k++, to += NR) memcpy(to, b + k * n + j, NR * sizeof *to);
}

/* Rows [0, rows) and columns [0, steps) of a. */
static inline void pack_a(float *restrict to, const float *restrict a, int n, int rows, int steps) {
    for (int i = 0; i < rows; i += MR)
        for (int k = 0; k < steps; k++, to += MR)
#pragma GCC unroll 8
            for (int r = 0; r < MR; r++) to[r] = a[(i + r) * n + k];
}

#endif
