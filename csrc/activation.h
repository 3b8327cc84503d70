/* Activations and their derivatives on vectors, shared by activation.c and the products' epilogues.
 *
 *   GELU_TANH  x * sigmoid(2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
 *              (Hendrycks & Gimpel 2016; 0.5 x (1 + tanh u), rearranged)
 *   GELU_ERF   x * Phi(x),       Phi the normal distribution function
 *   RELU       max(x, 0),        with derivative 0 at 0
 *   SILU       x * sigmoid(x)
 */
#ifndef GOLLM_ACTIVATION_H
#define GOLLM_ACTIVATION_H

#include "vec_math.h" /* vec_exp, vec_sigmoid */

static inline int activation_is_known(int64_t kind) { return kind >= GOLLM_NONE && kind <= GOLLM_SILU; }

/* e^(-x^2 / 2) to float rounding also where x^2 is large: x^2 as the sum of its rounded value and the rest. */
static inline vec vec_gauss(vec x) {
#ifdef GOLLM_F64
    return vec_exp(vec_set(-0.5) * x * x);
#else
    x = vec_max(vec_set(-16), vec_min(vec_set(16), x));       // 0 from there on, infinity included
    const vec high = (vec)((ivec)x & ~0xfff), low = x - high; // high * high is exact
    return vec_exp(vec_set(-0.5f) * (high * high)) * vec_exp(vec_set(-0.5f) * low * (x + high));
#endif
}

/* Phi(x) = erfc(-x / sqrt 2) / 2, from gauss = vec_gauss(x). Float: Phi(-|x|) = e^(-x^2 / 2) t P(t) with t = 1 / (1 +
 * |x| / (3 sqrt 2)) and P of degree 9, fitted to erfcx on |x| <= 14.5 to 2e-9. */
static inline vec vec_normal_cdf(vec x, vec gauss) {
#ifdef GOLLM_F64
    (void)gauss;
    for (int i = 0; i < VL; i++) x[i] = 0.5 * erfc(-x[i] * 0.70710678118654752);
    return x;
#else
    const vec t = vec_set(1) / (vec_set(1) + vec_max(x, -x) * vec_set(0.23570226f));
    static const float coefficients[] = {0.094018445f, 0.0943320348f, 0.085803636f, 0.0956517758f, 0.000237211945f,
                                         0.199555861f, -0.217977544f, 0.265926901f, -0.145257798f, 0.027709476f};
    vec p = vec_set(coefficients[9]);
    for (int i = 8; i >= 0; i--) p = p * t + vec_set(coefficients[i]);
    const vec tail = p * t * gauss;
    return vec_select(x > vec_set(0), vec_set(1) - tail, tail);
#endif
}

/* sigmoid(2u) of GELU_TANH */
static inline vec gelu_gate(vec x) {
    return vec_sigmoid(vec_set((real)1.5957691216057308) * (x + vec_set((real)0.044715) * (x * x * x)));
}

static inline vec activation(int64_t kind, vec x) {
    switch (kind) {
    case GOLLM_GELU_TANH: return x * gelu_gate(x);
    case GOLLM_GELU_ERF: return x * vec_normal_cdf(x, vec_gauss(x));
    case GOLLM_RELU: return vec_max(vec_set(0), x);
    case GOLLM_SILU: return x * vec_sigmoid(x);
    default: return x;
    }
}

static inline vec activation_gradient(int64_t kind, vec x) {
    switch (kind) {
    case GOLLM_GELU_TANH: {
        x = vec_max(vec_set(-32), vec_min(vec_set(32), x)); // constant from there on, and x^2 stays finite
        const vec gate = gelu_gate(x);
        const vec slope = vec_set((real)1.5957691216057308) * (vec_set(1) + vec_set((real)0.134145) * (x * x)); // 2u'
        return gate + x * gate * (vec_set(1) - gate) * slope;
    }
    case GOLLM_GELU_ERF: {
        const vec gauss = vec_gauss(x);
        return vec_normal_cdf(x, gauss) + x * gauss * vec_set((real)0.39894228040143268);
    }
    case GOLLM_RELU: return vec_select(x <= vec_set(0), vec_set(0), vec_select(x > vec_set(0), vec_set(1), x));
    case GOLLM_SILU: {
        const vec gate = vec_sigmoid(x);
        return gate * (vec_set(1) + x * (vec_set(1) - gate));
    }
    default: return vec_set(1);
    }
}

/* f(x), and its derivative, where both are wanted: SILU shares its sigmoid. */
static inline vec activation_and_gradient(int64_t kind, vec x, vec *gradient) {
    if (kind == GOLLM_SILU) {
        const vec gate = vec_sigmoid(x);
        *gradient = gate * (vec_set(1) + x * (vec_set(1) - gate));
        return x * gate;
    }
    *gradient = activation_gradient(kind, x);
    return activation(kind, x);
}

#endif
