/* Token embedding from a quantised table (csrc/embedding_quantized.c; panels.h has the layout):
 *
 *   int8, int4, int4_min    y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 * Bound by the sectors of memory that a row touches: one for each 4 inputs (int8), or 8.
 */
#include "embedding.h"
#include "panels.h"

namespace GOLLM_VARIANT {

template <Format FORMAT> struct QuantisedTable {
    const uint8_t *table;
    int64_t groups;
    int group;

    __device__ __forceinline__ vec load(int64_t token, int64_t i, int64_t left) const {
        const int output = (int)(token % PANEL);
        const int64_t unit = i / group;
        const int first = (int)(i % group); // a group is a multiple of VL
        const uint8_t *block = table + (token / PANEL * groups + unit) * block_bytes(FORMAT, group);
        const float scale = load_f16(block + output * 2);
        const float minimum = FORMAT == INT4_MIN ? load_f16(block + (PANEL + output) * 2) : 0;
        const uint8_t *codes = block + codes_offset(FORMAT) + output * 4;
        vec v;
        EACH_LANE(j) {
            const int k = first + j;
            if (j >= left)
                v.x[j] = 0;
            else if (FORMAT == INT8)
                v.x[j] = scale * (float)(codes[k / 4 * 4 * PANEL + k % 4] - 128);
            else {
                const int code = codes[k / 8 * 4 * PANEL + k % 4] >> k % 8 / 4 * 4 & 15;
                v.x[j] = FORMAT == INT4 ? scale * (float)(code - 8) : scale * (float)code + minimum;
            }
        }
        return v;
    }
};

template <Format FORMAT, class Args>
static int embed_quantised(const Args *args, int64_t group, const gollm_team *team) {
    const QuantisedTable<FORMAT> table = {args->token_table, ceil_div(args->C, group), (int)group};
    return embed(embedding_of(args, team), table, team);
}

int embedding_int8(const embedding_int8_args *args, const gollm_team *team) {
    return embed_quantised<INT8>(args, args->group, team);
}

int embedding_int4(const embedding_int4_args *args, const gollm_team *team) {
    return embed_quantised<INT4>(args, INT4_GROUP, team);
}

int embedding_int4_min(const embedding_int4_min_args *args, const gollm_team *team) {
    return embed_quantised<INT4_MIN>(args, INT4_GROUP, team);
}

} // namespace GOLLM_VARIANT
