/* A constant everywhere:  y = value
 *
 *   y (N)      Bound by memory: N reals. The gradient that a backward pass starts from.
 */
#include "vec.h"

int KERNEL_FN(fill)(const struct fill_args *args, const struct gollm_team *team) {
    struct range mine = thread_range(args->N, LINE, team);
    for (int64_t i = mine.begin; i < mine.end; i += VL)
        vec_store_n(args->y + i, vec_set((real)args->value), mine.end - i);
    return GOLLM_OK;
}
