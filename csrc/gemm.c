/* A blocked product (Goto & van de Geijn 2008): the thread's tile of c is cut into blocks of at most MC x NC; for each,
 * the blocks of KC steps of k pass by in ascending order, both operands are packed, and the microkernel fills one MR x
 * NR tile after another.
 *
 * With k innermost, the sums of a block of c stay in the thread's workspace (in L2) between the blocks of k, so that c
 * is written once, by the epilogue, and may be anything before. The price is that an operand is packed again for every
 * block of c that it contributes to: each packed element serves MC or NC multiply-adds, which is 1-2 % of the time.
 */
#include "gemm.h"

#include "activation.h"
#include "gemm_microkernel.h"
#include "gemm_pack.h"

/* Packed a: MC * KC reals stream from L2 or L3, MR * KC at a time; packed b: NR * KC reals at a time stay in L1 (16 KB
 * with AVX2). */
enum { MC = 384, NC = 512 };

/* Block length for `count` lines: as even as panels allow, so that no thin rest is left. */
static int64_t block_length(int64_t count, int64_t largest, int64_t panel) {
    int64_t blocks = max_i64(1, (count + largest - 1) / largest);
    return round_up((count + blocks - 1) / blocks, panel);
}

struct gemm_tile gemm_share(int64_t M, int64_t N, int thread, int n_threads) {
    /* Of all grids, the one whose largest tile costs least: its multiply-adds, and its packing, where an element costs
     * PACK of them. */
    enum { PACK = 8 };
    int best = N > 0 ? 1 : n_threads; // without columns, only a_sum is left to do: each row by one thread
    int64_t best_cost = INT64_MAX;
    for (int down = 1; N > 0 && down <= n_threads; down++) {
        if (n_threads % down) continue;
        const int across = n_threads / down;
        const int64_t rows = ((M + MR - 1) / MR + down - 1) / down * MR;
        const int64_t columns = ((N + NR - 1) / NR + across - 1) / across * NR;
        const int64_t packed = columns * ((rows + MC - 1) / MC) + rows * ((columns + NC - 1) / NC);
        const int64_t cost = rows * columns + PACK * packed;
        if (cost < best_cost) best = down, best_cost = cost;
    }
    const int across = n_threads / best;
    return (struct gemm_tile){split(M, MR, thread / across, best), split(N, NR, thread % across, across)};
}

struct blocks {
    int64_t mc, nc; // block sizes, multiples of MR and NR
    real *a, *b;    // packed: (mc, KC), (KC, nc)
    real *sums;     // (mc / MR, nc / NR, MR, NR)
};

int64_t gemm_workspace(int64_t M, int64_t N, int64_t K) {
    const int64_t mc = min_i64(MC, round_up(M, MR)), nc = min_i64(NC, round_up(N, NR)), kc = min_i64(K, KC);
    const int64_t reals = round_up(mc * kc, 64) + round_up(nc * kc, 64) + (K > KC ? mc * nc : 0);
    return round_up(reals, 64) * (int64_t)sizeof(real);
}

/* Takes one tile of block sums: adds what came before, and stores it away or, after the last block, finishes it. */
static void write_back(const struct gemm *g, const real *tile, // (MR, NR)
                       real *sums,                             // (MR, NR)
                       int64_t m, int64_t n, int rows, int columns, int first, int last) {
    const int plain = !(g->bias || g->pre || g->activation || g->residual);
    const int from_c = first && plain && g->accumulate;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += VL) {
            const int64_t at = (m + i) * g->ldc + n + j;
            const int left = columns - j;
            vec v = vec_load(tile + i * NR + j);
            if (!first)
                v += vec_load(sums + i * NR + j);
            else if (from_c)
                v += vec_load_n(g->c + at, left);
            if (!last) {
                vec_store(sums + i * NR + j, v);
                continue;
            }
            if (!plain) {
                if (g->bias) v += vec_load_n(g->bias + n + j, left);
                if (g->pre) vec_store_n(g->pre + at, v, left);
                if (g->gradient_of)
                    v *= activation_gradient(g->activation, vec_load_n(g->gradient_of + at, left));
                else
                    v = activation(g->activation, v);
                if (g->residual) v += vec_load_n(g->residual + at, left);
                if (g->accumulate) v += vec_load_n(g->c + at, left);
            }
            if (g->c) vec_store_n(g->c + at, v, left);
        }
}

