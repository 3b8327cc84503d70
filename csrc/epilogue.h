/* What happens to the sums of a product before they are written: bias, activation, gate, residual, or the gradient through
 * an activation. It rides along, so that these need no pass over memory of their own. */
#ifndef GOLLM_EPILOGUE_H
#define GOLLM_EPILOGUE_H

#include "activation.h"
#include "gemm_microkernel.h" /* NR */

/* The steps on the finished sum v, in this order. NULL and GOLLM_NONE leave one out. Matrices are (M, N), with rows as far
 * apart as those of c, and do not overlap. */
struct epilogue {
    const real *bias;     /* (N)  v += bias */
    real *pre;            /*      pre = v */
    int64_t activation;   /*      v = activation(v), unless gradient_of is given */
    const real *factor;   /*      v *= factor */
    const real *residual; /*      v += residual */

    /* The gradient through x = gradient_of: v *= activation'(x). Of a gate, activation(x) * factor, also dfactor = v *
     * activation(x) and product = activation(x) * factor; factor, dfactor and product are given together. */
    const real *gradient_of;
    real *dfactor, *product;
};

/* Of the arguments of a forward product. */
#define EPILOGUE_OF_FORWARD(args)                                                                                      \
    {.bias = (args)->bias,                                                                                             \
     .pre = (args)->pre,                                                                                               \
     .activation = (args)->activation,                                                                                 \
     .factor = (args)->factor,                                                                                         \
     .residual = (args)->residual}

static inline int epilogue_is_empty(const struct epilogue *e) {
    return !(e->bias || e->pre || e->activation || e->gradient_of || e->factor || e->residual);
}

/* c (rows, columns), from element (m, n) on, = epilogue(tile (rows, NR)), or epilogue(c + tile) where sums wait in c. */
static inline __attribute__((always_inline)) void epilogue_apply(const struct epilogue *epilogue, real *c, int64_t ldc,
                                                                 const real *tile, int add, int64_t m, int64_t n,
                                                                 const int rows, const int columns) {
    const struct epilogue e = *epilogue; // stores to c cannot change these
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += VL) {
            const int64_t at = (m + i) * ldc + n + j;
            const int left = columns - j;
            vec v = vec_load(tile + i * NR + j);
            if (add) v += vec_load_n(c + at, left);
            if (e.bias) v += vec_load_n(e.bias + n + j, left);
            if (e.pre) vec_store_n(e.pre + at, v, left);
            const vec factor = e.factor ? vec_load_n(e.factor + at, left) : vec_set(1);
            if (e.dfactor) {
                vec gradient;
                const vec f = activation_and_gradient(e.activation, vec_load_n(e.gradient_of + at, left), &gradient);
                vec_store_n(e.product + at, f * factor, left);
                vec_store_n(e.dfactor + at, f * v, left);
                v *= gradient;
            } else if (e.gradient_of)
                v *= activation_gradient(e.activation, vec_load_n(e.gradient_of + at, left));
            else
                v = activation(e.activation, v);
            if (e.factor) v *= factor;
            if (e.residual) v += vec_load_n(e.residual + at, left);
            vec_store_n(c + at, v, left);
        }
}

/* The same for a tile whose NR columns may go past the N of c. */
static inline __attribute__((always_inline)) void epilogue_apply_tile(const struct epilogue *epilogue, real *c,
                                                                      int64_t N, const real *tile, int64_t m, int64_t n,
                                                                      int rows) {
    if (n + NR <= N)
        epilogue_apply(epilogue, c, N, tile, 0, m, n, rows, NR);
    else if (n < N)
        epilogue_apply(epilogue, c, N, tile, 0, m, n, rows, (int)(N - n));
}

#endif
