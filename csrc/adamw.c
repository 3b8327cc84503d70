/* AdamW (Loshchilov & Hutter 2019), with the arithmetic of torch.optim.AdamW: for each parameter, with g scaled
 *
 *   w = w * (1 - lr * weight_decay)                          the first n_decay parameters only
 *   m = m + (1 - beta1) * (g - m)                            v = beta2 * v + (1 - beta2) * g^2
 *   w = w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
 *
 *   w, m, v, g (N), lr, step t = 1, 2, ... and grad_scale (1)  ->  w, m, v
 *
 * adamw_bf16 is the same for weights that are kept as bfloat16 alone. A step is mostly smaller than half of such a weight's
 * last place, and to nearest it would be lost. So the new weight is rounded stochastically: of its two neighbours x takes the
 * upper one with the probability (x - lower) / (upper - lower), and on average nothing is lost. The bits are a function of
 * seed, step and position: half h of word w of counter b (philox.h) decides over element 8 b + 2 w + h.
 *
 * Bound by memory: 28 bytes a parameter, 24 with weights of bfloat16. Coefficients are computed in double precision.
 * Denormals: moments decay towards 0 where no gradient comes (the embeddings of absent tokens), and by rounding they
 * never arrive: they stay denormal, where arithmetic is many times slower on some CPUs. So a moment below the smallest
 * normal number is stored as 0. Elsewhere denormals are kept as IEEE 754 says; no thread's floating-point mode is
 * changed.
 */
#include "half.h"   /* bfloat16 */
#include "philox.h" /* bits for rounding */

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

static int check(int64_t N, int64_t n_decay) { return n_decay < 0 || n_decay > N ? GOLLM_BAD_VALUE : GOLLM_OK; }

static struct coefficients coefficients_of(const struct adamw_args *args) {
    const double t = (double)args->step[0], lr = args->lr[0];
    return (struct coefficients){
        .keep = (real)(1 - lr * args->weight_decay),
        .grad_scale = (real)args->grad_scale[0],
        .beta1_rest = (real)(1 - args->beta1),
        .beta2 = (real)args->beta2,
        .beta2_rest = (real)(1 - args->beta2),
        .step_size = (real)(lr / (1 - pow(args->beta1, t))),
        .v_scale = (real)(1 / sqrt(1 - pow(args->beta2, t))),
        .eps = (real)args->eps,
    };
}

int KERNEL_FN(adamw_check)(const struct adamw_args *args) { return check(args->N, args->n_decay); }

int KERNEL_FN(adamw)(const struct adamw_args *args, const struct gollm_team *team) {
    if (args->step[0] < 1) return GOLLM_BAD_VALUE;
    struct coefficients c = coefficients_of(args);
    struct range mine = thread_range(args->N, LINE, team);
    int64_t border = max_i64(mine.begin, min_i64(mine.end, args->n_decay));
    update_range(&c, args, (struct range){mine.begin, border});
    c.keep = 1;
    update_range(&c, args, (struct range){border, mine.end});
    return GOLLM_OK;
}

enum {
    GROUP = 8 * LANES,      /* elements that LANES counters decide over */
    STREAM_OF_ROUNDING = -1 /* as a word the largest: no dropout of a model has it */
};

/* x rounded to one of its two neighbours, with 16 random bits. Infinity and NaN stay what they are. */
static uint16_t bf16_with(real x, uint32_t random) {
    const uint32_t bits = bits_of_float((float)x);
    return (bits & 0x7f800000) == 0x7f800000 ? bf16_of_real(x) : (uint16_t)((bits + random) >> 16);
}

int KERNEL_FN(adamw_bf16_check)(const struct adamw_bf16_args *args) {
    if (args->N / GROUP * LANES > UINT32_MAX) return GOLLM_BAD_SHAPE; /* a counter's number is one word */
    return check(args->N, args->n_decay);
}

int KERNEL_FN(adamw_bf16)(const struct adamw_bf16_args *args, const struct gollm_team *team) {
    if (args->step[0] < 1) return GOLLM_BAD_VALUE;
    const struct adamw_args numbers = {.lr = args->lr,
                                       .step = args->step,
                                       .grad_scale = args->grad_scale,
                                       .beta1 = args->beta1,
                                       .beta2 = args->beta2,
                                       .eps = args->eps,
                                       .weight_decay = args->weight_decay};
    struct coefficients c = coefficients_of(&numbers);
    const real keep = c.keep;
    c.keep = 1; // decay is by element here
    const struct generator generator = make_generator(args->seed, (uint32_t)STREAM_OF_ROUNDING, args->step[0]);
    const struct range mine = thread_range(args->N, GROUP, team);
    for (int64_t first = mine.begin; first < mine.end; first += GROUP) {
        uint32_t words[GROUP / 2]; // word w of counter b at w * LANES + b
        philox(&generator, (uint32_t)(first / GROUP * LANES), words);
        for (int64_t i = first; i < min_i64(first + GROUP, mine.end); i += VL) {
            const int64_t left = mine.end - i;
            real w[VL], m[VL], v[VL], g[VL];
            vec_store(w, load_as_n(BF16, args->w, i, left));
            vec_store(m, vec_load_n(args->m + i, left));
            vec_store(v, vec_load_n(args->v + i, left));
            vec_store(g, vec_load_n(args->g + i, left));
            for (int k = 0; k < VL; k++) w[k] *= i + k < args->n_decay ? keep : 1;
            update(&c, w, m, v, g);
            vec_store_n(args->m + i, vec_load(m), left);
            vec_store_n(args->v + i, vec_load(v), left);
            for (int k = 0; k < VL && k < left; k++) {
                const int64_t at = i + k - first;
                args->w[i + k] = bf16_with(w[k], words[at % 8 / 2 * LANES + at / 8] >> 16 * (at % 2) & 0xffff);
            }
        }
    }
    return GOLLM_OK;
}
