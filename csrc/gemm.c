/* A blocked product (Goto & van de Geijn 2008). The thread's tile of c is cut into strips of at most NC columns; for each,
 * the blocks of KC steps of k pass by in ascending order; for each of these, blocks of MC rows of a are packed, and meet
 * one panel of b after another, which is packed right before it is needed and then lies in L1.
 *
 * Sums wait for the next block of k in c, where the epilogue allows it.
 */
#include "gemm.h"

#include "activation.h"
#include "gemm_microkernel.h"
#include "gemm_pack.h"

/* Tuning (docs/performance.md); no number here changes a bit of a result. */
enum {
    /* Rows of a block of a, MC * KC reals: 384 KB, which stay in L2 of half a megabyte. 768 rows: the same speed within 1 %. */
    MC = 384,
    /* Columns of a strip. Larger: a is packed less often; smaller: less workspace (NC * KC reals are 2 MB a thread) and less
     * of L3. Chosen together with MC against blocks of 384 x 512, which were 2 % slower; not measured by itself. */
    NC = 2048,
    NC_OF_SUMS = 64,
    /* Few rows: how far ahead each row of b is prefetched, in elements: 4 cache lines. One row times 576 x 576 reads 8.8-10.3
     * GB/s with it and 8.1-8.8 without. */
    AHEAD = 256 / sizeof(real),
    /* Packing an element costs about as much as this many multiply-adds. Without a cost of packing, threads would split the
     * rows of the head's 256 x 50257 product, and each would pack all of b. The value was not tuned. */
    PACK = 8
};

/* Block length for `count` lines: as even as panels allow, so that no thin rest is left. */
static int64_t block_length(int64_t count, int64_t largest, int64_t panel) {
    int64_t blocks = max_i64(1, (count + largest - 1) / largest);
    return round_up((count + blocks - 1) / blocks, panel);
}

struct gemm_tile gemm_share(int64_t M, int64_t N, int thread, int n_threads) {
    /* Of all grids, the one whose largest tile costs least: its multiply-adds, and its packing, where an element costs
     * PACK of them. */
    int best = N > 0 ? 1 : n_threads; // without columns, only a_sum is left to do: each row by one thread
    int64_t best_cost = INT64_MAX;
    for (int down = 1; N > 0 && down <= n_threads; down++) {
        if (n_threads % down) continue;
        const int across = n_threads / down;
        const int64_t rows = ((M + MR - 1) / MR + down - 1) / down * MR;
        const int64_t columns = ((N + NR - 1) / NR + across - 1) / across * NR;
        const int64_t packed = columns + rows * ((columns + NC - 1) / NC);
        const int64_t cost = rows * columns + PACK * packed;
        if (cost < best_cost) best = down, best_cost = cost;
    }
    const int across = n_threads / best;
    return (struct gemm_tile){split(M, MR, thread / across, best), split(N, NR, thread % across, across)};
}

static int is_plain(const struct gemm *g) {
    return !(g->bias || g->pre || g->activation || g->gradient_of || g->factor || g->residual);
}

/* Where the sums of the blocks of k so far wait for the next one: element (m, n) of c at at[(m - row) * stride + n -
 * column]. */
struct sums {
    real *at;
    int64_t stride, row, column;
};

/* In c, unless it must not be overwritten before the end; else in pre; else in the workspace. */
static int sums_fit_c(const struct gemm *g) { return is_plain(g) || (g->c && g->c != g->residual && !g->accumulate); }
static int sums_need_workspace(const struct gemm *g) { return g->K > KC && !sums_fit_c(g) && !g->pre; }

/* What one thread packs. */
struct blocks {
    int64_t mc, nc; // rows of a block of a, columns of a strip: multiples of MR and NR
    real *a, *b;    // (mc / MR, KC, MR); (nc / NR, KC, NR), or a single panel where there is one block of rows
    struct sums sums;
};

static int64_t widest_strip(const struct gemm *g) { return sums_need_workspace(g) ? NC_OF_SUMS : NC; }

/* With so few rows b is read once for little work, as in decoding: a product bound by memory. */
static int has_few_rows(const struct gemm *g, int64_t rows) { return rows <= MR && g->b_transposed && !g->a_sum; }

int64_t gemm_workspace(const struct gemm *g) {
    const int64_t rows = round_up(g->M, MR), mc = min_i64(MC, rows), nc = min_i64(widest_strip(g), round_up(g->N, NR));
    const int64_t kc = min_i64(g->K, KC), few = has_few_rows(g, 1) ? MR * g->K : 0; // some thread may have few
    return round_up(round_up(max_i64(mc * kc, few), 64) + round_up(nc * kc, 64) +
                        (sums_need_workspace(g) ? rows * nc : 0),
                    64) *
           (int64_t)sizeof(real);
}

