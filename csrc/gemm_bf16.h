/* Products in bfloat16: operands are rounded to bf16 (to nearest, ties to even) where they are packed; products and sums are
 * of floats, in the blocks of KC steps that all products have. What the five loops of gemm.c take from here:
 *
 *   BF16_MR             rows of a panel of a, at least MR
 *   bf16_steps          reals that a line takes in a panel, for so many steps of k
 *   bf16_pack_a, _b     as pack, to panels of BF16_MR and of NR lines
 *   bf16_microkernel    as microkernel_rows, of such panels
 *   bf16_begin, _end    of a product, in each thread
 *
 *   variant        panels of a                   panels of b         microkernel
 *   amx            [K/32][32 rows][32 k]         [K/2][NR][2 k]      tdpbf16ps, 2 x 2 tiles of 16 x 16
 *   avx512bf16     [K/32][8 rows][32 k]          [K/2][NR][2 k]      vdpbf16ps, 8 x 32
 *   the others     floats with bf16 values, in the panels and by the microkernel of every product
 *
 * The first two take 32 bits for two neighbouring steps of a line, a pair; steps past the last are zeros, up to a multiple
 * of 32. Their instructions take denormal numbers as 0.
 */
#ifndef GOLLM_GEMM_BF16_H
#define GOLLM_GEMM_BF16_H

#include "gemm_pack.h"

#if defined(__AVX512BF16__) && !defined(GOLLM_F64)

enum { PAIRS = 16, BF16_STEPS = 2 * PAIRS }; // pairs, and steps of k, of a line's part in a panel of a: a cache line
#if defined(__AMX_BF16__)
#include "amx.h"
enum { BF16_MR = 32 };
#else
enum { BF16_MR = MR };
#endif
_Static_assert(NR == 32 && KC % BF16_STEPS == 0, "panels of b have two vectors a step");

static inline int64_t bf16_steps(int64_t steps) { return round_up(steps, BF16_STEPS) / 2; }

/* The first n floats at p; zeros past them. */
static inline __m512 load_floats(const real *p, int64_t n) {
    if (n >= VL) return _mm512_loadu_ps(p);
    return _mm512_maskz_loadu_ps((__mmask16)(n > 0 ? (1u << n) - 1 : 0), p);
}

/* 16 pairs of one line, from 32 steps that follow each other. */
static inline __m512i pairs_of_line(const real *p, int64_t n) {
    return (__m512i)_mm512_cvtne2ps_pbh(load_floats(n > VL ? p + VL : p, n - VL), load_floats(p, n));
}

/* One pair of 16 lines, from two steps. */
static inline __m512i pairs_of_steps(__m512 even, __m512 odd) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

