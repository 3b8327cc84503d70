/* The backend: one device, one stream, a workspace that grows, the error word, and plans run call by call.
 *
 * Nothing here is called before the first use of the backend, and nothing is linked but the runtime, statically: the module
 * loads on a machine without a driver, where gollm_cuda_device_count is 0.
 */
#include "backend.h"
#include "gpu.h"
#ifdef __CUDACC__
#include <cudaTypedefs.h> /* PFN_cuTensorMapEncodeTiled_v12000 */
#endif

namespace float32 {
const gollm_kernel *table(const gollm_backend *cpu);
}
namespace bfloat16 {
const gollm_kernel *table(const gollm_backend *cpu);
}

static const char *last_error = "no error";
static cudaStream_t stream;
static int32_t *error_word; // on the device
static void *workspace;
static int64_t workspace_bytes;
static const gollm_kernel *tables[2];

void gollm_cuda_note_error(const char *what) { last_error = what; }

/* Whether all went well; else the reason is noted. */
static bool good(cudaError_t error) {
    if (error == cudaSuccess) return true;
    gollm_cuda_note_error(cudaGetErrorString(error));
    (void)cudaGetLastError(); // so that the next call does not report it again
    return false;
}

const char *gollm_cuda_error(void) { return last_error; }

int gollm_cuda_device_count(void) {
    int n = 0;
    return good(cudaGetDeviceCount(&n)) ? n : 0;
}

int gollm_cuda_hopper_processors(void) {
    int major = 0, minor = 0, processors = 0, device = 0;
    const bool known = good(cudaGetDevice(&device)) &&
                       good(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) &&
                       good(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device)) &&
                       good(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    return known && major == 9 && minor == 0 ? processors : 0;
}

#ifdef __CUDACC__
int gollm_cuda_tensor_map(TensorMap *map, const void *base, int64_t rows, int64_t columns, int64_t stride,
                          int box_rows) {
    static PFN_cuTensorMapEncodeTiled_v12000 encode;
    cudaDriverEntryPointQueryResult found;
    if (!encode && (!good(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000,
                                                           cudaEnableDefault, &found)) ||
                    found != cudaDriverEntryPointSuccess)) {
        encode = nullptr;
        gollm_cuda_note_error("the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
        return GOLLM_DEVICE_FAILED;
    }
    const cuuint64_t size[] = {(cuuint64_t)columns, (cuuint64_t)rows}, row_bytes[] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[] = {64, (cuuint32_t)box_rows}, every[] = {1, 1};
    const CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(base), size, row_bytes,
                                   box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return GOLLM_OK;
    gollm_cuda_note_error("the driver refused a tensor map");
    return GOLLM_DEVICE_FAILED;
}
#endif

static const gollm_kernel *kernels(enum gollm_dtype dtype) {
    return dtype == GOLLM_FLOAT32 ? tables[0] : dtype == GOLLM_BFLOAT16 ? tables[1] : nullptr;
}

static void *allocate(int64_t bytes) {
    void *memory = nullptr;
    return good(cudaMalloc(&memory, (size_t)(bytes > 0 ? bytes : 1))) ? memory : nullptr;
}

static void release(void *memory) { good(cudaFree(memory)); }

static int copy(void *to, const void *from, int64_t bytes) {
    return good(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, stream)) &&
                   good(cudaStreamSynchronize(stream))
               ? GOLLM_OK
               : GOLLM_DEVICE_FAILED;
}

static int finish(void) {
    int32_t status = GOLLM_OK;
    if (copy(&status, error_word, sizeof status) != GOLLM_OK) return GOLLM_DEVICE_FAILED;
    if (status != GOLLM_OK && !good(cudaMemsetAsync(error_word, 0, sizeof status, stream))) return GOLLM_DEVICE_FAILED;
    return status;
}

static int64_t workspace_size(void) { return workspace_bytes; }

static void release_workspace(void) {
    if (!workspace) return;
    good(cudaStreamSynchronize(stream));
    release(workspace);
    workspace = nullptr;
    workspace_bytes = 0;
}

static int reserve_workspace(int64_t bytes) {
    if (bytes <= workspace_bytes) return GOLLM_OK;
    release_workspace();
    workspace = allocate(bytes);
    if (!workspace) return GOLLM_OUT_OF_MEMORY;
    workspace_bytes = bytes;
    return GOLLM_OK;
}

/* Queues the calls, `times` times. They are checked here: what gollm_prepare_plan knows are the CPU's threads. */
static int run_plan(gollm_plan *plan, int64_t times, int64_t *failed) {
    int64_t bytes = 0;
    for (*failed = 0; *failed < plan->n_calls; ++*failed) {
        const gollm_call &call = plan->calls[*failed];
        if (!call.kernel->run) return GOLLM_UNSUPPORTED;
        if (const int status = call.kernel->check(call.args); status != GOLLM_OK) return status;
        const int64_t needed = call.kernel->workspace ? call.kernel->workspace(call.args, 1) : 0;
        if (needed > bytes) bytes = needed;
        if (reserve_workspace(bytes) != GOLLM_OK) return GOLLM_OUT_OF_MEMORY;
    }
    const gollm_team team = {0, 1, nullptr, workspace, stream, error_word};
    for (int64_t time = 0; time < times; time++)
        for (*failed = 0; *failed < plan->n_calls; ++*failed) {
            const gollm_call &call = plan->calls[*failed];
            if (const int status = call.kernel->run(call.args, &team); status != GOLLM_OK) return status;
        }
    return GOLLM_OK;
}

const gollm_backend *gollm_cuda(const gollm_backend *cpu) {
    static const gollm_backend backend = {
        "cuda",   cpu->n_kernels, kernels, run_plan, finish, workspace_size, reserve_workspace, release_workspace,
        allocate, release,        copy};
    tables[0] = float32::table(cpu), tables[1] = bfloat16::table(cpu);
    if (!tables[0] || !tables[1]) {
        gollm_cuda_note_error("its kernels have other contracts: gollm and gollm._cuda are of different builds");
        return nullptr;
    }
    if (gollm_cuda_device_count() == 0) return nullptr;
    if (!error_word) {
        if (!good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) return nullptr;
        error_word = (int32_t *)allocate(sizeof *error_word);
        if (!error_word || !good(cudaMemsetAsync(error_word, 0, sizeof *error_word, stream))) return nullptr;
    }
    return &backend;
}
