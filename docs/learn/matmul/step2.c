/* Step 2, the loops in another order: i, k, j.
 *
 * The inner loop walks along a row of b and a row of c. The compiler makes vectors of it, since the n sums do not depend on
 * each other. For each multiply-add c is loaded and stored again: three accesses to memory for two operations.
 */
#include "matmul.h"

const char *const name = "loops in the order i, k, j";
const int is_threaded = 0;

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c) {
    memset(c, 0, (size_t)n * n * sizeof *c);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            for (int j = 0; j < n; j++) c[i * n + j] += a[i * n + k] * b[k * n + j];
}
