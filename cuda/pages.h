/* Sequences and the pages of their keys and values, for kv_cache.cu and attention_paged.cu (csrc/kv_cache.c has the layout).
 *
 * Offsets, lengths and pages change from call to call and are looked at where they are used: what is outside of its range puts
 * GOLLM_BAD_INDEX into the error word, and its rows are left out.
 */
#ifndef GOLLM_CUDA_PAGES_H
#define GOLLM_CUDA_PAGES_H

#include "rope.h"

namespace GOLLM_VARIANT {

constexpr int MAX_HEAD_DIM = 256;

struct Pages {
    int64_t N, R, Z, S, L, A, H, G, D;
    const real *qkv;              // (N, (H + 2G) D)
    const int32_t *query_offsets; // (S + 1)
    const int32_t *lengths;       // (S)
    const int32_t *page_table;    // (S, L)
    const real *rotations;        // (A, D) or NULL
    int32_t *error;

    __device__ const real *row(int64_t n) const { return qkv + n * (H + 2 * G) * D; }
    __device__ const real *rotation(int64_t position) const { return rotations ? rotations + position * D : nullptr; }
};

template <class Args> Pages pages_of(const Args *args, const gollm_team *team) {
    return {args->N,
            args->R,
            args->Z,
            args->S,
            args->L,
            args->A,
            args->H,
            args->G,
            args->D,
            args->qkv,
            args->query_offsets,
            args->lengths,
            args->page_table,
            args->rotations,
            team->error};
}

/* Z, as far as positions, which are below 2^31, tell. */
__device__ __forceinline__ uint32_t page_size(const Pages &p) { return (uint32_t)(p.Z < INT32_MAX ? p.Z : INT32_MAX); }

struct Sequence {
    int64_t index, first_row, queries, past; // query i is row first_row + i, at position past + i
};

/* Sequence s, and whether its offsets and its length are possible. */
__device__ __forceinline__ bool find_sequence(const Pages &p, int64_t s, Sequence *sequence) {
    const int64_t first = p.query_offsets[s], end = p.query_offsets[s + 1], length = p.lengths[s];
    const uint32_t Z = page_size(p);
    *sequence = {s, first, end - first, length - (end - first)};
    return (s > 0 ? first >= 0 : first == 0) && first <= end && (s + 1 < p.S ? end <= p.N : end == p.N) &&
           length >= end - first && (Z > 0 ? ((uint32_t)length + Z - 1) / Z <= p.L : length == 0) &&
           (!p.rotations || length <= p.A);
}

/* By one block of a launch, so that none is overlooked. */
__device__ __forceinline__ void check_sequences(const Pages &p) {
    Sequence sequence;
    bool good = p.S > 0;
    for (int64_t s = threadIdx.x; s < p.S; s += blockDim.x) good = good && find_sequence(p, s, &sequence);
    if (!good) *p.error = GOLLM_BAD_INDEX;
}

/* The last sequence whose first row is at most n: that of row n. There is at least one. */
__device__ __forceinline__ int64_t sequence_of_row(const Pages &p, int64_t n) {
    int64_t low = 0, high = p.S;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (p.query_offsets[middle] <= n)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct Slot {
    int64_t
        page; // where key/value head g of the page begins, in k_pages and in v_pages; -1: the page is not among the R
    int64_t slot;
};

__device__ __forceinline__ Slot slot_of(const Pages &p, int64_t s, int64_t g, int64_t position) {
    const uint32_t Z = page_size(p), j = (uint32_t)position / Z;
    const int32_t page = p.page_table[s * p.L + j];
    const int64_t at = page >= 0 && page < p.R ? (page * p.G + g) * p.Z * p.D : -1;
    return {at, (int64_t)((uint32_t)position - j * Z)};
}

} // namespace GOLLM_VARIANT

#endif
