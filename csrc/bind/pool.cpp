// The pools that tensors take their memory from: one that all share, and one of each plan (plan.cpp).
#include "pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>
#include <sys/mman.h> // madvise, mmap

namespace {

constexpr size_t LINE = GOLLM_ALIGNMENT, PAGE = 4096, HUGE_PAGE = 2 << 20;
constexpr int HOLDS_OBJECTS = 1; // NumPy's NPY_ITEM_REFCOUNT

std::mutex mutex; // of all pools
// Of all pools of real memory.
struct {
    size_t allocations, held, in_use, peak;
} total;

} // namespace

Pool::Block *Pool::take(size_t bytes, bool lent) {
    bytes = std::max(bytes, LINE);
    const size_t grain = bytes < PAGE ? LINE : PAGE;
    bytes = (bytes + grain - 1) / grain * grain;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = free_.lower_bound(bytes);
    Block *block;
    if (found != free_.end() && found->first - bytes <= found->first / 8) {
        block = found->second;
        free_.erase(found);
    } else {
        void *data = allocate(bytes);
        if (!data) throw std::bad_alloc();
        block = new Block{static_cast<char *>(data), bytes, false, nullptr};
        blocks_[block->data] = block;
        held_ += bytes;
        if (memory_ == Memory::Real) total.allocations++, total.held += bytes;
    }
    block->pool = shared_from_this();
    block->lent = lent;
    lent_ += lent;
    if (memory_ == Memory::Real) total.in_use += block->bytes;
    total.peak = std::max(total.peak, total.in_use);
    return block;
}

void Pool::give_back(Block *block) {
    const std::shared_ptr<Pool> pool = std::move(block->pool); // goes last: it may be the pool's last reference
    std::lock_guard<std::mutex> lock(mutex);
    if (pool->memory_ == Memory::Real) total.in_use -= block->bytes;
    pool->lent_ -= block->lent;
    pool->free_.emplace(block->bytes, block);
}

void Pool::release() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &[bytes, block] : free_) {
        held_ -= bytes;
        if (memory_ == Memory::Real) total.held -= bytes;
        blocks_.erase(block->data);
        free(block);
    }
    free_.clear();
}

void *Pool::allocate(size_t bytes) const {
    if (memory_ == Memory::Imaginary) {
        void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return data == MAP_FAILED ? nullptr : data;
    }
    const size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE;
    void *data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__)
    if (data && bytes >= HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
}

void Pool::free(Block *block) const {
    if (memory_ == Memory::Imaginary)
        munmap(block->data, block->bytes);
    else
        std::free(block->data);
    delete block;
}

size_t Pool::held() const {
    std::lock_guard<std::mutex> lock(mutex);
    return held_;
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
    d["system_allocations"] = total.allocations;
    d["bytes_held"] = total.held;
    d["bytes_in_use"] = total.in_use;
    d["peak_bytes_in_use"] = total.peak;
    return d;
}

py::array empty(const py::tuple &sizes, const py::dtype &dtype) {
    constexpr size_t MOST_AXES = 64; // NumPy's; NumPy 1 has 32, and says so
    if (dtype.flags() & HOLDS_OBJECTS)
        raise_error("DTypeError", "arrays of dtype " + cut(py::str(dtype)) + " cannot lie in the pool");
    if (!dtype.attr("subdtype").is_none())
        raise_error("DTypeError",
                    "arrays of dtype " + cut(py::str(dtype)) + " cannot lie in the pool; give its axes in the shape");
    if (sizes.size() > MOST_AXES)
        raise_error("ShapeError", "a shape of " + std::to_string(sizes.size()) + " axes is too long; at most " +
                                      std::to_string(MOST_AXES) + " are possible");
    std::vector<py::ssize_t> shape;
    py::ssize_t bytes = dtype.itemsize(); // counting sizes of 0 as 1, as NumPy does, which has a limit for it
    bool is_empty = false, too_large = false;
    for (py::handle item : sizes) {
        if (!PyIndex_Check(item.ptr()))
            raise_error("ShapeError", "the shape " + shown(sizes) + " has a size that is not a whole number");
        const py::ssize_t size = PyNumber_AsSsize_t(item.ptr(), nullptr); // nullptr: clipped to the type's range
        if (PyErr_Occurred()) throw py::error_already_set();
        if (size < 0) raise_error("ShapeError", "the shape " + shown(sizes) + " has a negative size");
        shape.push_back(size);
        is_empty |= size == 0;
        too_large |= __builtin_mul_overflow(bytes, std::max<py::ssize_t>(size, 1), &bytes);
    }
    const PoolInUse use = pool_in_use();
    Pool::Block *block = nullptr;
    try {
        if (!too_large) block = (use.pool ? *use.pool : shared_pool()).take(is_empty ? 0 : (size_t)bytes, use.lent);
    } catch (const std::bad_alloc &) {
    }
    if (!block) {
        const std::string what = "not enough memory for an array of shape " + shown(sizes) + " and dtype ";
        PyErr_SetString(PyExc_MemoryError, (what + cut(py::str(dtype))).c_str());
        throw py::error_already_set();
    }
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
