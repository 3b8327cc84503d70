/* Activations, element by element:  y = f(x),  dx = dy * f'(x),  with f chosen by `kind`, an enum gollm_activation
 * (activation.h).
 *
 *   forward    x (N)        ->  y (N)       y may be x
 *   backward   dy, x (N)    ->  dx (N)      dx may be dy
 *
 * Bound by memory where the next level is not L1: forward moves 2N reals, backward 3N.
 */
#include "activation.h"

int KERNEL_FN(activation_forward_check)(const struct activation_forward_args *args) {
    return activation_is_known(args->kind) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(activation_forward)(const struct activation_forward_args *args, const struct gollm_team *team) {
    const struct range part = thread_range(args->N, LINE, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        vec_store_n(args->y + i, activation(args->kind, vec_load_n(args->x + i, left)), left);
    }
    return GOLLM_OK;
}

int KERNEL_FN(activation_backward_check)(const struct activation_backward_args *args) {
    return activation_is_known(args->kind) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(activation_backward)(const struct activation_backward_args *args, const struct gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    const struct range part = thread_range(args->N, LINE, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        vec dx = vec_load_n(args->dy + i, left) * activation_gradient(args->kind, vec_load_n(args->x + i, left));
        if (args->dx_accumulate) dx += vec_load_n(args->dx + i, left);
        vec_store_n(args->dx + i, dx, left);
    }
    return GOLLM_OK;
}
