/* Attention in bfloat16 on tensor cores: tiles of rows of one head in shared memory (chunks.h), copied asynchronously, and the
 * products of a warp with them. A tile has a row for each query or key, and HD columns, D rounded up to 32, 64, 128 or 256.
 *
 *   scores     (16 rows of a tile) (rows of another)^T       both K-major
 *   sums       weights (16, rows) (rows of a tile)           weights from registers: an accumulator's pairs are an operand's
 */
#ifndef GOLLM_CUDA_ATTENTION_TILES_H
#define GOLLM_CUDA_ATTENTION_TILES_H

#include "attention.h"
#include "chunks.h"

namespace GOLLM_VARIANT {

constexpr int ATTENTION_THREADS = 128, ATTENTION_WARPS = 4;

template <int ROWS, int HD> struct HeadTile {
    bf16 values[(HD + 63) / 64][ROWS][64];
};

template <int ROWS> __device__ __forceinline__ uint32_t tile_address(uint32_t tile, int row, int chunk) {
    return chunk_address(tile + chunk / 8 * (ROWS * 128), row, chunk % 8);
}

/* Rows `first` ... of a head, whose row 0 is at `from`; those from `end` on, and columns from D on, are 0. */
template <int ROWS, int HD>
__device__ __forceinline__ void load_tile(HeadTile<ROWS, HD> &tile, const bf16 *from, int64_t row_stride, int first,
                                          int end, int D) {
    const uint32_t to = shared_address(&tile);
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * HD / 8; i += ATTENTION_THREADS) {
        const int row = i / (HD / 8), chunk = i % (HD / 8);
        const bool valid = first + row < end && chunk * 8 < D;
        copy_async16(tile_address<ROWS>(to, row, chunk), valid ? from + (first + row) * row_stride + chunk * 8 : from,
                     valid ? 16 : 0);
    }
}

__device__ __forceinline__ bool is_finite(uint32_t pair) { // no exponent of all ones
    return (((pair & 0x7f807f80) + 0x00800080) & 0x80008000) == 0;
}

/* Whether the thread's own copies are all finite, after they have arrived. */
template <int ROWS, int HD> __device__ __forceinline__ bool copied_finite(const HeadTile<ROWS, HD> &tile) {
    const char *memory = (const char *)&tile;
    bool finite = true;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * HD / 8; i += ATTENTION_THREADS) {
        const uint4 chunk = *(const uint4 *)(memory + tile_address<ROWS>(0, i / (HD / 8), i % (HD / 8)));
        finite = finite && is_finite(chunk.x) && is_finite(chunk.y) && is_finite(chunk.z) && is_finite(chunk.w);
    }
    return finite;
}

