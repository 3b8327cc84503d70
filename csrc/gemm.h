/* A matrix product with its epilogue: c (M, N) = epilogue(op(a) (M, K) op(b) (K, N)).
 *
 * An element of c depends on its row of op(a) and its column of op(b) alone: not on M, N, the tile or the threads, nor on
 * the layout of the operands (summation_order.h).
 */
#ifndef GOLLM_GEMM_H
#define GOLLM_GEMM_H

#include "epilogue.h"

/* Whether products can be computed in this enum gollm_dtype. */
static inline int compute_is_known(int64_t compute) { return compute == GOLLM_FLOAT32 || compute == GOLLM_BFLOAT16; }

/* How an operand lies in memory. A line of it is a row of op(a) or a column of op(b): K values, one for each step of k. A
 * new layout, or a narrower type, is one more packer in gemm.c. */
enum layout {
    LINES, /* each line is contiguous: data[line * stride + k] */
    STEPS, /* each step is contiguous: data[k * stride + line] */
    PANELS /* b only, packed beforehand: [panel of PANEL lines][K][PANEL] (gemm_pack.h); stride is not used */
};

struct operand {
    const real *data;
    int64_t stride;
    enum layout layout;
};

struct gemm {
    int64_t M, N, K;
    int64_t compute; /* GOLLM_BFLOAT16: operands, not in PANELS, are rounded to bf16 (gemm_bf16.h) */
    struct operand a, b;
    real *c; /* NULL: only a_sum is wanted */
    int64_t ldc;
    int accumulate; /* blocks of k are added to c one by one; without an epilogue only */
    struct epilogue epilogue;

    /* The sums of a's lines, a in STEPS, in the same blocks of k: the gradient of a bias. */
    real *a_sum; /* (M) */
    int a_sum_accumulate;
};

/* Bytes of workspace for each thread, a multiple of GOLLM_ALIGNMENT. */
#define gemm_workspace KERNEL_FN(gemm_workspace)
int64_t gemm_workspace(const struct gemm *g);

/* The team computes c; no barrier. Each thread takes its own `bytes` of the workspace, at least gemm_workspace. */
#define gemm_run KERNEL_FN(gemm_run)
void gemm_run(const struct gemm *g, const struct gollm_team *team, void *workspace, int64_t bytes);

/* w (N, K)  ->  the same in PANELS. */
#define gemm_pack_panels KERNEL_FN(gemm_pack_panels)
void gemm_pack_panels(real *panels, const real *w, int64_t N, int64_t K, const struct gollm_team *team);

#endif
