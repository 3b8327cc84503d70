/* y = x        x (N) -> y (N)        Bound by memory: moves 2N reals. */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) copy_kernel(copy_args args) {
    EACH_VECTOR(i, args.N) store_n(args.y + i, load_n(args.x + i, args.N - i), args.N - i);
}

int copy(const copy_args *args, const gollm_team *team) {
    return launch(copy_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
