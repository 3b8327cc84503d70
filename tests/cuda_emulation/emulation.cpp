/* The engine behind emulation.h: fibers, barriers, rendezvous, copies, and the products of a warp, or of four. */
#include "gpu.h"

#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unordered_map>
#include <utility>

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

/* Saves the registers that a function keeps, and the stack pointer; and takes up those of another fiber. */
extern "C" void gollm_switch_fiber(void **save, void *load);
asm(R"(
.text
.globl gollm_switch_fiber
.hidden gollm_switch_fiber
.type gollm_switch_fiber,@function
gollm_switch_fiber:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gollm_switch_fiber,.-gollm_switch_fiber
)");

namespace emulation {

Timing timing;
Graph *captured;
Fiber *self;
dim3 block_index, block_size, grid_size;

namespace {

constexpr size_t STACK = 128 * 1024, PAGE = 4096, ALIGNMENT = 1024;
constexpr size_t MOST_SHARED = 227 * 1024, ARENA = 228 * 1024;
constexpr int MOST_THREADS = 1024;

struct Rendezvous {
    const char *what;
    uint32_t mask, arrived;
    void *slots[32];
};
struct Warp {
    Rendezvous open[4];
};

struct FourWarps {
    const char *what;
    int arrived;
    float *slots[128];
    int group;                                                   // of products, the one that is open
    std::vector<std::pair<int, std::function<void()>>> products; // not done yet, with their groups
};
struct Barrier { // in shared memory
    uint64_t phase : 1, arrivals : 15, pending : 16;
    int64_t bytes : 32;
};
static_assert(sizeof(Barrier) == 8, "as large as an mbarrier");

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<FourWarps> four_warps;
    std::vector<std::function<void()>> boxes; // on their way
    std::vector<std::pair<uint32_t, Fiber *>> at_shared_barrier;
    std::vector<Fiber *> ready, at_barrier; // ready: from `next` on
    size_t next = 0, shared_bytes = 0;
    int n_threads = 0, alive = 0;
    int votes = 0, result = 0; // of the barrier that threads come to, and of the last one
    char *arena_end = nullptr, *shared = nullptr;
    void *caller = nullptr;
    const std::function<void()> *body = nullptr;
};
Block block;

uint64_t random_bits() { // xorshift
    uint64_t &r = timing.random;
    r ^= r << 13, r ^= r >> 7, r ^= r << 17;
    return r;
}

uint32_t rank(const Fiber *fiber) {
    return (uint32_t)(fiber->warp + 1) * 2654435761u * (uint32_t)(2 * timing.warp_ahead + 1) >> 4;
}

Fiber *next_ready() { // nullptr: everybody waits
    Block &b = block;
    while (b.next == b.ready.size()) { // a box arrives as late as that
        if (b.boxes.empty()) return nullptr;
        const std::function<void()> box = std::move(b.boxes.front());
        b.boxes.erase(b.boxes.begin());
        box();
    }
    size_t chosen = b.next;
    if (timing.warp_ahead) {
        for (size_t i = b.next + 1; i < b.ready.size(); i++)
            if (rank(b.ready[i]) < rank(b.ready[chosen])) chosen = i;
    } else if (timing.random) {
        chosen += random_bits() % (b.ready.size() - b.next);
    }
    std::swap(b.ready[chosen], b.ready[b.next]);
    Fiber *fiber = b.ready[b.next++];
    if (b.next == b.ready.size()) b.ready.clear(), b.next = 0;
    return fiber;
}

[[noreturn]] void deadlock() {
    std::fprintf(stderr, "emulation: deadlock in block (%u, %u, %u), with %d of %d threads left:\n", block_index.x,
                 block_index.y, block_index.z, block.alive, block.n_threads);
    int shown = 0;
    for (int i = 0; i < block.n_threads && shown < 8; i++)
        if (const Fiber &fiber = block.fibers[i]; !fiber.done)
            std::fprintf(stderr, "  thread %d waits for %s\n", fiber.index, fiber.waits_for), shown++;
    std::abort();
}

void switch_to(Fiber *fiber, void **save) {
    self = fiber;
    gollm_switch_fiber(save, fiber ? fiber->stack_pointer : block.caller);
}

void wait(const char *what) { // until another thread makes this one ready
    Fiber *mine = self;
    mine->waits_for = what;
    Fiber *next = next_ready();
    if (!next) deadlock();
    if (next != mine) switch_to(next, &mine->stack_pointer);
}

void release_barrier() {
    for (Fiber *fiber : block.at_barrier) block.ready.push_back(fiber);
    block.at_barrier.clear();
    block.result = std::exchange(block.votes, 0);
}

void entry() {
    (*block.body)();
    Fiber *mine = self;
    if (!mine->copies.empty()) fail("the thread returned with copies that it never waited for");
    if (!block.four_warps.empty() && !block.four_warps[mine->index / 128].products.empty())
        fail("the thread returned with products that it never waited for");
    mine->done = true;
    block.alive--;
    if (!block.at_barrier.empty() && (int)block.at_barrier.size() == block.alive) release_barrier();
    Fiber *next = next_ready();
    if (!next && block.alive > 0) deadlock();
    switch_to(next, &mine->stack_pointer);
    std::abort();
}

void *guarded(size_t bytes, bool guard_at_end) {
    char *memory = (char *)mmap(nullptr, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory");
    mprotect(guard_at_end ? memory + bytes : memory, PAGE, PROT_NONE);
    return guard_at_end ? memory : memory + PAGE;
}

float value(uint32_t pair, int i) {
    const uint32_t bits = i ? pair & 0xffff0000u : pair << 16;
    return __uint_as_float(bits);
}

} // namespace

void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    std::fprintf(stderr, "emulation: block (%u, %u, %u), thread %d: ", block_index.x, block_index.y, block_index.z,
                 self ? self->index : -1);
    std::vfprintf(stderr, format, list);
    std::fprintf(stderr, "\n");
    std::abort();
}

