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
 * Rows that are ignored cost nothing: in fine-tuning, where few tokens count, the others' logits are never computed. The
 * rows that count go through in chunks of a multiple of KC, which is a whole number of blocks of dw's sum over rows: the
 * chunk's size does not change a bit. Where some are ignored, a chunk's rows of x are copied together first, and its rows
 * of dx to their places afterwards. Workspace: the logits of a chunk, in rows padded to whole cache lines, its rows of x
 * and dx with their numbers, and what the products need. For n rows that count 2nVC operations forward, 6nVC backward;
 * the softmax reads and writes a chunk of logits about twice.
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

/* The rows of a chunk's logits are whole cache lines. */
static int64_t logits_stride(int64_t V) { return round_up(V, GOLLM_ALIGNMENT / (int64_t)sizeof(real)); }

/* The workspace of a call, before what the products need. */
struct chunk {
    real *logits;     // (rows, stride)
    real *x, *dx;     // (rows, C) each: where rows are ignored, those that count
    int64_t *numbers; // (rows): which rows of x they are
};

static int64_t logits_bytes(int64_t N, int64_t V) {
    return round_up(chunk_rows(N, V) * logits_stride(V) * (int64_t)sizeof(real), GOLLM_ALIGNMENT);
}

static int64_t x_bytes(int64_t N, int64_t C, int64_t V) {
    return times_i64(round_up(chunk_rows(N, V) * (int64_t)sizeof(real), GOLLM_ALIGNMENT), C);
}

static int64_t chunk_bytes(int64_t N, int64_t C, int64_t V) {
    const int64_t numbers = round_up(chunk_rows(N, V) * (int64_t)sizeof(int64_t), GOLLM_ALIGNMENT);
    return plus_i64(logits_bytes(N, V) + numbers, times_i64(2, x_bytes(N, C, V)));
}

static struct chunk chunk_in(void *workspace, int64_t N, int64_t C, int64_t V) {
    char *const x = (char *)workspace + logits_bytes(N, V), *const dx = x + x_bytes(N, C, V);
    return (struct chunk){workspace, (real *)x, (real *)dx, (int64_t *)(dx + x_bytes(N, C, V))};
}

/* The products of the first chunk. logits become dlogits in place. */
struct products {
    struct gemm logits, dx, dw;
};

static struct products products_of(const struct head_backward_args *args, real *logits) {
    const int64_t V = args->V, C = args->C, rows = chunk_rows(args->N, V), stride = logits_stride(V);
    const int64_t compute = args->compute;
    const struct operand x = {args->x, C, LINES}, x_steps = {args->x, C, STEPS};
    const struct operand w = {args->w, C, LINES}, w_steps = {args->w, C, STEPS};
    const struct operand dlogits = {logits, stride, LINES}, dlogits_steps = {logits, stride, STEPS};
    struct products p = {
        .logits = {.M = rows, .N = V, .K = C, .compute = compute, .a = x, .b = w, .c = logits, .ldc = stride},
        .dx = {.M = rows, .N = C, .K = V, .compute = compute, .a = dlogits, .b = w_steps, .c = args->dx, .ldc = C},
        .dw =
            {.M = V, .N = C, .K = rows, .compute = compute, .a = dlogits_steps, .b = x_steps, .c = args->dw, .ldc = C},
    };
    p.dx.accumulate = args->dx_accumulate != 0;
    p.dw.accumulate = args->dw_accumulate != 0;
    return p;
}

/* Of the workspace, what each thread needs for one of the products at a time. */
static int64_t gemm_bytes(const struct products *p, int backward) {
    const int64_t forward = gemm_workspace(&p->logits);
    return backward ? max_i64(forward, max_i64(gemm_workspace(&p->dx), gemm_workspace(&p->dw))) : forward;
}

static int64_t workspace_bytes(const struct head_backward_args *args, int backward, int n_threads) {
    const struct products p = products_of(args, NULL);
    return plus_i64(chunk_bytes(args->N, args->C, args->V), n_threads * gemm_bytes(&p, backward));
}

