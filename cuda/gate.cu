/* The gate of an MLP, element by element:  y = f(gate) * up,  with f chosen by `kind`, an enum gollm_activation (activation.h).
 *
 *   forward    gate, up (N)        ->  y (N)
 *   backward   dy, gate, up (N)    ->  dgate = dy * up * f'(gate),  dup = dy * f(gate)
 *
 * Bound by memory: forward moves 3N reals, backward 5N.
 */
#include "activation.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) gate_forward_kernel(gate_forward_args args) {
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        const vec gate = load_n(args.gate + i, left);
        vec y = load_n(args.up + i, left);
        with_activation(args.kind, [&](int64_t kind) { EACH_LANE(k) y.x[k] *= activation(kind, gate.x[k]); });
        store_n(args.y + i, y, left);
    }
}

int gate_forward(const gate_forward_args *args, const gollm_team *team) {
    return launch(gate_forward_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) gate_backward_kernel(gate_backward_args args) {
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        const vec dy = load_n(args.dy + i, left), gate = load_n(args.gate + i, left);
        vec dgate = dy * load_n(args.up + i, left), dup = dy;
        with_activation(args.kind, [&](int64_t kind) {
            EACH_LANE(k) {
                dgate.x[k] *= activation_gradient(kind, gate.x[k]);
                dup.x[k] *= activation(kind, gate.x[k]);
            }
        });
        if (args.dgate)
            store_n(args.dgate + i, args.dgate_accumulate ? dgate + load_n(args.dgate + i, left) : dgate, left);
        if (args.dup) store_n(args.dup + i, args.dup_accumulate ? dup + load_n(args.dup + i, left) : dup, left);
    }
}

int gate_backward(const gate_backward_args *args, const gollm_team *team) {
    return launch(gate_backward_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
