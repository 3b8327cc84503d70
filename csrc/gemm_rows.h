/* Few rows, as in decoding, from b as it lies: bound by reading b, each element of which meets a handful of multiply-adds.
 *
 *   lines     b in LINES. 16 bytes of each of VL lines (columns of c) are loaded, turned in registers, and multiplied: no panel
 *             in between. A vector takes 16-byte lanes of lines that are QUAD apart, by loads that fill a lane each, so that
 *             only the turning inside lanes is left:
 *
 *                 v[0] = line 0 | line 4 | line 8  | line 12    k, k+1, k+2, k+3 of each       4 x 4 in       step k   of 16 lines
 *                 v[1] = line 1 | line 5 | line 9  | line 13                               ->  each lane  ->  step k+1
 *                 ...                                                                                          ...
 *
 *             16 x 16 floats with AVX-512: 64 loads, 48 of which also blend, 32 shuffles, and 16 multiply-adds for each row:
 *             48 cycles for a kilobyte, where memory takes 150 to 250. Shuffles of whole registers would be 64.
 *   panels    one row, b in PANELS: bound by the caches. Up to 8 vectors of columns side by side, so that no multiply-add waits
 *             for the one before.
 */
#ifndef GOLLM_GEMM_ROWS_H
#define GOLLM_GEMM_ROWS_H

#include "gemm.h"
#include "gemm_pack.h" /* PANEL, quad_transpose */

/* Tuning (docs/performance.md). */
enum {
    AHEAD = 256 / sizeof(real), /* how far ahead of each line memory is prefetched, in elements */
    /* Rows that lines are turned for. With 16 bytes a vector is a single quad: more rows are 5-28 % slower than from panels. */
    MOST_ROWS = VEC_BYTES == 16 ? 1 : MR,
    SIDE_BY_SIDE = 8 /* chains of multiply-adds; two units with a latency of 4 need as many */
};

/* Vectors of lines that so many rows are multiplied with: a cache line of lines for one row, as registers allow for more. */
static inline int vectors_of_lines(const int rows) { return (int)max_i64(1, min_i64(LINE / VL, SIDE_BY_SIDE / rows)); }

/* 16 bytes of each of the lines 0, QUAD, 2 QUAD, ... of p. */
static inline __attribute__((always_inline)) vec load_lanes(const real *p, int64_t stride) {
#if VEC_BYTES == 64
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(p + QUAD * stride));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(p + 2 * QUAD * stride));
    return (vec)_mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(p + 3 * QUAD * stride));
#elif VEC_BYTES == 32
    const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(p));
    return (vec)_mm256_insertf128_ps(v, _mm_loadu_ps(p + QUAD * stride), 1);
#else
    (void)stride;
    return vec_load(p);
#endif
}

/* quad_transpose in each 16-byte lane. */
static inline __attribute__((always_inline)) void transpose_lanes(vec v[QUAD]) {
#if VEC_BYTES == 16
    quad_transpose(v);
#else
#if VEC_BYTES == 64
#define IN_LANES(a, b, i, j, k, l)                                                                                     \
    __builtin_shufflevector(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4, i + 8, j + 8, k + 8, l + 8, i + 12, j + 12,  \
                            k + 12, l + 12)
#else
#define IN_LANES(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4)
#endif
    const vec a = IN_LANES(v[0], v[1], 0, VL, 1, VL + 1), b = IN_LANES(v[2], v[3], 0, VL, 1, VL + 1);
    const vec c = IN_LANES(v[0], v[1], 2, VL + 2, 3, VL + 3), d = IN_LANES(v[2], v[3], 2, VL + 2, 3, VL + 3);
    v[0] = IN_LANES(a, b, 0, 1, VL, VL + 1);
    v[1] = IN_LANES(a, b, 2, 3, VL + 2, VL + 3);
    v[2] = IN_LANES(c, d, 0, 1, VL, VL + 1);
    v[3] = IN_LANES(c, d, 2, 3, VL + 2, VL + 3);
#undef IN_LANES
#endif
}

