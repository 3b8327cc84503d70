/* Products with quantised weights and their epilogues:
 *
 *   int8, int4, int4_min      c (M, N) = f(a (M, K) w (N, K)^T + bias) * factor + residual     w as quantized.h lays it out
 *
 * The activations a are quantised row by row, in the same groups of inputs as the weights, to Q = 32767 steps for int8 and
 * Q = 127 for int4 and int4_min: with the group's largest |x|,
 *
 *     scale_a = largest / Q           q_a = x * (Q / largest), rounded to nearest, ties to even
 *
 * A group of zeros (or one so small that Q / largest is infinite) has scale_a = 0; one with NaN or infinity scale_a = NaN.
 * Then, over the groups in ascending order,
 *
 *     sum += (sum of q_a q_w) * (scale_a * scale_w)              the inner sum is an exact integer, rounded to a real
 *     sum += minimum_w * (scale_a * (sum of q_a))                int4_min alone
 *
 * by one multiply-add each (fused where the instruction set has it). Nothing here depends on M, N, the tile or the threads.
 * With 127 steps, activations would lose more than weights of int8 do, up to three times as much (docs/performance.md);
 * rounding weights to 4 bits costs a hundred times that.
 *
 * Method. Activations are quantised once, into the workspace, in the order in which a tile reads them: [tile of at most MR
 * rows][group] and there [scale of each row][correction of each row][4 inputs][row]. The correction makes up for the
 * codes' offset: -128 or -8 times the sum of q_a, or scale_a * (sum of q_a) for minimums. Threads split the groups and wait
 * for each other; of a single row each thread quantises all for itself, which is sooner done than waiting. Then the panels
 * of 32 outputs, each times every tile of rows, are split among the threads. With AMX, many rows go in tiles of 16: the codes
 * of a panel are unpacked once for all of them, without an offset, and activations are planes of bytes (integer_tiles.h).
 *
 * Budget of a tile of AVX-512 VNNI, 8 rows x 32 outputs, group 32:
 *
 *     2 x 8 sums of integers in registers; the 2 x 8 sums of floats are in L1 once a group
 *     int8    256 vpdpwssd, 128 broadcasts, 16 loads of codes that 32 instructions widen
 *     int4    128 vpdpbusd, 64 broadcasts, 8 loads of codes, each widened by 3 instructions
 *     for 16 sums each a conversion, a product, a multiply-add
 *
 * Many rows are bound by vpdpwssd (vpdpbusd, vpmaddwd, vpmaddubsw); few rows by reading w once, from front to back:
 * group + 2, or group / 2 + 2 bytes (int4_min: 4) a group and output. One thread of a Sapphire Rapids at 2.35 GHz,
 * 96 x 512 x 1152:
 *
 *     GMAC/s           float32     int8 of group 32, 64, 128     int4
 *     AMX                          161  227  233                 226
 *     AVX-512 VNNI     66           95   98  102                 153
 *     AVX-512BW        65           61   64   66                  98
 *     AVX2             37           43   45   47                  66
 *
 * Without VNNI, int8 takes two multiplications and two additions where float32 takes four multiply-adds: it gains only where
 * integer operations have more ports than those. Activations of 8 bits would take half of the multiplications with VNNI
 * (vpdpbusd: 163, 210, 222 GMAC/s), and nothing less without it.
 */
#include "epilogue.h"
#include "integer_dot.h"
#include "integer_tiles.h"
#include "quantized.h"
#include "workspace.h"

/* Tuning: how far ahead memory is prefetched, in bytes, by the first tile that reads a panel. */
enum { AHEAD = 2048 };

/* Vectors of outputs of the widest tile: all 32 outputs with AVX2 and AVX-512. */
enum { WIDTH_MAX = PANEL / VL < 4 ? PANEL / VL : 4 };

struct product {
    int64_t M, N, K, group;
    real *c;
    const real *a;
    const uint8_t *b;
    struct epilogue epilogue;
};

