/* Matrix products with their epilogues:
 *
 *   nt      c (M, N) = f(a (M, K) b (N, K)^T + bias) * factor + residual
 *           The forward pass of y = x w^T; pre is what f is applied to. With f = SiLU this is the gate of SwiGLU (Shazeer
 *           2020), and its other half the factor.
 *   packed  the same with b as pack_weight leaves it: the same bits, and nothing to pack in each call
 *   nn      c (M, N) = v * f'(pre) * factor with v = a (M, K) b (K, N)
 *           The gradient for x, through the activation before it. Of a gate also dfactor = v * f(pre), and product = f(pre)
 *           * factor, which the gradient of w needs and which is computed again rather than kept.
 *   tn      c (M, N) = a (K, M)^T b (K, N),  a_sum (M) = sum of a's rows over K
 *           The gradients for w and for the bias.
 *
 * f is `activation`, an enum gollm_activation. Without pre, nn may add to c, as tn may: then the blocks of k are added one by
 * one, so that a product over k split at multiples of KC into several calls has the bits of a single one.
 *
 * 2MNK operations, bound by the FMA units once M, N and K are a few hundred, and by reading b where M is at most 8. gemm.c
 * has the method.
 */
#include "gemm.h"

static int run(const struct gemm *g, const struct gollm_team *team) {
    gemm_run(g, team, team->workspace, gemm_workspace(g));
    return GOLLM_OK;
}

/* The two forward products, whose arguments have the same names and which differ in how b lies. */
#define GEMM_OF_FORWARD(args, b_layout, compute_)                                                                      \
    {.M = (args)->M,                                                                                                   \
     .N = (args)->N,                                                                                                   \
     .K = (args)->K,                                                                                                   \
     .compute = compute_,                                                                                              \
     .a = {(args)->a, (args)->K, LINES},                                                                               \
     .b = {(args)->b, (args)->K, b_layout},                                                                            \
     .c = (args)->c,                                                                                                   \
     .ldc = (args)->N,                                                                                                 \
     .epilogue = EPILOGUE_OF_FORWARD(args)}

int KERNEL_FN(matmul_nt_check)(const struct matmul_nt_args *args) {
    return activation_is_known(args->activation) && compute_is_known(args->compute) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_nt_workspace)(const struct matmul_nt_args *args, int n_threads) {
    const struct gemm g = GEMM_OF_FORWARD(args, LINES, args->compute);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_nt)(const struct matmul_nt_args *args, const struct gollm_team *team) {
    const struct gemm g = GEMM_OF_FORWARD(args, LINES, args->compute);
    return run(&g, team);
}

int KERNEL_FN(matmul_packed_check)(const struct matmul_packed_args *args) {
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_packed_workspace)(const struct matmul_packed_args *args, int n_threads) {
    const struct gemm g = GEMM_OF_FORWARD(args, PANELS, GOLLM_FLOAT32);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_packed)(const struct matmul_packed_args *args, const struct gollm_team *team) {
    const struct gemm g = GEMM_OF_FORWARD(args, PANELS, GOLLM_FLOAT32);
    return run(&g, team);
}

int KERNEL_FN(pack_weight)(const struct pack_weight_args *args, const struct gollm_team *team) {
    gemm_pack_panels(args->packed, args->w, args->N, args->K, team);
    return GOLLM_OK;
}

static struct gemm gemm_of_nn(const struct matmul_nn_args *args) {
    return (struct gemm){.M = args->M,
                         .N = args->N,
                         .K = args->K,
                         .compute = args->compute,
                         .a = {args->a, args->K, LINES},
                         .b = {args->b, args->N, STEPS},
                         .c = args->c,
                         .ldc = args->N,
                         .accumulate = args->c_accumulate != 0,
                         .epilogue = {.activation = args->pre ? args->activation : GOLLM_NONE,
                                      .factor = args->factor,
                                      .gradient_of = args->pre,
                                      .dfactor = args->dfactor,
                                      .product = args->product}};
}

int KERNEL_FN(matmul_nn_check)(const struct matmul_nn_args *args) {
    const int gate = (args->factor != NULL) + (args->dfactor != NULL) + (args->product != NULL);
    if (!compute_is_known(args->compute)) return GOLLM_BAD_VALUE;
    if (!args->pre) return gate ? GOLLM_BAD_VALUE : GOLLM_OK;
    if (!args->c || args->c_accumulate || (gate != 0 && gate != 3)) return GOLLM_BAD_VALUE;
    return activation_is_known(args->activation) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_nn_workspace)(const struct matmul_nn_args *args, int n_threads) {
    const struct gemm g = gemm_of_nn(args);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_nn)(const struct matmul_nn_args *args, const struct gollm_team *team) {
    const struct gemm g = gemm_of_nn(args);
    return args->c ? run(&g, team) : GOLLM_OK;
}

static struct gemm gemm_of_tn(const struct matmul_tn_args *args) {
    return (struct gemm){.M = args->M,
                         .N = args->c ? args->N : 0,
                         .K = args->K,
                         .compute = args->compute,
                         .a = {args->a, args->M, STEPS},
                         .b = {args->b, args->N, STEPS},
                         .c = args->c,
                         .ldc = args->N,
                         .accumulate = args->c_accumulate != 0,
                         .a_sum = args->a_sum,
                         .a_sum_accumulate = args->a_sum_accumulate != 0};
}

int KERNEL_FN(matmul_tn_check)(const struct matmul_tn_args *args) {
    return compute_is_known(args->compute) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int64_t KERNEL_FN(matmul_tn_workspace)(const struct matmul_tn_args *args, int n_threads) {
    const struct gemm g = gemm_of_tn(args);
    return n_threads * gemm_workspace(&g);
}

int KERNEL_FN(matmul_tn)(const struct matmul_tn_args *args, const struct gollm_team *team) {
    const struct gemm g = gemm_of_tn(args);
    return run(&g, team);
}
