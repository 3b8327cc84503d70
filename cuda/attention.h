/* What the files of attention share (csrc/attention_forward.c and csrc/attention_backward.c have the formulas and the mask).
 *
 * Kernels read heads in rows of whole vectors, keys and queries rotated. Where qkv is not that already, a pass of its own
 * writes such rows to the workspace, (B T, H + 2G, D) with D rounded up to VL, which is cheaper than to rotate each key again for
 * every block of queries.
 *
 * A masked key takes no part by its index. In a sum over a tile, a masked pair has the weight 0; but 0 * inf is NaN, so
 * values that are not finite get special care in tiles where a pair is masked.
 */
#ifndef GOLLM_CUDA_ATTENTION_H
#define GOLLM_CUDA_ATTENTION_H

#include "kernel.h"

namespace GOLLM_VARIANT {

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

struct Attention {
    const real *q, *k, *v;   // token n of B * T, head h at q + n * row + h * head
    int64_t row, head, H, G; // `head` is D rounded up to VL; the values beyond D are 0
    int T, D, window;        // window: of a query, its own key included; INT32_MAX: none
    float scale;
    const real *rotations; // (T, D) or NULL: of the gradients

    __device__ __forceinline__ bool sees(int query, int key) const {
        return key <= query && key > query - window && query < T;
    }
    /* Whether every query of a block sees every key of another. */
    __device__ __forceinline__ bool all_see(int query, int queries, int key, int keys) const {
        return key + keys - 1 <= query && key > query + queries - 1 - window && query + queries <= T;
    }
    /* The first key that a query sees, and the place after the last query that sees a key. */
    __device__ __forceinline__ int first_key(int query) const { return query < window ? 0 : query - window + 1; }
    __device__ __forceinline__ int end_of_queries(int key) const { return window < T - key ? key + window : T; }
};

/* to (n_rows, n_heads, padded) = rows of n_heads heads of D values, `row` apart, the first `rotated` heads turned by the
 * row's position; a thread takes a vector. */
struct PackedHeads {
    real *to;
    const real *from, *rotations;
    int64_t n_rows, row, n_heads, rotated, D, padded, T;
};
static __global__ void __launch_bounds__(ELEMENT_THREADS) attention_pack_kernel(PackedHeads p) {
    const int64_t vectors = p.padded / VL;
    EACH_VECTOR(i, p.n_rows * p.n_heads * p.padded) {
        const int64_t d = i / VL % vectors * VL, head = i / p.padded % p.n_heads, n = i / p.padded / p.n_heads;
        const int64_t left = p.D - d;
        vec v = load_n(p.from + n * p.row + head * p.D + d, left);
        if (p.rotations && head < p.rotated) {
            const vec x = v, r = load_n(p.rotations + n % p.T * p.D + d, left);
#pragma unroll
            for (int k = 0; k < VL; k += 2) {
                v.x[k] = x.x[k] * r.x[k] - x.x[k + 1] * r.x[k + 1];
                v.x[k + 1] = x.x[k + 1] * r.x[k] + x.x[k] * r.x[k + 1];
            }
        }
        store_n(p.to + i, v, VL);
    }
}

static inline bool is_packed(const real *x, int64_t D) { return is_aligned(x) && D % VL == 0; }

static inline int64_t padded_head(int64_t D) { return ceil_div(D, VL) * VL; }

static inline int64_t packed_bytes(int64_t rows, int64_t heads, int64_t D) {
    return rows * heads * padded_head(D) * (int64_t)sizeof(real);
}

template <class Args> int64_t attention_rows_bytes(const Args *args) {
    return is_packed(args->qkv, args->D) && !args->rotations
               ? 0
               : packed_bytes(args->B * args->T, args->H + 2 * args->G, args->D);
}

/* Packs where it has to, at the begin of the workspace. */
template <class Args> int attention_rows(Attention *a, const Args *args, const gollm_team *team) {
    const int64_t H = args->H, G = args->G, D = args->D, heads = H + 2 * G;
    if (args->T > 1 << 30) return GOLLM_BAD_SHAPE; // a position and a block more is still an int
    const bool packs = attention_rows_bytes(args) > 0;
    const int64_t head = packs ? padded_head(D) : D;
    real *to = (real *)team->workspace;
    const real *rows = packs ? to : args->qkv;
    *a = {rows,
          rows + H * head,
          rows + (H + G) * head,
          heads * head,
          head,
          H,
          G,
          (int)args->T,
          (int)D,
          args->window ? (int)args->window : INT32_MAX,
          (float)args->scale,
          args->rotations};
    if (!packs) return GOLLM_OK;
    const PackedHeads p = {to, args->qkv, args->rotations, args->B * args->T, heads * D, heads, H + G,
                           D,  head,      args->T};
    return launch(attention_pack_kernel, element_blocks(p.n_rows * heads * head), ELEMENT_THREADS, 0, team, p);
}

/* row[d] and row[d + 1] = x0 and x1, where d is even; those from D on are left out. */
__device__ __forceinline__ void put_pair(float *row, int d, int D, float x0, float x1) {
    if (d < D) row[d] = x0;
    if (d + 1 < D) row[d + 1] = x1;
}
__device__ __forceinline__ void put_pair(bf16 *row, int d, int D, float x0, float x1) {
    if (d + 1 < D && ((uintptr_t)(row + d) & 3) == 0)
        *(uint32_t *)(row + d) = pack_bf16(x0, x1);
    else {
        if (d < D) put(row + d, x0);
        if (d + 1 < D) put(row + d + 1, x1);
    }
}

/* Calls f with the smallest size that kernels are compiled for. */
template <int N> struct HeadSize {
    static constexpr int value = N;
};
template <class F> int with_head_size(int64_t D, const F &f) {
    return D <= 32    ? f(HeadSize<32>())
           : D <= 64  ? f(HeadSize<64>())
           : D <= 128 ? f(HeadSize<128>())
                      : f(HeadSize<256>());
}

} // namespace GOLLM_VARIANT

#endif
