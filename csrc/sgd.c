/* Stochastic gradient descent with momentum, with the arithmetic of torch.optim.SGD: for each parameter, with g scaled
 *
 *   g = g + weight_decay * w        the first n_decay parameters only
 *   m = momentum * m + g
 *   w = w - lr * m
 *
 *   w, m, g (N), lr and grad_scale (1)  ->  w, m
 *
 * The decay is L2 regularisation as in torch: it passes through the momentum (AdamW's is decoupled). There is no
 * dampening; m begins as 0, which makes torch's first step, m = g. Bound by memory: 20 bytes a parameter. A momentum
 * below the smallest normal number is stored as 0, as in adamw.c.
 */
#include "vec.h"

static void update_range(const struct sgd_args *args, double weight_decay, struct range range) {
    const vec lr = vec_set((real)args->lr[0]), grad_scale = vec_set((real)args->grad_scale[0]);
    const vec momentum = vec_set((real)args->momentum), decay = vec_set((real)weight_decay);
    for (int64_t i = range.begin; i < range.end; i += VL) {
        int64_t left = range.end - i;
        vec w = vec_load_n(args->w + i, left), g = vec_load_n(args->g + i, left) * grad_scale;
        if (weight_decay != 0) g += decay * w;
        vec m = vec_flush(vec_load_n(args->m + i, left) * momentum + g);
        vec_store_n(args->m + i, m, left);
        vec_store_n(args->w + i, w - lr * m, left);
    }
}

int KERNEL_FN(sgd_check)(const struct sgd_args *args) {
    return args->n_decay < 0 || args->n_decay > args->N ? GOLLM_BAD_VALUE : GOLLM_OK;
}

int KERNEL_FN(sgd)(const struct sgd_args *args, const struct gollm_team *team) {
    struct range mine = thread_range(args->N, LINE, team);
    int64_t border = max_i64(mine.begin, min_i64(mine.end, args->n_decay));
    update_range(args, args->weight_decay, (struct range){mine.begin, border});
    update_range(args, 0, (struct range){border, mine.end});
    return GOLLM_OK;
}
