/* Elementwise sum:  c = a + b        a, b (N) -> c (N)        c may be a or b
 *
 * Bound by memory: moves 3N reals.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) add_kernel(add_args args) {
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        store_n(args.c + i, load_n(args.a + i, left) + load_n(args.b + i, left), left);
    }
}

int add(const add_args *args, const gollm_team *team) {
    return launch(add_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
