/* The gate of an MLP, element by element, where it does not ride on a product (matmul.c):  y = f(gate) * up,  with f chosen
 * by `kind`, an enum gollm_activation (activation.h). With SiLU this is SwiGLU (Shazeer 2020).
 *
 *   forward    gate, up (N)        ->  y (N)
 *   backward   dy, gate, up (N)    ->  dgate = dy * up * f'(gate),  dup = dy * f(gate)
 *
 * Bound by memory where the next level is not L1: forward moves 3N reals, backward 5N.
 */
#include "activation.h"

int KERNEL_FN(gate_forward_check)(const struct gate_forward_args *args) {
    return activation_is_known(args->kind) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(gate_forward)(const struct gate_forward_args *args, const struct gollm_team *team) {
    const struct range part = thread_range(args->N, LINE, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        const vec gate = vec_load_n(args->gate + i, left), up = vec_load_n(args->up + i, left);
        vec_store_n(args->y + i, activation(args->kind, gate) * up, left);
    }
    return GOLLM_OK;
}

int KERNEL_FN(gate_backward_check)(const struct gate_backward_args *args) {
    return activation_is_known(args->kind) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(gate_backward)(const struct gate_backward_args *args, const struct gollm_team *team) {
    const struct range part = thread_range(args->N, LINE, team);
    for (int64_t i = part.begin; i < part.end; i += VL) {
        const int64_t left = part.end - i;
        const vec dy = vec_load_n(args->dy + i, left), gate = vec_load_n(args->gate + i, left);
        if (args->dgate) {
            vec dgate = dy * vec_load_n(args->up + i, left) * activation_gradient(args->kind, gate);
            if (args->dgate_accumulate) dgate += vec_load_n(args->dgate + i, left);
            vec_store_n(args->dgate + i, dgate, left);
        }
        if (args->dup) {
            vec dup = dy * activation(args->kind, gate);
            if (args->dup_accumulate) dup += vec_load_n(args->dup + i, left);
            vec_store_n(args->dup + i, dup, left);
        }
    }
    return GOLLM_OK;
}
