/* A CUDA thread block on the CPU, for tests: what cuda/gpu.h takes from nvcc comes from here when a .cu file is compiled as
 * C++. A block's threads are fibers of one thread of the system, blocks run in turn. A barrier, a shuffle, a matrix product of
 * a warp is a rendezvous: each thread leaves its operands and waits; the last one does the work of all. Threads wait in
 * queues, so that an empty queue is a deadlock, reported with who waits for what.
 *
 * What shows bugs: shared memory is full of NaN at a block's start and ends at a page that cannot be touched; copies arrive as
 * late as the waits allow, or at once; and threads run in several orders (struct timing). Races need those: a missing
 * __syncthreads shows only where one warp runs ahead of the others.
 *
 * Not seen: the assembly itself, conflicts of banks, pressure of registers, and how tensor cores truncate.
 */
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct TensorMap {
    const uint16_t *base;
    int64_t rows, columns, stride;
    int box_rows;
};
struct float2 {
    float x, y;
};
struct uint2 {
    unsigned x, y;
};

namespace emulation {

struct Copy { // 16 bytes on their way into shared memory
    void *to;
    const void *from;
    int valid, group;
};

struct Fiber {
    void *stack_pointer, *stack;
    dim3 index3;
    int index, lane, warp, group; // group: of copies, the one that is open
    bool done;
    const char *waits_for;
    std::vector<Copy> copies;
};

/* How a block's threads and copies are timed. */
struct Timing {
    int warp_ahead;      // not 0: a warp runs until it blocks before the next, in an order drawn from this number
    uint64_t random;     // not 0: the next thread is drawn at random, from this seed
    int copies_at_issue; // copies arrive at once, not at their wait
    int hopper;          // the device is a Hopper
};
extern Timing timing;

extern Fiber *self;
extern dim3 block_index, block_size, grid_size;

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A graph: launches that wait for being run, and the one that launches go into while a stream is captured. */
using Graph = std::vector<std::function<void()>>;
extern Graph *captured;

/* The device's memory: the program must not touch it, and where it does it dies, but for launches and copies. */
constexpr size_t MEMORY_BYTES = (size_t)4 << 30;
void *allocate(size_t bytes);
void release(void *memory);
size_t free_bytes();
struct Touching {
    Touching();
    ~Touching();
};

void run_block(int n_threads, size_t shared_bytes, const std::function<void()> &body);
int block_barrier(int votes); // the sum of all threads' votes
/* Every lane of the mask brings a slot; the last one calls work(slots) for all. */
void warp_collective(const char *what, uint32_t mask, void *slot, const std::function<void(void **slots)> &work);
void *shared_memory(size_t bytes);
void *at_shared_address(uint32_t address, size_t bytes);
uint32_t shared_address_of(const void *p);
void copy16(void *to, const void *from, int valid);
void wait_for_copies(int groups_left);
void ldmatrix(uint32_t (&r)[4], uint32_t row, bool transposed);
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void load_box(uint32_t to, const TensorMap *map, uint32_t barrier, int64_t column, int64_t row);
void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool adds, bool a_mn, bool b_mn);
void wgmma_commit();
void wgmma_wait(int groups_left);
void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool b_is_signed);

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, A... args) {
    const auto work = [=] {
        const Touching memory;
        const std::function<void()> body = [=] { kernel(static_cast<P>(args)...); };
        grid_size = grid, block_size = dim3((unsigned)threads);
        for (unsigned z = 0; z < grid.z; z++)
            for (unsigned y = 0; y < grid.y; y++)
                for (unsigned x = 0; x < grid.x; x++) {
                    block_index = dim3(x, y, z);
                    run_block(threads, shared_bytes, body);
                }
    };
    if (captured)
        captured->push_back(work);
    else
        work();
}

