/* y = value        y (N)        Bound by memory: writes N reals. */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) fill_kernel(fill_args args) {
    vec y;
    EACH_LANE(k) y.x[k] = (float)args.value;
    EACH_VECTOR(i, args.N) store_n(args.y + i, y, args.N - i);
}

int fill(const fill_args *args, const gollm_team *team) {
    return launch(fill_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
