/* log_sum_exp:  lse (S) = log(sum over v of e^logits[v])  for each row of logits (S, V)
 *
 * Bound by memory: a block takes a row, which it reads once.
 */
#include "sum_exp.h"

namespace GOLLM_VARIANT {

__global__ void __launch_bounds__(MOST_SUM_THREADS) log_sum_exp_kernel(log_sum_exp_args args) {
    const SumExp row = block_sum_exp(args.logits + (int64_t)blockIdx.x * args.V, args.V, shared_memory<SumExpMemory>());
    if (threadIdx.x == 0) args.lse[blockIdx.x] = (double)row.max + log((double)row.sum);
}

int log_sum_exp(const log_sum_exp_args *args, const gollm_team *team) {
    return launch(log_sum_exp_kernel, dim3(grid_size(args->S)), sum_exp_threads(args->V), sizeof(SumExpMemory), team,
                  *args);
}

} // namespace GOLLM_VARIANT
