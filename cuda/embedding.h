/* What embeddings over tables of any kind share: y[n] = row tokens[n] of a table + position_table[positions[n]]. */
#ifndef GOLLM_CUDA_EMBEDDING_H
#define GOLLM_CUDA_EMBEDDING_H

#include "kernel.h"

namespace GOLLM_VARIANT {

struct Embedding {
    int64_t N, C, V, T;
    real *y;                    // (N, C)
    const int32_t *tokens;      // (N)
    const int32_t *positions;   // (N)
    const real *position_table; // (T, C) or NULL
    int32_t *error;
};

template <class Args> Embedding embedding_of(const Args *args, const gollm_team *team) {
    return {args->N,    args->C, args->V, args->T, args->y, args->tokens, args->positions, args->position_table,
            team->error};
}

/* A warp a row. table.load(token, i, left) are VL values from i on, of which `left` are there. An id outside of its table:
 * GOLLM_BAD_INDEX in the error word, and its row is left out. */
template <class Table> __global__ void __launch_bounds__(ROW_WARPS * 32) embedding_kernel(Embedding e, Table table) {
    const int64_t n = row_of_warp(), C = e.C;
    if (n >= e.N) return;
    const int64_t token = e.tokens[n], position = e.position_table ? e.positions[n] : 0;
    if (token < 0 || token >= e.V || (e.position_table && (position < 0 || position >= e.T))) {
        *e.error = GOLLM_BAD_INDEX;
        return;
    }
    EACH_VECTOR_OF_ROW(i, C) {
        vec y = table.load(token, i, C - i);
        if (e.position_table) y = y + load_n(e.position_table + position * C + i, C - i);
        store_n(e.y + n * C + i, y, C - i);
    }
}

template <class Table> int embed(const Embedding &e, const Table &table, const gollm_team *team) {
    return launch(embedding_kernel<Table>, row_blocks(e.N), ROW_WARPS * 32, 0, team, e, table);
}

} // namespace GOLLM_VARIANT

#endif
