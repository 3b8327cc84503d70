/* The loss of preferring one answer to another (csrc/preference.c has the formulas):
 *
 *   forward    nll, reference (P, 2)                ->  losses (P), margins (P), loss
 *   backward   the same and dloss                   ->  dnll (P, 2)
 *
 * P is the number of pairs of a batch: a few. One warp does all, in double.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__device__ __forceinline__ double preference_difference(const float *nll, const float *reference) { // of a pair
    return ((double)nll[1] - (double)nll[0]) - ((double)reference[1] - (double)reference[0]);
}

__global__ void __launch_bounds__(32) preference_forward_kernel(preference_forward_args args) {
    double sum = 0;
    for (int64_t p = threadIdx.x; p < args.P; p += 32) {
        const double d = preference_difference(args.nll + 2 * p, args.reference + 2 * p), h = args.beta * d;
        const double off = d - 0.5 / args.beta;
        // log(1 + e^-h) without overflow
        const double loss = args.kind == GOLLM_IPO ? off * off : (h < 0 ? -h : 0) + log1p(exp(-fabs(h)));
        args.losses[p] = (float)loss;
        args.margins[p] = (float)h;
        sum += loss;
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) args.loss[0] = (float)(sum / args.denominator[0]);
}

int preference_forward(const preference_forward_args *args, const gollm_team *team) {
    return launch(preference_forward_kernel, dim3(1), 32, 0, team, *args);
}

__global__ void __launch_bounds__(32) preference_backward_kernel(preference_backward_args args) {
    for (int64_t p = threadIdx.x; p < args.P; p += 32) {
        const double d = preference_difference(args.nll + 2 * p, args.reference + 2 * p);
        // the loss by d
        const double slope = args.kind == GOLLM_IPO ? 2 * (d - 0.5 / args.beta) : -args.beta / (1 + exp(args.beta * d));
        const double g = slope * (double)args.dloss[0] / args.denominator[0];
        for (int i = 0; i < 2; i++) {
            float *out = args.dnll + 2 * p + i;
            *out = (float)((i ? g : -g) + (args.dnll_accumulate ? (double)*out : 0));
        }
    }
}

int preference_backward(const preference_backward_args *args, const gollm_team *team) {
    if (!args->dnll) return GOLLM_OK;
    return launch(preference_backward_kernel, dim3(1), 32, 0, team, *args);
}

} // namespace GOLLM_VARIANT