/* One row that counts: its loss and, unless scale is NULL, dlogits in place of the logits. */
static real row_loss(real *logits, // (V)
                     int64_t V, int64_t target, const real *scale) {
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

/* What ignored rows among this thread's get: no loss, no gradient. */
static void clear_ignored(const struct head_backward_args *args, const struct gollm_team *team) {
    const struct range mine = thread_range(args->N, 1, team);
    for (int64_t n = mine.begin; n < mine.end; n++) {
        if (args->targets[n] != args->ignore_index) continue;
        args->losses[n] = 0;
        if (args->dx && !args->dx_accumulate) memset(args->dx + n * args->C, 0, (size_t)args->C * sizeof(real));
    }
}

/* The numbers of a chunk's rows that are this thread's, from the n-th row of x on; returns where the next chunk begins. */
static int64_t number_rows(const struct head_backward_args *args, int64_t n, int64_t rows, struct range mine,
                           int64_t *numbers) { // (rows)
    for (int64_t i = 0; i < rows; n++) {
        if (args->targets[n] == args->ignore_index) continue;
        if (mine.begin <= i && i < mine.end) numbers[i] = n;
        i++;
    }
    return n;
}

static int run(const struct head_backward_args *args, int backward, const struct gollm_team *team) {
    const int64_t N = args->N, V = args->V, C = args->C, stride = logits_stride(V);
    int64_t counted = 0;
    for (int64_t n = 0; n < N; n++) { // every thread looks at all, so that all leave together
        if (args->targets[n] == args->ignore_index) continue;
        if (args->targets[n] < 0 || args->targets[n] >= V) return GOLLM_BAD_INDEX;
        counted++;
    }
    const double denominator = args->denominator ? args->denominator[0] : (double)max_i64(1, counted);
    const real scale = backward ? (real)(args->dloss[0] / denominator) : 0;
    const size_t row_bytes = (size_t)C * sizeof(real);
    const struct chunk chunk = chunk_in(team->workspace, N, C, V);
    void *workspace = (char *)team->workspace + chunk_bytes(N, C, V);
    struct products p = products_of(args, chunk.logits);
    const int64_t bytes = gemm_bytes(&p, backward);
    const int some_ignored = counted < N;
    if (some_ignored) {
        clear_ignored(args, team);
        p.logits.a.data = p.dw.b.data = chunk.x;
        if (args->dx) p.dx.c = chunk.dx;
    }
    int64_t done = 0, n = 0;
    do { // once also when no row counts: dw may have to be cleared
        const int64_t rows = min_i64(chunk_rows(N, V), counted - done);
        const struct range mine = thread_range(rows, 1, team);
        n = number_rows(args, n, rows, mine, chunk.numbers);
        for (int64_t i = mine.begin; some_ignored && i < mine.end; i++) {
            const int64_t from = chunk.numbers[i] * C;
            memcpy(chunk.x + i * C, args->x + from, row_bytes);
            if (args->dx && args->dx_accumulate) memcpy(chunk.dx + i * C, args->dx + from, row_bytes);
        }
        if (some_ignored) gollm_team_wait(team);
        p.logits.M = p.dx.M = p.dw.K = rows;
        gemm_run(&p.logits, team, workspace, bytes);
        gollm_team_wait(team);
        for (int64_t i = mine.begin; i < mine.end; i++)
            args->losses[chunk.numbers[i]] =
                row_loss(chunk.logits + i * stride, V, args->targets[chunk.numbers[i]], backward ? &scale : NULL);
        gollm_team_wait(team);
        if (args->dx) gemm_run(&p.dx, team, workspace, bytes);
        if (args->dw) gemm_run(&p.dw, team, workspace, bytes);
        if (backward) gollm_team_wait(team);
        if (some_ignored) {
            for (int64_t i = mine.begin; args->dx && i < mine.end; i++)
                memcpy(args->dx + chunk.numbers[i] * C, chunk.dx + i * C, row_bytes);
            gollm_team_wait(team); // the next chunk takes the same places
        } else {
            p.logits.a.data += rows * C, p.dw.b.data += rows * C;
            if (args->dx) p.dx.c += rows * C;
        }
        p.dw.accumulate = 1; // the next chunks add to it
        done += rows;
    } while (done < counted);
    if (team->thread == 0) {
        double sum = 0;
        for (n = 0; n < N; n++) sum += args->losses[n];
        args->loss[0] = (real)(sum / denominator);
    }
    return GOLLM_OK;
}

static struct head_backward_args without_gradients(const struct head_forward_args *args) {
    return (struct head_backward_args){.N = args->N,
                                       .C = args->C,
                                       .V = args->V,
                                       .loss = args->loss,
                                       .losses = args->losses,
                                       .x = args->x,
                                       .w = args->w,
                                       .targets = args->targets,
                                       .denominator = args->denominator,
                                       .ignore_index = args->ignore_index,
                                       .compute = args->compute};
}

int KERNEL_FN(head_forward_check)(const struct head_forward_args *args) {
    if (args->C == 0) return GOLLM_BAD_SHAPE; // V would have no bound
    return compute_is_known(args->compute) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(head_forward_workspace)(const struct head_forward_args *args, int n_threads) {
    const struct head_backward_args both = without_gradients(args);
    return workspace_bytes(&both, 0, n_threads);
}

int KERNEL_FN(head_forward)(const struct head_forward_args *args, const struct gollm_team *team) {
    const struct head_backward_args both = without_gradients(args);
    return run(&both, 0, team);
}

int KERNEL_FN(head_backward_check)(const struct head_backward_args *args) {
    if (args->C == 0) return GOLLM_BAD_SHAPE;
    return compute_is_known(args->compute) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(head_backward_workspace)(const struct head_backward_args *args, int n_threads) {
    return workspace_bytes(args, 1, n_threads);
}

int KERNEL_FN(head_backward)(const struct head_backward_args *args, const struct gollm_team *team) {
    return run(args, 1, team);
}