enum class Shuffle { xor_, up, down, index };
template <class T> T shuffle(const char *what, uint32_t mask, T value, int argument, Shuffle kind) {
    struct Slot {
        T in, out;
        int argument;
    } slot{value, value, argument};
    warp_collective(what, mask, &slot, [=](void **slots) {
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            Slot &mine = *(Slot *)slots[lane];
            int from = kind == Shuffle::xor_   ? lane ^ mine.argument
                       : kind == Shuffle::down ? lane + mine.argument
                       : kind == Shuffle::up   ? lane - mine.argument
                                               : mine.argument & 31;
            if (from < 0 || from > 31) from = lane;
            if (!(mask >> from & 1)) fail("%s: lane %d reads lane %d, which is not in the mask", what, lane, from);
            mine.out = ((Slot *)slots[from])->in;
        }
    });
    return slot.out;
}

} // namespace emulation

/* CUDA's own names, as far as kernels use them. */
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define threadIdx (::emulation::self->index3)
#define blockIdx (::emulation::block_index)
#define blockDim (::emulation::block_size)
#define gridDim (::emulation::grid_size)

inline void __syncthreads() { emulation::block_barrier(0); }
inline int __syncthreads_count(int vote) { return emulation::block_barrier(vote != 0); }
inline int __syncthreads_or(int vote) { return emulation::block_barrier(vote != 0) != 0; }
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    emulation::warp_collective("__syncwarp", mask, nullptr, [](void **) {});
}
template <class T> T __shfl_xor_sync(uint32_t mask, T x, int lanes) {
    return emulation::shuffle("__shfl_xor_sync", mask, x, lanes, emulation::Shuffle::xor_);
}
template <class T> T __shfl_up_sync(uint32_t mask, T x, int lanes) {
    return emulation::shuffle("__shfl_up_sync", mask, x, lanes, emulation::Shuffle::up);
}
template <class T> T __shfl_down_sync(uint32_t mask, T x, int lanes) {
    return emulation::shuffle("__shfl_down_sync", mask, x, lanes, emulation::Shuffle::down);
}
template <class T> T __shfl_sync(uint32_t mask, T x, int lane) {
    return emulation::shuffle("__shfl_sync", mask, x, lane, emulation::Shuffle::index);
}
inline uint32_t __ballot_sync(uint32_t mask, int vote) {
    struct Slot {
        int vote;
        uint32_t result;
    } slot{vote, 0};
    emulation::warp_collective("__ballot_sync", mask, &slot, [=](void **slots) {
        uint32_t votes = 0;
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1 && ((Slot *)slots[lane])->vote) votes |= 1u << lane;
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) ((Slot *)slots[lane])->result = votes;
    });
    return slot.result;
}
inline int __any_sync(uint32_t mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(uint32_t mask, int vote) { return __ballot_sync(mask, vote) == mask; }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }

