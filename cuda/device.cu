/* The backend: one device, one stream, a workspace that grows, the error word, plans as CUDA graphs, copies through pinned
 * memory.
 *
 * Nothing here is called before the first use of the backend, and nothing is linked but the runtime, statically: the module
 * loads on a machine without a driver, where gollm_cuda_device_count is 0. Calls from several threads take turns: what one
 * queues stays together on the stream, and so the workspace belongs to the call that runs.
 */
#include <mutex>
#include <string.h> /* memcpy, strncpy */

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
static std::mutex queue;
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
static int status_of(cudaError_t error) { return good(error) ? GOLLM_OK : GOLLM_DEVICE_FAILED; }

const char *gollm_cuda_error(void) { return last_error; }

int gollm_cuda_device_count(void) {
    int n = 0;
    return good(cudaGetDeviceCount(&n)) ? n : 0;
}

int gollm_cuda_describe(gollm_cuda_device *device) {
    cudaDeviceProp properties;
    if (!good(cudaGetDeviceProperties(&properties, 0))) return GOLLM_DEVICE_FAILED;
    strncpy(device->name, properties.name, sizeof device->name - 1);
    device->name[sizeof device->name - 1] = 0;
    device->total_bytes = (int64_t)properties.totalGlobalMem;
    device->major = properties.major, device->minor = properties.minor;
    const bool known =
        good(cudaDriverGetVersion(&device->driver_version)) && good(cudaRuntimeGetVersion(&device->runtime_version));
    return known ? GOLLM_OK : GOLLM_DEVICE_FAILED;
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

/* ---- memory */

static void *allocate(int64_t bytes) {
    void *memory = nullptr;
    return good(cudaMalloc(&memory, (size_t)(bytes > 0 ? bytes : 1))) ? memory : nullptr;
}

static void release(void *memory) { good(cudaFree(memory)); }

static int free_memory(int64_t *free_bytes, int64_t *total_bytes) {
    size_t left = 0, total = 0;
    if (!good(cudaMemGetInfo(&left, &total))) return GOLLM_DEVICE_FAILED;
    *free_bytes = (int64_t)left, *total_bytes = (int64_t)total;
    return GOLLM_OK;
}

static int copy(void *to, const void *from, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(queue);
    const int status = status_of(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, stream));
    return status == GOLLM_OK ? status_of(cudaStreamSynchronize(stream)) : status;
}

/* Copies from the program's memory go through pieces of pinned memory, in turn: only those are copied while the program
 * goes on. A piece is filled again when its last copy is done. */
constexpr int64_t PIECE_BYTES = 1 << 20;
constexpr int PIECES = 8;
static struct {
    void *memory;
    cudaEvent_t copied;
} pieces[PIECES];
static int next_piece;

static int write_from_host(void *to, const void *from, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(queue);
    for (int64_t done = 0; done < bytes; done += PIECE_BYTES) {
        auto &piece = pieces[next_piece];
        if (piece.memory) {
            if (!good(cudaEventSynchronize(piece.copied))) return GOLLM_DEVICE_FAILED;
        } else {
            if (!good(cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming))) return GOLLM_DEVICE_FAILED;
            if (!good(cudaMallocHost(&piece.memory, PIECE_BYTES))) return GOLLM_DEVICE_FAILED;
        }
        const size_t n = (size_t)(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
        memcpy(piece.memory, (const char *)from + done, n);
        if (!good(cudaMemcpyAsync((char *)to + done, piece.memory, n, cudaMemcpyDefault, stream)) ||
            !good(cudaEventRecord(piece.copied, stream)))
            return GOLLM_DEVICE_FAILED;
        next_piece = (next_piece + 1) % PIECES;
    }
    return GOLLM_OK;
}

static int finish(void) {
    int32_t status = GOLLM_OK;
    if (copy(&status, error_word, sizeof status) != GOLLM_OK) return GOLLM_DEVICE_FAILED;
    if (status != GOLLM_OK && !good(cudaMemsetAsync(error_word, 0, sizeof status, stream))) return GOLLM_DEVICE_FAILED;
    return status;
}

/* ---- the workspace; `reserve` and `give_back` with the queue locked */

static void give_back(void) {
    if (!workspace) return;
    good(cudaStreamSynchronize(stream));
    release(workspace);
    workspace = nullptr;
    workspace_bytes = 0;
}

