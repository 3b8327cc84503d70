/* After a draw, each sequence goes on by a token: it is noted in a ring of the last L ones, text[s][drawn_at[s] % L], and the
 * sequence's position, length and drawn_at (the position of the next draw, sample.c) grow by 1.
 *
 *   tokens, positions, lengths, drawn_at (S), text (S, L)
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(ELEMENT_THREADS) advance_kernel(advance_args args) {
    const int64_t s = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (s >= args.S) return;
    const uint64_t at = (uint64_t)args.drawn_at[s];
    if (args.L > 0) args.text[s * args.L + (int64_t)(at % (uint64_t)args.L)] = args.tokens[s];
    args.positions[s] = (int32_t)((uint32_t)args.positions[s] + 1);
    args.lengths[s] = (int32_t)((uint32_t)args.lengths[s] + 1);
    args.drawn_at[s] = (int64_t)(at + 1);
}

int advance(const advance_args *args, const gollm_team *team) {
    return launch(advance_kernel, dim3(grid_size(ceil_div(args->S, ELEMENT_THREADS))), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
