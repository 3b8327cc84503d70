/* Step 5, packing: a panel of NR columns of b is copied once, into one piece of memory, and then read by all rows of a.
 *
 * Blocks of KC steps keep the panel in L1: KC x NR floats are 32 KB with AVX-512, 16 KB with AVX2.
 */
#include "microkernel.h"
#include "packing.h"

const char *const name = "panels of b packed";
const int is_threaded = 0;

enum { KC = 256 };

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c) {
    static float panel[KC * NR] __attribute__((aligned(64)));
    for (int k = 0; k < n; k += KC) {
        const int steps = min(KC, n - k);
        for (int j = 0; j < n; j += NR) {
            pack_b(panel, b + k * n + j, n, steps, NR);
            for (int i = 0; i < n; i += MR) microkernel(steps, a + i * n + k, n, 1, panel, NR, c + i * n + j, n, k > 0);
        }
    }
}
