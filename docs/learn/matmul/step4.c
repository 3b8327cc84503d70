/* Step 4, a tile of c in registers: the microkernel on a and b as they lie. Each element of a that is loaded meets NR
 * columns, each one of b meets MR rows.
 *
 * What is left: consecutive rows of b are n floats apart, so a panel of NR columns is spread over as many pages of memory as
 * it has rows, and so are the MR rows of a.
 */
#include "microkernel.h"

const char *const name = "a tile of c in registers";
const int is_threaded = 0;

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c) {
    for (int j = 0; j < n; j += NR)
        for (int i = 0; i < n; i += MR) microkernel(n, a + i * n, n, 1, b + j, n, c + i * n + j, n, 0);
}
