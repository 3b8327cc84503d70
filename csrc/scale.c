/* A multiple:  y = factor * x        x (N) -> y (N), overwritten or added to
 *
 * Its gradient is the same multiple of the incoming one. Bound by memory: moves 2N reals, 3N where it adds.
 */
#include "vec.h"

int KERNEL_FN(scale)(const struct scale_args *args, const struct gollm_team *team) {
    if (!args->y) return GOLLM_OK;
    const struct range mine = thread_range(args->N, LINE, team);
    const vec factor = vec_set((real)args->factor);
    for (int64_t i = mine.begin; i < mine.end; i += VL) {
        const int64_t left = mine.end - i;
        vec y = factor * vec_load_n(args->x + i, left);
        if (args->y_accumulate) y += vec_load_n(args->y + i, left);
        vec_store_n(args->y + i, y, left);
    }
    return GOLLM_OK;
}
