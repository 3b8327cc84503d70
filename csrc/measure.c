/* What the machine can do, measured by the variant's own instructions: the rate of multiply-adds that stay in
 * registers, that of reading memory, and that of a plain loop over arrays.
 *
 *   fma    x = x / 2 + 1 / 2, from 0, in CHAINS * LANES lanes on every thread: flops is what one thread did, result
 *          the mean of all x, which is 1 after some iterations
 *   read   x (N)  ->  sums (64) of 64 consecutive parts of it, read once, from front to back
 *   stream x (S, N)  ->  the last `writes` of its S rows: each the sum of the first `reads` rows as they were. What an
 *          operation that moves as many bytes in the same mix could reach; rows that are both are updated in place
 */
#include "vec.h"

/* Two units with a latency of up to 5 are busy with 10 chains; 12 and the constant fit into 16 registers. */
enum { CHAINS = 12, LANES = 16, PARTS = 64 };

int64_t KERNEL_FN(measure_fma_workspace)(const struct measure_fma_args *args, int n_threads) {
    (void)args;
    return n_threads * GOLLM_ALIGNMENT;
}

int KERNEL_FN(measure_fma_check)(const struct measure_fma_args *args) {
    return args->iterations < 0 || args->iterations > INT32_MAX ? GOLLM_BAD_VALUE : GOLLM_OK;
}

int KERNEL_FN(measure_fma)(const struct measure_fma_args *args, const struct gollm_team *team) {
    vec x[CHAINS];
    const vec half = vec_set((real)0.5);
    for (int i = 0; i < CHAINS; i++) x[i] = vec_set(0);
    for (int64_t k = 0; k < args->iterations * (LANES / VL); k++)
        for (int i = 0; i < CHAINS; i++) x[i] = x[i] * half + half;
    vec sum = vec_set(0);
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    // stored, so that no thread's work can be left out
    real *mine = (real *)team->workspace + team->thread * LINE;
    *mine = vec_sum(sum) / (CHAINS * VL);
    if (team->thread == 0) {
        args->result[0] = *mine;
        args->flops[0] = 2.0 * CHAINS * LANES * (double)args->iterations;
    }
    return GOLLM_OK;
}

int KERNEL_FN(measure_read)(const struct measure_read_args *args, const struct gollm_team *team) {
    const struct range parts = thread_range(PARTS, 1, team);
    for (int64_t part = parts.begin; part < parts.end; part++) {
        const struct range r = split(args->N, 16, part, PARTS);
        vec sums[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        int64_t i = r.begin;
        for (; i + 4 * VL <= r.end; i += 4 * VL)
            for (int j = 0; j < 4; j++) sums[j] += vec_load(args->x + i + j * VL);
        for (; i < r.end; i += VL) sums[0] += vec_load_n(args->x + i, r.end - i);
        args->sums[part] = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    return GOLLM_OK;
}

/* reads and writes are meant to be constants: loops over so few rows cost a quarter of the speed otherwise. */
static inline __attribute__((always_inline)) void stream_range(const int64_t reads, const int64_t writes, real *x,
                                                               int64_t S, int64_t N, struct range r) {
    int64_t i = r.begin;
    for (; i + VL <= r.end; i += VL) {
        vec sum = vec_set(0);
        for (int64_t row = 0; row < reads; row++) sum += vec_load(x + row * N + i);
        for (int64_t row = S - writes; row < S; row++) vec_store(x + row * N + i, sum);
    }
    for (; i < r.end; i++) {
        real sum = 0;
        for (int64_t row = 0; row < reads; row++) sum += x[row * N + i];
        for (int64_t row = S - writes; row < S; row++) x[row * N + i] = sum;
    }
}

int KERNEL_FN(measure_stream_check)(const struct measure_stream_args *args) {
    const int64_t S = args->S;
    return args->reads < 0 || args->reads > S || args->writes < 0 || args->writes > S ? GOLLM_BAD_VALUE : GOLLM_OK;
}

int KERNEL_FN(measure_stream)(const struct measure_stream_args *args, const struct gollm_team *team) {
    const int64_t S = args->S, N = args->N;
    const struct range mine = thread_range(N, LINE, team);
    if (args->reads == 1 && args->writes == 1)
        stream_range(1, 1, args->x, S, N, mine);
    else if (args->reads == 2 && args->writes == 1)
        stream_range(2, 1, args->x, S, N, mine);
    else if (args->reads == 3 && args->writes == 1)
        stream_range(3, 1, args->x, S, N, mine);
    else if (args->reads == 4 && args->writes == 3)
        stream_range(4, 3, args->x, S, N, mine);
    else
        stream_range(args->reads, args->writes, args->x, S, N, mine);
    return GOLLM_OK;
}