/* The quantised activations of a group in a tile: [scale][rows], [correction][rows], codes [group/4][rows][4] of int8, of
 * int16 for int8 weights. */
static inline int64_t codes_of(int rows) { return rows * 2 * (int64_t)sizeof(real); }
static inline int64_t activation_bytes(enum format format) { return format == INT8 ? 2 : 1; }
static inline real steps_of(enum format format) { return format == INT8 ? 32767 : 127; }
static inline int64_t record_bytes(enum format format, int64_t group, int rows) {
    return codes_of(rows) + rows * group * activation_bytes(format);
}

/* Whether rows are multiplied in tiles of AMX, and how many a tile has at most. Fewer than 25 rows leave much of two tiles
 * empty: 9 rows of int4 have 0.65 of the speed, 16 rows the same, of int8 0.85 and 1.3. */
#ifdef INTEGER_TILES
static inline int in_tiles(int64_t M) { return M > 3 * MR; }
static inline int tile_height(int64_t M) { return in_tiles(M) ? TILE_ROWS : MR; }
#else
static inline int in_tiles(int64_t M) { return (void)M, 0; }
static inline int tile_height(int64_t M) { return (void)M, MR; }
#endif

/* Rows of a tile that begins at row m of M; those past the last repeat it. */
static inline int tile_rows(int64_t M, int64_t m) {
    const int64_t left = M - m;
    return in_tiles(M) ? tile_height(M) : left == 1 ? 1 : left == 2 ? 2 : left <= 4 ? 4 : MR;
}

/* Quantised activations of all rows, bytes. Each thread has its own where there is one row. */
static int64_t quantized_bytes(enum format format, const struct product *p) {
    const int64_t height = tile_height(p->M), rows = p->M == 1 ? 1 : times_i64(height, (p->M + height - 1) / height);
    return round_up(min_i64(times_i64(times_i64(rows, group_count(p->K, p->group)), record_bytes(format, p->group, 1)),
                            INT64_MAX - GOLLM_ALIGNMENT),
                    GOLLM_ALIGNMENT);
}

/* The unpacked codes of a panel, bytes: each thread's own. */
static int64_t unpacked_bytes(const struct product *p) {
    return in_tiles(p->M) ? times_i64(times_i64(group_count(p->K, p->group), p->group), PANEL) : 0;
}

static int64_t workspace(enum format format, const struct product *p, int n_threads) {
    if (!group_is_known(p->group)) return 0;
    return plus_i64(times_i64(p->M == 1 ? n_threads : 1, quantized_bytes(format, p)),
                    times_i64(n_threads, unpacked_bytes(p)));
}

/* The largest lane of integers of the size of reals, and the sum of int32. */
static inline ireal largest_lane(ivec v) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    ireal lanes[VL];
    memcpy(lanes, &v, sizeof lanes);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
    return lanes[0];
#endif
}
static inline int32_t sum_of_lanes(ints v) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t lanes[VL];
    memcpy(lanes, &v, sizeof lanes);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
    return lanes[0];
#endif
}

/* To the nearest integers, ties to even. */
static inline ints round_to_ints(vec v) {
#if VEC_BYTES == 64 && !defined(GOLLM_F64)
    return (ints)_mm512_cvtps_epi32((__m512)v);
#elif VEC_BYTES == 32 && !defined(GOLLM_F64)
    return (ints)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__) && !defined(GOLLM_F64)
    return (ints)_mm_cvtps_epi32((__m128)v);
#else
    ints rounded;
    for (int i = 0; i < VL; i++) rounded[i] = (int32_t)rint((double)v[i]);
    return rounded;
#endif
}

