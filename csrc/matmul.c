/* Products of matrices, with what rides along on their results:
 *
 *   nt   c (M, N) = f(a (M, K) b (N, K)^T + bias) * factor + residual
 *        the forward pass of y = x w^T; `pre` receives what f is applied to. With f = SiLU this is the gate of SwiGLU
 *        (Shazeer 2020), and the other half of it the factor.
 *   nn   c (M, N) = v * f'(pre) * factor with v = a (M, K) b (K, N)
 *        its gradient for x, through the activation before it; dfactor = v * f(pre) is the factor's. product = f(pre) *
 *        factor, what the gradient of w needs, is computed again rather than kept; both need pre.
 *   tn   c (M, N) = a (K, M)^T b (K, N), a_sum (M) = sum of a's rows over K
 *        its gradients for w and for the bias
 *
 * f is `activation`, an enum gollm_activation. c may be the residual. Overwritten or accumulated into; when accumulated
 * into without anything riding along, the blocks of k are added to c one by one, so that a product over k split at
 * multiples of KC = 256 into several accumulating calls has the bits of a single one.
 *
 * 2MNK operations, bound by the FMA units once M, N and K are a few hundred. See gemm.c for the method,
 * gemm_microkernel.h for the order of summation. Workspace: a packed block of each operand, per thread.
 */
#include "activation.h"
#include "gemm.h"

static int run(const struct gemm *g, const struct gollm_team *team) {
    char *workspace = (char *)team->workspace + team->thread * gemm_workspace(g);
    gemm(g, gemm_share(g->M, g->N, team->thread, team->n_threads), workspace);
    return GOLLM_OK;
}

static struct gemm gemm_of_nt(const struct matmul_nt_args *a) {
    return (struct gemm){.M = a->M,
                         .N = a->N,
                         .K = a->K,
                         .a = a->a,
                         .lda = a->K,
                         .b = a->b,
                         .ldb = a->K,
                         .b_transposed = 1,
                         .c = a->c,
                         .ldc = a->N,
                         .accumulate = a->c && a->c_accumulate,
                         .bias = a->bias,
                         .pre = a->pre,
                         .activation = a->activation,
                         .factor = a->factor,
                         .residual = a->residual};
}

int KERNEL_FN(matmul_nt_check)(const struct matmul_nt_args *a) {
    return activation_is_known(a->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_nt_workspace)(const struct matmul_nt_args *a, int n_threads) {
    const struct gemm g = gemm_of_nt(a);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_nt)(const struct matmul_nt_args *a, const struct gollm_team *team) {
    if (!a->c && !a->pre) return GOLLM_OK;
    const struct gemm g = gemm_of_nt(a);
    return run(&g, team);
}

static struct gemm gemm_of_nn(const struct matmul_nn_args *a) {
    return (struct gemm){.M = a->M,
                         .N = a->N,
                         .K = a->K,
                         .a = a->a,
                         .lda = a->K,
                         .b = a->b,
                         .ldb = a->N,
                         .c = a->c,
                         .ldc = a->N,
                         .accumulate = a->c && a->c_accumulate,
                         .gradient_of = a->pre,
                         .activation = a->pre ? a->activation : GOLLM_NONE,
                         .factor = a->factor,
                         .dfactor = a->dfactor,
                         .product = a->product};
}

int KERNEL_FN(matmul_nn_check)(const struct matmul_nn_args *a) {
    if (!a->pre && (a->dfactor || a->product)) return GOLLM_BAD_VALUE;
    return !a->pre || activation_is_known(a->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_nn_workspace)(const struct matmul_nn_args *a, int n_threads) {
    const struct gemm g = gemm_of_nn(a);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_nn)(const struct matmul_nn_args *a, const struct gollm_team *team) {
    const struct gemm g = gemm_of_nn(a);
    if (!g.c && !g.dfactor && !g.product) return GOLLM_OK;
    return run(&g, team);
}

static struct gemm gemm_of_tn(const struct matmul_tn_args *a) {
    return (struct gemm){.M = a->M,
                         .N = a->c ? a->N : 0,
                         .K = a->K,
                         .a = a->a,
                         .lda = a->M,
                         .a_transposed = 1,
                         .b = a->b,
                         .ldb = a->N,
                         .c = a->c,
                         .ldc = a->N,
                         .accumulate = a->c && a->c_accumulate,
                         .a_sum = a->a_sum,
                         .a_sum_accumulate = a->a_sum_accumulate != 0};
}

int64_t KERNEL_FN(matmul_tn_workspace)(const struct matmul_tn_args *a, int n_threads) {
    const struct gemm g = gemm_of_tn(a);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_tn)(const struct matmul_tn_args *a, const struct gollm_team *team) {
    const struct gemm g = gemm_of_tn(a);
    return run(&g, team);
}
