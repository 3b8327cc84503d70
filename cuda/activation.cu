/* Activations, element by element:  y = f(x),  dx = dy * f'(x),  with f chosen by `kind`, an enum gollm_activation.
 *
 *   forward    x (N)        ->  y (N)       y may be x
 *   backward   dy, x (N)    ->  dx (N)      dx may be dy
 *
 * Bound by memory: forward moves 2N reals, backward 3N.
 */
#include "activation.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) activation_forward_kernel(activation_forward_args args) {
    EACH_VECTOR(i, args.N) {
        vec v = load_n(args.x + i, args.N - i);
        EACH_LANE(k) v.x[k] = activation(args.kind, v.x[k]);
        store_n(args.y + i, v, args.N - i);
    }
}

int activation_forward(const activation_forward_args *args, const gollm_team *team) {
    return launch(activation_forward_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) activation_backward_kernel(activation_backward_args args) {
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        const vec x = load_n(args.x + i, left);
        vec d = load_n(args.dy + i, left);
        EACH_LANE(k) d.x[k] *= activation_gradient(args.kind, x.x[k]);
        if (args.dx_accumulate) d = d + load_n(args.dx + i, left);
        store_n(args.dx + i, d, left);
    }
}

int activation_backward(const activation_backward_args *args, const gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    return launch(activation_backward_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
