/* The 2-byte formats of weights, widened to reals: bfloat16, the upper half of a float, and IEEE's half precision with 5
 * bits of exponent and 11 of precision. Both are exact, NaN, infinity and denormals included. */
#ifndef GOLLM_HALF_H
#define GOLLM_HALF_H

#include "vec.h"

typedef uint16_t halves __attribute__((vector_size(2 * VL)));
typedef uint32_t words __attribute__((vector_size(4 * VL)));
typedef float singles __attribute__((vector_size(4 * VL)));

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

/* One of them. */
static inline real real_of_f16(uint16_t half) {
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    float f;
    memcpy(&f, &magnitude, sizeof f);
    f *= 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits |= (uint32_t)(half & 0x8000) << 16 | ((half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline real real_of_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
