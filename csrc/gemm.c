/* A blocked matrix product: Goto's five loops (Goto & van de Geijn 2008; names as in BLIS).
 *
 *     5  strips of NC columns of the thread's tile of c
 *     4    blocks of KC steps of k, in ascending order                         unfinished sums wait in c
 *     3      blocks of MC rows                      pack a: [panel of MR rows][KC][MR]
 *     2        panels of NR columns                 pack b: [KC][NR], at the first block of rows
 *     1          panels of MR rows
 *                  microkernel: c (MR, NR) += a panel of a times the panel of b
 *
 *              K                     NC                        NC
 *          +-------+             +---------+               +----+--+--+
 *          | | | | |             |         |               |    |NR|  |
 *       MC |-+-+-+-|         KC  |  |NR|   |           MR  |----+--+--|  the tile of the microkernel
 *          | |KC | |      x      |---------|     +=        |    |  |  |
 *          |-+-+-+-|             |         |               |          |
 *          +-------+             +---------+               +----------+
 *             a                       b                         c
 *
 *     where it stays       float, AVX-512 (AVX2)
 *     registers            c: MR x NR                       8 x 32 (6 x 16) accumulators
 *     L1                   b: a panel, KC x NR              32 KB (16 KB)
 *     L2                   a: a block, MC x KC              384 KB
 *     L3                   b: a strip, KC x NC              2 MB, where several blocks of rows meet it
 *
 * Each thread packs what its own tile of c needs; nothing is shared, and there is no barrier. A b in PANELS is packed already
 * and is read where it lies. The caller gives the workspace: gemm_workspace bytes for each thread.
 *
 * Narrow panels (gemm_bf16.h) are multiplied so fast that c's way between caches would bound them: there, loop 4 takes slabs
 * of several blocks of k, and these blocks lie inside loop 2.
 *
 * Few rows (at most MR, as in decoding) are bound by reading b. Loops 4 and 2 then change places: each line of b is read
 * from its beginning to its end, and each panel of PANELS from front to back. Lines of reals are not packed (gemm_rows.h).
 */
#include "gemm.h"

#include "gemm_bf16.h"
#include "gemm_pack.h"
#include "gemm_rows.h"

/* Tuning (docs/performance.md); no number here changes a bit of a result. */
enum {
    /* Rows of a block of a, MC * KC reals: 384 KB, which stay in L2 of half a megabyte. 768 rows: the same speed within 1 %. */
    MC = 384,
    /* Columns of a strip. Larger: a is packed less often; smaller: less workspace (NC * KC reals are 2 MB a thread) and less
     * of L3. Chosen together with MC against blocks of 384 x 512, which were 2 % slower; not measured by itself. */
    NC = 2048,
    /* Packing an element costs about as much as this many multiply-adds. Without a cost of packing, threads would split the
     * rows of the head's 256 x 50257 product, and each would pack all of b. The value was not tuned. */
    PACK = 8,
    /* Narrow panels: steps of k between two passes over a strip of c, which are packed together: the blocks of KC follow each
     * other while c (MC, NR) is in L2. And columns of a strip, for the same workspace. GPT-2 124M, one thread with AMX: 2.06 s
     * for forward and backward pass instead of 2.65 with slabs of KC and without prefetching c. */
    BF16_SLAB = 4 * KC,
    BF16_NC = 1024,
    BF16_PACK = PACK * (BF16_MR / MR) // as much time, in multiply-adds of the narrow microkernel
};

/* What follows is written once for both kinds of panels: of reals, or narrow, as gemm_bf16.h has them. Rows of a panel of a, and
 * reals that a line of so many steps takes in a panel. */
static inline int panel_rows(const int narrow) { return narrow ? BF16_MR : MR; }
static inline int64_t panel_steps(const int narrow, int64_t steps) { return narrow ? bf16_steps(steps) : steps; }

/* Block length for `count` lines: as even as panels allow, so that no thin rest is left. */
static int64_t block_length(int64_t count, int64_t largest, int64_t panel) {
    int64_t blocks = max_i64(1, (count + largest - 1) / largest);
    return round_up((count + blocks - 1) / blocks, panel);
}

/* Rows and columns of c: a thread's share of the work. */
struct tile {
    struct range rows, columns;
};

