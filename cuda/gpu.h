/* What a kernel needs of the GPU: launches, shared memory, and every instruction that has no name in C++. Nothing else holds
 * assembly. Without nvcc the same names come from tests/cuda_emulation/emulation.h, which runs a block's threads on the CPU.
 *
 *   shared_memory<T>()   the block's dynamic shared memory as a T, one struct for a kernel, aligned to 1024 bytes
 *   launch(...)          queues a kernel on the team's stream; a status, GOLLM_BAD_SHAPE for a grid that no GPU takes
 *   copy_async16 ...     16 bytes from global to shared memory without a register (cp.async), in groups that are waited for
 *   ldmatrix4            four 8 x 8 matrices of 16-bit values from shared memory into a warp's registers
 *   mma_bf16             d (16 x 8, float) += a (16 x 16, bfloat16) b (16 x 8, bfloat16) of a warp, on its tensor core
 *   pack_bf16            two floats rounded to a pair of bfloat16, the first in the low half
 *   fast_exp2            2^x with a relative error of 2^-22; a result below 2^-126 is 0
 *
 * With g = lane / 4 and t = 2 (lane % 4), a lane holds of a: rows {g, g + 8, g, g + 8} in columns {t, t, t + 8, t + 8} and the
 * next; of b: k = {t, t + 8} and the next, in column g; of d: rows {g, g, g + 8, g + 8}, columns {t, t + 1, t, t + 1}. ldmatrix4
 * takes the address of a row from each lane (16 bytes, lanes 8j ... 8j + 7 for matrix j), and gives a lane row lane / 4,
 * columns t and t + 1 of matrix j in register j; transposed: rows t and t + 1 of column lane / 4. (PTX ISA 9.0)
 */
#ifndef GOLLM_GPU_H
#define GOLLM_GPU_H

#include <stdint.h>

#include "gollm.h" /* enum gollm_status, struct gollm_team */

void gollm_cuda_note_error(const char *what); /* the text of a failure of the CUDA runtime, for the message */

/* n blocks along an axis of a grid; where there can be no so many, a number that launch() refuses, too. */
static inline unsigned grid_size(int64_t n) { return n > INT32_MAX ? UINT32_MAX : (unsigned)n; }

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emulation.h"
#endif

static inline bool grid_is_empty(dim3 grid) { return grid.x == 0 || grid.y == 0 || grid.z == 0; }
static inline bool grid_fits(dim3 grid) { return grid.x <= INT32_MAX && grid.y <= 65535 && grid.z <= 65535; }

#ifdef __CUDACC__
template <class T> __device__ __forceinline__ T &shared_memory() {
    extern __shared__ __align__(1024) unsigned char block_memory[];
    return *reinterpret_cast<T *>(block_memory);
}

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* The first `valid` bytes; the rest of the 16 are zeros. */
__device__ __forceinline__ void copy_async16(uint32_t to, const void *from, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Returns when at most N of the thread's groups are still on their way. */
template <int N> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, const gollm_team *team, A... args) {
    if (grid_is_empty(grid)) return GOLLM_OK;
    if (!grid_fits(grid)) return GOLLM_BAD_SHAPE;
    cudaError_t error = cudaSuccess;
    if (shared_bytes > 48 * 1024)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    if (error == cudaSuccess) {
        kernel<<<grid, threads, shared_bytes, (cudaStream_t)team->stream>>>(static_cast<P>(args)...);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess) return GOLLM_OK;
    gollm_cuda_note_error(cudaGetErrorString(error));
    return GOLLM_DEVICE_FAILED;
}

#else
template <class T> T &shared_memory() { return *reinterpret_cast<T *>(emulation::shared_memory(sizeof(T))); }

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, const gollm_team *, A... args) {
    if (!grid_fits(grid)) return GOLLM_BAD_SHAPE;
    emulation::launch(kernel, grid, threads, shared_bytes, args...);
    return GOLLM_OK;
}
#endif

#endif
