/* AdamW (Loshchilov & Hutter 2019), with the arithmetic of torch.optim.AdamW: for each parameter, with g scaled
 *
 *   w = w * (1 - lr * weight_decay)                          the first n_decay parameters only
 *   m = m + (1 - beta1) * (g - m)                            v = beta2 * v + (1 - beta2) * g^2
 *   w = w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
 *
 *   w, m, v, g (N), lr, step t = 1, 2, ... and grad_scale (1)  ->  w, m, v
 *
 * Bound by memory: 28 bytes a parameter. Coefficients are computed in double precision.
 * Denormals: moments decay towards 0 where no gradient comes (the embeddings of absent tokens), and by rounding they
 * never arrive: they stay denormal, where arithmetic is many times slower on some CPUs. So a moment below the smallest
 * normal number is stored as 0. Elsewhere denormals are kept as IEEE 754 says; no thread's floating-point mode is
 * changed.
 */
#include "vec.h"

struct coefficients {
    real keep; // 1 - lr * weight_decay, or 1
    real grad_scale, beta1_rest, beta2, beta2_rest, step_size, v_scale, eps;
};

static inline void update(const struct coefficients *c, real *w, real *m, real *v, const real *g) { // (VL) each
    vec gradient = vec_load(g) * vec_set(c->grad_scale), first = vec_load(m);
    first = vec_flush(first + vec_set(c->beta1_rest) * (gradient - first));
    vec second = vec_flush(vec_load(v) * vec_set(c->beta2) + gradient * gradient * vec_set(c->beta2_rest));
    vec divisor = vec_sqrt(second) * vec_set(c->v_scale) + vec_set(c->eps);
    vec_store(m, first);
    vec_store(v, second);
    vec_store(w, vec_load(w) * vec_set(c->keep) - vec_set(c->step_size) * first / divisor);
}

/* Parameters begin ... end - 1; the last few through copies that are padded to a vector. */
static void update_range(const struct coefficients *c, const struct adamw_args *args, struct range range) {
    int64_t i = range.begin;
    for (; i + VL <= range.end; i += VL) update(c, args->w + i, args->m + i, args->v + i, args->g + i);
    int64_t left = range.end - i;
    if (left <= 0) return;
    real w[VL], m[VL], v[VL], g[VL];
    vec_store(w, vec_load_n(args->w + i, left));
    vec_store(m, vec_load_n(args->m + i, left));
    vec_store(v, vec_load_n(args->v + i, left));
    vec_store(g, vec_load_n(args->g + i, left));
    update(c, w, m, v, g);
    vec_store_n(args->w + i, vec_load(w), left);
    vec_store_n(args->m + i, vec_load(m), left);
    vec_store_n(args->v + i, vec_load(v), left);
}

int KERNEL_FN(adamw_check)(const struct adamw_args *args) {
    return args->n_decay < 0 || args->n_decay > args->N ? GOLLM_BAD_VALUE : GOLLM_OK;
}

int KERNEL_FN(adamw)(const struct adamw_args *args, const struct gollm_team *team) {
    const double t = (double)args->step[0], lr = args->lr[0];
    if (args->step[0] < 1) return GOLLM_BAD_VALUE;
    struct coefficients c = {
        .keep = (real)(1 - lr * args->weight_decay),
        .grad_scale = (real)args->grad_scale[0],
        .beta1_rest = (real)(1 - args->beta1),
        .beta2 = (real)args->beta2,
        .beta2_rest = (real)(1 - args->beta2),
        .step_size = (real)(lr / (1 - pow(args->beta1, t))),
        .v_scale = (real)(1 / sqrt(1 - pow(args->beta2, t))),
        .eps = (real)args->eps,
    };
    struct range mine = thread_range(args->N, LINE, team);
    int64_t border = max_i64(mine.begin, min_i64(mine.end, args->n_decay));
    update_range(&c, args, (struct range){mine.begin, border});
    c.keep = 1;
    update_range(&c, args, (struct range){border, mine.end});
    return GOLLM_OK;
}
