/* Products with weights of 2 bytes and their epilogues:
 *
 *   bf16, f16      c (M, N) = f(a (M, K) w (N, K)^T + bias) * factor + residual      w in PANELS: [panel of 32 outputs][K][32]
 *
 * Weights are widened on the fly, exactly; activations and sums stay reals, so the bits are those of matmul_packed with the
 * widened weight.
 *
 * Few rows (at most MR, as in decoding) are bound by reading w: each panel once, from front to back, 2 bytes a weight. A tile
 * of 1 row has all 32 outputs side by side in registers: a step is a load, a widening (1 or 2 instructions) and a
 * multiply-add for each vector.
 *
 * Many rows are bound by the multiply-adds of gemm.c: a strip of w is widened into the thread's workspace, where gemm reads
 * it as PANELS. Widening costs 6 bytes a weight once for all rows, packing a again for each strip about 8 multiply-adds an
 * element. Each thread has its own columns, and where threads outnumber the panels, its own rows of them.
 */
#include "gemm.h"
#include "gemm_pack.h" /* PANEL */
#include "half.h"

/* Tuning. */
enum {
    AHEAD = 2048,          /* how far ahead of a panel memory is prefetched, in bytes */
    STRIP_BYTES = 1 << 20, /* of a widened strip: half of an L2 cache */
    WIDTH_MAX =
        PANEL / VL < 8 ? PANEL / VL : 8 /* vectors of outputs of a tile of one row: as many as registers allow */
};

/* `rows` rows of c from m on, times `width` vectors of the panel `b` from output `first` of it. */
static inline __attribute__((always_inline)) void multiply_part(const struct gemm *g, const enum number_format format,
                                                                const int rows, const int width, int64_t m, int64_t n,
                                                                const uint16_t *b, int first) {
    vec sums[MR][WIDTH_MAX];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < width; j++) sums[i][j] = vec_set(0);
    }
    const int height = (int)min_i64(rows, g->M - m);
    const real *a[MR]; // rows past the last repeat it
    for (int i = 0; i < rows; i++) a[i] = g->a.data + (m + min_i64(i, height - 1)) * g->K;
    for (int64_t begin = 0; begin < g->K; begin += KC) {
        vec chain[MR][WIDTH_MAX];
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < width; j++) chain[i][j] = vec_set(0);
        }
        for (int64_t k = begin, end = min_i64(g->K, begin + KC); k < end; k++) {
            const uint16_t *step = b + k * PANEL;
            if (first == 0) __builtin_prefetch((const char *)step + AHEAD);
            vec w[WIDTH_MAX];
            UNROLL
            for (int j = 0; j < width; j++) w[j] = load_as(format, step, first + j * VL);
            UNROLL
            for (int i = 0; i < rows; i++) {
                const vec ai = vec_set(a[i][k]);
                UNROLL
                for (int j = 0; j < width; j++) chain[i][j] += ai * w[j];
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < width; j++) sums[i][j] = begin ? chain[i][j] + sums[i][j] : chain[i][j];
        }
    }
    UNROLL
    for (int j = 0; j < width; j += NR / VL) {
        real tile[MR * NR] __attribute__((aligned(GOLLM_ALIGNMENT)));
        const int64_t column = n + first + j * VL;
        UNROLL
        for (int i = 0; i < rows; i++) {
            vec_store(tile + i * NR, sums[i][j]);
            vec_store(tile + i * NR + VL, sums[i][j + 1]);
        }
        epilogue_apply_tile(&g->epilogue, g->c, g->N, tile, m, column, height);
    }
}

static inline __attribute__((always_inline)) void
multiply_few_rows(const struct gemm *g, const enum number_format format, const uint16_t *b, struct range columns) {
    const int width = g->M == 1 ? WIDTH_MAX : NR / VL;
    for (int64_t n = columns.begin; n < columns.end; n += PANEL)
        for (int first = 0; first < PANEL; first += width * VL) {
            const uint16_t *panel = b + n * g->K;
            if (g->M == 1)
                multiply_part(g, format, 1, WIDTH_MAX, 0, n, panel, first);
            else if (g->M == 2)
                multiply_part(g, format, 2, NR / VL, 0, n, panel, first);
            else if (g->M <= 4)
                multiply_part(g, format, 4, NR / VL, 0, n, panel, first);
            else
                multiply_part(g, format, MR, NR / VL, 0, n, panel, first);
        }
}

/* Columns of a strip. */
static int64_t strip_columns(const struct gemm *g) {
    const int64_t panels = STRIP_BYTES / (PANEL * (int64_t)sizeof(real)) / max_i64(1, g->K);
    return min_i64(round_up(g->N, PANEL), max_i64(1, panels) * PANEL);
}

