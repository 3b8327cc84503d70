/* Token embedding from a table of 2-byte values, with plain positions:
 *
 *   bf16, f16    y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 *   tokens (N), token_table (V, C) in PANELS: [panel of 32 tokens][C][32], positions (N) and position_table (T, C) or NULL
 *   -> y (N, C)
 *
 * Ids change from call to call, so each call checks them, on every thread, before anything is written. Bound by the cache
 * lines that a row touches: one for each value. Rows are split among threads.
 */
#include "embedding.h"
#include "gemm_pack.h" /* PANEL */
#include "half.h"

#define EMBED(args, team, real_of)                                                                                     \
    if (!ids_are_known(args)) return GOLLM_BAD_INDEX;                                                                  \
    const int64_t C = (args)->C;                                                                                       \
    const struct range rows = thread_range((args)->N, 1, team);                                                        \
    for (int64_t n = rows.begin; n < rows.end; n++) {                                                                  \
        const int64_t id = (args)->tokens[n];                                                                          \
        const uint16_t *token = (args)->token_table + id / PANEL * C * PANEL + id % PANEL; /* (C), PANEL apart */      \
        real *y = (args)->y + n * C;                                                                                   \
        for (int64_t i = 0; i < C; i++) y[i] = real_of(token[i * PANEL]);                                              \
        if (!(args)->position_table) continue;                                                                         \
        const real *position = (args)->position_table + (args)->positions[n] * C; /* (C) */                            \
        for (int64_t i = 0; i < C; i++) y[i] += position[i];                                                           \
    }                                                                                                                  \
    return GOLLM_OK

int KERNEL_FN(embedding_bf16_check)(const struct embedding_bf16_args *args) { return check_packed_table(args); }

int KERNEL_FN(embedding_bf16)(const struct embedding_bf16_args *args, const struct gollm_team *team) {
    EMBED(args, team, real_of_bf16);
}

int KERNEL_FN(embedding_f16_check)(const struct embedding_f16_args *args) { return check_packed_table(args); }

int KERNEL_FN(embedding_f16)(const struct embedding_f16_args *args, const struct gollm_team *team) {
    EMBED(args, team, real_of_f16);
}
