/* A multiple:  y = factor * x        x (N) -> y (N), overwritten or added to
 *
 * Bound by memory: moves 2N reals, 3N where it adds.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) scale_kernel(scale_args args) {
    const float factor = (float)args.factor;
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        vec y = load_n(args.x + i, left);
        EACH_LANE(k) y.x[k] *= factor;
        store_n(args.y + i, args.y_accumulate ? y + load_n(args.y + i, left) : y, left);
    }
}

int scale(const scale_args *args, const gollm_team *team) {
    if (!args->y) return GOLLM_OK;
    return launch(scale_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
