/* Token and position embedding:  y[n] = token_table[tokens[n]] + position_table[positions[n]]
 *
 *   forward    tokens (N), token_table (V, C), positions (N) and position_table (T, C) or NULL      ->  y (N, C)
 *   backward   dy (N, C), tokens (N), positions (N)         ->  dtoken_table (V, C), dposition_table (T, C)
 *
 * Backward adds each row of dy to its token's and its position's row. Ids change from call to call, so each call checks
 * those of every table that is given, on every thread, before anything is written: GOLLM_BAD_INDEX for one outside its table.
 * Bound by memory. Forward splits the rows among threads; backward the columns, so that whoever owns a column adds the
 * rows in order and the result does not depend on how many threads there are.
 */
#include "embedding.h"
#include "vec.h"

int KERNEL_FN(embedding_forward_check)(const struct embedding_forward_args *args) {
    return args->position_table && !args->positions ? GOLLM_BAD_SHAPE : GOLLM_OK;
}

int KERNEL_FN(embedding_forward)(const struct embedding_forward_args *args, const struct gollm_team *team) {
    const int64_t C = args->C;
    if (!ids_are_known(args)) return GOLLM_BAD_INDEX;
    struct range rows = thread_range(args->N, 1, team);
    for (int64_t n = rows.begin; n < rows.end; n++) {
        const real *token = args->token_table + args->tokens[n] * C; // (C)
        real *y = args->y + n * C;                                   // (C)
        if (args->position_table) {
            const real *position = args->position_table + args->positions[n] * C; // (C)
            for (int64_t i = 0; i < C; i++) y[i] = token[i] + position[i];
        } else {
            memcpy(y, token, (size_t)C * sizeof(real));
        }
    }
    return GOLLM_OK;
}

static void zero_rows(real *table, int64_t rows, int64_t C, const struct gollm_team *team) {
    struct range mine = thread_range(rows, 1, team);
    memset(table + mine.begin * C, 0, (size_t)((mine.end - mine.begin) * C) * sizeof(real));
}

/* table[ids[n]] += dy[n] for n in order, in the thread's columns. Rows of a large table are in no cache, and no hardware
 * foresees them: they are fetched a few rows ahead. */
static void add_rows(real *restrict table,                                 // (rows, C)
                     const real *restrict dy, const int32_t *restrict ids, // (N, C), (N)
                     int64_t N, int64_t C, struct range columns) {
    enum { AHEAD = 4 };
    for (int64_t n = 0; n < N; n++) {
        real *row = table + ids[n] * C;
        const real *later = table + ids[min_i64(n + AHEAD, N - 1)] * C;
        for (int64_t i = columns.begin; i < columns.end; i += LINE) __builtin_prefetch(later + i, 1);
        for (int64_t i = columns.begin; i < columns.end; i++) row[i] += dy[n * C + i];
    }
}

int KERNEL_FN(embedding_backward_check)(const struct embedding_backward_args *args) {
    return args->dposition_table && !args->positions ? GOLLM_BAD_SHAPE : GOLLM_OK;
}

int KERNEL_FN(embedding_backward)(const struct embedding_backward_args *args, const struct gollm_team *team) {
    if (args->dtoken_table && !all_below(args->tokens, args->N, args->V)) return GOLLM_BAD_INDEX;
    if (args->dposition_table && !all_below(args->positions, args->N, args->T)) return GOLLM_BAD_INDEX;
    if (args->dtoken_table && !args->dtoken_table_accumulate) zero_rows(args->dtoken_table, args->V, args->C, team);
    if (args->dposition_table && !args->dposition_table_accumulate)
        zero_rows(args->dposition_table, args->T, args->C, team);
    gollm_team_wait(team); // rows were zeroed by one thread and are added to by others
    struct range columns = thread_range(args->C, LINE, team);
    if (args->dtoken_table) add_rows(args->dtoken_table, args->dy, args->tokens, args->N, args->C, columns);
    if (args->dposition_table) add_rows(args->dposition_table, args->dy, args->positions, args->N, args->C, columns);
    return GOLLM_OK;
}