/* Pieces of one range of addresses, each behind the last; one that was given back serves for as many bytes again. */
static struct {
    char *begin = nullptr;
    size_t used = 0, given_back = 0;
    int touching = 0;
    std::map<size_t, std::vector<void *>> free;
    std::unordered_map<void *, size_t> sizes;
    std::mutex mutex;
} memory;

void *allocate(size_t bytes) {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    if (!memory.begin)
        memory.begin =
            (char *)mmap(nullptr, MEMORY_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bytes = (bytes + 255) / 256 * 256 + 256;
    void *found;
    if (auto &same = memory.free[bytes]; !same.empty()) {
        found = same.back();
        same.pop_back();
        memory.given_back -= bytes;
    } else {
        if (bytes > MEMORY_BYTES - memory.used) return nullptr;
        found = memory.begin + memory.used;
        memory.used += bytes;
        memory.sizes[found] = bytes;
    }
    return found;
}

void release(void *p) {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    if (!p) return;
    memory.free[memory.sizes.at(p)].push_back(p);
    memory.given_back += memory.sizes.at(p);
}

size_t free_bytes() { return MEMORY_BYTES - memory.used + memory.given_back; }

static void protect(int change, int protection) {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    const bool first = memory.touching == 0 && change > 0;
    memory.touching += change;
    if ((first || memory.touching == 0) && memory.begin) mprotect(memory.begin, memory.used, protection);
}
Touching::Touching() { protect(1, PROT_READ | PROT_WRITE); }
Touching::~Touching() { protect(-1, PROT_NONE); }

void run_block(int n_threads, size_t shared_bytes, const std::function<void()> &body) {
    Block &b = block;
    if (b.fibers.empty()) {
        b.fibers.resize(MOST_THREADS);
        b.arena_end = (char *)guarded(ARENA, true) + ARENA;
    }
    if (n_threads < 1 || n_threads > MOST_THREADS || n_threads % 32) fail("a block of %d threads", n_threads);
    if (shared_bytes > MOST_SHARED) fail("a block with %zu bytes of shared memory", shared_bytes);
    b.body = &body;
    b.n_threads = b.alive = n_threads, b.votes = 0;
    b.warps.assign((size_t)n_threads / 32, {});
    b.four_warps.assign((size_t)n_threads / 128, {});
    b.boxes.clear(), b.at_shared_barrier.clear();
    b.ready.clear(), b.next = 0, b.at_barrier.clear();
    b.shared_bytes = (shared_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    b.shared = b.arena_end - b.shared_bytes;
    std::memset(b.shared, 0xFF, b.shared_bytes);
    for (int i = 0; i < n_threads; i++) {
        Fiber &fiber = b.fibers[i];
        if (!fiber.stack) fiber.stack = guarded(STACK, false);
        fiber.index = i, fiber.lane = i % 32, fiber.warp = i / 32;
        fiber.group = 0, fiber.done = false, fiber.copies.clear();
        fiber.index3 = dim3((unsigned)i, 0, 0);
        void **top = (void **)((char *)fiber.stack + STACK - 64);
        *--top = nullptr; // entry finds the stack aligned as after a call
        *--top = (void *)entry;
        for (int registers = 0; registers < 6; registers++) *--top = nullptr;
        fiber.stack_pointer = top;
        b.ready.push_back(&fiber);
    }
    switch_to(next_ready(), &b.caller);
}

int block_barrier(int votes) {
    block.votes += votes;
    block.at_barrier.push_back(self);
    if ((int)block.at_barrier.size() == block.alive) {
        block.at_barrier.pop_back();
        release_barrier();
    } else
        wait("__syncthreads");
    return block.result;
}

void warp_collective(const char *what, uint32_t mask, void *slot, const std::function<void(void **)> &work) {
    Warp &warp = block.warps[self->warp];
    const uint32_t mine = 1u << self->lane;
    if (!(mask & mine)) fail("%s: lane %d is not in its mask %08x", what, self->lane, mask);
    Rendezvous *meeting = nullptr;
    for (Rendezvous &open : warp.open)
        if (open.arrived && (open.mask & mask)) {
            if (open.mask != mask) fail("%s: the masks %08x and %08x overlap", what, open.mask, mask);
            if (open.what != what) fail("lanes of a warp diverge: %s and %s", open.what, what);
            meeting = &open;
        }
    for (Rendezvous &open : warp.open)
        if (!meeting && !open.arrived) meeting = &open;
    if (!meeting) fail("%s: too many masks at once in a warp", what);
    meeting->what = what, meeting->mask = mask, meeting->arrived |= mine, meeting->slots[self->lane] = slot;
    if (meeting->arrived != mask) return wait(what);
    meeting->arrived = 0;
    work(meeting->slots);
    for (uint32_t others = mask & ~mine; others; others &= others - 1)
        block.ready.push_back(&block.fibers[self->warp * 32 + __builtin_ctz(others)]);
}

void *shared_memory(size_t bytes) {
    if (bytes > block.shared_bytes) fail("shared memory of %zu bytes, launched with %zu", bytes, block.shared_bytes);
    return block.shared;
}

void *at_shared_address(uint32_t address, size_t bytes) {
    if (address + bytes > block.shared_bytes) fail("shared address %u of %zu bytes", address, block.shared_bytes);
    return block.shared + address;
}

uint32_t shared_address_of(const void *p) {
    const ptrdiff_t offset = (const char *)p - block.shared;
    if (offset < 0 || offset >= (ptrdiff_t)block.shared_bytes) fail("this pointer is not one to shared memory");
    return (uint32_t)offset;
}

static void deliver(const Copy &copy) {
    if (copy.valid) std::memcpy(copy.to, copy.from, (size_t)copy.valid);
    std::memset((char *)copy.to + copy.valid, 0, (size_t)(16 - copy.valid));
}

void copy16(void *to, const void *from, int valid) {
    const Copy copy{to, from, valid, self->group};
    if (timing.copies_at_issue)
        deliver(copy);
    else
        self->copies.push_back(copy);
}

void wait_for_copies(int groups_left) {
    std::vector<Copy> later;
    for (const Copy &copy : self->copies)
        if (copy.group < self->group - groups_left)
            deliver(copy);
        else
            later.push_back(copy);
    self->copies = std::move(later);
}

void ldmatrix(uint32_t (&r)[4], uint32_t row, bool transposed) {
    if (row % 16) fail("ldmatrix: address %u is not a multiple of 16", row);
    struct Slot {
        uint32_t row, *r;
    } slot{row, r};
    warp_collective(transposed ? "ldmatrix.trans" : "ldmatrix", 0xffffffffu, &slot, [=](void **slots) {
        for (int j = 0; j < 4; j++) {
            uint16_t m[8][8];
            for (int i = 0; i < 8; i++) std::memcpy(m[i], at_shared_address(((Slot *)slots[8 * j + i])->row, 16), 16);
            for (int lane = 0; lane < 32; lane++) {
                const int g = lane / 4, t = lane % 4 * 2;
                ((Slot *)slots[lane])->r[j] =
                    transposed ? m[t][g] | (uint32_t)m[t + 1][g] << 16 : m[g][t] | (uint32_t)m[g][t + 1] << 16;
            }
        }
    });
}

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Slot {
        float *d;
        const uint32_t *a;
        uint32_t b[2];
    } slot{d, a, {b0, b1}};
    warp_collective("mma.sync", 0xffffffffu, &slot, [](void **slots) {
        float A[16][16], B[16][8], D[16][8];
        for (int lane = 0; lane < 32; lane++) {
            const Slot &s = *(const Slot *)slots[lane];
            const int g = lane / 4, t = lane % 4 * 2;
            for (int i = 0; i < 2; i++) {
                A[g][t + i] = value(s.a[0], i), A[g + 8][t + i] = value(s.a[1], i);
                A[g][t + 8 + i] = value(s.a[2], i), A[g + 8][t + 8 + i] = value(s.a[3], i);
                B[t + i][g] = value(s.b[0], i), B[t + 8 + i][g] = value(s.b[1], i);
                D[g][t + i] = s.d[i], D[g + 8][t + i] = s.d[2 + i];
            }
        }
        for (int m = 0; m < 16; m++)
            for (int k = 0; k < 16; k++)
                for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
        for (int lane = 0; lane < 32; lane++) {
            const Slot &s = *(const Slot *)slots[lane];
            const int g = lane / 4, t = lane % 4 * 2;
            for (int i = 0; i < 2; i++) s.d[i] = D[g][t + i], s.d[2 + i] = D[g + 8][t + i];
        }
    });
}

static Barrier &shared_barrier(uint32_t address) {
    if (address % 8) fail("the address of a barrier, %u, is not a multiple of 8", address);
    return *(Barrier *)at_shared_address(address, 8);
}

static void end_phase_if_complete(uint32_t address) {
    Barrier &b = shared_barrier(address);
    if (b.pending || b.bytes) return;
    b.phase ^= 1, b.pending = b.arrivals;
    std::vector<std::pair<uint32_t, Fiber *>> others;
    for (const auto &waiting : block.at_shared_barrier)
        if (waiting.first == address)
            block.ready.push_back(waiting.second);
        else
            others.push_back(waiting);
    block.at_shared_barrier = std::move(others);
}

void load_box(uint32_t to, const TensorMap *map, uint32_t barrier, int64_t column, int64_t row) {
    if (to % 1024) fail("a box for the shared address %u, which is not a multiple of 1024", to);
    const std::function<void()> arrive = [=, m = *map] {
        for (int r = 0; r < m.box_rows; r++)
            for (int c = 0; c < 64; c++) {
                const bool inside = row + r < m.rows && column + c < m.columns;
                uint32_t address = to + (uint32_t)(r * 128 + c * 2);
                address ^= (address >> 7 & 7) << 4;
                *(uint16_t *)at_shared_address(address, 2) = inside ? m.base[(row + r) * m.stride + column + c] : 0;
            }
        shared_barrier(barrier).bytes -= m.box_rows * 128;
        end_phase_if_complete(barrier);
    };
    if (timing.copies_at_issue)
        arrive();
    else
        block.boxes.push_back(arrive);
}

/* Every thread of four warps brings a slot; the last one calls work for all. */
static void four_warps_collective(const char *what, float *slot, const std::function<void(FourWarps &)> &work) {
    if ((size_t)self->index / 128 >= block.four_warps.size()) fail("%s: there are not four warps", what);
    FourWarps &warps = block.four_warps[self->index / 128];
    if (warps.arrived && warps.what != what) fail("four warps diverge: %s and %s", warps.what, what);
    warps.what = what, warps.slots[self->index % 128] = slot;
    if (++warps.arrived < 128) return wait(what);
    warps.arrived = 0;
    work(warps);
    for (int i = self->index / 128 * 128, end = i + 128; i < end; i++)
        if (i != self->index) block.ready.push_back(&block.fibers[i]);
}

static float operand_value(uint64_t operand, int mn, int k, bool mn_major) {
    const uint32_t begin = (uint32_t)(operand & 0x3fff) << 4, slab = (uint32_t)(operand >> 16 & 0x3fff) << 4;
    const uint32_t eight_rows = (uint32_t)(operand >> 32 & 0x3fff) << 4;
    if (operand >> 62 != 1) fail("wgmma: only chunks of 128 bytes are emulated");
    uint32_t address = mn_major ? begin + mn % 64 * 2 + mn / 64 * slab + k % 8 * 128 + k / 8 * eight_rows
                                : begin + mn % 8 * 128 + mn / 8 * eight_rows + k * 2;
    address ^= (address >> 7 & 7) << 4;
    return __uint_as_float((uint32_t) * (uint16_t *)at_shared_address(address, 2) << 16);
}

void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool adds, bool a_mn, bool b_mn) {
    four_warps_collective("wgmma", d, [=](FourWarps &warps) {
        const std::vector<float *> sums(warps.slots, warps.slots + 128);
        warps.products.push_back(
            {warps.group, [=] {
                 static float A[64][16], B[16][256], D[64][256];
                 for (int k = 0; k < 16; k++) {
                     for (int m = 0; m < 64; m++) A[m][k] = operand_value(a, m, k, a_mn);
                     for (int n = 0; n < 256; n++) B[k][n] = operand_value(b, n, k, b_mn);
                 }
                 const auto at = [](int t, int i) -> float & {
                     return D[16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2)][8 * (i / 4) + 2 * (t % 4) + i % 2];
                 };
                 for (int t = 0; t < 128; t++)
                     for (int i = 0; i < 128; i++) at(t, i) = adds ? sums[t][i] : 0;
                 for (int m = 0; m < 64; m++)
                     for (int k = 0; k < 16; k++)
                         for (int n = 0; n < 256; n++) D[m][n] += A[m][k] * B[k][n];
                 for (int t = 0; t < 128; t++)
                     for (int i = 0; i < 128; i++) sums[t][i] = at(t, i);
             }});
    });
}

