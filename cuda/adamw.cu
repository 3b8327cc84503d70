/* AdamW (Loshchilov & Hutter 2019), with the arithmetic of torch.optim.AdamW: for each parameter, with g scaled
 *
 *   w = w * (1 - lr * weight_decay)                          the first n_decay parameters only
 *   m = m + (1 - beta1) * (g - m)                            v = beta2 * v + (1 - beta2) * g^2
 *   w = w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
 *
 *   w, m, v (N) wide, g (N), lr, step t = 1, 2, ... and grad_scale (1)  ->  w, m, v
 *
 * adamw_bf16 is the same for weights that are kept as bfloat16 alone, which are rounded stochastically, with the CPU's bits
 * (csrc/adamw.c): half h of word w of counter b of Philox decides over element 8 b + 2 w + h, so a thread takes eight.
 *
 * Bound by memory: 28 bytes a parameter, 26 with gradients in bfloat16, 22 with weights, too. Coefficients are computed in double precision, by the
 * first thread of each block. A moment below the smallest normal number is stored as 0, as on the CPU. A step below 1:
 * GOLLM_BAD_VALUE, and nothing changes.
 */
#include "philox.h"

namespace GOLLM_VARIANT {

struct AdamWCoefficients {
    float keep, grad_scale, beta1_rest, beta2, beta2_rest, step_size, v_scale, eps;
};

__device__ __forceinline__ float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? 0 : x; }

/* By the first thread of a block. */
template <class Args> __device__ __forceinline__ AdamWCoefficients coefficients_of(const Args &args) {
    const double t = (double)*args.step, lr = *args.lr;
    return {(float)(1 - lr * args.weight_decay),
            (float)*args.grad_scale,
            (float)(1 - args.beta1),
            (float)args.beta2,
            (float)(1 - args.beta2),
            (float)(lr / (1 - pow(args.beta1, t))),
            (float)(1 / sqrt(1 - pow(args.beta2, t))),
            (float)args.eps};
}

__device__ __forceinline__ void update(const AdamWCoefficients &c, float keep, float &w, float &m, float &v, float g) {
    g *= c.grad_scale;
    m = flushed(m + c.beta1_rest * (g - m));
    v = flushed(v * c.beta2 + g * g * c.beta2_rest);
    w = w * keep - c.step_size * m / (sqrtf(v) * c.v_scale + c.eps);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) adamw_kernel(adamw_args args, int32_t *error) {
    AdamWCoefficients &c = shared_memory<AdamWCoefficients>();
    if (*args.step < 1) {
        *error = GOLLM_BAD_VALUE;
        return;
    }
    if (threadIdx.x == 0) c = coefficients_of(args);
    __syncthreads();
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        vec w = load_n(args.w + i, left), m = load_n(args.m + i, left), v = load_n(args.v + i, left);
        const vec g = load_n(args.g + i, left);
        EACH_LANE(k) update(c, i + k < args.n_decay ? c.keep : 1, w.x[k], m.x[k], v.x[k], g.x[k]);
        store_n(args.w + i, w, left);
        store_n(args.m + i, m, left);
        store_n(args.v + i, v, left);
    }
}

int adamw(const adamw_args *args, const gollm_team *team) {
    return launch(adamw_kernel, element_blocks(args->N), ELEMENT_THREADS, sizeof(AdamWCoefficients), team, *args,
                  team->error);
}

/* Weights of bfloat16 */

constexpr int PER_COUNTER = 8; // elements whose bits come from one counter: 16 for each
constexpr uint32_t STREAM_OF_ROUNDING = 0xffffffffu;

/* x rounded to one of its two neighbours in bfloat16, with 16 random bits. Infinity and NaN stay what they are. */
__device__ __forceinline__ float rounded_with(float x, uint32_t random) {
    const uint32_t bits = __float_as_uint(x);
    return (bits & 0x7f800000) == 0x7f800000 ? x : __uint_as_float((bits + random) & 0xffff0000u);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) adamw_bf16_kernel(adamw_bf16_args args, int32_t *error) {
    AdamWCoefficients &c = shared_memory<AdamWCoefficients>();
    const int64_t step = *args.step;
    if (step < 1) {
        *error = GOLLM_BAD_VALUE;
        return;
    }
    if (threadIdx.x == 0) c = coefficients_of(args);
    __syncthreads();
    for (int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; b < ceil_div(args.N, PER_COUNTER);
         b += (int64_t)gridDim.x * blockDim.x) {
        uint32_t words[4] = {(uint32_t)b, STREAM_OF_ROUNDING, (uint32_t)step, (uint32_t)((uint64_t)step >> 32)};
        philox(words, (uint32_t)args.seed, (uint32_t)((uint64_t)args.seed >> 32));
#pragma unroll
        for (int part = 0; part < PER_COUNTER; part += VL) {
            const int64_t i = b * PER_COUNTER + part, left = args.N - i;
            vec w = load_n(args.w + i, left), m = load_n(args.m + i, left), v = load_n(args.v + i, left);
            const vec g = load_n(args.g + i, left);
            EACH_LANE(k) {
                update(c, i + k < args.n_decay ? c.keep : 1, w.x[k], m.x[k], v.x[k], g.x[k]);
                w.x[k] = rounded_with(w.x[k], words[(part + k) / 2] >> 16 * (k % 2) & 0xffff);
            }
            store_n(args.w + i, w, left);
            store_n(args.m + i, m, left);
            store_n(args.v + i, v, left);
        }
    }
}

int adamw_bf16(const adamw_bf16_args *args, const gollm_team *team) {
    const int64_t blocks = ceil_div(ceil_div(args->N, PER_COUNTER), ELEMENT_THREADS);
    return launch(adamw_bf16_kernel, dim3((unsigned)min_i64(MAX_BLOCKS, blocks)), ELEMENT_THREADS,
                  sizeof(AdamWCoefficients), team, *args, team->error);
}

} // namespace GOLLM_VARIANT