/* The last block of a tile: adds what came before, and finishes it. */
static inline __attribute__((always_inline)) void
write_back(const struct gemm *gemm, const real *tile, // (MR, NR)
           const real *sums, int64_t stride,          // (rows, columns), or NULL when this is the only block
           int64_t m, int64_t n, const int rows, const int columns) {
    const struct gemm g = *gemm; // stores to c cannot change these
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += VL) {
            const int64_t at = (m + i) * g.ldc + n + j;
            const int left = columns - j;
            vec v = vec_load(tile + i * NR + j);
            if (sums) v += vec_load_n(sums + i * stride + j, left);
            if (g.bias) v += vec_load_n(g.bias + n + j, left);
            if (g.pre) vec_store_n(g.pre + at, v, left);
            const vec factor = g.factor ? vec_load_n(g.factor + at, left) : vec_set(1);
            if (g.product || g.dfactor) {
                vec gradient;
                const vec f = activation_and_gradient(g.activation, vec_load_n(g.gradient_of + at, left), &gradient);
                if (g.product) vec_store_n(g.product + at, f * factor, left);
                if (g.dfactor) vec_store_n(g.dfactor + at, f * v, left);
                v *= gradient;
            } else if (g.gradient_of)
                v *= activation_gradient(g.activation, vec_load_n(g.gradient_of + at, left));
            else
                v = activation(g.activation, v);
            if (g.factor) v *= factor;
            if (g.residual) v += vec_load_n(g.residual + at, left);
            if (g.accumulate) v += vec_load_n(g.c + at, left);
            if (g.c) vec_store_n(g.c + at, v, left);
        }
}

/* to (rows, columns) = tile (MR, NR), or += */
static void store_edge(const real *tile, real *to, int64_t stride, int rows, int columns, int add) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += VL) {
            real *at = to + i * stride + j;
            const vec v = vec_load(tile + i * NR + j);
            vec_store_n(at, add ? v + vec_load_n(at, columns - j) : v, columns - j);
        }
}

static void pack_a(const struct gemm *g, real *to, struct range rows, int64_t k, int64_t kc) {
    const int64_t count = rows.end - rows.begin;
    if (g->a_transposed)
        pack_steps(to, MR, g->a + k * g->lda + rows.begin, g->lda, count, kc);
    else
        pack_lines(to, MR, g->a + rows.begin * g->lda + k, g->lda, count, kc, 0);
}

static void pack_b(const struct gemm *g, real *to, struct range columns, int64_t k, int64_t kc) {
    const int64_t count = columns.end - columns.begin;
    if (g->b_transposed)
        pack_lines(to, NR, g->b + columns.begin * g->ldb + k, g->ldb, count, kc, 0);
    else
        pack_steps(to, NR, g->b + k * g->ldb + columns.begin, g->ldb, count, kc);
}

/* One block of k of a_sum, right after the same part of a was packed and lies in the caches. */
static void sum_a(const struct gemm *g, struct range rows, int64_t k, int64_t kc) {
    for (int64_t m = rows.begin; m < rows.end; m += VL) {
        const int64_t left = rows.end - m;
        vec sum = vec_set(0);
        for (int64_t i = k; i < k + kc; i++) sum += vec_load_n(g->a + i * g->lda + m, left);
        if (k > 0 || g->a_sum_accumulate) sum += vec_load_n(g->a_sum + m, left);
        vec_store_n(g->a_sum + m, sum, left);
    }
}

/* tile (MR, NR) = a panel of packed rows, of which the first `height` count, times a panel of columns. */
static void multiply_tile(int height, int64_t kc, const real *a, const real *b, real *tile) {
    if (height == 1)
        microkernel_rows(1, kc, a, 1, MR, b, NR, tile, NR, 0);
    else if (height == 2)
        microkernel_rows(2, kc, a, 1, MR, b, NR, tile, NR, 0);
    else if (height <= 4)
        microkernel_rows(4, kc, a, 1, MR, b, NR, tile, NR, 0);
    else
        microkernel_packed(kc, a, b, tile);
}

