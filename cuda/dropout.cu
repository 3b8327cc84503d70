/* Dropout (Srivastava et al. 2014):  y = x * mask / (1 - p) + residual,  mask 0 with probability p, else 1
 *
 *   forward    x (N), residual (N) or NULL  ->  y (N)       y may be x or residual
 *   backward   dy (N)                       ->  dx (N)      dx may be dy         dx = dy * mask / (1 - p)
 *
 * The masks are the CPU's, bit for bit (csrc/dropout.c): Philox4x32-10, whose word w of counter b decides over element
 * 64 (b / 16) + 16 w + b % 16. A thread draws a counter's four words and applies them to four elements; sixteen threads'
 * elements lie side by side.
 */
#include "philox.h"

namespace GOLLM_VARIANT {

struct Generator {
    uint32_t key[2];   // seed
    uint32_t fixed[2]; // stream, limit: an element is kept when its random word is not below 2^32 p
    float scale;       // of the elements kept
};

static Generator generator_of(double p, int64_t seed, int64_t stream) {
    const double limit = p * 4294967296.0 + 0.5;
    return {{(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)},
            {(uint32_t)stream, limit < 4294967295.0 ? (uint32_t)limit : UINT32_MAX},
            p < 1 ? (float)(1 / (1 - p)) : 0};
}

/* y = x * mask * scale, + add where that is not NULL. */
__global__ void __launch_bounds__(ELEMENT_THREADS)
    dropout_kernel(real *y, const real *x, const real *add, Generator g, const int64_t *step, int64_t N) {
    const int64_t counters = ceil_div(N, 64) * 16;
    for (int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; b < counters;
         b += (int64_t)gridDim.x * blockDim.x) {
        uint32_t words[4] = {(uint32_t)b, g.fixed[0], (uint32_t)*step, (uint32_t)((uint64_t)*step >> 32)};
        philox(words, g.key[0], g.key[1]);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const int64_t i = b / 16 * 64 + w * 16 + b % 16;
            if (i >= N) continue;
            const float kept = to_float(x[i]) * (words[w] >= g.fixed[1] ? g.scale : 0);
            put(y + i, add ? kept + to_float(add[i]) : kept);
        }
    }
}

static dim3 counter_blocks(int64_t N) {
    return dim3((unsigned)min_i64(MAX_BLOCKS, ceil_div(ceil_div(N, 64) * 16, ELEMENT_THREADS)));
}

int dropout_forward(const dropout_forward_args *args, const gollm_team *team) {
    return launch(dropout_kernel, counter_blocks(args->N), ELEMENT_THREADS, 0, team, args->y, args->x, args->residual,
                  generator_of(args->p, args->seed, args->stream), args->counter, args->N);
}

int dropout_backward(const dropout_backward_args *args, const gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    return launch(dropout_kernel, counter_blocks(args->N), ELEMENT_THREADS, 0, team, args->dx, args->dy,
                  args->dx_accumulate ? args->dx : nullptr, generator_of(args->p, args->seed, args->stream),
                  args->counter, args->N);
}

} // namespace GOLLM_VARIANT
