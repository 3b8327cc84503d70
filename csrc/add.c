/* Elementwise sum:  c = a + b        a, b (N) -> c (N)        c may be a or b
 *
 * Bound by memory: moves 3N reals. Its gradient is the incoming one for both, which takes no kernel.
 */
#include "vec.h"

int KERNEL_FN(add)(const struct add_args *args, const struct gollm_team *team) {
    struct range mine = thread_range(args->N, LINE, team);
    for (int64_t i = mine.begin; i < mine.end; i += VL) {
        int64_t left = mine.end - i;
        vec_store_n(args->c + i, vec_load_n(args->a + i, left) + vec_load_n(args->b + i, left), left);
    }
    return GOLLM_OK;
}
