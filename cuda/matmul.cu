/* Products of matrices, with their epilogue (gemm.h; few_rows.h has those with few rows):
 *
 *   matmul_nt    c (M, N) = a (M, K) b (N, K)^T      the forward pass of a linear layer
 *   matmul_nn    c (M, N) = a (M, K) b (K, N)        its gradient by the input
 *   matmul_tn    c (M, N) = a (K, M)^T b (K, N)      its gradient by the weight; a_sum (M), the bias', sums a over k
 */
#include "column_sums.h"
#include "few_rows.h"

namespace GOLLM_VARIANT {

int matmul_nt(const matmul_nt_args *args, const gollm_team *team) {
    const Product p = {args->a,       args->b, args->M, args->N, args->K,
                       args->compute, args->K, args->K, args->N, forward_epilogue(args),
                       nullptr};
    return p.M <= FEW_ROWS ? run_few_rows(p, team) : run_product<false, false>(p, team);
}

int matmul_nn(const matmul_nn_args *args, const gollm_team *team) {
    if (!args->c) return GOLLM_OK;
    Product p = {args->a, args->b, args->M, args->N, args->K, args->compute, args->K, args->N, args->N, {}, nullptr};
    p.epilogue.c = args->c;
    p.epilogue.accumulate = args->c_accumulate;
    if (args->pre) {
        p.epilogue.activation = args->activation;
        p.epilogue.gradient_of = args->pre;
        p.epilogue.factor = args->factor;
        p.epilogue.dfactor = args->dfactor;
        p.epilogue.product = args->product;
    }
    return run_product<false, true>(p, team);
}

struct MatrixColumns {
    const real *a;
    __device__ vec weight(int64_t, int64_t at, int64_t left) const { return load_n(a + at, left); }
    __device__ vec bias(int64_t, int64_t) const { return {}; }
};

int64_t matmul_tn_workspace(const matmul_tn_args *args) { // one after the other
    return max_i64(column_sums_bytes(args->M), product_bytes(args->M, args->N, args->K));
}

int matmul_tn(const matmul_tn_args *args, const gollm_team *team) {
    int status = column_sums(MatrixColumns{args->a}, args->K, args->M, {args->a_sum, args->a_sum_accumulate},
                             {nullptr, 0}, team);
    if (status != GOLLM_OK || !args->c) return status;
    Product p = {args->a,
                 args->b,
                 args->M,
                 args->N,
                 args->K,
                 args->compute,
                 args->M,
                 args->N,
                 args->N,
                 {},
                 (float *)team->workspace};
    p.epilogue.c = args->c;
    p.epilogue.accumulate = args->c_accumulate;
    return run_product<true, true>(p, team);
}

} // namespace GOLLM_VARIANT