/* x (count)  ->  q (group), zeros from `count` on, its sum and its scale */
static real quantize_group(const real *x, int64_t count, int64_t group, real steps, int32_t *restrict q,
                           int32_t *restrict sum) {
    real padded[GROUP_MAX];
    if (count < group) {
        memset(padded, 0, sizeof padded);
        x = memcpy(padded, x, (size_t)count * sizeof(real));
    }
    ivec most = {0}; // the largest |x| as integers, whose order is that of the numbers; NaN is beyond infinity
    for (int64_t i = 0; i < group; i += VL) {
        const ivec bits = (ivec)vec_load(x + i) & ~(ivec)vec_set((real)-0.0);
        most = (ivec)vec_select(bits > most, (vec)bits, (vec)most);
    }
    const ireal bits = largest_lane(most);
    real largest;
    memcpy(&largest, &bits, sizeof largest);
    const real inverse = steps / largest;
    if (!(inverse > 0 && inverse <= (sizeof(real) == 4 ? (real)FLT_MAX : (real)DBL_MAX))) {
        memset(q, 0, (size_t)group * sizeof *q);
        *sum = 0;
        return largest * 0; // 0, or NaN
    }
    ints total = {0};
    for (int64_t i = 0; i < group; i += VL) {
        const ints rounded = round_to_ints(vec_load(x + i) * vec_set(inverse));
        memcpy(q + i, &rounded, sizeof rounded);
        total += rounded;
    }
    *sum = sum_of_lanes(total);
    return largest / steps;
}

/* q (group)  ->  of each 4 codes, `rows` words apart: 4 bytes; for int8 two words of 2, in the order 0 2 1 3 (integer_dot.h).
 * Tiles of AMX have them in planes (integer_tiles.h). */
static inline void store_codes(char *to, const int32_t *q, enum format format, int64_t group, int rows) {
    for (int64_t i = 0; i < group; i += 4, q += 4) {
        if (format == INT8) {
            const int16_t codes[4] = {(int16_t)q[0], (int16_t)q[2], (int16_t)q[1], (int16_t)q[3]};
            memcpy(to + i * rows * 2, codes, sizeof codes);
        } else {
            const int8_t codes[4] = {(int8_t)q[0], (int8_t)q[1], (int8_t)q[2], (int8_t)q[3]};
            memcpy(to + i * rows, codes, sizeof codes);
        }
    }
}

/* The groups `units` of [tile][group], quantised. */
static void quantize(const struct product *p, enum format format, char *to, struct range units) {
    const int64_t groups = group_count(p->K, p->group), group = p->group;
    for (int64_t unit = units.begin; unit < units.end; unit++) {
        const int64_t first = unit / groups * tile_height(p->M), k = unit % groups * group;
        const int rows = tile_rows(p->M, first);
        char *record =
            to + first * groups * record_bytes(format, group, 1) + unit % groups * record_bytes(format, group, rows);
        for (int i = 0; i < rows; i++) {
            int32_t q[GROUP_MAX], sum;
            const int64_t m = min_i64(first + i, p->M - 1);
            const real scale =
                quantize_group(p->a + m * p->K + k, min_i64(group, p->K - k), group, steps_of(format), q, &sum);
            memcpy(record + i * sizeof(real), &scale, sizeof scale);
            const real of_minimum = scale * (real)sum;
            const int32_t of_codes = sum * (format == INT8 ? -128 : -8);
            if (format == INT4_MIN)
                memcpy(record + (rows + i) * sizeof(real), &of_minimum, sizeof of_minimum);
            else
                memcpy(record + (rows + i) * sizeof(real), &of_codes, sizeof of_codes);
#ifdef INTEGER_TILES
            if (in_tiles(p->M)) {
                store_planes(record + codes_of(rows), q, format, group, i);
                continue;
            }
#endif
            store_codes(record + codes_of(rows) + i * 4 * activation_bytes(format), q, format, group, rows);
        }
    }
}

