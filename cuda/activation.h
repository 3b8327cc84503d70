/* Activations and their derivatives (csrc/activation.h has the formulas and their sources). */
#ifndef GOLLM_CUDA_ACTIVATION_H
#define GOLLM_CUDA_ACTIVATION_H

#include "kernel.h"

namespace GOLLM_VARIANT {

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* sigmoid(2u) of GELU_TANH, u = sqrt(2/pi) (x + 0.044715 x^3) */
__device__ __forceinline__ float gelu_gate(float x) {
    return sigmoid(1.5957691216057308f * (x + 0.044715f * (x * x * x)));
}

/* The normal distribution function. */
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678118654752f * x); }

__device__ __forceinline__ float activation(int64_t kind, float x) {
    switch (kind) {
    case GOLLM_GELU_TANH: return x * gelu_gate(x);
    case GOLLM_GELU_ERF: return x * normal_cdf(x);
    case GOLLM_RELU: return x < 0 ? 0 : x;
    case GOLLM_SILU: return x * sigmoid(x);
    default: return x;
    }
}

__device__ __forceinline__ float activation_gradient(int64_t kind, float x) {
    switch (kind) {
    case GOLLM_GELU_TANH: {
        x = x < -32 ? -32 : x > 32 ? 32 : x; // constant from there on, and x^2 stays finite
        const float gate = gelu_gate(x), slope = 1.5957691216057308f * (1 + 0.134145f * (x * x)); // 2u'
        return gate + x * gate * (1 - gate) * slope;
    }
    case GOLLM_GELU_ERF: return normal_cdf(x) + x * expf(-0.5f * x * x) * 0.39894228040143268f;
    case GOLLM_RELU: return x <= 0 ? 0 : x > 0 ? 1 : x;
    case GOLLM_SILU: {
        const float gate = sigmoid(x);
        return gate * (1 + x * (1 - gate));
    }
    default: return 1;
    }
}

/* Calls f(kind) with the kind as a constant: the choice is made once for a vector. */
template <class F> __device__ __forceinline__ void with_activation(int64_t kind, const F &f) {
    switch (kind) {
    case GOLLM_GELU_TANH: return f(GOLLM_GELU_TANH);
    case GOLLM_GELU_ERF: return f(GOLLM_GELU_ERF);
    case GOLLM_RELU: return f(GOLLM_RELU);
    case GOLLM_SILU: return f(GOLLM_SILU);
    default: return f(GOLLM_NONE);
    }
}

} // namespace GOLLM_VARIANT

#endif
