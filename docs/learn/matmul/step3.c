/* Step 3, blocks: the product of a block of a and a block of b, small enough that the block of b stays in the L2 cache
 * (KC x NC floats: 192 KB) while all rows of a go past it. In step 2 every row of a read all of b again.
 */
#include "matmul.h"

const char *const name = "blocks of b in the cache";
const int is_threaded = 0;

enum { KC = 128, NC = 384 };

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c) {
    memset(c, 0, (size_t)n * n * sizeof *c);
    for (int j0 = 0; j0 < n; j0 += NC)
        for (int k0 = 0; k0 < n; k0 += KC)
            for (int i = 0; i < n; i++)
                for (int k = k0; k < min(n, k0 + KC); k++)
                    for (int j = j0; j < min(n, j0 + NC); j++) c[i * n + j] += a[i * n + k] * b[k * n + j];
}
