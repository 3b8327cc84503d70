/* Exponentials on vectors. */
#ifndef GOLLM_VEC_MATH_H
#define GOLLM_VEC_MATH_H

#include <math.h> /* exp, exp2 */

#include "vec.h"

#define LOG2_E 1.44269504088896340736
#define LN_2 0.69314718055994530942

/* e^x. Float: x = n ln2 + r with |r| <= ln2 / 2, a polynomial of degree 6 in r, and 2^n in two factors so that results in the
 * denormal range round once; below 2 ulp. NaN -> NaN, +inf -> inf, -inf -> 0. */
static inline vec vec_exp(vec x) {
#ifdef GOLLM_F64
    for (int i = 0; i < VL; i++) x[i] = exp(x[i]);
    return x;
#else
    x = vec_max(vec_set(-104.0f), vec_min(vec_set(89.0f), x));
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    vec shifted = x * vec_set(1.44269504f) + vec_set(round);
    vec n = shifted - vec_set(round);
    vec r = x - n * vec_set(0.693359375f); /* ln2 in two parts, the first exact in n * ln2_high */
    r = r - n * vec_set(-2.12194440e-4f);
    vec p = vec_set(1.3888889e-3f);
    p = p * r + vec_set(8.3333333e-3f);
    p = p * r + vec_set(4.1666667e-2f);
    p = p * r + vec_set(1.6666667e-1f);
    p = p * r + vec_set(0.5f);
    p = p * (r * r) + r + vec_set(1.0f);
    ivec i = (ivec)shifted - (ivec)vec_set(round);
    ivec half = i >> 1;
    return p * (vec)((half + 127) << 23) * (vec)((i - half + 127) << 23);
#endif
}

/* 1 / (1 + e^-x), from e^-|x|, which does not overflow: accurate for all x. */
static inline vec vec_sigmoid(vec x) {
    const vec e = vec_exp(-vec_max(x, -x));
    return vec_select(x < vec_set(0), e, vec_set(1)) / (vec_set(1) + e);
}

/* 2^x for x <= 0, give or take a rounding; 0 below -126, so that there are no denormals. x = n + f with |f| <= 1/2, a
 * polynomial in f, fitted for the smallest relative error (2e-9), and n put into the exponent: below 1 ulp. NaN -> NaN,
 * -inf -> 0. Softmax in powers of two saves the reduction of e^x, and scale * log2(e) is one factor. */
static inline vec vec_exp2_negative(vec x) {
#ifdef GOLLM_F64
    for (int i = 0; i < VL; i++) x[i] = exp2(x[i]);
    return x;
#else
    const vec round =
        vec_set(12582912.0f + 127); // adding it leaves round(x) + 127, the exponent of a float, in the low bits
    const vec shifted = x + round, f = x - (shifted - round);
    vec p = vec_set(1.5353362e-4f);
    p = p * f + vec_set(1.3398875e-3f);
    p = p * f + vec_set(9.6184369e-3f);
    p = p * f + vec_set(5.5503324e-2f);
    p = p * f + vec_set(2.4022648e-1f);
    p = p * f + vec_set(6.9314718e-1f);
    p = p * f + vec_set(1);
    return vec_select(x < vec_set(-126), vec_set(0), p * (vec)((ivec)shifted << 23));
#endif
}

#endif
