/* Vectors as wide as the variant's registers, by the compilers' vector extensions. vec_math.h has exponentials.
 *
 * vec holds VL reals: 4, 8 or 16 floats (SSE or NEON, AVX, AVX-512), or half as many doubles in the f64 variant. */
#ifndef GOLLM_VEC_H
#define GOLLM_VEC_H

#include <float.h>  /* FLT_MIN, DBL_MIN */
#include <math.h>   /* sqrt */
#include <string.h> /* memcpy */
#if defined(__SSE2__)
#include <immintrin.h> /* max, min, sqrt in one instruction */
#endif

#include "kernel.h" /* real */

#if defined(__AVX512F__)
#define VEC_BYTES 64
#elif defined(__AVX__)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif

#ifdef GOLLM_F64
typedef int64_t ireal;
#else
typedef int32_t ireal;
#endif
enum { VL = VEC_BYTES / sizeof(real) };
typedef real vec __attribute__((vector_size(VEC_BYTES)));
typedef ireal ivec __attribute__((vector_size(VEC_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));

static inline vec vec_load(const real *p) { return (vec) * (const vec_unaligned *)p; }
static inline void vec_store(real *p, vec v) { *(vec_unaligned *)p = (vec_unaligned)v; }

/* x, in a register from here on: where it has several uses, GCC would load it from memory for each. */
static inline vec vec_in_register(vec x) {
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#endif
    return x;
}

/* All lanes x. Written so that compilers make one broadcast of it. */
static inline vec vec_set(real x) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_set1_ps(x);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (vec)_mm256_set1_ps(x);
#elif defined(__SSE2__) && !defined(GOLLM_F64)
    return (vec)_mm_set1_ps(x);
#else
    vec v;
    for (int i = 0; i < VL; i++) v[i] = x;
    return v;
#endif
}

/* The first n of VL lanes (all of them when n >= VL); the others read as 0, or as `other`, and are not written. AVX has
 * instructions for it, which do not touch the memory of other lanes. */
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
#define FIRST_LANES(n) ((__mmask16)((1u << (n)) - 1))
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
static inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
static inline vec vec_load_n(const real *p, int64_t n) {
    if (n >= VL) return vec_load(p);
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_maskz_loadu_ps(FIRST_LANES(n), p);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (vec)_mm256_maskload_ps(p, first_lanes(n));
#else
    real lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(real));
    return vec_load(lanes);
#endif
}
static inline vec vec_load_n_or(const real *p, int64_t n, real other) {
    if (n >= VL) return vec_load(p);
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_mask_loadu_ps((__m512)vec_set(other), FIRST_LANES(n), p);
#else
    real lanes[VL];
    vec_store(lanes, vec_set(other));
    memcpy(lanes, p, (size_t)n * sizeof(real));
    return vec_load(lanes);
#endif
}
static inline void vec_store_n(real *p, vec v, int64_t n) {
    if (n >= VL) {
        vec_store(p, v);
        return;
    }
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    _mm512_mask_storeu_ps(p, FIRST_LANES(n), (__m512)v);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
#else
    real lanes[VL];
    vec_store(lanes, v);
    memcpy(p, lanes, (size_t)n * sizeof(real));
#endif
}

/* mask ? a : b, with a mask as comparisons of vec give it. */
static inline vec vec_select(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* x in the lanes [begin, end), `other` in the rest. */
static inline vec vec_keep(vec x, int64_t begin, int64_t end, vec other) {
    ivec lane;
    for (int i = 0; i < VL; i++) lane[i] = (ireal)i;
    return vec_select((lane >= (ireal)begin) & (lane < (ireal)end), x, other);
}

/* The larger (smaller) of two; b where either is NaN. */
static inline vec vec_max(vec a, vec b) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select(a > b, a, b);
#endif
}
static inline vec vec_min(vec a, vec b) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vec_select(a < b, a, b);
#endif
}

static inline vec vec_sqrt(vec x) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__) && !defined(GOLLM_F64)
    return (vec)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < VL; i++) x[i] = (real)sqrt(x[i]);
    return x;
#endif
}

/* x, or 0 where it is below the smallest normal number. */
static inline vec vec_flush(vec x) {
    const vec smallest = vec_set(sizeof(real) == 4 ? (real)FLT_MIN : (real)DBL_MIN);
    return vec_select((x < smallest) & (x > -smallest), vec_set(0), x);
}

/* The sum of all lanes, added pairwise: lane i + lane i + VL/2 first. */
static inline real vec_sum(vec v) {
    real lanes[VL];
    vec_store(lanes, v);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
    return lanes[0];
}

/* The largest lane, by pairs; a lane of NaN may or may not be it. */
static inline real vec_largest(vec v) {
    real lanes[VL];
    vec_store(lanes, v);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
    return lanes[0];
}

/* Lanes 1 0 3 2 ..., 0 0 2 2 ..., 1 1 3 3 ... of v. */
#if defined(__clang__)
#define VEC_PERMUTE(v, from)                                                                                           \
    vec to;                                                                                                            \
    for (int i = 0; i < VL; i++) to[i] = (v)[from];                                                                    \
    return to
#else
#define VEC_PERMUTE(v, from)                                                                                           \
    ivec order;                                                                                                        \
    for (int i = 0; i < VL; i++) order[i] = (from);                                                                    \
    return __builtin_shuffle(v, order)
#endif
static inline vec vec_swap_pairs(vec v) { VEC_PERMUTE(v, i ^ 1); }
static inline vec vec_double_even(vec v) { VEC_PERMUTE(v, i & ~1); }
static inline vec vec_double_odd(vec v) { VEC_PERMUTE(v, i | 1); }

/* Unsigned 64-bit lanes, and the products of their lower halves. */
typedef uint64_t uvec64 __attribute__((vector_size(VEC_BYTES)));
static inline uvec64 vec_set_u64(uint64_t x) {
#if VEC_BYTES == 64
    return (uvec64)_mm512_set1_epi64((long long)x);
#elif VEC_BYTES == 32
    return (uvec64)_mm256_set1_epi64x((long long)x);
#else
    return (uvec64){x, x};
#endif
}
static inline uvec64 vec_multiply_u32(uvec64 a, uvec64 b) {
#if VEC_BYTES == 64
    return (uvec64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif VEC_BYTES == 32
    return (uvec64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (uvec64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    for (size_t i = 0; i < VEC_BYTES / sizeof a[0]; i++) a[i] = (uint64_t)(uint32_t)a[i] * (uint32_t)b[i];
    return a;
#endif
}

#endif
