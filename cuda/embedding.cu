/* Token and position embedding:  y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 *   forward    tokens (N), token_table (V, C), positions (N) and position_table (T, C) or NULL      ->  y (N, C)
 *   backward   dy (N, C), tokens (N), positions (N)         ->  dtoken_table (V, C), dposition_table (T, C)
 *
 * An id outside of its table: GOLLM_BAD_INDEX in the error word, and its row is left out. Bound by memory.
 *
 * Backward adds to each row of a table the rows of dy that have its id, in the order of n, and no float atomically. For that
 * the places n are sorted by id, stably: a radix sort of DIGIT bits a pass, in which a block counts the digits of its KEYS
 * keys, one block finds where each block's keys of each digit go, and the blocks put them there in order. Then a block takes
 * a table's row, finds its places by bisection, and sums the rows of dy in SUM_WAYS partial sums, added in order.
 */
#include "embedding.h"

namespace GOLLM_VARIANT {

struct PlainTable {
    const real *table; // (V, C)
    int64_t C;

    __device__ __forceinline__ vec load(int64_t token, int64_t i, int64_t left) const {
        return load_n(table + token * C + i, left);
    }
};

int embedding_forward(const embedding_forward_args *args, const gollm_team *team) {
    return embed(embedding_of(args, team), PlainTable{args->token_table, args->C}, team);
}

constexpr int DIGIT_BITS = 4, DIGITS = 1 << DIGIT_BITS, SORT_THREADS = 256, KEYS_PER_THREAD = 4;
constexpr int KEYS = SORT_THREADS * KEYS_PER_THREAD, SUM_WAYS = 8;

struct Entry { // a row of dy, and the row of the table that it is added to
    int32_t id, place;
};

struct SortMemory {
    int32_t count[DIGITS][SORT_THREADS]; // keys of a digit that a thread has
    int32_t begin[DIGITS];
};

__device__ __forceinline__ int digit_of(int32_t id, int shift) { return id >> shift & (DIGITS - 1); }

/* An id outside of the table is reported, and sorted behind all others. */
__global__ void __launch_bounds__(ELEMENT_THREADS)
    entries_kernel(Entry *entries, const int32_t *ids, int64_t N, int64_t rows, int32_t *error) {
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;
    const bool known = ids[n] >= 0 && ids[n] < rows;
    if (!known) *error = GOLLM_BAD_INDEX;
    entries[n] = {known ? ids[n] : (int32_t)rows, (int32_t)n};
}

/* counts (DIGITS, blocks): how many of a block's keys have a digit. */
__global__ void __launch_bounds__(SORT_THREADS)
    count_digits_kernel(int32_t *counts, const Entry *entries, int64_t N, int shift) {
    SortMemory &memory = shared_memory<SortMemory>();
    const int t = threadIdx.x;
    for (int d = 0; d < DIGITS; d++) memory.count[d][t] = 0;
    for (int j = 0; j < KEYS_PER_THREAD; j++) {
        const int64_t n = (int64_t)blockIdx.x * KEYS + t * KEYS_PER_THREAD + j;
        if (n < N) memory.count[digit_of(entries[n].id, shift)][t]++;
    }
    __syncthreads();
    if (t >= DIGITS) return;
    int32_t sum = 0;
    for (int i = 0; i < SORT_THREADS; i++) sum += memory.count[t][i];
    counts[(int64_t)t * gridDim.x + blockIdx.x] = sum;
}

/* counts become the places before them: an exclusive sum of n numbers by one block. */
__global__ void __launch_bounds__(SORT_THREADS) exclusive_sum_kernel(int32_t *counts, int64_t n) {
    SortMemory &memory = shared_memory<SortMemory>();
    const int t = threadIdx.x;
    const int64_t begin = n * t / SORT_THREADS, end = n * (t + 1) / SORT_THREADS;
    int32_t sum = 0;
    for (int64_t i = begin; i < end; i++) sum += counts[i];
    memory.count[0][t] = sum;
    __syncthreads();
    int32_t before = 0;
    for (int i = 0; i < t; i++) before += memory.count[0][i];
    for (int64_t i = begin; i < end; i++) {
        const int32_t count = counts[i];
        counts[i] = before;
        before += count;
    }
}

__global__ void __launch_bounds__(SORT_THREADS)
    place_entries_kernel(Entry *to, const Entry *from, const int32_t *places, int64_t N, int shift) {
    SortMemory &memory = shared_memory<SortMemory>();
    const int t = threadIdx.x;
    for (int d = 0; d < DIGITS; d++) memory.count[d][t] = 0;
    for (int j = 0; j < KEYS_PER_THREAD; j++) {
        const int64_t n = (int64_t)blockIdx.x * KEYS + t * KEYS_PER_THREAD + j;
        if (n < N) memory.count[digit_of(from[n].id, shift)][t]++;
    }
    __syncthreads();
    if (t < DIGITS) {
        int32_t before = places[(int64_t)t * gridDim.x + blockIdx.x];
        for (int i = 0; i < SORT_THREADS; i++) {
            const int32_t count = memory.count[t][i];
            memory.count[t][i] = before;
            before += count;
        }
    }
    __syncthreads();
    for (int j = 0; j < KEYS_PER_THREAD; j++) {
        const int64_t n = (int64_t)blockIdx.x * KEYS + t * KEYS_PER_THREAD + j;
        if (n < N) to[memory.count[digit_of(from[n].id, shift)][t]++] = from[n];
    }
}

__device__ __forceinline__ int64_t first_of(const Entry *entries, int64_t N, int64_t id) {
    int64_t low = 0, high = N;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (entries[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct AddRowsMemory {
    float sums[SUM_WAYS][32][VL];
};

__global__ void __launch_bounds__(SUM_WAYS * 32)
    add_rows_kernel(real *table, int64_t accumulate, const real *dy, const Entry *entries, int64_t N, int64_t C) {
    AddRowsMemory &memory = shared_memory<AddRowsMemory>();
    const int lane = threadIdx.x % 32, way = threadIdx.x / 32;
    const int64_t row = blockIdx.x, begin = first_of(entries, N, row), end = first_of(entries, N, row + 1);
    if (begin == end) { // most rows of a large table
        for (int64_t i = (int64_t)threadIdx.x * VL; i < C && !accumulate; i += SUM_WAYS * 32 * VL)
            store_n(table + row * C + i, vec{}, C - i);
        return;
    }
    for (int64_t first = 0; first < C; first += 32 * VL) {
        const int64_t i = first + lane * VL, left = C - i;
        vec sum = {};
        for (int64_t e = begin + way; e < end; e += SUM_WAYS)
            if (left > 0) sum = sum + load_n(dy + entries[e].place * C + i, left);
        EACH_LANE(k) memory.sums[way][lane][k] = sum.x[k];
        __syncthreads();
        if (way == 0 && left > 0) {
            for (int w = 1; w < SUM_WAYS; w++) EACH_LANE(k) sum.x[k] += memory.sums[w][lane][k];
            real *to = table + row * C + i;
            store_n(to, accumulate ? sum + load_n(to, left) : sum, left);
        }
        __syncthreads();
    }
}

static int64_t sort_blocks(int64_t N) { return ceil_div(N, KEYS); }

/* Two lists of entries (N), and counts (DIGITS, blocks). */
int64_t embedding_backward_workspace(const embedding_backward_args *args) {
    if (args->N > INT32_MAX) return INT64_MAX;
    return (int64_t)sizeof(Entry) * 2 * args->N + (int64_t)sizeof(int32_t) * DIGITS * sort_blocks(args->N);
}

static int add_rows(real *table, int64_t accumulate, const real *dy, const int32_t *ids, int64_t N, int64_t C,
                    int64_t rows, const gollm_team *team) {
    Entry *entries = (Entry *)team->workspace, *sorted = entries + N;
    int32_t *counts = (int32_t *)(entries + 2 * N);
    const int64_t blocks = sort_blocks(N);
    int status = launch(entries_kernel, dim3(grid_size(ceil_div(N, ELEMENT_THREADS))), ELEMENT_THREADS, 0, team,
                        entries, ids, N, rows, team->error);
    for (int shift = 0; rows >> shift > 0 && status == GOLLM_OK; shift += DIGIT_BITS) {
        status = launch(count_digits_kernel, dim3(grid_size(blocks)), SORT_THREADS, sizeof(SortMemory), team, counts,
                        entries, N, shift);
        if (status == GOLLM_OK)
            status =
                launch(exclusive_sum_kernel, dim3(1), SORT_THREADS, sizeof(SortMemory), team, counts, blocks * DIGITS);
        if (status == GOLLM_OK)
            status = launch(place_entries_kernel, dim3(grid_size(blocks)), SORT_THREADS, sizeof(SortMemory), team,
                            sorted, entries, counts, N, shift);
        Entry *const swap = entries;
        entries = sorted, sorted = swap;
    }
    if (status != GOLLM_OK) return status;
    return launch(add_rows_kernel, dim3(grid_size(rows)), SUM_WAYS * 32, sizeof(AddRowsMemory), team, table, accumulate,
                  dy, entries, N, C);
}

int embedding_backward(const embedding_backward_args *args, const gollm_team *team) {
    int status = GOLLM_OK;
    if (args->dtoken_table)
        status = add_rows(args->dtoken_table, args->dtoken_table_accumulate, args->dy, args->tokens, args->N, args->C,
                          args->V, team);
    if (status == GOLLM_OK && args->dposition_table)
        status = add_rows(args->dposition_table, args->dposition_table_accumulate, args->dy, args->positions, args->N,
                          args->C, args->T, team);
    return status;
}

} // namespace GOLLM_VARIANT