static void multiply_block(const struct gemm *g, const struct blocks *w, struct gemm_tile block, int64_t kc, int first,
                           int last) {
    real tile[MR * NR] __attribute__((aligned(64)));
    real *sums = w->sums;
    const real *b = w->b;
    for (int64_t n = block.columns.begin; n < block.columns.end; n += NR, b += NR * kc) {
        const real *a = w->a;
        for (int64_t m = block.rows.begin; m < block.rows.end; m += MR, a += MR * kc, sums += MR * NR) {
            microkernel_packed(kc, a, b, tile);
            write_back(g, tile, sums, m, n, (int)min_i64(MR, block.rows.end - m),
                       (int)min_i64(NR, block.columns.end - n), first, last);
        }
    }
}

static void pack_a(const struct gemm *g, real *to, struct range rows, int64_t k, int64_t kc) {
    const int64_t count = rows.end - rows.begin;
    if (g->a_transposed)
        pack_steps(to, MR, g->a + k * g->lda + rows.begin, g->lda, count, kc);
    else
        pack_lines(to, MR, g->a + rows.begin * g->lda + k, g->lda, count, kc);
}

static void pack_b(const struct gemm *g, real *to, struct range columns, int64_t k, int64_t kc) {
    const int64_t count = columns.end - columns.begin;
    if (g->b_transposed)
        pack_lines(to, NR, g->b + columns.begin * g->ldb + k, g->ldb, count, kc);
    else
        pack_steps(to, NR, g->b + k * g->ldb + columns.begin, g->ldb, count, kc);
}

/* One block of k of a_sum, right after the same part of a was packed and lies in the caches. */
static void sum_a(const struct gemm *g, struct range rows, int64_t k, int64_t kc, int first) {
    for (int64_t m = rows.begin; m < rows.end; m += VL) {
        const int64_t left = rows.end - m;
        vec sum = vec_set(0);
        for (int64_t i = k; i < k + kc; i++) sum += vec_load_n(g->a + i * g->lda + m, left);
        if (!first || g->a_sum_accumulate) sum += vec_load_n(g->a_sum + m, left);
        vec_store_n(g->a_sum + m, sum, left);
    }
}

void KERNEL_FN(gemm)(const struct gemm *g, struct gemm_tile tile, void *workspace) {
    const struct range rows = tile.rows, columns = tile.columns;
    if (columns.begin == columns.end && g->N > 0) return;
    struct blocks w;
    w.mc = block_length(rows.end - rows.begin, MC, MR);
    w.nc = block_length(columns.end - columns.begin, NC, NR);
    w.a = workspace;
    w.b = w.a + round_up(w.mc * min_i64(g->K, KC), 64);
    w.sums = w.b + round_up(w.nc * min_i64(g->K, KC), 64);
    for (int64_t n = columns.begin; n < columns.end || n == 0; n += max_i64(w.nc, 1))
        for (int64_t m = rows.begin; m < rows.end; m += w.mc) {
            const struct gemm_tile block = {{m, min_i64(rows.end, m + w.mc)}, {n, min_i64(columns.end, n + w.nc)}};
            int64_t k = 0;
            do { // once also when K is 0: the epilogue of an empty sum
                const int64_t kc = min_i64(KC, g->K - k);
                const int first = k == 0, last = k + kc == g->K;
                if (g->K > KC || m == rows.begin) pack_b(g, w.b, block.columns, k, kc);
                if (g->K > KC || n == columns.begin || w.mc < rows.end - rows.begin) pack_a(g, w.a, block.rows, k, kc);
                if (g->a_sum && n == 0) sum_a(g, block.rows, k, kc, first);
                multiply_block(g, &w, block, kc, first, last);
                k += kc;
            } while (k < g->K);
        }
}
