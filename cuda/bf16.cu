/* bfloat16 from floats and back:
 *
 *   to      x (N) wide  ->  y (N) bf16      rounded to nearest, ties to even; beyond the largest: infinity; NaN stays NaN
 *   from    x (N) bf16  ->  y (N) wide      exact
 *
 * Bound by memory: 6N bytes each way.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) to_bf16_kernel(to_bf16_args args) {
    EACH_VECTOR(i, args.N) store_n(args.y + i, load_n(args.x + i, args.N - i), args.N - i);
}

int to_bf16(const to_bf16_args *args, const gollm_team *team) {
    return launch(to_bf16_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) from_bf16_kernel(from_bf16_args args) {
    EACH_VECTOR(i, args.N) store_n(args.y + i, load_n(args.x + i, args.N - i), args.N - i);
}

int from_bf16(const from_bf16_args *args, const gollm_team *team) {
    return launch(from_bf16_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