void wgmma_commit() {
    four_warps_collective("wgmma.commit_group", nullptr, [](FourWarps &warps) { warps.group++; });
}

void wgmma_wait(int groups_left) {
    four_warps_collective("wgmma.wait_group", nullptr, [=](FourWarps &warps) {
        size_t done = 0;
        for (; done < warps.products.size() && warps.products[done].first < warps.group - groups_left; done++)
            warps.products[done].second();
        warps.products.erase(warps.products.begin(), warps.products.begin() + (ptrdiff_t)done);
    });
}

void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool b_is_signed) {
    struct Slot {
        int32_t *d;
        const uint32_t *a;
        uint32_t b[2];
    } slot{d, a, {b0, b1}};
    const char *what = b_is_signed ? "mma.sync of int8" : "mma.sync of uint8";
    warp_collective(what, 0xffffffffu, &slot, [=](void **slots) {
        int32_t A[16][32], B[32][8];
        for (int lane = 0; lane < 32; lane++) {
            const Slot &s = *(const Slot *)slots[lane];
            const int g = lane / 4, k = lane % 4 * 4;
            for (int i = 0; i < 4; i++)
                for (int half = 0; half < 2; half++) {
                    A[g][k + 16 * half + i] = (int8_t)(s.a[2 * half] >> 8 * i);
                    A[g + 8][k + 16 * half + i] = (int8_t)(s.a[2 * half + 1] >> 8 * i);
                    const uint8_t b = (uint8_t)(s.b[half] >> 8 * i);
                    B[k + 16 * half + i][g] = b_is_signed ? (int8_t)b : b;
                }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 32; k++)
                    ((Slot *)slots[lane])->d[i] += A[lane / 4 + i / 2 * 8][k] * B[k][lane % 4 * 2 + i % 2];
    });
}

} // namespace emulation