/* sums (rows, width) = the integer products of one group: its record of activations and its block from output `first`. */
static inline __attribute__((always_inline)) void multiply_group(const int rows, const int width,
                                                                 const enum format format, const int group,
                                                                 const char *record, const uint8_t *codes,
                                                                 ints sums[MR][WIDTH_MAX]) {
    enum { STEP = PANEL * 4 }; // bytes of a step of codes
    static const int32_t zero = 0;
    const char *a = record + codes_of(rows);
#define OFFSET(i) (format == INT4_MIN ? (const void *)&zero : record + (rows + (i)) * sizeof(real))
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < width; j++) sums[i][j] = format == INT8 ? begin_int8(OFFSET(i)) : begin_int4(OFFSET(i));
    }
    for (int s = 0; s < group / (format == INT8 ? 4 : 8); s++) {
        UNROLL
        for (int j = 0; j < width; j++) {
            const words w = load_codes(codes + s * STEP + j * (int)sizeof(words));
            if (format == INT8) {
                UNROLL
                for (int i = 0; i < rows; i++) sums[i][j] = dot_int8(sums[i][j], w, a + (s * rows + i) * 8);
            } else {
                const words low = w & 0x0f0f0f0f, high = w >> 4 & 0x0f0f0f0f;
                UNROLL
                for (int i = 0; i < rows; i++) sums[i][j] = dot_int4(sums[i][j], low, a + (2 * s * rows + i) * 4);
                UNROLL
                for (int i = 0; i < rows; i++)
                    sums[i][j] = dot_int4(sums[i][j], high, a + ((2 * s + 1) * rows + i) * 4);
            }
        }
    }
    if (format != INT8) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < width; j++) sums[i][j] = end_int4(sums[i][j], OFFSET(i));
        }
    }
#undef OFFSET
}

/* A tile's rows times `width` vectors of a panel, from output `first` of it: c, with its epilogue. */
static inline __attribute__((always_inline)) void multiply_part(const struct product *p, const int rows,
                                                                const int width, const enum format format,
                                                                const int group, const char *record,
                                                                const uint8_t *block, int first, int64_t m, int64_t n) {
    const int64_t groups = group_count(p->K, group), bytes = block_bytes(format, group);
    vec sums[MR][WIDTH_MAX];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < width; j++) sums[i][j] = vec_set(0);
    }
    for (int64_t g = 0; g < groups; g++, block += bytes, record += record_bytes(format, group, rows)) {
        ints products[MR][WIDTH_MAX];
        if (first == 0 && m == 0)
            for (int64_t i = 0; i < bytes; i += GOLLM_ALIGNMENT) __builtin_prefetch(block + AHEAD + i);
        multiply_group(rows, width, format, group, record, block + codes_offset(format) + 4 * first, products);
        UNROLL
        for (int j = 0; j < width; j++) {
            const vec scale = load_f16(block + (first + j * VL) * 2);
            const vec minimum = format == INT4_MIN ? load_f16(block + (PANEL + first + j * VL) * 2) : vec_set(0);
            UNROLL
            for (int i = 0; i < rows; i++) {
                real factors[2]; // of the activations: scale, and the sum's
                memcpy(&factors[0], record + i * sizeof(real), sizeof(real));
                sums[i][j] += __builtin_convertvector(products[i][j], vec) * (vec_set(factors[0]) * scale);
                if (format == INT4_MIN) {
                    memcpy(&factors[1], record + (rows + i) * sizeof(real), sizeof(real));
                    sums[i][j] += minimum * vec_set(factors[1]);
                }
            }
        }
    }
    const int height = (int)min_i64(rows, p->M - m);
    UNROLL
    for (int j = 0; j < width; j += NR / VL) {
        real tile[MR * NR] __attribute__((aligned(GOLLM_ALIGNMENT)));
        const int64_t column = n + first + j * VL;
        UNROLL
        for (int i = 0; i < rows; i++) {
            vec_store(tile + i * NR, sums[i][j]);
            vec_store(tile + i * NR + VL, sums[i][j + 1]);
        }
        epilogue_apply_tile(&p->epilogue, p->c, p->N, tile, m, column, height);
    }
}

/* A tile's rows times a panel. One or two rows are multiplied by as many outputs side by side as registers allow, so that
 * the panel is read from front to back. */