/* Of all grids over c, the one whose largest tile costs least: its multiply-adds, and its packing. */
static struct tile share(const struct gemm *g, const int narrow, int thread, int n_threads) {
    const int64_t M = g->M, N = g->N, mr = panel_rows(narrow), pack = narrow ? BF16_PACK : PACK;
    int best = N > 0 ? 1 : n_threads; // without columns, only a_sum is left to do: each row by one thread
    int64_t best_cost = INT64_MAX;
    for (int down = 1; N > 0 && down <= n_threads; down++) {
        if (n_threads % down) continue;
        const int across = n_threads / down;
        const int64_t rows = ((M + mr - 1) / mr + down - 1) / down * mr;
        const int64_t columns = ((N + NR - 1) / NR + across - 1) / across * NR;
        const int64_t packed = columns + rows * ((columns + NC - 1) / NC);
        const int64_t cost = rows * columns + pack * packed;
        if (cost < best_cost) best = down, best_cost = cost;
    }
    const int across = n_threads / best;
    return (struct tile){split(M, mr, thread / across, best), split(N, NR, thread % across, across)};
}

static int has_few_rows(const struct gemm *g, const int narrow, int64_t rows) {
    return rows <= panel_rows(narrow) && g->b.layout != STEPS && !g->a_sum;
}

