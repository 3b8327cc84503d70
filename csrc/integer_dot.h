/* Integer products of quantised weights and activations: in each lane of 32 bits, four inputs of one output.
 *
 *     dot_int8    sum + w0 a0 + w1 a1 + w2 a2 + w3 a3       codes 0 ... 255, activations -32767 ... 32767, as 0 2 1 3
 *     dot_int4    the same with codes 0 ... 15, activations -127 ... 127; a group's sum is finished by end_int4
 *
 * Each group's sum begins with an offset (begin_...), which makes up for codes being unsigned: -128 or -8 times the sum of
 * the group's activations. All sums are exact; those of int8 stay below 128 * (255 + 128) * 32767 < 2^31.
 *
 *     int8    even and odd codes widened to 16 bits: vpdpwssd (AVX-512 VNNI), vpmaddwd and an addition (AVX-512BW, AVX2,
 *             SSSE3): 32, 16, 8 products an instruction
 *     int4    vpdpbusd: 64 products; without it vpmaddubsw (64, 32, 16), added in 16 bits over a group, which is safe: at
 *             most 8 * 2 * 15 * 127 = 30480; then one vpmaddwd
 *     both    32-bit multiply-adds, by the compiler, for others and in double
 */
#ifndef GOLLM_INTEGER_DOT_H
#define GOLLM_INTEGER_DOT_H

#include "half.h" /* words */

typedef int32_t ints __attribute__((vector_size(4 * VL)));

static inline words load_codes(const uint8_t *p) {
    words w;
    memcpy(&w, p, sizeof w);
    return w;
}

static inline ints everywhere(const void *p) { // a word of 32 bits
    int32_t word;
    memcpy(&word, p, sizeof word);
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (ints)_mm512_set1_epi32(word);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (ints)_mm256_set1_epi32(word);
#elif defined(__SSE2__) && !defined(GOLLM_F64)
    return (ints)_mm_set1_epi32(word);
#else
    ints v;
    for (int i = 0; i < VL; i++) v[i] = word;
    return v;
#endif
}

#if defined(__SSSE3__) && !defined(GOLLM_F64)

#if VEC_BYTES == 64
#define MADD_I16(a, b) (ints) _mm512_madd_epi16((__m512i)(a), (__m512i)(b))
#define MADD_U8_I8(a, b) _mm512_maddubs_epi16((__m512i)(a), (__m512i)(b))
#elif VEC_BYTES == 32
#define MADD_I16(a, b) (ints) _mm256_madd_epi16((__m256i)(a), (__m256i)(b))
#define MADD_U8_I8(a, b) _mm256_maddubs_epi16((__m256i)(a), (__m256i)(b))
#else
#define MADD_I16(a, b) (ints) _mm_madd_epi16((__m128i)(a), (__m128i)(b))
#define MADD_U8_I8(a, b) _mm_maddubs_epi16((__m128i)(a), (__m128i)(b))
#endif
typedef int16_t shorts __attribute__((vector_size(VEC_BYTES)));
typedef uint16_t unsigned_shorts __attribute__((vector_size(VEC_BYTES)));

/* With 16 registers: sums stay in theirs, in the order written, and broadcasts are loaded again rather than kept. Compilers
 * would keep all broadcasts and move sums to memory, at half the speed. */
#if VEC_BYTES == 32
#define SETTLE(sum) __asm__ volatile("" : "+x"(sum) : : "memory")
#else
#define SETTLE(sum) (void)0
#endif

static inline ints add_products(ints sum, words codes, const char *a) { // two of 16 bits in each lane
#if defined(__AVX512VNNI__) && VEC_BYTES == 64
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)codes, (__m512i)everywhere(a));
#else
    sum += MADD_I16(codes, everywhere(a));
    SETTLE(sum);
    return sum;
#endif
}
static inline ints dot_int8(ints sum, words codes, const char *a) {
    sum = add_products(sum, codes & 0x00ff00ff, a);
    return add_products(sum, (words)((unsigned_shorts)codes >> 8), a + 4);
}

#if defined(__AVX512VNNI__) && VEC_BYTES == 64
static inline ints begin_int4(const void *offset) { return everywhere(offset); }
static inline ints dot_int4(ints sum, words codes, const char *a) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)everywhere(a));
}
static inline ints end_int4(ints sum, const void *offset) { return (void)offset, sum; }
#else
static inline ints begin_int4(const void *offset) { return (void)offset, (ints){0}; }
static inline ints dot_int4(ints sum, words codes, const char *a) {
    sum = (ints)((shorts)sum + (shorts)MADD_U8_I8(codes, everywhere(a)));
    SETTLE(sum);
    return sum;
}
static inline ints end_int4(ints sum, const void *offset) {
    static const int16_t ones[2] = {1, 1};
    return MADD_I16(sum, everywhere(ones)) + everywhere(offset);
}
#endif

#else

static inline ints dot_int8(ints sum, words codes, const char *a) {
    int16_t q[4];
    memcpy(q, a, sizeof q);
    return sum + (ints)(codes & 0xff) * q[0] + (ints)(codes >> 16 & 0xff) * q[1] + (ints)(codes >> 8 & 0xff) * q[2] +
           (ints)(codes >> 24) * q[3];
}
static inline ints begin_int4(const void *offset) { return everywhere(offset); }
static inline ints dot_int4(ints sum, words codes, const char *a) {
    const int8_t *q = (const int8_t *)a;
    return sum + (ints)(codes & 0xff) * q[0] + (ints)(codes >> 8 & 0xff) * q[1] + (ints)(codes >> 16 & 0xff) * q[2] +
           (ints)(codes >> 24) * q[3];
}
static inline ints end_int4(ints sum, const void *offset) { return (void)offset, sum; }

#endif

static inline ints begin_int8(const void *offset) { return everywhere(offset); }

#endif