/* Steps k ... k + kc of a panel of b's columns and a block of packed rows. */
static void multiply_panel(const struct gemm *g, const struct blocks *w, const real *packed_a, const real *b,
                           struct range rows, struct range columns, int64_t k, int64_t kc) {
    real tile[MR * NR] __attribute__((aligned(64)));
    const int first = k == 0, finish = k + kc == g->K && !is_plain(g);
    const int add = !first || (is_plain(g) && g->accumulate);
    const int width = (int)(columns.end - columns.begin);
    const int64_t n_panels = (rows.end - rows.begin + MR - 1) / MR;
    for (int64_t i = 0; i < n_panels; i++) {
        const int64_t m = rows.begin + i * MR;
        const real *a = packed_a + i * MR * kc;
        const int height = (int)min_i64(MR, rows.end - m);
        real *sums = w->sums.at + (m - w->sums.row) * w->sums.stride + columns.begin - w->sums.column;
        if (!finish && height == MR && width == NR) {
            microkernel_rows(MR, kc, a, 1, MR, b, NR, sums, w->sums.stride, add);
            continue;
        }
        multiply_tile(height, kc, a, b, tile);
        if (finish && width == NR)
            write_back(g, tile, first ? NULL : sums, w->sums.stride, m, columns.begin, height, NR);
        else if (finish)
            write_back(g, tile, first ? NULL : sums, w->sums.stride, m, columns.begin, height, width);
        else
            store_edge(tile, sums, w->sums.stride, height, width, add);
    }
}

/* Steps k ... k + kc of a strip of c. */
static void multiply_strip(const struct gemm *g, const struct blocks *w, struct range rows, struct range columns,
                           int64_t k, int64_t kc, int a_is_packed) {
    const int one_block = rows.end - rows.begin <= w->mc;
    for (int64_t m = rows.begin; m < rows.end; m += w->mc) {
        const struct range block = {m, min_i64(rows.end, m + w->mc)};
        if (!a_is_packed && columns.begin < columns.end) pack_a(g, w->a, block, k, kc);
        if (g->a_sum && columns.begin == 0) sum_a(g, block, k, kc);
        for (int64_t n = columns.begin; n < columns.end; n += NR) {
            const struct range panel = {n, min_i64(columns.end, n + NR)};
            real *b = one_block ? w->b : w->b + (n - columns.begin) * kc;
            if (m == rows.begin) pack_b(g, b, panel, k, kc);
            multiply_panel(g, w, w->a, b, block, panel, k, kc);
        }
    }
}

/* At most MR rows: a is packed whole, and every row of b is read from its beginning to its end, so that the memory
 * streams. */
static void multiply_few_rows(const struct gemm *g, struct gemm_tile tile, real *workspace) {
    const struct range rows = tile.rows, columns = tile.columns;
    struct blocks w = {.a = workspace, .b = workspace + round_up(MR * g->K, 64)};
    real sums[MR * NR] __attribute__((aligned(64)));
    for (int64_t k = 0; k < g->K; k += KC) pack_a(g, w.a + k * MR, rows, k, min_i64(KC, g->K - k));
    for (int64_t n = columns.begin; n < columns.end; n += NR) {
        const struct range panel = {n, min_i64(columns.end, n + NR)};
        w.sums = is_plain(g) ? (struct sums){g->c, g->ldc, 0, 0} : (struct sums){sums, NR, rows.begin, n};
        int64_t k = 0;
        do { // once also when K is 0
            const int64_t kc = min_i64(KC, g->K - k);
            pack_lines(w.b, NR, g->b + n * g->ldb + k, g->ldb, panel.end - n, kc, AHEAD);
            multiply_panel(g, &w, w.a + k * MR, w.b, rows, panel, k, kc);
            k += kc;
        } while (k < g->K);
    }
}

void KERNEL_FN(gemm)(const struct gemm *g, struct gemm_tile tile, void *workspace) {
    const struct range rows = tile.rows, columns = tile.columns;
    if (columns.begin == columns.end && g->N > 0) return;
    if (has_few_rows(g, rows.end - rows.begin)) {
        multiply_few_rows(g, tile, workspace);
        return;
    }
    struct blocks w;
    w.mc = block_length(rows.end - rows.begin, MC, MR);
    w.nc = block_length(columns.end - columns.begin, widest_strip(g), NR);
    w.a = workspace;
    w.b = w.a + round_up(w.mc * min_i64(g->K, KC), 64);
    real *sums = w.b + round_up(w.nc * min_i64(g->K, KC), 64);
    for (int64_t n = columns.begin; n < columns.end || n == 0; n += max_i64(w.nc, 1)) {
        const struct range strip = {n, min_i64(columns.end, n + w.nc)};
        w.sums = (struct sums){sums_fit_c(g) ? g->c : g->pre ? g->pre : sums, g->ldc, 0, 0}; // not touched if K <= KC
        if (sums_need_workspace(g)) w.sums = (struct sums){sums, w.nc, rows.begin, n};
        int64_t k = 0;
        do { // once also when K is 0: the epilogue of an empty sum
            const int64_t kc = min_i64(KC, g->K - k);
            multiply_strip(g, &w, rows, strip, k, kc, g->K <= KC && n > columns.begin && rows.end - rows.begin <= w.mc);
            k += kc;
        } while (k < g->K);
    }
}
