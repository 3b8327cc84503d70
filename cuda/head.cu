/* The language model's head: logits = x w^T, softmax and cross-entropy in one (csrc/head.c has the formulas).
 *
 *   forward    x (N, C), w (V, C), targets (N)             ->  losses (N), loss
 *   backward   the same and dloss, the gradient of loss    ->  losses, loss, dx (N, C), dw (V, C)
 *
 * A target outside of the vocabulary: GOLLM_BAD_INDEX in the error word, and its row is left out.
 *
 * Logits are of type real, in rows padded to whole vectors; a block reads a row twice, the second time from L2, and writes
 * its dlogits in place. Rows go through in chunks of at most CHUNK_BYTES of logits, nearly always all at once; dw is rounded
 * once a chunk. 2NVC operations forward, 6NVC backward, and 4 movements of the logits (8NV bytes of bfloat16).
 */
#include "gemm.h"
#include "sum_exp.h"

namespace GOLLM_VARIANT {

constexpr int64_t CHUNK_BYTES = (int64_t)1 << 30, CHUNK_ROWS = 128; // a chunk has a multiple of CHUNK_ROWS
constexpr int LOSS_THREADS = 256;

struct Divisor { // on the device
    double denominator;
    float scale; // dloss / denominator, or 0 without a gradient
};
struct LossMemory {
    double partial[LOSS_THREADS / 32];
};

__device__ __forceinline__ bool counts(int64_t target, int64_t V, int64_t ignore_index) {
    return target != ignore_index && target >= 0 && target < V;
}

/* One block: the denominator, and whether all targets are good. */
__global__ void __launch_bounds__(LOSS_THREADS)
    head_divisor_kernel(Divisor *divisor, const int32_t *targets, int64_t N, int64_t V, int64_t ignore_index,
                        const double *denominator, const float *dloss, int32_t *error) {
    double mine = 0;
    for (int64_t n = threadIdx.x; n < N; n += LOSS_THREADS) {
        const bool good = counts(targets[n], V, ignore_index);
        if (!good && targets[n] != ignore_index) *error = GOLLM_BAD_INDEX;
        mine += good;
    }
    const double counted = block_sum(mine, shared_memory<LossMemory>().partial);
    if (threadIdx.x > 0) return;
    divisor->denominator = denominator ? denominator[0] : counted > 1 ? counted : 1;
    divisor->scale = dloss ? (float)(dloss[0] / divisor->denominator) : 0;
}

/* A block takes a row of logits (V); GRADIENT: which becomes dlogits. The last rows come first: they are still in L2. */
template <bool GRADIENT>
__global__ void __launch_bounds__(MOST_SUM_THREADS)
    head_rows_kernel(real *logits, int64_t stride, int64_t V, float *losses, const int32_t *targets,
                     int64_t ignore_index, const Divisor *divisor) {
    const int64_t n = (int64_t)gridDim.x - 1 - blockIdx.x, target = targets[n];
    real *row = logits + n * stride;
    const bool good = counts(target, V, ignore_index);
    const float picked = good ? to_float(row[target]) : 0;
    const SumExp all = block_sum_exp(row, V, shared_memory<SumExpMemory>());
    if (threadIdx.x == 0) losses[n] = good ? (float)((double)all.max - (double)picked + log((double)all.sum)) : 0;
    if (!GRADIENT) return;
    const float scale = divisor->scale, inverse = 1 / all.sum;
    for (int64_t i = (int64_t)threadIdx.x * VL; i < V; i += (int64_t)blockDim.x * VL) {
        vec v = {};
        if (good) {
            v = load_n(row + i, V - i);
            EACH_LANE(k) v.x[k] = (expf(v.x[k] - all.max) * inverse - (i + k == target)) * scale;
        }
        store_n(row + i, v, V - i);
    }
}

/* One block: loss = sum of the losses / denominator. */
__global__ void __launch_bounds__(LOSS_THREADS)
    head_loss_kernel(float *loss, const float *losses, int64_t N, const Divisor *divisor) {
    double sum = 0;
    for (int64_t n = threadIdx.x; n < N; n += LOSS_THREADS) sum += losses[n];
    sum = block_sum(sum, shared_memory<LossMemory>().partial);
    if (threadIdx.x == 0) loss[0] = (float)(sum / divisor->denominator);
}

/* The workspace: a Divisor, the logits of a chunk, and parts of dw. */
constexpr int64_t DIVISOR_BYTES = 256;

static int64_t logits_stride(int64_t V) { return ceil_div(V, VL) * VL; }

static int64_t chunk_rows(int64_t N, int64_t V) {
    const int64_t rows = CHUNK_BYTES / (int64_t)sizeof(real) / max_i64(1, logits_stride(V)) / CHUNK_ROWS * CHUNK_ROWS;
    return min_i64(N, max_i64(CHUNK_ROWS, rows));
}

static int64_t logits_bytes(int64_t N, int64_t V) { // whole vectors
    return chunk_rows(N, V) * logits_stride(V) * (int64_t)sizeof(real);
}

static int head(const head_backward_args *args, bool gradient, const gollm_team *team) {
    const int64_t N = args->N, V = args->V, C = args->C, stride = logits_stride(V), chunk = chunk_rows(N, V);
    Divisor *divisor = (Divisor *)team->workspace;
    real *logits = (real *)((char *)team->workspace + DIVISOR_BYTES); // (chunk, stride)
    float *partial = (float *)((char *)logits + logits_bytes(N, V));
    int status = launch(head_divisor_kernel, dim3(1), LOSS_THREADS, sizeof(LossMemory), team, divisor, args->targets, N,
                        V, args->ignore_index, args->denominator, args->dloss, team->error);
    int64_t n = 0;
    do { // once also when N is 0: dw may have to be cleared
        const int64_t rows = min_i64(chunk, N - n);
        const real *x = args->x + n * C;
        Product product = {x, args->w, rows, V, C, args->compute, C, C, stride, {}, nullptr};
        product.epilogue.c = logits;
        if (status == GOLLM_OK) status = run_product<false, false>(product, team);
        if (status == GOLLM_OK)
            status = launch(gradient ? head_rows_kernel<true> : head_rows_kernel<false>, dim3(grid_size(rows)),
                            sum_exp_threads(V), sizeof(SumExpMemory), team, logits, stride, V, args->losses + n,
                            args->targets + n, args->ignore_index, divisor);
        if (status == GOLLM_OK && args->dx) {
            Product dx = {logits, args->w, rows, C, V, args->compute, stride, C, C, {}, nullptr};
            dx.epilogue.c = args->dx + n * C;
            dx.epilogue.accumulate = args->dx_accumulate;
            status = run_product<false, true>(dx, team);
        }
        if (status == GOLLM_OK && args->dw) {
            Product dw = {logits, x, V, C, rows, args->compute, stride, C, C, {}, partial};
            dw.epilogue.c = args->dw;
            dw.epilogue.accumulate = args->dw_accumulate || n > 0;
            status = run_product<true, true>(dw, team);
        }
        n += rows;
    } while (n < N && status == GOLLM_OK);
    if (status != GOLLM_OK) return status;
    return launch(head_loss_kernel, dim3(1), LOSS_THREADS, sizeof(LossMemory), team, args->loss, args->losses, N,
                  divisor);
}

int64_t head_forward_workspace(const head_forward_args *args) { return DIVISOR_BYTES + logits_bytes(args->N, args->V); }

int head_forward(const head_forward_args *args, const gollm_team *team) {
    head_backward_args both = {};
    both.N = args->N, both.C = args->C, both.V = args->V;
    both.loss = args->loss, both.losses = args->losses;
    both.x = args->x, both.w = args->w, both.targets = args->targets;
    both.denominator = args->denominator, both.ignore_index = args->ignore_index, both.compute = args->compute;
    return head(&both, false, team);
}

int64_t head_backward_workspace(const head_backward_args *args) {
    const int64_t rows = chunk_rows(args->N, args->V); // a last chunk with fewer has as many parts or fewer
    return DIVISOR_BYTES + logits_bytes(args->N, args->V) + product_bytes(args->V, args->C, rows);
}

int head_backward(const head_backward_args *args, const gollm_team *team) { return head(args, true, team); }

} // namespace GOLLM_VARIANT
