/* Dropout (Srivastava et al. 2014):  y = x * mask / (1 - p) + residual,  mask 0 with probability p, else 1
 *
 *   forward    x (N), residual (N) or NULL  ->  y (N)       y may be x or residual
 *   backward   dy (N)                       ->  dx (N)      dx may be dy         dx = dy * mask / (1 - p)
 *
 * Nothing is kept for backward: the mask is a function of seed, stream (which dropout of the model), counter (which step)
 * and the element's position, so it does not depend on threads either. With p = 1 every element is dropped.
 *
 * The generator (philox.h) takes sixteen counters at a time: word w of counter b decides over element 16 w + b of the 64, so
 * a word's lanes lie side by side, as in registers. About 2 cycles an element with AVX2; memory allows about as much.
 */
#include "philox.h"

enum { GROUP = 4 * LANES }; /* elements that LANES counters decide over: the same in all variants */

struct masks {
    struct generator generator;
    uint32_t limit; // an element is kept when its random word is not below 2^32 p
    real scale;     // of the elements kept
};

static struct masks make_masks(int64_t counter, double p, int64_t seed, int64_t stream) {
    const double limit = p * 4294967296.0 + 0.5;
    return (struct masks){
        .generator = make_generator(seed, (uint32_t)stream, counter),
        .limit = limit < 4294967295.0 ? (uint32_t)limit : UINT32_MAX,
        .scale = p < 1 ? (real)(1 / (1 - p)) : 0,
    };
}

static int check(int64_t N, double p, int64_t stream) {
    if (!(p >= 0 && p <= 1) || stream < 0 || stream > UINT32_MAX) return GOLLM_BAD_VALUE;
    return N / GROUP * LANES > UINT32_MAX ? GOLLM_BAD_SHAPE : GOLLM_OK; // a counter's number is one word
}

/* factors[i] = mask / (1 - p) of element first + i, for a group that begins at `first`. */
static void draw(const struct masks *masks, int64_t first, real *restrict factors) {
    uint32_t words[GROUP];
    philox(&masks->generator, (uint32_t)(first / GROUP * LANES), words);
    for (int i = 0; i < GROUP; i++) factors[i] = words[i] >= masks->limit ? masks->scale : 0;
}

int KERNEL_FN(dropout_forward_check)(const struct dropout_forward_args *args) {
    return check(args->N, args->p, args->stream);
}

int KERNEL_FN(dropout_forward)(const struct dropout_forward_args *args, const struct gollm_team *team) {
    const struct masks masks = make_masks(args->counter[0], args->p, args->seed, args->stream);
    struct range mine = thread_range(args->N, GROUP, team);
    for (int64_t first = mine.begin; first < mine.end; first += GROUP) {
        real factors[GROUP];
        draw(&masks, first, factors);
        int64_t end = min_i64(GROUP, mine.end - first);
        for (int64_t i = 0; i < end; i += VL) {
            vec y = vec_load_n(args->x + first + i, end - i) * vec_load(factors + i);
            if (args->residual) y += vec_load_n(args->residual + first + i, end - i);
            vec_store_n(args->y + first + i, y, end - i);
        }
    }
    return GOLLM_OK;
}

int KERNEL_FN(dropout_backward_check)(const struct dropout_backward_args *args) {
    return check(args->N, args->p, args->stream);
}

int KERNEL_FN(dropout_backward)(const struct dropout_backward_args *args, const struct gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    const struct masks masks = make_masks(args->counter[0], args->p, args->seed, args->stream);
    struct range mine = thread_range(args->N, GROUP, team);
    for (int64_t first = mine.begin; first < mine.end; first += GROUP) {
        real factors[GROUP];
        draw(&masks, first, factors);
        int64_t end = min_i64(GROUP, mine.end - first);
        for (int64_t i = 0; i < end; i += VL) {
            vec dx = vec_load_n(args->dy + first + i, end - i) * vec_load(factors + i);
            if (args->dx_accumulate) dx += vec_load_n(args->dx + first + i, end - i);
            vec_store_n(args->dx + first + i, dx, end - i);
        }
    }
    return GOLLM_OK;
}
