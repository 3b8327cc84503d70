/* Activations, element by element:  y = f(x),  dx = dy * f'(x),  with f chosen by `kind`, an enum gollm_activation
 * (activation.h).
 *
 *   forward    x (N)        ->  y (N)       y may be x
 *   backward   dy, x (N)    ->  dx (N)      dx may be dy
 *
 * Bound by memory where the next level is not L1: forward moves 2N reals, backward 3N.
 */
#include "activation.h"

int KERNEL_FN(activation_forward)(const struct activation_forward_args *a, const struct gollm_team *team) {
    if (!activation_is_known(a->kind)) return GOLLM_BAD_VALUE;
    const struct range part = thread_range(a->N, 16, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        vec_store_n(a->y + i, activation(a->kind, vec_load_n(a->x + i, left)), left);
    }
    return GOLLM_OK;
}

int KERNEL_FN(activation_backward)(const struct activation_backward_args *a, const struct gollm_team *team) {
    if (!activation_is_known(a->kind)) return GOLLM_BAD_VALUE;
    if (!a->dx) return GOLLM_OK;
    const struct range part = thread_range(a->N, 16, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        vec dx = vec_load_n(a->dy + i, left) * activation_gradient(a->kind, vec_load_n(a->x + i, left));
        if (a->dx_accumulate) dx += vec_load_n(a->dx + i, left);
        vec_store_n(a->dx + i, dx, left);
    }
    return GOLLM_OK;
}