/* The chains of one block of k: rows x vectors, from 0. */
typedef vec chains[MR][SIDE_BY_SIDE];

/* QUAD steps of k. */
static inline __attribute__((always_inline)) void add_quad(const int rows, const int vectors, chains c, const real *a,
                                                           int64_t a_step, const real *line, int64_t stride) {
    UNROLL
    for (int j = 0; j < vectors; j++) {
        vec v[QUAD];
        UNROLL
        for (int i = 0; i < (int)QUAD; i++) v[i] = load_lanes(line + (j * VL + i) * stride, stride);
        transpose_lanes(v);
        UNROLL
        for (int i = 0; i < (int)QUAD; i++) {
            UNROLL
            for (int r = 0; r < rows; r++) c[r][j] += vec_set(a[i * a_step + r]) * v[i];
        }
    }
}

/* From a (row r, step k) = a[k * a_step + r] and lines that begin at `line`, `stride` apart. */
static inline __attribute__((always_inline)) void add_lines(const int rows, const int vectors, chains c, const real *a,
                                                            int64_t a_step, const real *line, int64_t stride,
                                                            int64_t steps) {
    int64_t k = 0;
    for (; k + LINE <= steps; k += LINE) {
        for (int l = 0; l < vectors * VL; l++) __builtin_prefetch(line + l * stride + k + AHEAD);
        UNROLL
        for (int q = 0; q < LINE; q += QUAD)
            add_quad(rows, vectors, c, a + (k + q) * a_step, a_step, line + k + q, stride);
    }
    for (; k + QUAD <= steps; k += QUAD) add_quad(rows, vectors, c, a + k * a_step, a_step, line + k, stride);
    for (; k < steps; k++) {
        UNROLL
        for (int j = 0; j < vectors; j++) {
            vec v;
            for (int l = 0; l < VL; l++) v[l] = line[(j * VL + l) * stride + k];
            UNROLL
            for (int r = 0; r < rows; r++) c[r][j] += vec_set(a[k * a_step + r]) * v;
        }
    }
}

/* The same of one row and of panels, each NR columns of one from b[p] on. */
static inline __attribute__((always_inline)) void add_panels(const int vectors, chains c, const real *a,
                                                             const real *const *b, int64_t steps) {
    for (int64_t k = 0; k < steps; k++) {
        const vec ai = vec_set(a[k]);
        UNROLL
        for (int j = 0; j < vectors; j++) c[0][j] += ai * vec_load(b[j / 2] + k * PANEL + j % 2 * VL);
    }
}

/* In PANELS, the steps of column n from k on; they are PANEL apart. */
static const real *in_panels(const struct gemm *g, int64_t n, int64_t k) {
    return g->b.data + (n / PANEL * g->K + k) * PANEL + n % PANEL;
}

/* Not inlined: one copy for all kinds of tiles. */
static __attribute__((noinline)) void finish(const struct gemm *g, const real *tile, int64_t m, int64_t n, int height,
                                             int64_t columns) {
    if (columns == NR)
        epilogue_apply(&g->epilogue, g->c, g->ldc, tile, 0, m, n, height, NR);
    else if (columns > 0)
        epilogue_apply(&g->epilogue, g->c, g->ldc, tile, 0, m, n, height, (int)columns);
}

