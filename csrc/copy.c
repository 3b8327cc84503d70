/* A copy:  y = x
 *
 *   x (N)  ->  y (N)      Bound by memory: 2N reals.
 */
#include <string.h> /* memcpy */

#include "kernel.h"

int KERNEL_FN(copy)(const struct copy_args *args, const struct gollm_team *team) {
    struct range mine = thread_range(args->N, LINE, team);
    memcpy(args->y + mine.begin, args->x + mine.begin, (size_t)(mine.end - mine.begin) * sizeof(real));
    return GOLLM_OK;
}