void barrier_init(uint32_t barrier, int arrivals) {
    emulation::shared_barrier(barrier) = {0, (uint64_t)arrivals, (uint64_t)arrivals, 0};
}

void barrier_expect(uint32_t address, int bytes) {
    emulation::Barrier &barrier = emulation::shared_barrier(address);
    if (!barrier.pending) emulation::fail("too many arrivals at a barrier in shared memory");
    barrier.pending--, barrier.bytes += bytes;
    emulation::end_phase_if_complete(address);
}

void barrier_wait(uint32_t address, int parity) {
    while ((int)emulation::shared_barrier(address).phase == parity) {
        emulation::block.at_shared_barrier.push_back({address, emulation::self});
        emulation::wait("a barrier in shared memory");
    }
}

int gollm_cuda_tensor_map(TensorMap *map, const void *base, int64_t rows, int64_t columns, int64_t stride,
                          int box_rows) {
    if ((uintptr_t)base % 16 || stride % 8 || rows < 1 || columns < 1 || box_rows > 256) return GOLLM_DEVICE_FAILED;
    *map = {(const uint16_t *)base, rows, columns, stride, box_rows};
    return GOLLM_OK;
}

/* For the tests: how the next launches are timed. */
extern "C" __attribute__((visibility("default"))) void gollm_emulation_timing(int warp_ahead, uint64_t random,
                                                                              int copies_at_issue, int hopper) {
    emulation::timing = {warp_ahead, random, copies_at_issue, hopper};
}
