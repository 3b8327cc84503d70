/* A product with its epilogue, for whoever builds on it: c (M, N) = epilogue(op(a) (M, K) op(b) (K, N)).
 *
 * Every element is the sum of its blocks of KC steps of k in ascending order (gemm_microkernel.h), and depends on
 * nothing else but its row of op(a) and its column of op(b): not on M, N, the tile, the threads, nor on how the
 * operands lie in memory.
 */
#ifndef GOLLM_GEMM_H
#define GOLLM_GEMM_H

#include "kernel.h" /* real, struct range, struct gollm_team */

struct gemm {
    int64_t M, N, K;
    const real *a; // a(m, k) = a[m * lda + k], or a[k * lda + m] when a_transposed
    const real *b; // b(k, n) = b[k * ldb + n], or b[n * ldb + k] when b_transposed
    real *c;       // c(m, n) = c[m * ldc + n]; NULL where only pre is wanted
    int64_t lda, ldb, ldc;
    int a_transposed, b_transposed;
    int accumulate; // without an epilogue the blocks are added to c, one by one; with one, its result is

    /* The epilogue, on the finished sum v, in this order; NULL (GOLLM_NONE) leaves a step out. Rows are ldc apart. */
    const real *bias;        // (N)     v += bias
    real *pre;               // (M, N)  pre = v
    int64_t activation;      //         v = activation(v), where gradient_of is NULL
    const real *gradient_of; // (M, N)  v is the gradient of activation(gradient_of) * factor:
    real *product;           // (M, N)    product = activation(gradient_of) * factor
    real *dfactor;           // (M, N)    dfactor = v * activation(gradient_of)
                             //           v *= activation'(gradient_of)
    const real *factor;      // (M, N)  v *= factor
    const real *residual;    // (M, N)  v += residual; may be c

    /* a's sums over k, in the same blocks, when a is transposed: the gradient of a bias. Written by whoever has column
     * 0. */
    real *a_sum; // (M)
    int a_sum_accumulate;
};

/* Rows and columns of c: a thread's share of the work. */
struct gemm_tile {
    struct range rows, columns;
};

/* The share of thread `thread` of `n_threads`: a grid over c, of the shape that needs the least packing. */
struct gemm_tile KERNEL_FN(gemm_share)(int64_t M, int64_t N, int thread, int n_threads);
#define gemm_share KERNEL_FN(gemm_share)

/* Bytes of workspace, a multiple of 64, that each thread needs for its gemm. */
int64_t KERNEL_FN(gemm_workspace)(const struct gemm *g);
#define gemm_workspace KERNEL_FN(gemm_workspace)

/* Computes one tile of c, alone: no barrier inside. `workspace` is the thread's own, 64-byte aligned. */
void KERNEL_FN(gemm)(const struct gemm *g, struct gemm_tile tile, void *workspace);
#define gemm(g, tile, workspace) KERNEL_FN(gemm)(g, tile, workspace)

#endif
