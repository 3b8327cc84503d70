/* AdamW (Loshchilov & Hutter 2019), with the arithmetic of torch.optim.AdamW: for each parameter, with g scaled
 *
 *   w = w * (1 - lr * weight_decay)                          the first n_decay parameters only
 *   m = m + (1 - beta1) * (g - m)                            v = beta2 * v + (1 - beta2) * g^2
 *   w = w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
 *
 *   w, m, v (N) wide, g (N), lr, step t = 1, 2, ... and grad_scale (1)  ->  w, m, v
 *
 * Bound by memory: 28 bytes a parameter, 26 with gradients in bfloat16. Coefficients are computed in double precision, by the
 * first thread of each block. A moment below the smallest normal number is stored as 0, as on the CPU. A step below 1:
 * GOLLM_BAD_VALUE, and nothing changes.
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

struct AdamWCoefficients {
    float keep, grad_scale, beta1_rest, beta2, beta2_rest, step_size, v_scale, eps;
};

__device__ __forceinline__ float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? 0 : x; }

__global__ void __launch_bounds__(ELEMENT_THREADS) adamw_kernel(adamw_args args, int32_t *error) {
    AdamWCoefficients &c = shared_memory<AdamWCoefficients>();
    if (*args.step < 1) {
        *error = GOLLM_BAD_VALUE;
        return;
    }
    if (threadIdx.x == 0) {
        const double t = (double)*args.step, lr = *args.lr;
        c = {(float)(1 - lr * args.weight_decay),
             (float)*args.grad_scale,
             (float)(1 - args.beta1),
             (float)args.beta2,
             (float)(1 - args.beta2),
             (float)(lr / (1 - pow(args.beta1, t))),
             (float)(1 / sqrt(1 - pow(args.beta2, t))),
             (float)args.eps};
    }
    __syncthreads();
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        vec w = load_n(args.w + i, left), m = load_n(args.m + i, left), v = load_n(args.v + i, left);
        const vec gradient = load_n(args.g + i, left);
        EACH_LANE(k) {
            const float g = gradient.x[k] * c.grad_scale, keep = i + k < args.n_decay ? c.keep : 1;
            m.x[k] = flushed(m.x[k] + c.beta1_rest * (g - m.x[k]));
            v.x[k] = flushed(v.x[k] * c.beta2 + g * g * c.beta2_rest);
            w.x[k] = w.x[k] * keep - c.step_size * m.x[k] / (sqrtf(v.x[k]) * c.v_scale + c.eps);
        }
        store_n(args.w + i, w, left);
        store_n(args.m + i, m, left);
        store_n(args.v + i, v, left);
    }
}

int adamw(const adamw_args *args, const gollm_team *team) {
    return launch(adamw_kernel, element_blocks(args->N), ELEMENT_THREADS, sizeof(AdamWCoefficients), team, *args,
                  team->error);
}

} // namespace GOLLM_VARIANT
