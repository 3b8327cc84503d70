/* Step 1, the definition: c(i, j) = sum over k of a(i, k) b(k, j).
 *
 * The inner loop walks down a column of b: each load touches another cache line, of which one float of 16 is used. And each
 * addition waits for the one before it.
 */
#include "matmul.h"

const char *const name = "the definition: i, j, k";
const int is_threaded = 0;

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}