inline int atomicAdd(int *p, int x) { // threads change only where they wait
    const int before = *p;
    *p += x;
    return before;
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
inline int __float2int_rn(float x) { return (int)std::nearbyintf(x); }
using std::fmaxf, std::fminf, std::fmaf, std::exp2f, std::isfinite;

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

/* gpu.h's instructions. */
template <class T> T add_rn(T a, T b) { return a + b; } // nothing is contracted here
template <class T> T sub_rn(T a, T b) { return a - b; }
template <class T> T mul_rn(T a, T b) { return a * b; }
inline int32_t dot4(int32_t a, int32_t b, int32_t c) {
    for (int i = 0; i < 32; i += 8) c += (int8_t)(a >> i) * (int8_t)(b >> i);
    return c;
}
inline int32_t dot2_low(int32_t a, int32_t b, int32_t c) {
    return c + (int16_t)a * (int8_t)b + (int16_t)(a >> 16) * (int8_t)(b >> 8);
}
inline int32_t dot2_high(int32_t a, int32_t b, int32_t c) { return dot2_low(a, b >> 16, c); }
inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffff) | b << 16; }
inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }
inline uint32_t low_bytes(uint32_t a, uint32_t b) {
    return (a & 0xff) | (a >> 8 & 0xff00) | (b & 0xff) << 16 | (b << 8 & 0xff000000u);
}
inline uint32_t high_bytes(uint32_t a, uint32_t b) { return low_bytes(a >> 8, b >> 8); }
inline uint16_t f16_of_float(float x) { // as csrc/half.h
    const uint32_t bits = __float_as_uint(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);  // NaN
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); // 65536 and more
    if (magnitude < 0x38800000)                                    // below 2^-14: in steps of 2^-24
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}
inline float float_of_f16(uint16_t bits) {
    const uint32_t magnitude = __float_as_uint(__uint_as_float((uint32_t)(bits & 0x7fff) << 13) * 0x1p112f);
    const uint32_t special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0; // infinity, NaN
    return __uint_as_float(magnitude | special | (uint32_t)(bits & 0x8000) << 16);
}
inline uint32_t shared_address(const void *p) { return emulation::shared_address_of(p); }
inline void copy_async16(uint32_t to, const void *from, int valid) {
    if (to % 16 || (valid && (uintptr_t)from % 16)) emulation::fail("cp.async: an address is not a multiple of 16");
    emulation::copy16(emulation::at_shared_address(to, 16), from, valid);
}
inline void copy_commit() { emulation::self->group++; }
template <int N> void copy_wait() { emulation::wait_for_copies(N); }
inline void ldmatrix4(uint32_t (&r)[4], uint32_t row) { emulation::ldmatrix(r, row, false); }
inline void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t row) { emulation::ldmatrix(r, row, true); }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulation::mma(d, a, b0, b1); }
inline uint32_t pack_bf16(float low, float high) {
    const auto rounded = [](float x) -> uint32_t {
        const uint32_t bits = __float_as_uint(x);
        return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}
inline float fast_exp2(float x) { return x < -126 ? 0 : std::exp2(x); }

void barrier_init(uint32_t barrier, int arrivals);
inline void barrier_init_done() {}
void barrier_expect(uint32_t barrier, int bytes);
inline void barrier_arrive(uint32_t barrier) { barrier_expect(barrier, 0); }
void barrier_wait(uint32_t barrier, int parity);
inline void load_box(uint32_t to, const TensorMap *map, uint32_t barrier, int column, int row) {
    emulation::load_box(to, map, barrier, column, row);
}
inline void wgmma_begin(float (&)[128]) {}
inline void wgmma_commit() { emulation::wgmma_commit(); }
template <int N> void wgmma_wait(float (&)[128]) { emulation::wgmma_wait(N); }
template <bool A_MN, bool B_MN> void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool adds) {
    emulation::wgmma(d, a, b, adds, A_MN, B_MN);
}
template <int> void fewer_registers() {}
template <int> void more_registers() {}

inline void mma_s8s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulation::mma_int8(d, a, b0, b1, true);
}
inline void mma_s8u8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulation::mma_int8(d, a, b0, b1, false);
}

/* The runtime, as far as cuda/device.cu uses it: one device, whose memory is the program's. */
/* The runtime, as far as cuda/device.cu uses it: one device, whose work is done when it is asked for. */
typedef void *cudaStream_t;
typedef void *cudaEvent_t;
typedef emulation::Graph *cudaGraph_t, *cudaGraphExec_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking, cudaEventDisableTiming };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
};
inline const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "no error";
}
inline cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    return *properties = {"emulated GPU", emulation::MEMORY_BYTES, 8, 0}, cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount
};
inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    const int values[] = {emulation::timing.hopper ? 9 : 8, 0, 2};
    return *value = values[attribute], cudaSuccess;
}
inline cudaError_t cudaMalloc(void **p, size_t bytes) {
    return *p = emulation::allocate(bytes), *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void *p) { return emulation::release(p), cudaSuccess; }
inline cudaError_t cudaMallocHost(void **p, size_t bytes) { return *p = std::malloc(bytes), cudaSuccess; }
inline cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    return *left = emulation::free_bytes(), *total = emulation::MEMORY_BYTES, cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, int) { return *event = nullptr, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, int) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (emulation::captured) emulation::fail("a copy while a stream is captured");
    const emulation::Touching memory;
    return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t) {
    const emulation::Touching memory;
    return std::memset(to, byte, bytes), cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    return emulation::captured = new emulation::Graph, cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
    return *graph = emulation::captured, emulation::captured = nullptr, cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph, int) {
    return *made = new emulation::Graph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
    for (const auto &work : *graph) work();
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }
