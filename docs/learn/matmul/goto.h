/* Goto's five loops (Goto & van de Geijn 2008) around the microkernel, for the rows [begin, end) of c.
 *
 *     5  strips of NC columns                     b: KC x NC, packed, in L3
 *     4    blocks of KC steps
 *     3      blocks of MC rows                    a: MC x KC, packed, in L2
 *     2        panels of NR columns               b: KC x NR, in L1
 *     1          panels of MR rows                c: MR x NR, in registers
 */
#ifndef GOTO_H
#define GOTO_H

#include "microkernel.h"
#include "packing.h"

enum { KC = 256, MC = 192, NC = 1536 };

static inline void multiply(int n, int begin, int end, const float *restrict a, const float *restrict b,
                            float *restrict c) {
    static _Thread_local float packed_a[MC * KC] __attribute__((aligned(64)));
    static _Thread_local float packed_b[KC * NC] __attribute__((aligned(64)));
    for (int j0 = 0; j0 < n; j0 += NC)
        for (int k = 0; k < n; k += KC) {
            const int steps = min(KC, n - k), columns = min(NC, n - j0);
            pack_b(packed_b, b + k * n + j0, n, steps, columns);
            for (int i0 = begin; i0 < end; i0 += MC) {
                const int rows = min(MC, end - i0);
                pack_a(packed_a, a + i0 * n + k, n, rows, steps);
                for (int j = 0; j < columns; j += NR)
                    for (int i = 0; i < rows; i += MR)
                        microkernel(steps, packed_a + i * steps, 1, MR, packed_b + j * steps, NR,
                                    c + (i0 + i) * n + j0 + j, n, k > 0);
            }
        }
}

#endif
