/* Stochastic gradient descent with momentum, with the arithmetic of torch.optim.SGD: for each parameter, with g scaled
 *
 *   g = g + weight_decay * w        the first n_decay parameters only
 *   m = momentum * m + g
 *   w = w - lr * m
 *
 *   w, m (N) wide, g (N), lr and grad_scale (1)  ->  w, m
 *
 * Bound by memory: 20 bytes a parameter. A momentum below the smallest normal number is stored as 0, as on the CPU.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) sgd_kernel(sgd_args args) {
    const float lr = (float)*args.lr, grad_scale = (float)*args.grad_scale;
    const float momentum = (float)args.momentum, weight_decay = (float)args.weight_decay;
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        vec w = load_n(args.w + i, left), m = load_n(args.m + i, left);
        const vec gradient = load_n(args.g + i, left);
        EACH_LANE(k) {
            float g = gradient.x[k] * grad_scale;
            if (i + k < args.n_decay && weight_decay != 0) g += weight_decay * w.x[k];
            const float next = m.x[k] * momentum + g;
            m.x[k] = fabsf(next) < 1.17549435e-38f ? 0 : next;
            w.x[k] -= lr * m.x[k];
        }
        store_n(args.m + i, m, left);
        store_n(args.w + i, w, left);
    }
}

int sgd(const sgd_args *args, const gollm_team *team) {
    return launch(sgd_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