/* The product of rows and columns of g, columns widened into `strip`. */
static struct gemm part_of(const struct gemm *g, struct range rows, struct range columns, const real *strip) {
    struct gemm part = *g;
    const int64_t at = rows.begin * g->ldc + columns.begin;
    part.M = rows.end - rows.begin;
    part.N = columns.end - columns.begin;
    part.a.data += rows.begin * g->K;
    part.b = (struct operand){strip, 0, PANELS};
    part.c += at;
    if (part.epilogue.bias) part.epilogue.bias += columns.begin;
    if (part.epilogue.pre) part.epilogue.pre += at;
    if (part.epilogue.factor) part.epilogue.factor += at;
    if (part.epilogue.residual) part.epilogue.residual += at;
    return part;
}

/* A thread's workspace: a strip, and gemm's for it. */
static int64_t strip_bytes(const struct gemm *g) { return times_i64(times_i64(strip_columns(g), g->K), sizeof(real)); }
static int64_t part_workspace(const struct gemm *g) {
    struct gemm part = *g;
    part.N = strip_columns(g);
    part.b = (struct operand){NULL, 0, PANELS};
    return gemm_workspace(&part);
}
static int64_t workspace(const struct gemm *g, int n_threads) {
    return g->M <= MR ? 0 : times_i64(n_threads, plus_i64(strip_bytes(g), part_workspace(g)));
}

static inline __attribute__((always_inline)) void multiply_many_rows(const struct gemm *g,
                                                                     const enum number_format format, const uint16_t *b,
                                                                     const struct gollm_team *team) {
    const int64_t panels = (g->N + PANEL - 1) / PANEL;
    const int across = (int)max_i64(1, min_i64(team->n_threads, panels)), down = team->n_threads / across;
    if (team->thread >= across * down) return;
    const struct range rows = split(g->M, MR, team->thread / across, down);
    const struct range columns = split(g->N, PANEL, team->thread % across, across);
    const int64_t bytes = part_workspace(g);
    char *mine = (char *)team->workspace + team->thread * (strip_bytes(g) + bytes);
    real *strip = (real *)(mine + bytes);
    const struct gollm_team alone = {.thread = 0, .n_threads = 1};
    for (int64_t n = columns.begin; n < columns.end && rows.begin < rows.end; n += strip_columns(g)) {
        const int64_t end = min_i64(columns.end, n + strip_columns(g));
        const int64_t count = round_up(end - n, PANEL) * g->K;
        for (int64_t i = 0; i < count; i += VL) vec_store(strip + i, load_as(format, b + n * g->K, i));
        const struct gemm part = part_of(g, rows, (struct range){n, end}, strip);
        gemm_run(&part, &alone, mine, bytes);
    }
}

static inline __attribute__((always_inline)) int multiply(const struct gemm *g, const enum number_format format,
                                                          const uint16_t *b, const struct gollm_team *team) {
    if (g->M > MR)
        multiply_many_rows(g, format, b, team);
    else if (g->M > 0)
        multiply_few_rows(g, format, b, thread_range(g->N, PANEL, team));
    return GOLLM_OK;
}

#define GEMM(args)                                                                                                     \
    {.M = (args)->M,                                                                                                   \
     .N = (args)->N,                                                                                                   \
     .K = (args)->K,                                                                                                   \
     .a = {(args)->a, (args)->K, LINES},                                                                               \
     .c = (args)->c,                                                                                                   \
     .ldc = (args)->N,                                                                                                 \
     .epilogue = EPILOGUE_OF_FORWARD(args)}

int KERNEL_FN(matmul_bf16_check)(const struct matmul_bf16_args *args) {
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_bf16_workspace)(const struct matmul_bf16_args *args, int n_threads) {
    const struct gemm g = GEMM(args);
    return workspace(&g, n_threads);
}

int KERNEL_FN(matmul_bf16)(const struct matmul_bf16_args *args, const struct gollm_team *team) {
    const struct gemm g = GEMM(args);
    return multiply(&g, BF16, args->b, team);
}

int KERNEL_FN(matmul_f16_check)(const struct matmul_f16_args *args) {
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_f16_workspace)(const struct matmul_f16_args *args, int n_threads) {
    const struct gemm g = GEMM(args);
    return workspace(&g, n_threads);
}

int KERNEL_FN(matmul_f16)(const struct matmul_f16_args *args, const struct gollm_team *team) {
    const struct gemm g = GEMM(args);
    return multiply(&g, F16, args->b, team);
}
