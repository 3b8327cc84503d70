/* What a kernel needs of the GPU: launches, shared memory, and every instruction that has no name in C++. Nothing else holds
 * assembly. Without nvcc the same names come from tests/cuda_emulation/emulation.h, which runs a block's threads on the CPU.
 *
 *   shared_memory<T>()   the block's dynamic shared memory as a T, one struct for a kernel, aligned to 1024 bytes
 *   launch(...)          queues a kernel on the team's stream; a status, GOLLM_BAD_SHAPE for a grid that no GPU takes
 *   copy_async16 ...     16 bytes from global to shared memory without a register (cp.async), in groups that are waited for
 *   ldmatrix4            four 8 x 8 matrices of 16-bit values from shared memory into a warp's registers
 *   add_rn ...           single operations, never contracted with another to a multiply-add
 *   f16_of_float ...     a number of half precision, rounded to nearest, ties to even, and widened
 *   dot4, dot2_low ...   c + the products of 4 bytes of a and b; of 2 halves of a and the lower, or higher, bytes of b; signed
 *   low_halves ...       the lower, or higher, halves of a and b, a's below; low_bytes ... the bytes of all halves
 *   mma_bf16             d (16 x 8, float) += a (16 x 16, bfloat16) b (16 x 8, bfloat16) of a warp, on its tensor core
 *   pack_bf16            two floats rounded to a pair of bfloat16, the first in the low half
 *   fast_exp2            2^x with a relative error of 2^-22; a result below 2^-126 is 0
 * On Hopper (sm_90a), where HAS_HOPPER, also
 *
 *   barrier_init ...     barriers in shared memory, of arrivals and of bytes that copies bring (mbarrier)
 *   load_box             a box of a matrix in global memory, as its TensorMap has it, into shared memory (TMA)
 *   wgmma                d (64 x 256, float) += a (64 x 16) b (16 x 256), bfloat16 in shared memory, of four warps, behind their
 *                        back; in groups that are waited for
 *   mma_s8s8, mma_s8u8   d (16 x 8, int32) += a (16 x 32, int8) b (32 x 8, int8 or uint8) of a warp
 *
 * Of int8, a lane holds of a: rows {g, g + 8, g, g + 8}, the 4 columns from {2t, 2t, 2t + 16, 2t + 16}; of b: the 4 k from {2t, 2t + 16},
 * in column g. With g = lane / 4 and t = 2 (lane % 4), a lane holds of a: rows {g, g + 8, g, g + 8} in columns {t, t, t + 8, t + 8} and the
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
#include <cuda.h> /* CUtensorMap; nothing of it is linked */
#include <cuda_runtime.h>
typedef CUtensorMap TensorMap;
#else
#include "emulation.h"
#define __grid_constant__
#endif
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_HOPPER 1
#else
#define HAS_HOPPER 0
#endif

/* The number of multiprocessors of a Hopper; 0: the device is none. */
int gollm_cuda_hopper_processors(void);

/* Boxes of box_rows x 64 of a matrix of bfloat16, rows `stride` apart, in shared memory as rows of 128 bytes with the chunks of
 * chunks.h; what is outside of the matrix is 0. base: 16-byte aligned; stride: a multiple of 8. A status. */
int gollm_cuda_tensor_map(TensorMap *map, const void *base, int64_t rows, int64_t columns, int64_t stride,
                          int box_rows);

/* A matrix of bfloat16 in shared memory for wgmma, in rows of 128 bytes with the chunks of chunks.h, 8 rows after the other; `slab`:
 * the bytes from one slab of 64 columns to the next, where there are slabs. */
__host__ __device__ __forceinline__ uint64_t wgmma_operand(uint32_t address, uint32_t slab) {
    constexpr uint64_t EIGHT_ROWS = 1024, SWIZZLE_128 = 1;
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(slab >> 4) << 16 | EIGHT_ROWS >> 4 << 32 |
           SWIZZLE_128 << 62;
}

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

#if HAS_HOPPER
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Arrives, and the phase will also wait for so many bytes. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/* Returns when the phase of this parity is over; phases are numbered from 0. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}
__device__ __forceinline__ void load_box(uint32_t to, const TensorMap *map, uint32_t barrier, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                 "%4}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(column), "r"(row)
                 : "memory");
}

/* The compiler may not move what it does with d over this place: it does not know that wgmma changes d later. */
__device__ __forceinline__ void hold(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; i++) asm volatile("" : "+f"(d[i])::"memory");
}
__device__ __forceinline__ void wgmma_begin(float (&d)[128]) {
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Returns when at most N groups are still on their way; with none, d is ready. */
template <int N> __device__ __forceinline__ void wgmma_wait(float (&d)[128]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    hold(d);
}
/* a and b as wgmma_operand has them, in rows of k, or (_MN) in rows of their other axis; adds: else d is overwritten. Register
 * i of thread t: row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i % 2. */
template <bool A_MN, bool B_MN>
__device__ __forceinline__ void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool adds) {
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, adds, 1, 1, %131, %132;\n}"
        : D16(0), D16(16), D16(32), D16(48), D16(64), D16(80), D16(96), D16(112)
        : "l"(a), "l"(b), "r"((int)adds), "n"((int)A_MN), "n"((int)B_MN));
#undef D4
#undef D16
}

/* Four warps change how many registers a thread of theirs has, a multiple of 8. */
template <int N> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
#endif
#define GOLLM_MMA_INT8(name, type_of_b)                                                                                \
    __device__ __forceinline__ void name(int32_t(&d)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1) {            \
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8." type_of_b ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, " \
                     "{%8, %9}, {%0, %1, %2, %3};"                                                                     \
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                  \
    }
GOLLM_MMA_INT8(mma_s8s8, "s8")
GOLLM_MMA_INT8(mma_s8u8, "u8")

__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub_rn(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub_rn(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }

__device__ __forceinline__ int32_t dot4(int32_t a, int32_t b, int32_t c) { return __dp4a(a, b, c); }
__device__ __forceinline__ int32_t dot2_low(int32_t a, int32_t b, int32_t c) { return __dp2a_lo(a, b, c); }
__device__ __forceinline__ int32_t dot2_high(int32_t a, int32_t b, int32_t c) { return __dp2a_hi(a, b, c); }
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
__device__ __forceinline__ uint32_t low_bytes(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x6420); }
__device__ __forceinline__ uint32_t high_bytes(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7531); }

__device__ __forceinline__ uint16_t f16_of_float(float x) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ __forceinline__ float float_of_f16(uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

/* Nothing is launched for an empty grid. */
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
