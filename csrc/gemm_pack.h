/* Packing: an operand of a product, or a block of it, becomes panels of `width` lines, [panel][step of k][line], so
 * that the microkernel reads it from front to back. A line is a row of a or a column of b; lines past the last one are
 * filled with zeros.
 *
 *   pack_lines    line l is contiguous over k:  from[l * stride + k]     a of NT and NN, b of NT; a transposition
 *   pack_steps    step k is contiguous over l:  from[k * stride + l]     a of TN, b of NN and TN; a copy
 *
 * Both write round_up(lines, width) * steps reals; width is a constant (MR, NR or PANEL) and steps <= KC.
 *
 * A weight that is packed once for all products has PANEL lines in a panel, and all K steps: [panel][K][PANEL]. Each variant
 * reads a panel in parts of NR lines, so one layout serves all of them, and memory is read from front to back.
 */
#ifndef GOLLM_GEMM_PACK_H
#define GOLLM_GEMM_PACK_H

#include "gemm.h"             /* struct operand */
#include "gemm_microkernel.h" /* MR, NR, KC, vec.h */

enum { PANEL = 32 };
_Static_assert(PANEL % NR == 0, "a panel is a whole number of the microkernel's panels");

/* 16 bytes: the largest block that every width is made of, and that transposes in a few shuffles everywhere. */
enum { QUAD = 16 / sizeof(real) };
typedef real quad __attribute__((vector_size(16)));
typedef real quad_unaligned __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));

static inline quad quad_load(const real *p) { return (quad) * (const quad_unaligned *)p; }

static inline void quad_transpose(quad v[QUAD]) {
#ifdef GOLLM_F64
    quad low = __builtin_shufflevector(v[0], v[1], 0, 2);
    v[1] = __builtin_shufflevector(v[0], v[1], 1, 3);
    v[0] = low;
#else
    quad a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
    quad c = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
#endif
}

#if VEC_BYTES >= 32 && !defined(GOLLM_F64)
/* Eight steps of up to eight lines at once: three levels of shuffles, half the instructions of 4 x 4 ones. Where there are
 * fewer lines, a step's last lanes spill into the next step's place, which is written afterwards. */
typedef real oct __attribute__((vector_size(32)));
typedef real oct_unaligned __attribute__((vector_size(32), aligned(sizeof(real)), may_alias));

static inline __attribute__((always_inline)) void transpose_8(real *restrict to, const int width,
                                                              const real *const *line, const int lines, int64_t k) {
    oct a[8], b[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        a[i] = (oct) * (const oct_unaligned *)(line[min_i64(i, lines - 1)] + k);
    }
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 1] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        a[i + 2] = __builtin_shufflevector(b[i + 1], b[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 3] = __builtin_shufflevector(b[i + 1], b[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    UNROLL
    for (int i = 0; i < 7; i++) *(oct_unaligned *)(to + i * width) = (oct_unaligned)b[i];
    memcpy(to + 7 * width, &b[7], (size_t)lines * sizeof(real));
}
#endif

/* One panel of any `width` lines. */
static inline __attribute__((always_inline)) void pack_panel(real *restrict to, const int width,
                                                             const real *const *line, int64_t steps) {
    for (int64_t k0 = 0; k0 < steps; k0 += LINE) { // a cache line of each line is used up before the next
        int64_t k1 = min_i64(steps, k0 + LINE);
#if VEC_BYTES >= 32 && !defined(GOLLM_F64)
        if ((width % 8 == 0 || width < 8) && k1 - k0 == LINE) {
            for (int l = 0; l < width; l += 8)
                for (int64_t k = k0; k < k1; k += 8)
                    transpose_8(to + k * width + l, width, line + l, width < 8 ? width : 8, k);
            continue;
        }
#endif
        for (int l = 0; l < width; l += QUAD) {
            int64_t k = k0;
            for (; k + QUAD <= k1; k += QUAD) {
                quad v[QUAD];
                for (int i = 0; i < QUAD; i++) v[i] = quad_load(line[min_i64(l + i, width - 1)] + k);
                quad_transpose(v);
                if (l + QUAD <= width)
                    for (int i = 0; i < QUAD; i++) memcpy(to + (k + i) * width + l, &v[i], sizeof(quad));
                else
                    for (int i = 0; i < QUAD; i++) memcpy(to + (k + i) * width + l, &v[i], sizeof(quad) / 2);
            }
            for (; k < k1; k++)
                for (int i = l; i < min_i64(l + QUAD, width); i++) to[k * width + i] = line[i][k];
        }
    }
}

static inline __attribute__((always_inline)) void pack_lines(real *restrict to, const int width, const real *from,
                                                             int64_t stride, int64_t lines, int64_t steps) {
    static const real zeros[KC];
    for (int64_t first = 0; first < lines; first += width, to += width * steps) {
        const real *line[PANEL]; // the widest panel
        for (int l = 0; l < width; l++) line[l] = first + l < lines ? from + (first + l) * stride : zeros;
        pack_panel(to, width, line, steps);
    }
}

static inline __attribute__((always_inline)) void pack_steps(real *restrict to, const int width, const real *from,
                                                             int64_t stride, int64_t lines, int64_t steps) {
    const int together = max_i64(1, 2 * LINE / width); // panels, so that whole cache lines are read
    const int64_t whole = lines / width, panel = width * steps;
    for (int64_t p = 0; p < whole; p += together) {
        const int64_t end = min_i64(whole - p, together);
        for (int64_t k = 0; k < steps; k++)
            for (int64_t i = 0; i < end; i++)
                memcpy(to + i * panel + k * width, from + k * stride + (p + i) * width, (size_t)width * sizeof(real));
        to += end * panel;
    }
    const int64_t first = whole * width;
    if (first < lines)
        for (int64_t k = 0; k < steps; k++, to += width)
            for (int l = 0; l < width; l++) to[l] = first + l < lines ? from[k * stride + first + l] : 0;
}

/* Steps k ... k + kc of the lines `lines` of an operand that is not packed, in panels of `width`. */
static inline __attribute__((always_inline)) void pack(real *to, const int width, const struct operand *from,
                                                       struct range lines, int64_t k, int64_t kc) {
    const int64_t count = lines.end - lines.begin, stride = from->stride;
    if (from->layout == LINES)
        pack_lines(to, width, from->data + lines.begin * stride + k, stride, count, kc);
    else
        pack_steps(to, width, from->data + k * stride + lines.begin, stride, count, kc);
}

#endif