/* A thread's workspace: a block of a, or all of it for few rows; then a strip of b. */
int64_t gemm_workspace(const struct gemm *g) {
    const int narrow = g->compute == GOLLM_BFLOAT16, mr = panel_rows(narrow);
    const int64_t steps = panel_steps(narrow, min_i64(g->K, narrow ? BF16_SLAB : KC));
    const int64_t mc = min_i64(MC, round_up(g->M, mr)), nc = min_i64(narrow ? BF16_NC : NC, round_up(g->N, NR));
    const int64_t few =
        has_few_rows(g, narrow, 1) ? mr * panel_steps(narrow, g->K) : 0; // some thread may have few rows
    const int64_t a = round_up(max_i64(mc * steps, few), GOLLM_ALIGNMENT);
    const int64_t b = g->b.layout == PANELS ? 0 : round_up(nc * steps, GOLLM_ALIGNMENT);
    return (a + b) * (int64_t)sizeof(real);
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

static inline __attribute__((always_inline)) void pack_a(const struct gemm *g, const int narrow, real *to,
                                                         struct range rows, int64_t k, int64_t kc) {
    if (narrow)
        bf16_pack_a(to, &g->a, rows, k, kc);
    else
        pack(to, MR, &g->a, rows, k, kc);
}

static inline __attribute__((always_inline)) void pack_b(const struct gemm *g, const int narrow, real *to,
                                                         struct range columns, int64_t k, int64_t kc) {
    if (narrow)
        bf16_pack_b(to, &g->b, columns, k, kc);
    else
        pack(to, NR, &g->b, columns, k, kc);
}

/* One block of k of a_sum, right after the same part of a was packed and lies in the caches. */
static void sum_a(const struct gemm *g, struct range rows, int64_t k, int64_t kc) {
    for (int64_t m = rows.begin; m < rows.end; m += VL) {
        const int64_t left = rows.end - m;
        vec sum = vec_set(0);
        for (int64_t i = k; i < k + kc; i++) sum += vec_load_n(g->a.data + i * g->a.stride + m, left);
        if (k > 0 || g->a_sum_accumulate) sum += vec_load_n(g->a_sum + m, left);
        vec_store_n(g->a_sum + m, sum, left);
    }
}

/* A panel of a and one of b: c (MR, NR) = their product, or += it. */
static inline __attribute__((always_inline)) void multiply_whole(const int narrow, int64_t kc, const real *a,
                                                                 const real *b, int64_t b_step, real *c, int64_t ldc,
                                                                 int add) {
    if (narrow)
        bf16_microkernel(BF16_MR, kc, a, b, c, ldc, add);
    else if (b_step == NR)
        microkernel_rows(MR, kc, a, 1, MR, b, NR, c, ldc, add);
    else
        microkernel_rows(MR, kc, a, 1, MR, b, PANEL, c, ldc, add);
}

/* tile (rows, NR) = the same. */
static inline __attribute__((always_inline)) void multiply_rows(const int narrow, const int rows, int64_t kc,
                                                                const real *a, const real *b, const int b_step,
                                                                real *tile) {
    if (narrow)
        bf16_microkernel(rows, kc, a, b, tile, NR, 0);
    else
        microkernel_rows(rows, kc, a, 1, MR, b, b_step, tile, NR, 0);
}

/* tile (MR, NR) = the same, of which the first `height` rows and `width` columns count. Products with a matrix of few
 * columns, as LoRA's, have half a tile of them. */
static inline __attribute__((always_inline)) void multiply_tile(const int narrow, int height, int width, int64_t kc,
                                                                const real *a, const real *b, const int b_step,
                                                                real *tile) {
    const int mr = panel_rows(narrow), part = mr < 8 ? 4 : mr / 2;
    if (!narrow && width <= VL && height > part)
        microkernel_part(MR, 1, kc, a, 1, MR, b, b_step, tile, NR, 0);
    else if (height == 1)
        multiply_rows(narrow, 1, kc, a, b, b_step, tile);
    else if (height == 2)
        multiply_rows(narrow, 2, kc, a, b, b_step, tile);
    else if (height <= part)
        multiply_rows(narrow, part, kc, a, b, b_step, tile);
    else
        multiply_rows(narrow, mr, kc, a, b, b_step, tile);
}

/* Loop 1: steps k ... k + kc of a block of packed rows and a panel of columns, packed here or in PANELS. */
static inline void multiply_panel(const struct gemm *g, const int narrow, const real *packed_a, const real *b,
                                  struct range rows, struct range columns, int64_t k, int64_t kc) {
    real tile[BF16_MR * NR] __attribute__((aligned(GOLLM_ALIGNMENT)));
    const int64_t mr = panel_rows(narrow), steps = panel_steps(narrow, kc);
    const int64_t b_step = g->b.layout == PANELS ? PANEL : NR;
    const int finish = k + kc == g->K && !epilogue_is_empty(&g->epilogue), add = k > 0 || g->accumulate;
    const int width = (int)(columns.end - columns.begin);
    for (int64_t m = rows.begin; m < rows.end; m += mr) {
        const real *a = packed_a + (m - rows.begin) * steps;
        const int height = (int)min_i64(mr, rows.end - m);
        real *c = g->c + m * g->ldc + columns.begin;
        for (int i = 0; narrow && i < height; i++) { // tiles are computed faster than c arrives
            __builtin_prefetch(c + i * g->ldc, 1);
            __builtin_prefetch(c + i * g->ldc + NR / 2, 1);
        }
        if (!finish && height == mr && width == NR) {
            multiply_whole(narrow, kc, a, b, b_step, c, g->ldc, add);
            continue;
        }
        if (b_step == NR)
            multiply_tile(narrow, height, width, kc, a, b, NR, tile);
        else
            multiply_tile(narrow, height, width, kc, a, b, PANEL, tile);
        if (finish && width == NR)
            epilogue_apply(&g->epilogue, g->c, g->ldc, tile, add, m, columns.begin, height, NR);
        else if (finish)
            epilogue_apply(&g->epilogue, g->c, g->ldc, tile, add, m, columns.begin, height, width);
        else
            store_edge(tile, c, g->ldc, height, width, add);
    }
}

/* Loops 3 and 2: steps k ... k + depth of a strip, in blocks of mc rows. */
static inline void multiply_strip(const struct gemm *g, const int narrow, real *packed_a, real *packed_b, int64_t mc,
                                  struct range rows, struct range columns, int64_t k, int64_t depth, int a_is_packed) {
    const int one_block = rows.end - rows.begin <= mc;
    const int64_t end = k + depth, steps = panel_steps(narrow, depth);
    for (int64_t m = rows.begin; m < rows.end; m += mc) {
        const struct range block = {m, min_i64(rows.end, m + mc)};
        int64_t i = k;
        do { // once also when K is 0
            const int64_t kc = min_i64(KC, end - i);
            if (!a_is_packed && columns.begin < columns.end)
                pack_a(g, narrow, packed_a + panel_steps(narrow, i - k) * mc, block, i, kc);
            if (g->a_sum && columns.begin == 0) sum_a(g, block, i, kc);
            i += kc;
        } while (i < end);
        for (int64_t n = columns.begin; n < columns.end; n += NR) {
            const struct range panel = {n, min_i64(columns.end, n + NR)};
            real *b = one_block ? packed_b : packed_b + (n - columns.begin) * steps; // kept for the next block of rows
            i = k;
            do {
                const int64_t kc = min_i64(KC, end - i), before = panel_steps(narrow, i - k);
                if (m == rows.begin && g->b.layout != PANELS) pack_b(g, narrow, b + before * NR, panel, i, kc);
                multiply_panel(g, narrow, packed_a + before * mc,
                               g->b.layout == PANELS ? in_panels(g, n, i) : b + before * NR, block, panel, i, kc);
                i += kc;
            } while (i < end);
        }
    }
}

/* Few rows that gemm_rows.h leaves: a is packed whole. In PANELS, columns that share a panel are computed side by side. */
static inline void multiply_few_rows(const struct gemm *g, const int narrow, struct tile tile, real *packed_a) {
    const int is_packed = g->b.layout == PANELS;
    const int64_t mr = panel_rows(narrow);
    real *packed_b = packed_a + round_up(mr * panel_steps(narrow, g->K), GOLLM_ALIGNMENT);
    for (int64_t k = 0; k < g->K; k += KC)
        pack_a(g, narrow, packed_a + panel_steps(narrow, k) * mr, tile.rows, k, min_i64(KC, g->K - k));
    for (int64_t n = tile.columns.begin, end; n < tile.columns.end; n = end) {
        end = min_i64(tile.columns.end, is_packed ? round_up(n + 1, PANEL) : n + NR);
        int64_t k = 0;
        do { // once also when K is 0
            const int64_t kc = min_i64(KC, g->K - k);
            if (!is_packed) pack_b(g, narrow, packed_b, (struct range){n, end}, k, kc);
            for (int64_t j = n; j < end; j += NR)
                multiply_panel(g, narrow, packed_a + panel_steps(narrow, k) * mr,
                               is_packed ? in_panels(g, j, k) : packed_b, tile.rows,
                               (struct range){j, min_i64(end, j + NR)}, k, kc);
            k += kc;
        } while (k < g->K);
    }
}

/* Loops 5 and 4. */
static inline void multiply(const struct gemm *g, const int narrow, struct tile tile, real *packed_a) {
    const struct range rows = tile.rows, columns = tile.columns;
    const int64_t mc = block_length(rows.end - rows.begin, MC, panel_rows(narrow));
    const int64_t nc = block_length(columns.end - columns.begin, narrow ? BF16_NC : NC, NR);
    const int64_t slab = narrow ? BF16_SLAB : KC;
    real *packed_b = packed_a + round_up(mc * panel_steps(narrow, min_i64(g->K, slab)), GOLLM_ALIGNMENT);
    for (int64_t n = columns.begin; n < columns.end || n == 0; n += max_i64(nc, 1)) {
        const struct range strip = {n, min_i64(columns.end, n + nc)};
        int64_t k = 0;
        do { // once also when K is 0: the epilogue of an empty sum
            const int64_t depth = min_i64(slab, g->K - k);
            const int a_is_packed = g->K <= slab && n > columns.begin && rows.end - rows.begin <= mc;
            multiply_strip(g, narrow, packed_a, packed_b, mc, rows, strip, k, depth, a_is_packed);
            k += depth;
        } while (k < g->K);
    }
}

static inline __attribute__((always_inline)) void run(const struct gemm *g, const int narrow,
                                                      const struct gollm_team *team, real *workspace) {
    const struct tile tile = share(g, narrow, team->thread, team->n_threads);
    if (tile.columns.begin == tile.columns.end && g->N > 0) return;
    const int64_t rows = tile.rows.end - tile.rows.begin;
    if (!narrow && takes_rows(g, rows))
        multiply_rows_of(g, tile.rows, tile.columns, workspace);
    else if (has_few_rows(g, narrow, rows))
        multiply_few_rows(g, narrow, tile, workspace);
    else
        multiply(g, narrow, tile, workspace);
}

void gemm_run(const struct gemm *g, const struct gollm_team *team, void *workspace, int64_t bytes) {
    real *mine = (real *)((char *)workspace + team->thread * bytes);
    if (g->compute == GOLLM_BFLOAT16) {
        bf16_begin();
        run(g, 1, team, mine);
        bf16_end();
    } else
        run(g, 0, team, mine);
}

void gemm_pack_panels(real *panels, const real *w, int64_t N, int64_t K, const struct gollm_team *team) {
    const struct range mine = thread_range(N, PANEL, team);
    for (int64_t n = mine.begin; n < mine.end; n += PANEL)
        for (int64_t k = 0; k < K; k += KC)
            pack_lines(panels + (n / PANEL * K + k) * PANEL, PANEL, w + n * K + k, K, min_i64(PANEL, N - n),
                       min_i64(KC, K - k));
}
