/* What a kernel file includes: its table's types and names, vectors of 16 bytes, and sums over a warp and a block.
 *
 * Every file is compiled once per table, into a namespace of its own: with float as `real`, and with bfloat16 (GOLLM_BF16).
 * A kernel is a host function with the signature and the argument struct of the CPU's, which queues launches and returns; a
 * device function gets the struct by value. What its buffers hold is looked at on the device alone: bad data go into the team's error word. Names of
 * __global__ functions are those of their kernel, so that all files also compile as one.
 *
 * Results do not depend on when blocks or warps run: sums have a fixed order, and no float is added atomically.
 */
#ifndef GOLLM_CUDA_KERNEL_H
#define GOLLM_CUDA_KERNEL_H

#include "gpu.h"

struct bf16_bits {
    uint16_t bits;
};
struct f16_bits {
    uint16_t bits;
};
#ifdef GOLLM_BF16
typedef bf16_bits real;
#else
typedef float real;
#endif
typedef float wide;
typedef double f64;
typedef int64_t i64;
typedef int32_t i32;
typedef bf16_bits bf16;
typedef f16_bits f16;
typedef uint8_t u8;

namespace GOLLM_VARIANT { // float32 or bfloat16, from the build

#define GOLLM_DIM(name) int64_t name;
#define GOLLM_SCALAR(type, name) type name;
#define GOLLM_IN(type, name, ...) const type *name;
#define GOLLM_OUT(type, name, ...) type *name;
#define GOLLM_INTO(type, name, ...)                                                                                    \
    type *name;                                                                                                        \
    int64_t name##_accumulate;
#define GOLLM_KERNEL(name, fields)                                                                                     \
    struct name##_args {                                                                                               \
        fields                                                                                                         \
    };                                                                                                                 \
    int name(const name##_args *args, const gollm_team *team);                                                         \
    int64_t name##_workspace(const name##_args *args);
#include "kernels.def"

__host__ __device__ static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ static inline int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
__host__ __device__ static inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

/* One value, widened, or rounded to nearest, ties to even (csrc/half.h). */
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
__device__ __forceinline__ uint16_t bf16_of_float(float x) {
    const uint32_t bits = __float_as_uint(x), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}
__device__ __forceinline__ float to_float(f16 x) { return float_of_f16(x.bits); }
__device__ __forceinline__ void put(float *p, float x) { *p = x; }
__device__ __forceinline__ void put(bf16 *p, float x) { p->bits = bf16_of_float(x); }
__device__ __forceinline__ void put(f16 *p, float x) { p->bits = f16_of_float(x); }

/* VL consecutive values: 16 bytes of real. */
constexpr int VL = 16 / sizeof(real);
struct vec {
    float x[VL];
};

template <class T> __host__ __device__ __forceinline__ bool is_aligned(const T *p) { return ((uintptr_t)p & 15) == 0; }

/* The first n of them; the others are `rest`. */
template <class T> __device__ __forceinline__ vec load_n(const T *p, int64_t n, float rest = 0) {
    constexpr int PER_LOAD = 16 / sizeof(T);
    vec v;
    if (n >= VL && VL >= PER_LOAD && is_aligned(p)) {
        struct alignas(16) Quad {
            T x[PER_LOAD];
        };
#pragma unroll
        for (int i = 0; i < VL / PER_LOAD; i++) {
            const Quad quad = ((const Quad *)p)[i];
#pragma unroll
            for (int j = 0; j < PER_LOAD; j++) v.x[(i * PER_LOAD + j) % VL] = to_float(quad.x[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < VL; i++) v.x[i] = i < n ? to_float(p[i]) : rest;
    }
    return v;
}

template <class T> __device__ __forceinline__ void store_n(T *p, const vec &v, int64_t n) {
    constexpr int PER_STORE = 16 / sizeof(T);
    if (n >= VL && VL >= PER_STORE && is_aligned(p)) {
        struct alignas(16) Quad {
            T x[PER_STORE];
        };
#pragma unroll
        for (int i = 0; i < VL / PER_STORE; i++) {
            Quad quad;
#pragma unroll
            for (int j = 0; j < PER_STORE; j++) put(&quad.x[j], v.x[(i * PER_STORE + j) % VL]);
            ((Quad *)p)[i] = quad;
        }
    } else {
#pragma unroll
        for (int i = 0; i < VL; i++)
            if (i < n) put(p + i, v.x[i]);
    }
}

#define EACH_LANE(k) _Pragma("unroll") for (int k = 0; k < VL; k++)
__device__ __forceinline__ vec operator+(vec a, const vec &b) {
    EACH_LANE(k) a.x[k] += b.x[k];
    return a;
}
__device__ __forceinline__ vec operator*(vec a, const vec &b) {
    EACH_LANE(k) a.x[k] *= b.x[k];
    return a;
}

/* Element-wise kernels: a thread takes VL elements at a time, a grid apart; MAX_BLOCKS of 256 threads fill any GPU. */
constexpr int ELEMENT_THREADS = 256, MAX_BLOCKS = 4096;
static inline dim3 element_blocks(int64_t n) {
    return dim3((unsigned)min_i64(MAX_BLOCKS, ceil_div(n, ELEMENT_THREADS * VL)));
}
#define EACH_VECTOR(i, n)                                                                                              \
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * VL; i < (n);                                   \
         i += (int64_t)gridDim.x * blockDim.x * VL)

/* Sums, and the largest, over the lanes of a warp, in every lane. */
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}

/* The same over a block, in every thread. `partial` is shared memory for a value of each warp; the barrier in front lets it
 * be used again. */
template <class T> __device__ __forceinline__ T block_sum(T x, T *partial) {
    const int n_warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < n_warps; i++) sum += partial[i];
    return sum;
}
__device__ __forceinline__ float block_max(float x, float *partial) {
    const int n_warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = partial[0];
    for (int i = 1; i < n_warps; i++) largest = fmaxf(largest, partial[i]);
    return largest;
}

/* Row kernels: a warp a row, ROW_WARPS rows a block. */
constexpr int ROW_WARPS = 4;
static inline dim3 row_blocks(int64_t rows) { return dim3(grid_size(ceil_div(rows, ROW_WARPS))); }
__device__ __forceinline__ int64_t row_of_warp() { return (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32; }

/* Of a row of n values: this lane's vectors. */
#define EACH_VECTOR_OF_ROW(i, n) for (int64_t i = threadIdx.x % 32 * VL; i < (n); i += 32 * VL)

} // namespace GOLLM_VARIANT

#endif
