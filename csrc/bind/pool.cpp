// The pools that tensors take their memory from: one that all share, and one of each plan (plan.cpp).
#include "pool.h"

#include <cstdlib>
#include <new>
#include <string>
#if defined(__linux__)
#include <sys/mman.h> // madvise
#endif

namespace {

constexpr size_t CACHE_LINE = 64, PAGE = 4096, HUGE_PAGE = 2 << 20;
constexpr int HOLDS_OBJECTS = 1; // NumPy's NPY_ITEM_REFCOUNT

std::mutex mutex; // of all pools
size_t system_allocations, held, in_use, peak;

} // namespace

Pool::Block *Pool::take(size_t bytes, bool lent) {
    bytes = std::max(bytes, CACHE_LINE);
    const size_t grain = bytes < PAGE ? CACHE_LINE : PAGE;
    bytes = (bytes + grain - 1) / grain * grain;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = free_.lower_bound(bytes);
    Block *block;
    if (found != free_.end() && found->first - bytes <= found->first / 8) {
        block = found->second;
        free_.erase(found);
    } else {
        const size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
        void *data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
        if (!data) throw std::bad_alloc();
#if defined(__linux__)
        if (bytes >= HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
        block = new Block{static_cast<char *>(data), bytes, false, nullptr};
        blocks_[block->data] = block;
        system_allocations++;
        held += bytes;
    }
    block->pool = shared_from_this();
    block->lent = lent;
    lent_ += lent;
    in_use += block->bytes;
    peak = std::max(peak, in_use);
    return block;
}

void Pool::give_back(Block *block) {
    const std::shared_ptr<Pool> pool = std::move(block->pool); // goes last: it may be the pool's last reference
    std::lock_guard<std::mutex> lock(mutex);
    in_use -= block->bytes;
    pool->lent_ -= block->lent;
    pool->free_.emplace(block->bytes, block);
}

void Pool::release() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &[bytes, block] : free_) {
        held -= bytes;
        blocks_.erase(block->data);
        std::free(block->data);
        delete block;
    }
    free_.clear();
}

size_t Pool::lent() const {
    std::lock_guard<std::mutex> lock(mutex);
    return lent_;
}

bool Pool::owns(const char *address) const {
    std::lock_guard<std::mutex> lock(mutex);
    auto next = blocks_.upper_bound(address);
    return next != blocks_.begin() && address < (--next)->first + next->second->bytes;
}

namespace {

Pool &shared_pool() {
    static auto *the = new std::shared_ptr<Pool>(new Pool); // never destroyed: arrays may outlive the module
    return **the;
}

py::dict statistics() {
    std::lock_guard<std::mutex> lock(mutex);
    py::dict d;
    d["system_allocations"] = system_allocations;
    d["bytes_held"] = held;
    d["bytes_in_use"] = in_use;
    d["peak_bytes_in_use"] = peak;
    return d;
}

py::array empty(const py::tuple &sizes, const py::dtype &dtype) {
    std::vector<py::ssize_t> shape;
    py::ssize_t bytes = dtype.itemsize();
    if (dtype.flags() & HOLDS_OBJECTS)
        raise_error("DTypeError", "arrays of dtype " + std::string(py::str(dtype)) + " cannot lie in the pool");
    for (auto item : sizes) {
        auto size = item.cast<py::ssize_t>();
        if (size < 0) raise_error("ShapeError", "the shape " + std::string(py::str(sizes)) + " has a negative size");
        shape.push_back(size);
        if (__builtin_mul_overflow(bytes, size, &bytes)) throw std::bad_alloc();
    }
    const PoolInUse use = pool_in_use();
    Pool::Block *block = (use.pool ? *use.pool : shared_pool()).take((size_t)bytes, use.lent);
    py::capsule owner(block, [](void *p) { Pool::give_back(static_cast<Pool::Block *>(p)); });
    return py::array(dtype, shape, block->data, owner);
}

} // namespace

void bind_pool(py::module_ &m) {
    m.def("empty", empty, py::arg("shape"), py::arg("dtype"),
          "A NumPy array with undefined contents in 64-byte aligned memory of the pool, which takes it back with the "
          "array's last reference.");
    m.def("pool_statistics", statistics,
          "Counters of all pools, those of plans too: allocations from the system, bytes.");
    m.def("release_pool", [] { shared_pool().release(); }, "Returns the shared pool's free blocks to the system.");
}
