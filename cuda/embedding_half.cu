/* Token embedding from a table of 2-byte values in panels, [panel of 32 tokens][C][32] (csrc/embedding_half.c):
 *
 *   bf16, f16    y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 * Bound by the sectors of memory that a row touches: one for each value.
 */
#include "embedding.h"
#include "panels.h"

namespace GOLLM_VARIANT {

template <class Number> struct HalfTable {
    const Number *table;
    int64_t C;

    __device__ __forceinline__ vec load(int64_t token, int64_t i, int64_t left) const {
        const Number *row = table + (token / PANEL * C + i) * PANEL + token % PANEL; // PANEL apart
        vec v;
        EACH_LANE(k) v.x[k] = k < left ? to_float(row[k * PANEL]) : 0;
        return v;
    }
};

int embedding_bf16(const embedding_bf16_args *args, const gollm_team *team) {
    return embed(embedding_of(args, team), HalfTable<bf16>{args->token_table, args->C}, team);
}

int embedding_f16(const embedding_f16_args *args, const gollm_team *team) {
    return embed(embedding_of(args, team), HalfTable<f16>{args->token_table, args->C}, team);
}

} // namespace GOLLM_VARIANT
