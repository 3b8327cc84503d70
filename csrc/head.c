/* The language model's head: logits = x w^T, softmax and cross-entropy in one, without ever holding all logits.
 *
 *   forward    x (N, C), w (V, C), targets (N)             ->  losses (N), loss
 *   backward   the same and dloss, the gradient of loss    ->  losses, loss, dx (N, C), dw (V, C)
 *
 * losses[n] = log(sum over v of e^logits[n][v]) - logits[n][targets[n]], or 0 where targets[n] is ignore_index; loss =
 * their sum (in double, from the first to the last) / denominator. With p = softmax(logits):  dlogits = (p -
 * onehot(target)) * dloss / denominator, dx = dlogits w, dw = dlogits^T x. Without a denominator it is the number
 * of rows that are not ignored, at least 1. The backward pass has the losses' bits of the forward pass, so training calls
 * only it.
 *
 * Rows go through in chunks of a multiple of KC, which is a whole number of blocks of dw's sum over rows: the chunk's
 * size does not change a bit. Workspace: the logits of a chunk, in rows padded to whole cache lines, and what the
 * products need. 2NVC operations forward, 6NVC backward; the softmax reads and writes a chunk of logits about twice.
 */
#include "gemm.h"
#include "softmax.h"
#include "summation_order.h" /* KC */

/* Tuning: the logits of a chunk, 16 MB, unless KC rows have more. Larger: w is packed less often; smaller: less memory, and
 * more of it in L3. Not measured by itself. */
enum { CHUNK_LOGITS = 4 << 20 };

static int64_t chunk_rows(int64_t N, int64_t V) {
    const int64_t blocks = max_i64(1, CHUNK_LOGITS / (KC * max_i64(V, 1)));
    return min_i64(N, blocks * KC);
}

static int64_t logits_stride(int64_t V) { return round_up(V, 16); }

static int64_t gemms_workspace(int64_t rows, int64_t V, int64_t C, int backward) {
    const struct gemm logits = {.M = rows, .N = V, .K = C}, dx = {.M = rows, .N = C, .K = V};
    const struct gemm dw = {.M = V, .N = C, .K = rows};
    if (!backward) return gemm_workspace(&logits);
    return max_i64(gemm_workspace(&logits), max_i64(gemm_workspace(&dx), gemm_workspace(&dw)));
}

static int64_t workspace_bytes(int64_t N, int64_t V, int64_t C, int backward, int n_threads) {
    if (C == 0) return 0;
    const int64_t rows = chunk_rows(N, V);
    return round_up(rows * logits_stride(V), 64) * (int64_t)sizeof(real) +
           n_threads * gemms_workspace(rows, V, C, backward);
}

int64_t KERNEL_FN(head_forward_workspace)(const struct head_forward_args *a, int n_threads) {
    return workspace_bytes(a->N, a->V, a->C, 0, n_threads);
}

int64_t KERNEL_FN(head_backward_workspace)(const struct head_backward_args *a, int n_threads) {
    return workspace_bytes(a->N, a->V, a->C, 1, n_threads);
}

/* One row: its loss and, unless scale is NULL, dlogits in place of the logits. */
static real row_loss(real *logits, // (V)
                     int64_t V, int64_t target, int64_t ignore_index, const real *scale) {
    if (target == ignore_index) {
        if (scale) memset(logits, 0, (size_t)V * sizeof(real));
        return 0;
    }
    const real max = row_max(logits, V), picked = logits[target];
    const real sum = row_exp(scale ? logits : NULL, logits, V, max);
    if (scale) {
        const vec factor = vec_set(*scale / sum);
        const real target_error = logits[target] / sum - 1;
        for (int64_t i = 0; i < V; i += VL) vec_store_n(logits + i, vec_load_n(logits + i, V - i) * factor, V - i);
        logits[target] = target_error * *scale;
    }
    return (real)((double)max - (double)picked + log((double)sum));
}