static inline __attribute__((always_inline)) void transpose_16(__m512i v[16]) {
    __m512i t[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) { // quarter q of v[4 * g + i] is column 4 * q + i of rows 4 * g ... 4 * g + 3
        t[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        v[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        v[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        v[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* v[i] = 16 pairs of line i, or with `by_steps` pair i of 16 lines: 32 steps of 16 lines in LINES, or in STEPS. */
static inline __attribute__((always_inline)) void load_lines(__m512i v[16], const real *from, int64_t stride,
                                                             int64_t lines, int64_t steps) {
    UNROLL
    for (int l = 0; l < 16; l++) v[l] = l < lines ? pairs_of_line(from + l * stride, steps) : _mm512_setzero_si512();
}
static inline __attribute__((always_inline)) void load_steps(__m512i v[16], const real *from, int64_t stride,
                                                             int64_t lines, int64_t steps) {
    UNROLL
    for (int i = 0; i < 16; i++) {
        const real *p = from + 2 * i * stride;
        const __m512 even = load_floats(p, 2 * i < steps ? lines : 0);
        const __m512 odd = load_floats(p + stride, 2 * i + 1 < steps ? lines : 0);
        v[i] = pairs_of_steps(even, odd);
    }
}

static inline void bf16_pack_a(real *to, const struct operand *from, struct range lines, int64_t k, int64_t kc) {
    const int64_t count = round_up(lines.end - lines.begin, BF16_MR), stride = from->stride, panel = bf16_steps(kc);
    for (int64_t l = 0; l < count; l += 16)
        for (int64_t i = 0; i < kc; i += BF16_STEPS) {
            const int64_t line = lines.begin + l, left = lines.end - line, steps = kc - i;
            __m512i v[16];
            if (from->layout == LINES)
                load_lines(v, from->data + line * stride + k + i, stride, left, steps);
            else {
                load_steps(v, from->data + (k + i) * stride + line, stride, left, steps);
                transpose_16(v);
            }
            UNROLL
            for (int j = 0; j < 16; j++) {
                const int64_t at = (l + j) / BF16_MR * BF16_MR * panel + i / 2 * BF16_MR + (l + j) % BF16_MR * PAIRS;
                if (l + j < count) _mm512_store_si512((void *)(to + at), v[j]);
            }
        }
}

static inline void bf16_pack_b(real *to, const struct operand *from, struct range lines, int64_t k, int64_t kc) {
    const int64_t stride = from->stride;
    for (int l = 0; l < NR; l += 16)
        for (int64_t i = 0; i < kc; i += BF16_STEPS) {
            const int64_t line = lines.begin + l, left = lines.end - line, steps = kc - i;
            __m512i v[16];
            if (from->layout == LINES) {
                load_lines(v, from->data + line * stride + k + i, stride, left, steps);
                transpose_16(v);
            } else
                load_steps(v, from->data + (k + i) * stride + line, stride, left, steps);
            UNROLL
            for (int j = 0; j < 16; j++) _mm512_store_si512((void *)(to + (i / 2 + j) * NR + l), v[j]);
        }
}

#if defined(__AMX_BF16__)

static inline void bf16_begin(void) { tiles_begin(PAIRS * sizeof(real)); }
static inline void bf16_end(void) { tiles_end(); }

/* Budget per 32 steps of k, 2 x 2 tiles: 4 tdpbf16ps of 16 cycles, 4 loads of 8. Fewer rows are computed as 16 or 32. */
static inline __attribute__((always_inline)) void bf16_microkernel(const int rows, int64_t steps, const real *a,
                                                                   const real *b, real *to, int64_t to_row, int add) {
    const int lower = rows > 16;
    real sum[32 * NR] __attribute__((aligned(GOLLM_ALIGNMENT)));
    real *c = add ? sum : to;
    const int64_t c_row = add ? NR : to_row;
    __asm__ volatile("" ::: "memory"); // gcc's _tile_loadd does not say that it reads memory
    _tile_zero(0);
    _tile_zero(1);
    if (lower) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < steps; k += BF16_STEPS, a += BF16_MR * PAIRS, b += NR * PAIRS) {
        _tile_loadd(4, a, PAIRS * sizeof(real));
        _tile_loadd(6, b, NR * sizeof(real));
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + 16, NR * sizeof(real));
        _tile_dpbf16ps(1, 4, 7);
        if (lower) {
            _tile_loadd(5, a + 16 * PAIRS, PAIRS * sizeof(real));
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_row * sizeof(real));
    _tile_stored(1, c + 16, c_row * sizeof(real));
    if (lower) {
        _tile_stored(2, c + 16 * c_row, c_row * sizeof(real));
        _tile_stored(3, c + 16 * c_row + 16, c_row * sizeof(real));
    }
    for (int i = 0; add && i < (lower ? 32 : 16); i++)
        for (int j = 0; j < NR; j += VL)
            vec_store(to + i * to_row + j, vec_load(to + i * to_row + j) + vec_load(sum + i * NR + j));
}

#else

static inline void bf16_begin(void) {}
static inline void bf16_end(void) {}

/* The float microkernel with pairs: vdpbf16ps adds both products of a pair. */
static inline __attribute__((always_inline)) void bf16_microkernel(const int rows, int64_t steps, const real *a,
                                                                   const real *b, real *to, int64_t to_row, int add) {
    __m512 c[MR][2];
    UNROLL
    for (int i = 0; i < rows; i++) c[i][0] = c[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < steps; k += BF16_STEPS, a += (BF16_MR - 1) * PAIRS)
        for (int pair = 0; pair < PAIRS; pair++, a++, b += NR) {
            const __m512bh b0 = (__m512bh)_mm512_load_ps(b), b1 = (__m512bh)_mm512_load_ps(b + VL);
            UNROLL
            for (int i = 0; i < rows; i++) {
                const __m512bh ai = (__m512bh)_mm512_set1_ps(a[i * PAIRS]);
                c[i][0] = _mm512_dpbf16_ps(c[i][0], ai, b0);
                c[i][1] = _mm512_dpbf16_ps(c[i][1], ai, b1);
            }
        }
    UNROLL
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) {
            real *at = to + i * to_row + j * VL;
            vec_store(at, add ? vec_load(at) + (vec)c[i][j] : (vec)c[i][j]);
        }
}

#endif
#else

enum { BF16_MR = MR };

static inline int64_t bf16_steps(int64_t steps) { return steps; }

/* x (N) = x rounded; doubles are rounded to float first */
static inline void round_panels(real *x, int64_t N) {
    for (int64_t i = 0; i < N; i++) {
        const float value = (float)x[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        const uint32_t even = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
        const uint32_t rounded = (bits & 0x7fffffff) > 0x7f800000 ? bits : even; // NaN stays
        float result;
        memcpy(&result, &rounded, sizeof result);
        x[i] = (real)result;
    }
}

static inline void bf16_pack_a(real *to, const struct operand *from, struct range lines, int64_t k, int64_t kc) {
    pack(to, MR, from, lines, k, kc);
    round_panels(to, round_up(lines.end - lines.begin, MR) * kc);
}

static inline void bf16_pack_b(real *to, const struct operand *from, struct range lines, int64_t k, int64_t kc) {
    pack(to, NR, from, lines, k, kc);
    round_panels(to, round_up(lines.end - lines.begin, NR) * kc);
}

static inline void bf16_begin(void) {}
static inline void bf16_end(void) {}

static inline __attribute__((always_inline)) void bf16_microkernel(const int rows, int64_t steps, const real *a,
                                                                   const real *b, real *to, int64_t to_row, int add) {
    microkernel_rows(rows, steps, a, 1, MR, b, NR, to, to_row, add);
}

#endif
#endif
