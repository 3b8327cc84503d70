/* The formats that weights, keys and values are stored in: reals, and two of 2 bytes, bfloat16, the upper half of a float,
 * and IEEE's half precision with 5 bits of exponent and 11 of precision.
 *
 * Widening is exact, NaN, infinity and denormals included. Storing rounds to nearest, ties to even, and beyond the largest
 * number to infinity; NaN stays NaN; doubles are rounded to float first. */
#ifndef GOLLM_HALF_H
#define GOLLM_HALF_H

#include "vec.h"

typedef uint16_t halves __attribute__((vector_size(2 * VL)));
typedef uint32_t words __attribute__((vector_size(4 * VL)));
typedef float singles __attribute__((vector_size(4 * VL)));

enum number_format { REALS, BF16, F16 };

/* VL of them at p, which need not be aligned, in 32 bits each. */
static inline words load_halves(const void *p) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (words)_mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
#elif VEC_BYTES == 32 && defined(__AVX2__) && !defined(GOLLM_F64)
    return (words)_mm256_cvtepu16_epi32(_mm_loadu_si128(p));
#else
    halves h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, words);
#endif
}

static inline vec load_bf16(const void *p) { return __builtin_convertvector((singles)(load_halves(p) << 16), vec); }

static inline vec load_f16(const void *p) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256(p));
#elif VEC_BYTES == 32 && defined(__F16C__) && !defined(GOLLM_F64)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128(p));
#else
    const words bits = load_halves(p);
    const singles magnitude = (singles)((bits & 0x7fff) << 13) * 0x1p112f; // the exponent's bias is 15, not 127
    const words special = (words)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
    return __builtin_convertvector((singles)((words)magnitude | special | (bits & 0x8000) << 16), vec);
#endif
}

/* Where value i of an array of this format lies. */
static inline const void *address_of(const enum number_format format, const void *array, int64_t i) {
    return (const char *)array + i * (format == REALS ? sizeof(real) : sizeof(uint16_t));
}

/* Values i ... i + VL - 1 of an array of this format; or the first n of them, the others as 0. */
static inline vec load_as(const enum number_format format, const void *array, int64_t i) {
    if (format == REALS) return vec_load((const real *)array + i);
    return format == BF16 ? load_bf16((const uint16_t *)array + i) : load_f16((const uint16_t *)array + i);
}
static inline vec load_as_n(const enum number_format format, const void *array, int64_t i, int64_t n) {
    if (format == REALS) return vec_load_n((const real *)array + i, n);
    if (n >= VL) return load_as(format, array, i);
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    const __m256i lanes = _mm256_maskz_loadu_epi16(FIRST_LANES(n), (const uint16_t *)array + i);
#else
    uint16_t lanes[VL] = {0};
    memcpy(lanes, (const uint16_t *)array + i, (size_t)n * sizeof lanes[0]);
#endif
    return load_as(format, &lanes, 0);
}

static inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* One value, widened. */
static inline real real_of_bf16(uint16_t half) { return float_of_bits((uint32_t)half << 16); }
static inline real real_of_f16(uint16_t half) {
    const uint32_t magnitude = bits_of_float(float_of_bits((uint32_t)(half & 0x7fff) << 13) * 0x1p112f);
    const uint32_t special = (half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    return float_of_bits(magnitude | special | (uint32_t)(half & 0x8000) << 16);
}
static inline real value_as(const enum number_format format, const void *array, int64_t i) {
    if (format == REALS) return ((const real *)array)[i];
    return format == BF16 ? real_of_bf16(((const uint16_t *)array)[i]) : real_of_f16(((const uint16_t *)array)[i]);
}

/* One value, rounded. Adding half of the last place, or a bit less where the place is even, carries exactly where a value is
 * rounded up. */
static inline uint16_t bf16_of_real(real x) {
    const uint32_t bits = bits_of_float((float)x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}
static inline uint16_t f16_of_real(real x) {
    const uint32_t bits = bits_of_float((float)x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t denormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000; // 0.5's last place is 2^-24
    const uint32_t half = magnitude > 0x7f800000    ? 0x7e00                               // NaN
                          : magnitude >= 0x47800000 ? 0x7c00                               // 65536 and more
                          : magnitude < 0x38800000  ? denormal                             // below 2^-14
                                                    : normal;
    return (uint16_t)(sign | half);
}
static inline void store_as(const enum number_format format, void *array, int64_t i, real x) {
    if (format == REALS)
        ((real *)array)[i] = x;
    else
        ((uint16_t *)array)[i] = format == BF16 ? bf16_of_real(x) : f16_of_real(x);
}

#endif
