/* After a draw, each sequence goes on by a token: it is noted in a ring of the last L ones, text[s][drawn_at[s] % L], and the
 * sequence's position, length and drawn_at (the position of the next draw, sample.c) grow by 1.
 *
 *   tokens, positions, lengths, drawn_at (S), text (S, L)
 *
 * So a recorded pass that ends in a draw can run many times with nobody between the tokens.
 */
#include "vec.h"

int KERNEL_FN(advance)(const struct advance_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->S, LINE, team);
    for (int64_t s = mine.begin; s < mine.end; s++) {
        if (args->L > 0)
            args->text[s * args->L + (int64_t)((uint64_t)args->drawn_at[s] % (uint64_t)args->L)] = args->tokens[s];
        args->positions[s] = (int32_t)((uint32_t)args->positions[s] + 1);
        args->lengths[s] = (int32_t)((uint32_t)args->lengths[s] + 1);
        args->drawn_at[s] = (int64_t)((uint64_t)args->drawn_at[s] + 1);
    }
    return GOLLM_OK;
}