/* c (height, `vectors` vectors from column `at` on), of rows from m on; of these, the columns from n up to end are written. */
static inline __attribute__((always_inline)) void multiply_columns(const struct gemm *g, const int is_packed,
                                                                   const int rows, const int vectors, const real *a,
                                                                   int64_t a_step, int64_t m, int height, int64_t at,
                                                                   int64_t n, int64_t end) {
    chains sums;
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int j = 0; j < vectors; j++) sums[r][j] = vec_set(0);
    }
    for (int64_t begin = 0; begin < g->K; begin += KC) {
        const int64_t steps = min_i64(KC, g->K - begin);
        chains c;
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int j = 0; j < vectors; j++) c[r][j] = vec_set(0);
        }
        if (is_packed) {
            const real *b[SIDE_BY_SIDE / 2];
            UNROLL
            for (int p = 0; p < vectors / 2; p++) b[p] = in_panels(g, at + p * NR, begin);
            add_panels(vectors, c, a + begin, b, steps);
        } else
            add_lines(rows, vectors, c, a + begin * a_step, a_step, g->b.data + at * g->b.stride + begin, g->b.stride,
                      steps);
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int j = 0; j < vectors; j++) sums[r][j] = begin ? c[r][j] + sums[r][j] : c[r][j];
        }
    }
    const int width = vectors < 2 ? VL : NR; // of a tile
    UNROLL
    for (int j = 0; j < vectors; j += 2) {
        real tile[(MR + 1) * NR] __attribute__((aligned(GOLLM_ALIGNMENT))); // a row more: it is read from a column on
        UNROLL
        for (int r = 0; r < rows; r++) {
            vec_store(tile + r * NR, sums[r][j]);
            if (j + 1 < vectors) vec_store(tile + r * NR + VL, sums[r][j + 1]);
        }
        const int64_t column = at + j * VL, first = max_i64(column, n);
        finish(g, tile + (first - column), m, first, height, min_i64(end, column + width) - first);
    }
}

/* rows (at most MR) x columns of c, by so many rows of registers. */
static inline __attribute__((always_inline)) void multiply_lines(const struct gemm *g, const int registers,
                                                                 const real *a, int64_t a_step, struct range rows,
                                                                 struct range columns) {
    const int vectors = vectors_of_lines(registers), height = (int)(rows.end - rows.begin);
    for (int64_t n = columns.begin; n < columns.end; n += vectors * VL) {
        const int64_t at = min_i64(n, g->N - vectors * VL); // the last lines, some of which were taken before
        multiply_columns(g, 0, registers, vectors, a, a_step, rows.begin, height, at, n, columns.end);
    }
}

static inline void multiply_panels(const struct gemm *g, const real *a, int64_t m, struct range columns) {
    int64_t n = columns.begin;
    for (; n + 8 * VL <= round_up(columns.end, NR); n += 8 * VL)
        multiply_columns(g, 1, 1, 8, a, 1, m, 1, n, n, columns.end);
    for (; n + 4 * VL <= round_up(columns.end, NR); n += 4 * VL)
        multiply_columns(g, 1, 1, 4, a, 1, m, 1, n, n, columns.end);
    for (; n < columns.end; n += NR) multiply_columns(g, 1, 1, 2, a, 1, m, 1, n, n, columns.end);
}

/* Whether multiply_rows_of computes so many rows. */
static int takes_rows(const struct gemm *g, int64_t rows) {
    if (g->a.layout != LINES || g->accumulate) return 0;
    return g->b.layout == PANELS ? rows == 1 : g->b.layout == LINES && rows <= MOST_ROWS && g->N >= LINE;
}

/* packed_a: room for MR x K. */
static inline void multiply_rows_of(const struct gemm *g, struct range rows, struct range columns, real *packed_a) {
    const int64_t height = rows.end - rows.begin;
    const real *row = g->a.data + rows.begin * g->a.stride;
    if (height == 1 && g->b.layout == PANELS)
        multiply_panels(g, row, rows.begin, columns);
    else if (height == 1)
        multiply_lines(g, 1, row, 1, rows, columns);
    else {
        for (int64_t k = 0; k < g->K; k += KC) pack(packed_a + k * MR, MR, &g->a, rows, k, min_i64(KC, g->K - k));
        if (height == 2)
            multiply_lines(g, 2, packed_a, MR, rows, columns);
        else if (height <= 4)
            multiply_lines(g, 4, packed_a, MR, rows, columns);
        else
            multiply_lines(g, MR, packed_a, MR, rows, columns);
    }
}

#endif
