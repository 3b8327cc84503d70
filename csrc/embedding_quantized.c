/* Token embedding from a quantised table, with plain positions:
 *
 *   int8, int4, int4_min    y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 *   tokens (N), token_table (V, C) as quantized.h lays it out, positions (N) and position_table (T, C) or NULL -> y (N, C)
 *
 * Ids change from call to call, so each call checks them, on every thread, before anything is written. A value is exact: 11
 * bits of scale by 8 of code; a minimum or a position is added with one rounding each. Bound by the cache lines that a row
 * touches: one for each 4 inputs (int8), or 8. Rows are split among threads.
 */
#include "embedding.h"
#include "quantized.h"

/* y (C) = row `id` of the table */
static inline __attribute__((always_inline)) void read_row(const enum format format, int64_t group,
                                                           const uint8_t *table, int64_t id, int64_t C, real *y) {
    const int64_t groups = group_count(C, group), output = id % PANEL;
    const uint8_t *block = table + id / PANEL * groups * block_bytes(format, group);
    for (int64_t i = 0; i < C; block += block_bytes(format, group)) {
        uint16_t halves[2] = {0, 0};
        memcpy(&halves[0], block + output * 2, 2);
        if (format == INT4_MIN) memcpy(&halves[1], block + (PANEL + output) * 2, 2);
        const real scale = real_of_f16(halves[0]), minimum = real_of_f16(halves[1]);
        const uint8_t *codes = block + codes_offset(format) + output * 4;
        for (int64_t end = min_i64(C, i + group), k = 0; i < end; i++, k++) {
            if (format == INT8) {
                y[i] = scale * (real)(codes[k / 4 * 4 * PANEL + k % 4] - 128);
            } else {
                const int code = codes[k / 8 * 4 * PANEL + k % 4] >> k % 8 / 4 * 4 & 15;
                y[i] = format == INT4 ? scale * (real)(code - 8) : scale * (real)code + minimum;
            }
        }
    }
}

#define EMBED(format, group)                                                                                           \
    if (!ids_are_known(args)) return GOLLM_BAD_INDEX;                                                                  \
    const struct range rows = thread_range(args->N, 1, team);                                                          \
    for (int64_t n = rows.begin; n < rows.end; n++) {                                                                  \
        real *y = args->y + n * args->C;                                                                               \
        read_row(format, group, args->token_table, args->tokens[n], args->C, y);                                       \
        if (!args->position_table) continue;                                                                           \
        const real *position = args->position_table + args->positions[n] * args->C;                                    \
        for (int64_t i = 0; i < args->C; i++) y[i] += position[i];                                                     \
    }                                                                                                                  \
    return GOLLM_OK

int KERNEL_FN(embedding_int8_check)(const struct embedding_int8_args *args) {
    return group_is_known(args->group) ? check_packed_table(args) : GOLLM_BAD_VALUE;
}

int KERNEL_FN(embedding_int8)(const struct embedding_int8_args *args, const struct gollm_team *team) {
    EMBED(INT8, args->group);
}

int KERNEL_FN(embedding_int4_check)(const struct embedding_int4_args *args) { return check_packed_table(args); }

int KERNEL_FN(embedding_int4)(const struct embedding_int4_args *args, const struct gollm_team *team) {
    EMBED(INT4, INT4_GROUP);
}

int KERNEL_FN(embedding_int4_min_check)(const struct embedding_int4_min_args *args) { return check_packed_table(args); }

int KERNEL_FN(embedding_int4_min)(const struct embedding_int4_min_args *args, const struct gollm_team *team) {
    EMBED(INT4_MIN, INT4_GROUP);
}