static int reserve(int64_t bytes) {
    if (bytes <= workspace_bytes) return GOLLM_OK;
    give_back();
    workspace = allocate(bytes);
    if (!workspace) return GOLLM_OUT_OF_MEMORY;
    workspace_bytes = bytes;
    return GOLLM_OK;
}

static int64_t workspace_size(void) {
    const std::lock_guard<std::mutex> lock(queue);
    return workspace_bytes;
}

static int reserve_workspace(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(queue);
    return reserve(bytes);
}

static void release_workspace(void) {
    const std::lock_guard<std::mutex> lock(queue);
    give_back();
}

/* ---- plans */

/* A prepared plan as a graph, captured when it first runs; and again where the workspace has moved since. */
struct Recording {
    cudaGraphExec_t graph;
    void *workspace;
};

static int check_calls(gollm_plan *plan, int64_t *failed) {
    plan->workspace = 0;
    for (*failed = 0; *failed < plan->n_calls; ++*failed) {
        const gollm_call &call = plan->calls[*failed];
        if (!call.kernel->run) return GOLLM_UNSUPPORTED;
        if (const int status = call.kernel->check(call.args); status != GOLLM_OK) return status;
        const int64_t bytes = call.kernel->workspace ? call.kernel->workspace(call.args, 1) : 0;
        if (bytes > plan->workspace) plan->workspace = bytes;
    }
    return GOLLM_OK;
}

static int queue_calls(const gollm_plan *plan, int64_t *failed) {
    const gollm_team team = {0, 1, nullptr, workspace, stream, error_word};
    for (*failed = 0; *failed < plan->n_calls; ++*failed) {
        const gollm_call &call = plan->calls[*failed];
        if (const int status = call.kernel->run(call.args, &team); status != GOLLM_OK) return status;
    }
    return GOLLM_OK;
}

static void forget_graph(Recording *recording) {
    if (recording->graph) good(cudaGraphExecDestroy(recording->graph));
    recording->graph = nullptr;
}

static int capture(const gollm_plan *plan, Recording *recording, int64_t *failed) {
    forget_graph(recording);
    if (!good(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal))) return GOLLM_DEVICE_FAILED;
    const int status = queue_calls(plan, failed);
    cudaGraph_t graph = nullptr;
    const bool captured = good(cudaStreamEndCapture(stream, &graph)) && status == GOLLM_OK;
    const bool made = captured && good(cudaGraphInstantiate(&recording->graph, graph, 0));
    if (graph) good(cudaGraphDestroy(graph));
    recording->workspace = workspace;
    return status != GOLLM_OK ? status : made ? GOLLM_OK : GOLLM_DEVICE_FAILED;
}

static void forget_plan(gollm_plan *plan) {
    Recording *recording = (Recording *)plan->recording;
    if (!recording) return;
    forget_graph(recording);
    delete recording;
    plan->recording = nullptr;
}

static int prepare_plan(gollm_plan *plan, int64_t *failed) {
    forget_plan(plan);
    const int status = check_calls(plan, failed);
    if (status == GOLLM_OK) plan->recording = new Recording{nullptr, nullptr};
    return status;
}

static int run_plan(gollm_plan *plan, int64_t times, int64_t *failed) {
    const std::lock_guard<std::mutex> lock(queue);
    Recording *recording = (Recording *)plan->recording;
    int status = recording ? GOLLM_OK : check_calls(plan, failed);
    if (status != GOLLM_OK) return status;
    *failed = 0;
    if (reserve(plan->workspace) != GOLLM_OK) return GOLLM_OUT_OF_MEMORY;
    if (recording && plan->n_calls > 0 && (!recording->graph || recording->workspace != workspace))
        status = capture(plan, recording, failed);
    for (int64_t time = 0; time < times && status == GOLLM_OK && plan->n_calls > 0; time++)
        status = recording ? status_of(cudaGraphLaunch(recording->graph, stream)) : queue_calls(plan, failed);
    if (status == GOLLM_OK) *failed = plan->n_calls;
    return status;
}

const gollm_backend *gollm_cuda(const gollm_backend *cpu) {
    static const gollm_backend backend = {
        "cuda",          cpu->n_kernels, kernels,           prepare_plan,      run_plan, forget_plan,
        finish,          workspace_size, reserve_workspace, release_workspace, allocate, release,
        write_from_host, copy,           free_memory,       gollm_cuda_error};
    const std::lock_guard<std::mutex> lock(queue);
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