/* dx, dw and dloss are NULL in the forward pass. */
static int run(const struct head_backward_args *a, const struct gollm_team *team) {
    const int64_t N = a->N, V = a->V, C = a->C;
    int64_t counted = 0;
    for (int64_t n = 0; n < N; n++) { // every thread looks at all, so that all leave together
        if (a->targets[n] == a->ignore_index) continue;
        if (a->targets[n] < 0 || a->targets[n] >= V) return GOLLM_BAD_INDEX;
        counted++;
    }
    const int backward = a->dloss != NULL;
    const double denominator = a->denominator ? a->denominator[0] : (double)max_i64(1, counted);
    const real scale = backward ? (real)(a->dloss[0] / denominator) : 0;
    const int64_t chunk = chunk_rows(N, V), stride = logits_stride(V);
    real *logits = team->workspace; // (chunk, stride)
    char *workspace =
        (char *)(logits + round_up(chunk * stride, 64)) + team->thread * gemms_workspace(chunk, V, C, backward);
    int64_t n = 0;
    do { // once also when N is 0: dw may have to be cleared
        const int64_t rows = min_i64(chunk, N - n);
        const struct gemm forward = {.M = rows,
                                     .N = V,
                                     .K = C,
                                     .a = a->x + n * C,
                                     .lda = C,
                                     .b = a->w,
                                     .ldb = C,
                                     .b_transposed = 1,
                                     .c = logits,
                                     .ldc = stride};
        gemm(&forward, gemm_share(rows, V, team->thread, team->n_threads), workspace);
        gollm_team_wait(team);
        const struct range mine = thread_range(rows, 1, team);
        for (int64_t i = mine.begin; i < mine.end; i++)
            a->losses[n + i] =
                row_loss(logits + i * stride, V, a->targets[n + i], a->ignore_index, backward ? &scale : NULL);
        gollm_team_wait(team);
        if (a->dx) {
            const struct gemm dx = {.M = rows,
                                    .N = C,
                                    .K = V,
                                    .a = logits,
                                    .lda = stride,
                                    .b = a->w,
                                    .ldb = C,
                                    .c = a->dx + n * C,
                                    .ldc = C,
                                    .accumulate = a->dx_accumulate != 0};
            gemm(&dx, gemm_share(rows, C, team->thread, team->n_threads), workspace);
        }
        if (a->dw) {
            const struct gemm dw = {.M = V,
                                    .N = C,
                                    .K = rows,
                                    .a = logits,
                                    .lda = stride,
                                    .a_transposed = 1,
                                    .b = a->x + n * C,
                                    .ldb = C,
                                    .c = a->dw,
                                    .ldc = C,
                                    .accumulate = n > 0 || a->dw_accumulate};
            gemm(&dw, gemm_share(V, C, team->thread, team->n_threads), workspace);
        }
        if (backward) gollm_team_wait(team);
        n += rows;
    } while (n < N);
    if (team->thread == 0) {
        double sum = 0;
        for (n = 0; n < N; n++) sum += a->losses[n];
        a->loss[0] = (real)(sum / denominator);
    }
    return GOLLM_OK;
}

int KERNEL_FN(head_forward_check)(const struct head_forward_args *a) {
    return a->C == 0 ? GOLLM_BAD_SHAPE : GOLLM_OK; // V would have no bound
}

int KERNEL_FN(head_forward)(const struct head_forward_args *a, const struct gollm_team *team) {
    const struct head_backward_args args = {.loss = a->loss,
                                            .losses = a->losses,
                                            .x = a->x,
                                            .w = a->w,
                                            .targets = a->targets,
                                            .denominator = a->denominator,
                                            .ignore_index = a->ignore_index,
                                            .N = a->N,
                                            .C = a->C,
                                            .V = a->V};
    return run(&args, team);
}

int KERNEL_FN(head_backward_check)(const struct head_backward_args *a) {
    return a->C == 0 ? GOLLM_BAD_SHAPE : GOLLM_OK;
}

int KERNEL_FN(head_backward)(const struct head_backward_args *a, const struct gollm_team *team) { return run(a, team); }
