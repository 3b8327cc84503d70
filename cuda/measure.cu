/* What the device can do, measured by its own instructions (csrc/measure.c):
 *
 *   fma    x = x / 2 + 1 / 2, from 0, `iterations` times in CHAINS chains of every thread: flops is what the device did,
 *          result the mean of a thread's x, which is 1 after some iterations. More iterations also take more threads.
 *   read   x (N)  ->  sums (64) of 64 consecutive parts of it, read once; a part is shared by blocks, as many as it fills
 *   stream x (S, N)  ->  the last `writes` of its S rows: each the sum of the first `reads` rows as they were
 */
#include "kernel.h"

namespace GOLLM_VARIANT {

constexpr int CHAINS = 12, FMA_THREADS = 128, ITERATIONS_OF_A_BLOCK = 64, READ_PARTS = 64, MOST_READERS = 64;

static int64_t fma_blocks(int64_t iterations) {
    return max_i64(1, min_i64(MAX_BLOCKS, iterations / ITERATIONS_OF_A_BLOCK));
}

__global__ void __launch_bounds__(FMA_THREADS) measure_fma_kernel(measure_fma_args args, float *means) {
    float x[CHAINS] = {};
    for (int32_t k = 0; k < (int32_t)args.iterations; k++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) x[i] = fmaf(x[i], 0.5f, 0.5f);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    means[blockIdx.x * FMA_THREADS + threadIdx.x] = sum / CHAINS; // so that no thread's work can be left out
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    put(args.result, sum / CHAINS);
    *args.flops = 2.0 * CHAINS * (double)args.iterations * FMA_THREADS * gridDim.x;
}

int64_t measure_fma_workspace(const measure_fma_args *args) {
    return fma_blocks(args->iterations) * FMA_THREADS * (int64_t)sizeof(float);
}

int measure_fma(const measure_fma_args *args, const gollm_team *team) {
    return launch(measure_fma_kernel, dim3((unsigned)fma_blocks(args->iterations)), FMA_THREADS, 0, team, *args,
                  (float *)team->workspace);
}

struct ReadMemory {
    float partial[ELEMENT_THREADS / 32];
};

/* partial (parts, readers): a reader takes vectors of its part, all readers apart. */
__global__ void __launch_bounds__(ELEMENT_THREADS) measure_read_kernel(const real *x, float *partial, int64_t N) {
    const int64_t grains = ceil_div(N, 16), part = blockIdx.y;
    const int64_t begin = min_i64(N, grains * part / READ_PARTS * 16);
    const int64_t end = min_i64(N, grains * (part + 1) / READ_PARTS * 16);
    float sum = 0;
#pragma unroll 4
    for (int64_t i = begin + ((int64_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x) * VL; i < end;
         i += (int64_t)gridDim.x * ELEMENT_THREADS * VL) {
        const vec v = load_n(x + i, end - i);
        EACH_LANE(k) sum += v.x[k];
    }
    sum = block_sum(sum, shared_memory<ReadMemory>().partial);
    if (threadIdx.x == 0) partial[part * gridDim.x + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(READ_PARTS) add_read_kernel(real *sums, const float *partial, int64_t readers) {
    float sum = 0;
    for (int64_t i = 0; i < readers; i++) sum += partial[threadIdx.x * readers + i];
    put(sums + threadIdx.x, sum);
}

int64_t measure_read_workspace(const measure_read_args *) { return sizeof(float) * READ_PARTS * MOST_READERS; }

int measure_read(const measure_read_args *args, const gollm_team *team) {
    float *partial = (float *)team->workspace;
    const int64_t readers = max_i64(1, min_i64(MOST_READERS, args->N / ((int64_t)READ_PARTS * ELEMENT_THREADS * VL)));
    const int status = launch(measure_read_kernel, dim3((unsigned)readers, READ_PARTS), ELEMENT_THREADS,
                              sizeof(ReadMemory), team, args->x, partial, args->N);
    if (status != GOLLM_OK) return status;
    return launch(add_read_kernel, dim3(1), READ_PARTS, 0, team, args->sums, partial, readers);
}

__global__ void __launch_bounds__(ELEMENT_THREADS) measure_stream_kernel(measure_stream_args args) {
    EACH_VECTOR(i, args.N) {
        const int64_t left = args.N - i;
        vec sum = {};
#pragma unroll 4
        for (int64_t row = 0; row < args.reads; row++) sum = sum + load_n(args.x + row * args.N + i, left);
        for (int64_t row = args.S - args.writes; row < args.S; row++) store_n(args.x + row * args.N + i, sum, left);
    }
}

int measure_stream(const measure_stream_args *args, const gollm_team *team) {
    return launch(measure_stream_kernel, element_blocks(args->N), ELEMENT_THREADS, 0, team, *args);
}

} // namespace GOLLM_VARIANT