static inline __attribute__((always_inline)) void multiply_panel(const struct product *p, const enum format format,
                                                                 const int group, const char *record, int64_t m,
                                                                 int64_t n) {
    const uint8_t *block = p->b + n / PANEL * group_count(p->K, group) * block_bytes(format, group);
    const int rows = tile_rows(p->M, m);
    const int width = rows <= 2 ? WIDTH_MAX : NR / VL;
    for (int first = 0; first < PANEL; first += width * VL) {
        if (rows == 1)
            multiply_part(p, 1, WIDTH_MAX, format, group, record, block, first, m, n);
        else if (rows == 2)
            multiply_part(p, 2, WIDTH_MAX, format, group, record, block, first, m, n);
        else if (rows == 4)
            multiply_part(p, 4, NR / VL, format, group, record, block, first, m, n);
        else
            multiply_part(p, MR, NR / VL, format, group, record, block, first, m, n);
    }
}

#ifdef INTEGER_TILES
/* 16 rows times 16 outputs of a panel, from output `first` of it, into `tile`. The groups go through three stages: the one
 * before is stored while a group is multiplied, and the sums of the one before that are taken out. */
static inline __attribute__((always_inline)) void multiply_tile(const struct product *p, const enum format format,
                                                                const int group, const char *record,
                                                                const uint8_t *block, const uint8_t *weights, int first,
                                                                real tile[TILE_ROWS * NR]) {
    const int64_t groups = group_count(p->K, group);
    int32_t stored[2][2 * TILE] __attribute__((aligned(GOLLM_ALIGNMENT)));
    vec sums[TILE_ROWS];
    UNROLL
    for (int i = 0; i < TILE_ROWS; i++) sums[i] = vec_set(0);
    for (int64_t step = 0; step < groups + 2; step += 2) {
        UNROLL
        for (int parity = 0; parity < 2; parity++) {
            const int64_t g = step + parity;
            if (g < groups)
                multiply_tiles(parity, format, group,
                               record + g * record_bytes(format, group, TILE_ROWS) + codes_of(TILE_ROWS),
                               weights + g * group * PANEL + first * 4);
            if (g >= 1 && g - 1 < groups) store_tiles(!parity, format, stored[!parity]);
            if (g < 2 || g - 2 >= groups) continue;
            const real *scales = (const real *)(record + (g - 2) * record_bytes(format, group, TILE_ROWS));
            const uint8_t *scales_w = block + (g - 2) * block_bytes(format, group) + first * 2;
            const vec scale = load_f16(scales_w);
            const vec minimum = format == INT4_MIN ? load_f16(scales_w + PANEL * 2) : vec_set(0);
            UNROLL
            for (int i = 0; i < TILE_ROWS; i++) {
                sums[i] += row_of_tiles(format, stored[parity], i) * (vec_set(scales[i]) * scale);
                if (format == INT4_MIN) sums[i] += minimum * vec_set(scales[TILE_ROWS + i]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < TILE_ROWS; i++) vec_store(tile + i * NR + first, sums[i]);
}

/* The units of [panel][tile of 16 rows]. */
static inline __attribute__((always_inline)) void multiply_in_tiles(const struct product *p, const enum format format,
                                                                    const int group, const char *quantized,
                                                                    uint8_t *weights, struct range units) {
    const int64_t tiles = (p->M + TILE_ROWS - 1) / TILE_ROWS, groups = group_count(p->K, group);
    tiles_begin(tile_depth(group));
    for (int64_t unit = units.begin; unit < units.end; unit++) {
        const int64_t n = unit / tiles * PANEL, m = unit % tiles * TILE_ROWS;
        const uint8_t *block = p->b + n / PANEL * groups * block_bytes(format, group);
        if (unit == units.begin || m == 0)
            for (int64_t g = 0; g < groups; g++)
                unpack_codes(weights + g * group * PANEL, block + g * block_bytes(format, group) + codes_offset(format),
                             format, group);
        const int height = (int)min_i64(TILE_ROWS, p->M - m);
        for (int i = 0; i < height; i++) {
            __builtin_prefetch(p->c + (m + i) * p->N + n, 1);
            __builtin_prefetch(p->c + (m + i) * p->N + n + NR / 2, 1);
        }
        real tile[TILE_ROWS * NR] __attribute__((aligned(GOLLM_ALIGNMENT)));
        for (int first = 0; first < PANEL; first += VL)
            multiply_tile(p, format, group, quantized + m * groups * record_bytes(format, group, 1), block, weights,
                          first, tile);
        epilogue_apply_tile(&p->epilogue, p->c, p->N, tile, m, n, height);
    }
    tiles_end();
}
#endif

static inline __attribute__((always_inline)) int multiply(const struct product *p, const enum format format,
                                                          const int group, const struct gollm_team *team) {
    const int height = tile_height(p->M);
    const int64_t tiles = (p->M + height - 1) / height, panels = (p->N + PANEL - 1) / PANEL;
    const int64_t groups = group_count(p->K, group);
    char *quantized = team->workspace;
    if (p->M == 1) {
        quantized += team->thread * quantized_bytes(format, p);
        quantize(p, format, quantized, (struct range){0, groups});
    } else {
        quantize(p, format, quantized, thread_range(tiles * groups, 1, team));
        gollm_team_wait(team);
    }
    const struct range mine = thread_range(tiles * panels, 1, team); // panel by panel
#ifdef INTEGER_TILES
    if (in_tiles(p->M)) {
        uint8_t *weights = (uint8_t *)quantized + quantized_bytes(format, p) + team->thread * unpacked_bytes(p);
        multiply_in_tiles(p, format, group, quantized, weights, mine);
        return GOLLM_OK;
    }
#endif
    for (int64_t unit = mine.begin; unit < mine.end; unit++) {
        const int64_t m = unit % tiles * MR;
        multiply_panel(p, format, group, quantized + m * groups * record_bytes(format, group, 1), m,
                       unit / tiles * PANEL);
    }
    return GOLLM_OK;
}

#define PRODUCT(args, group_of)                                                                                        \
    {.M = (args)->M,                                                                                                   \
     .N = (args)->N,                                                                                                   \
     .K = (args)->K,                                                                                                   \
     .group = (group_of),                                                                                              \
     .c = (args)->c,                                                                                                   \
     .a = (args)->a,                                                                                                   \
     .b = (args)->b,                                                                                                   \
     .epilogue = EPILOGUE_OF_FORWARD(args)}

int KERNEL_FN(matmul_int8_check)(const struct matmul_int8_args *args) {
    return group_is_known(args->group) && activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_int8_workspace)(const struct matmul_int8_args *args, int n_threads) {
    const struct product p = PRODUCT(args, args->group);
    return workspace(INT8, &p, n_threads);
}

int KERNEL_FN(matmul_int8)(const struct matmul_int8_args *args, const struct gollm_team *team) {
    const struct product p = PRODUCT(args, args->group);
    switch (args->group) {
    case 32: return multiply(&p, INT8, 32, team);
    case 64: return multiply(&p, INT8, 64, team);
    default: return multiply(&p, INT8, 128, team);
    }
}

int KERNEL_FN(matmul_int4_check)(const struct matmul_int4_args *args) {
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_int4_workspace)(const struct matmul_int4_args *args, int n_threads) {
    const struct product p = PRODUCT(args, INT4_GROUP);
    return workspace(INT4, &p, n_threads);
}

int KERNEL_FN(matmul_int4)(const struct matmul_int4_args *args, const struct gollm_team *team) {
    const struct product p = PRODUCT(args, INT4_GROUP);
    return multiply(&p, INT4, INT4_GROUP, team);
}

int KERNEL_FN(matmul_int4_min_check)(const struct matmul_int4_min_args *args) {
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_int4_min_workspace)(const struct matmul_int4_min_args *args, int n_threads) {
    const struct product p = PRODUCT(args, INT4_GROUP);
    return workspace(INT4_MIN, &p, n_threads);
}

int KERNEL_FN(matmul_int4_min)(const struct matmul_int4_min_args *args, const struct gollm_team *team) {
    const struct product p = PRODUCT(args, INT4_GROUP);
    return multiply(&p, INT4_MIN, INT4_GROUP, team);
}