/* s (16 M, COLUMNS) += rows row0 ... of tile a, columns' rows of tile b: 16 values of the heads at a time. */
template <int HD, int M, int COLUMNS, int ROWS>
__device__ __forceinline__ void add_scores(float (&s)[M][COLUMNS / 8][4], const HeadTile<ROWS, HD> &rows, int row0,
                                           const HeadTile<COLUMNS, HD> &columns) {
    const int lane = threadIdx.x % 32;
    const uint32_t ta = shared_address(&rows), tb = shared_address(&columns);
#pragma unroll
    for (int d = 0; d < HD; d += 16) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            ldmatrix4(a[m], tile_address<ROWS>(ta, row0 + m * 16 + lane % 16, d / 8 + lane / 16));
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 16) {
            uint32_t b[4];
            ldmatrix4(b, tile_address<COLUMNS>(tb, n + lane % 8 + lane / 16 * 8, d / 8 + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(s[m][n / 8], a[m], b[0], b[1]);
                mma_bf16(s[m][n / 8 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* The weights of 16 columns from column n on, as the left operand of a product. */
template <int N> __device__ __forceinline__ void weights_of(uint32_t (&a)[4], const float (&s)[N][4], int n) {
    a[0] = pack_bf16(s[n / 8][0], s[n / 8][1]);
    a[1] = pack_bf16(s[n / 8][2], s[n / 8][3]);
    a[2] = pack_bf16(s[n / 8 + 1][0], s[n / 8 + 1][1]);
    a[3] = pack_bf16(s[n / 8 + 1][2], s[n / 8 + 1][3]);
}

__device__ __forceinline__ uint32_t finite_or_0(uint32_t pair) {
    const uint32_t low = (pair & 0x7f80) == 0x7f80 ? 0 : pair & 0xffff;
    return low | ((pair & 0x7f800000) == 0x7f800000 ? 0 : pair & 0xffff0000);
}

/* sums (16 M, WIDTH) += weights (16 M, ROWS) times columns column0 ... of a tile. CAREFUL: leaves out what is not finite. */
template <bool CAREFUL, int HD, int WIDTH, int M, int ROWS>
__device__ __forceinline__ void add_products(float (&sums)[M][WIDTH / 8][4], const uint32_t (&weights)[M][ROWS / 16][4],
                                             const HeadTile<ROWS, HD> &tile, int column0) {
    const int lane = threadIdx.x % 32;
    const uint32_t address = shared_address(&tile);
#pragma unroll
    for (int k = 0; k < ROWS; k += 16)
#pragma unroll
        for (int n = 0; n < WIDTH; n += 16) {
            uint32_t b[4];
            ldmatrix4_transposed(b, tile_address<ROWS>(address, k + lane % 16, (column0 + n) / 8 + lane / 16));
            if (CAREFUL)
#pragma unroll
                for (int i = 0; i < 4; i++) b[i] = finite_or_0(b[i]);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(sums[m][n / 8], weights[m][k / 16], b[0], b[1]);
                mma_bf16(sums[m][n / 8 + 1], weights[m][k / 16], b[2], b[3]);
            }
        }
}

/* What add_products<true> left out, for the pairs with sees(row, k). A weight is positive, so that infinity keeps its sign; or,
 * where AS_NAN, it is 0 or NaN beside an infinity, and the product NaN. */
template <bool AS_NAN, int HD, int WIDTH, int M, int ROWS, class Sees>
__device__ __forceinline__ void add_not_finite(float (&sums)[M][WIDTH / 8][4], const HeadTile<ROWS, HD> &tile,
                                               int column0, const Sees &sees) {
    const int lane = threadIdx.x % 32;
    const char *memory = (const char *)&tile;
#pragma unroll 1
    for (int k = 0; k < ROWS; k++) {
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            const uint32_t pair =
                *(const uint32_t *)(memory + tile_address<ROWS>(0, k, column0 / 8 + n) + lane % 4 * 4);
            if (is_finite(pair)) continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t bits = e % 2 ? pair & 0xffff0000 : pair << 16;
                if ((bits & 0x7f800000) != 0x7f800000) continue;
#pragma unroll
                for (int m = 0; m < M; m++)
                    if (sees(m * 16 + lane / 4 + e / 2 * 8, k)) sums[m][n][e] += AS_NAN ? NAN : __uint_as_float(bits);
            }
        }
    }
}

/* sums += weights times a tile, in which pairs that `sees` does not hold for have the weight 0. */
template <bool AS_NAN, int HD, int WIDTH, int M, int ROWS, class Sees>
__device__ __forceinline__ void add_weighted(float (&sums)[M][WIDTH / 8][4], const uint32_t (&weights)[M][ROWS / 16][4],
                                             const HeadTile<ROWS, HD> &tile, int column0, bool careful,
                                             const Sees &sees) {
    if (!careful) return add_products<false, HD, WIDTH>(sums, weights, tile, column0);
    add_products<true, HD, WIDTH>(sums, weights, tile, column0);
    add_not_finite<AS_NAN, HD, WIDTH>(sums, tile, column0, sees);
}

} // namespace GOLLM_VARIANT

#endif
