/* Gradients of a norm's weight and bias: sums over the N rows of a matrix of C columns, in a fixed order.
 *
 * The rows are cut into PARTS, whatever their number. A block sums VL columns a thread over the rows of a part, eight rows at
 * a time side by side, whose sums it adds in order; a second kernel adds the parts. Moves the matrices once more than a
 * kernel that also computes dx would.
 */
#ifndef GOLLM_COLUMN_SUMS_H
#define GOLLM_COLUMN_SUMS_H

#include "kernel.h"

namespace GOLLM_VARIANT {

constexpr int PARTS = 64, SUM_LANES = 32, SUM_ROWS = 8;

struct Destination {
    real *at; // (C), or NULL
    int64_t accumulate;
};

struct ColumnSumsMemory {
    float weight[SUM_ROWS][SUM_LANES][VL], bias[SUM_ROWS][SUM_LANES][VL];
};

/* partial (PARTS, 2, C) = sums of columns.weight(row, place, left) and columns.bias(place, left) over the rows of a part */
template <class Columns>
__global__ void __launch_bounds__(SUM_LANES *SUM_ROWS)
    partial_sums_kernel(float *partial, Columns columns, int64_t N, int64_t C) {
    ColumnSumsMemory &memory = shared_memory<ColumnSumsMemory>();
    const int lane = threadIdx.x % SUM_LANES, row = threadIdx.x / SUM_LANES;
    const int64_t i = ((int64_t)blockIdx.y * SUM_LANES + lane) * VL, left = C - i;
    const int64_t end = N * (blockIdx.x + 1) / PARTS;
    vec weight = {}, bias = {};
    if (left > 0)
        for (int64_t n = N * blockIdx.x / PARTS + row; n < end; n += SUM_ROWS) {
            weight = weight + columns.weight(n, n * C + i, left);
            bias = bias + columns.bias(n * C + i, left);
        }
    EACH_LANE(k) {
        memory.weight[row][lane][k] = weight.x[k];
        memory.bias[row][lane][k] = bias.x[k];
    }
    __syncthreads();
    if (row != 0 || left <= 0) return;
    for (int r = 1; r < SUM_ROWS; r++) EACH_LANE(k) {
            weight.x[k] += memory.weight[r][lane][k];
            bias.x[k] += memory.bias[r][lane][k];
        }
    store_n(partial + (int64_t)blockIdx.x * 2 * C + i, weight, left);
    store_n(partial + (int64_t)blockIdx.x * 2 * C + C + i, bias, left);
}

static __global__ void __launch_bounds__(ELEMENT_THREADS)
    add_parts_kernel(Destination weight, Destination bias, const float *partial, int64_t C) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const Destination to = blockIdx.y ? bias : weight;
    if (i >= C || !to.at) return;
    float sum = 0;
    for (int part = 0; part < PARTS; part++) sum += partial[((int64_t)part * 2 + blockIdx.y) * C + i];
    put(to.at + i, to.accumulate ? to_float(to.at[i]) + sum : sum);
}

static inline int64_t column_sums_bytes(int64_t C) {
    return C > (INT64_MAX >> 16) ? INT64_MAX : (int64_t)sizeof(float) * PARTS * 2 * C;
}

template <class Columns>
int column_sums(const Columns &columns, int64_t N, int64_t C, Destination weight, Destination bias,
                const gollm_team *team) {
    if (!weight.at && !bias.at) return GOLLM_OK;
    float *partial = (float *)team->workspace;
    const dim3 blocks(PARTS, grid_size(ceil_div(C, SUM_LANES * VL)));
    const int status = launch(partial_sums_kernel<Columns>, blocks, SUM_LANES * SUM_ROWS, sizeof(ColumnSumsMemory),
                              team, partial, columns, N, C);
    if (status != GOLLM_OK) return status;
    return launch(add_parts_kernel, dim3(grid_size(ceil_div(C, ELEMENT_THREADS)), 2), ELEMENT_THREADS, 0, team, weight,
                  bias, partial, C);
}

} // namespace GOLLM_VARIANT

#endif
