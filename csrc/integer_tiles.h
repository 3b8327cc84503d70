/* Integer products of quantised weights and activations by AMX: a group of 16 rows x 16 outputs.
 *
 *     int8               a = 256 * high + low, in two planes: high -128 ... 127, low 0 ... 255; w = code - 128
 *                        256 * (sum of high w) + (sum of low w)        sums at most 128 * 128 * 255 < 2^22, all of it < 2^29
 *     int4, int4_min     one plane, a -127 ... 127; w = code - 8 or code
 *
 *     planes      [high, low][16 rows][group]            bytes of a
 *     weights     [group/4][32 outputs][4 inputs]        signed bytes, unpacked once for all rows
 *
 * Tiles of even groups are 0 and 1, of odd ones 2 and 3, so that a group is multiplied while the sums of others are taken
 * out of theirs.
 *
 * Budget of a group of one plane, in cycles: 16 for a product, whether 32 or 64 deep and however many rows; 16 to store its
 * sums, during which hardly anything is multiplied; 4 to 8 for each load. 16 vectors of sums then take a conversion, a product
 * and a multiply-add, of two planes also a shift and an addition: 24 or 40 cycles. Measured: 50 for int4, 83, 96 and 150 for
 * int8 of group 32, 64 and 128. So groups of 32 are bound by taking their sums out.
 */
#ifndef GOLLM_INTEGER_TILES_H
#define GOLLM_INTEGER_TILES_H

#if defined(__AMX_INT8__) && !defined(GOLLM_F64)
#define INTEGER_TILES

#include "amx.h"
#include "gemm_pack.h" /* PANEL */
#include "integer_dot.h"
#include "quantized.h"

enum { TILE_ROWS = 16, TILE = TILE_ROWS * VL };

static inline int tile_depth(int group) { return group < 64 ? group : 64; }

/* q (group)  ->  row i of the planes */
static inline void store_planes(char *planes, const int32_t *q, enum format format, int64_t group, int i) {
    char *high = planes + i * group, *low = high + (format == INT8 ? TILE_ROWS * group : 0);
    for (int64_t k = 0; k < group; k += VL) {
        const __m512i codes = _mm512_loadu_si512(q + k);
        if (format == INT8) _mm_storeu_si128((void *)(high + k), _mm512_cvtepi32_epi8(_mm512_srai_epi32(codes, 8)));
        _mm_storeu_si128((void *)(low + k), _mm512_cvtepi32_epi8(codes));
    }
}

/* The codes of a block  ->  weights (32 outputs x group bytes) */
static inline void unpack_codes(uint8_t *to, const uint8_t *codes, enum format format, int group) {
    const int64_t bytes = PANEL * group / (format == INT8 ? 1 : 2);
    for (int64_t i = 0; i < bytes; i += (int64_t)sizeof(words)) {
        const words w = load_codes(codes + i);
        if (format == INT8) {
            const words weights = w ^ 0x80808080;
            memcpy(to + i, &weights, sizeof weights);
        } else { // a step of 128 bytes becomes two
            const __m512i offset = _mm512_set1_epi8(format == INT4 ? 8 : 0);
            uint8_t *at = to + i / (PANEL * 4) * PANEL * 8 + i % (PANEL * 4);
            _mm512_storeu_si512(at, _mm512_sub_epi8((__m512i)(w & 0x0f0f0f0f), offset));
            _mm512_storeu_si512(at + PANEL * 4, _mm512_sub_epi8((__m512i)(w >> 4 & 0x0f0f0f0f), offset));
        }
    }
}

/* Tiles of group `parity` = planes x weights, 16 outputs of them. */
static inline __attribute__((always_inline)) void multiply_tiles(const int parity, const enum format format,
                                                                 const int group, const char *planes,
                                                                 const uint8_t *weights) {
#define MULTIPLY(high, low)                                                                                            \
    do {                                                                                                               \
        _tile_zero(high);                                                                                              \
        if (format == INT8) _tile_zero(low);                                                                           \
        for (int k = 0; k < group; k += 64) {                                                                          \
            _tile_loadd(6, weights + k * PANEL, PANEL * 4);                                                            \
            _tile_loadd(4, planes + k, group);                                                                         \
            _tile_dpbssd(high, 4, 6);                                                                                  \
            if (format == INT8) {                                                                                      \
                _tile_loadd(5, planes + TILE_ROWS * group + k, group);                                                 \
                _tile_dpbusd(low, 5, 6);                                                                               \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)
    if (parity)
        MULTIPLY(2, 3);
    else
        MULTIPLY(0, 1);
#undef MULTIPLY
}

/* sums [high, low][16 rows][16 outputs] = the tiles of group `parity` */
static inline __attribute__((always_inline)) void store_tiles(const int parity, const enum format format,
                                                              int32_t *sums) {
    if (parity) {
        _tile_stored(2, sums, 64);
        if (format == INT8) _tile_stored(3, sums + TILE, 64);
    } else {
        _tile_stored(0, sums, 64);
        if (format == INT8) _tile_stored(1, sums + TILE, 64);
    }
}

/* Row i of them, the integers of the group. */
static inline vec row_of_tiles(const enum format format, const int32_t *sums, int i) {
    __m512i sum = _mm512_load_si512(sums + i * VL);
    if (format == INT8) sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), _mm512_load_si512(sums + TILE + i * VL));
    return (vec)_mm512_cvtepi32_ps(sum);
}

#endif
#endif
