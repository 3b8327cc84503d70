/* Attention in float: 16 x 16 threads, of which thread (y, x) has rows R y ... R y + R - 1 of a tile and columns x, x + 16, ...
 * Rows of a tile in shared memory are HD + 1 apart, so that 16 columns lie in 16 banks. */
#ifndef GOLLM_CUDA_ATTENTION_FLOATS_H
#define GOLLM_CUDA_ATTENTION_FLOATS_H

#include "attention.h"

namespace GOLLM_VARIANT {

constexpr int ATTENTION_THREADS = 256;

template <int ROWS, int HD> struct HeadTile {
    float values[ROWS][HD + 1];
};
template <int ROWS, int COLUMNS> struct Weights {
    float values[ROWS][COLUMNS + 1];
};

/* Rows `first` ... of a head, whose row 0 is at `from`; those from `end` on, and columns from D on, are 0. */
template <int ROWS, int HD>
__device__ __forceinline__ void load_tile(HeadTile<ROWS, HD> &tile, const float *from, int64_t row_stride, int first,
                                          int end, int D) {
    for (int i = threadIdx.x; i < ROWS * HD; i += ATTENTION_THREADS) {
        const int row = i / HD, d = i % HD;
        tile.values[row][d] = first + row < end && d < D ? from[(first + row) * row_stride + d] : 0;
    }
}

/* s (R, COLUMNS / 16) += rows of tile a, rows of tile b: one value of the heads after the other. */
template <int R, int HD, int ROWS, int COLUMNS>
__device__ __forceinline__ void add_scores(float (&s)[R][COLUMNS / 16], const HeadTile<ROWS, HD> &rows,
                                           const HeadTile<COLUMNS, HD> &columns) {
    const int x = threadIdx.x % 16, row0 = threadIdx.x / 16 * R;
#pragma unroll 8
    for (int d = 0; d < HD; d++)
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int n = 0; n < COLUMNS / 16; n++) s[r][n] += rows.values[row0 + r][d] * columns.values[x + n * 16][d];
}

/* sums (R, HD / 16) += weights times a tile; where pairs are masked, over those that `sees` holds for. */
template <int R, int HD, int ROWS, int COLUMNS, class Sees>
__device__ __forceinline__ void add_weighted(float (&sums)[R][HD / 16], const Weights<ROWS, COLUMNS> &weights,
                                             const HeadTile<COLUMNS, HD> &tile, bool masked, const Sees &sees) {
    const int x = threadIdx.x % 16, row0 = threadIdx.x / 16 * R;
#pragma unroll 2
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (masked && !sees(row0 + r, n)) continue;
            const float weight = weights.values[row0 + r][n];
#pragma unroll
            for (int d = 0; d < HD / 16; d++) sums[r][d] += weight * tile.values[n][x + d * 16];
        }
}

/* Over the 16 threads of a row, in each. */
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int mask = 8; mask; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int mask = 8; mask; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

} // namespace GOLLM_VARIANT

#endif
