/* A product of matrices with its epilogue, c (M, N) = op(a) op(b), and how it is cut up for the kernels of gemm.h.
 *
 * An operand lies with k contiguous (K-major) or with its other axis (MN-major).
 *
 * A weight's gradient may have few elements and a long k, too few blocks to fill a GPU. Where it has memory for it, such a
 * product is cut into parts of k, whose sums a second kernel adds in order. Into how many depends on its sizes alone.
 */
#ifndef GOLLM_CUDA_PRODUCT_H
#define GOLLM_CUDA_PRODUCT_H

#include "activation.h"

namespace GOLLM_VARIANT {

/* One element, where a thread has no more. */
struct Single {
    float x[1];
};
template <class V> __device__ __forceinline__ V load_elements(const real *p, int64_t left) {
    if constexpr (sizeof(V) == sizeof(Single))
        return {{to_float(*p)}};
    else
        return load_n(p, left);
}
__device__ __forceinline__ void store_elements(real *p, const Single &v, int64_t) { put(p, v.x[0]); }
__device__ __forceinline__ void store_elements(real *p, const vec &v, int64_t left) { store_n(p, v, left); }

/* The steps on the finished sum v, as csrc/epilogue.h has them. Matrices are (M, N); NULL and GOLLM_NONE leave one out. */
struct Epilogue {
    real *c;
    int64_t accumulate;
    const real *bias;        /* (N)  v += bias */
    real *pre;               /*      pre = v */
    int64_t activation;      /*      v = activation(v), unless gradient_of is given */
    const real *factor;      /*      v *= factor */
    const real *residual;    /*      v += residual */
    const real *gradient_of; /*      v *= activation'(gradient_of); of a gate also dfactor and product */
    real *dfactor, *product;

    /* The first `left` of the elements from column n on, which lie at `at` in the matrices: a vec, or a Single. */
    template <class V> __device__ __forceinline__ void operator()(int64_t at, int64_t n, int64_t left, V v) const {
        constexpr int LANES = sizeof(V) / sizeof(float);
        const auto add = [&](const real *x) {
            const V y = load_elements<V>(x, left);
#pragma unroll
            for (int k = 0; k < LANES; k++) v.x[k] += y.x[k];
        };
        if (bias) add(bias + n);
        if (pre) store_elements(pre + at, v, left);
        V times = {};
        if (factor) times = load_elements<V>(factor + at, left);
        if (gradient_of) {
            const V x = load_elements<V>(gradient_of + at, left);
            V f = {}, df = {};
            with_activation(activation, [&](int64_t kind) {
#pragma unroll
                for (int k = 0; k < LANES; k++) {
                    if (dfactor) {
                        f.x[k] = GOLLM_VARIANT::activation(kind, x.x[k]);
                        df.x[k] = f.x[k] * v.x[k];
                    }
                }
                if (dfactor) store_elements(dfactor + at, df, left);
#pragma unroll
                for (int k = 0; k < LANES; k++) v.x[k] *= activation_gradient(kind, x.x[k]);
            });
            if (dfactor) {
#pragma unroll
                for (int k = 0; k < LANES; k++) f.x[k] *= times.x[k];
                store_elements(product + at, f, left);
            }
        } else
            with_activation(activation, [&](int64_t kind) {
#pragma unroll
                for (int k = 0; k < LANES; k++) v.x[k] = GOLLM_VARIANT::activation(kind, v.x[k]);
            });
        if (factor)
#pragma unroll
            for (int k = 0; k < LANES; k++) v.x[k] *= times.x[k];
        if (residual) add(residual + at);
        if (accumulate) add(c + at);
        store_elements(c + at, v, left);
    }
};

/* Of the arguments of a forward product. */
template <class Args> Epilogue forward_epilogue(const Args *args) {
    Epilogue e = {};
    e.c = args->c, e.bias = args->bias, e.pre = args->pre;
    e.activation = args->activation, e.factor = args->factor, e.residual = args->residual;
    return e;
}

/* Strides are those of rows: of k where an operand is K-major, else of its other axis. */
struct Product {
    const real *a, *b;
    int64_t M, N, K, compute, a_stride, b_stride, c_stride;
    Epilogue epilogue;
    float *partial; // (product_parts, M, N), where there are parts; or NULL: there is one
};

#ifdef GOLLM_BF16
constexpr int TILE = 128, STEP = 64, STAGES = 3, PRODUCT_THREADS = 128;
#else
constexpr int TILE = 64, STEP = 16, PRODUCT_THREADS = 256;
#endif
/* Two blocks for each multiprocessor of an H100; and a part is long enough that its sums do not cost more than it. */
constexpr int64_t ENOUGH_BLOCKS = 264, LEAST_K = 512;

static inline int64_t product_blocks(int64_t M, int64_t N) { return ceil_div(M, TILE) * ceil_div(N, TILE); }
static inline int64_t product_parts(int64_t M, int64_t N, int64_t K) {
    return max_i64(1, min_i64(ENOUGH_BLOCKS / max_i64(1, product_blocks(M, N)), K / LEAST_K));
}
static inline int64_t product_bytes(int64_t M, int64_t N, int64_t K) {
    const int64_t parts = product_parts(M, N, K);
    return parts > 1 ? parts * M * N * (int64_t)sizeof(float) : 0;
}

/* Where tile number i of `rows` x `columns` lies: bands of 16 rows, in which neighbours are in the same column, so that blocks
 * that run at a time share what they read. */
struct TilePlace {
    int64_t row, column;

    __device__ __forceinline__ TilePlace(int64_t i, int64_t rows, int64_t columns) {
        const int64_t first = i / (16 * columns) * 16, height = rows - first < 16 ? rows - first : 16;
        row = first + i % (16 * columns) % height, column = i % (16 * columns) / height;
    }
};

/* The steps of k of a part. */
struct ProductSteps {
    int begin, end;

    __device__ __forceinline__ ProductSteps(int64_t K, int64_t part, int64_t parts) {
        const int64_t steps = ceil_div(K, STEP);
        begin = (int)(steps * part / parts), end = (int)(steps * (part + 1) / parts);
    }
};

/* The finished sums of VL elements of row m from column n on: to their part, or through the epilogue. */
__device__ __forceinline__ void write_sums(const Product &p, int64_t m, int64_t n, int64_t part, int64_t parts,
                                           const vec &sums) {
    if (m >= p.M || n >= p.N) return;
    if (parts > 1)
        store_n(p.partial + (part * p.M + m) * p.N + n, sums, p.N - n);
    else
        p.epilogue(m * p.c_stride + n, n, p.N - n, sums);
}

} // namespace GOLLM_VARIANT

#endif
