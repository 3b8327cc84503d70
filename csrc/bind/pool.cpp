// The pool that tensors take their memory from: 64-byte aligned blocks that are kept and given out again, so that a
// training step in steady state allocates nothing from the system.
#include "bind.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h> // madvise
#endif

namespace {

constexpr size_t CACHE_LINE = 64, PAGE = 4096, HUGE_PAGE = 2 << 20;
constexpr int HOLDS_OBJECTS = 1; // NumPy's NPY_ITEM_REFCOUNT

class Pool {
  public:
    struct Block {
        void *data;
        size_t bytes;
    };

    // The smallest free block that wastes less than an eighth of itself, else one from the system.
    Block *take(size_t bytes) {
        bytes = std::max(bytes, CACHE_LINE);
        const size_t grain = bytes < PAGE ? CACHE_LINE : PAGE;
        bytes = (bytes + grain - 1) / grain * grain;
        std::lock_guard<std::mutex> lock(mutex_);
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
            block = new Block{data, bytes};
            system_allocations_++;
            held_ += bytes;
        }
        in_use_ += block->bytes;
        peak_ = std::max(peak_, in_use_);
        return block;
    }

    void give_back(Block *block) {
        std::lock_guard<std::mutex> lock(mutex_);
        in_use_ -= block->bytes;
        free_.emplace(block->bytes, block);
    }

    void release() {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto &[bytes, block] : free_) {
            held_ -= bytes;
            std::free(block->data);
            delete block;
        }
        free_.clear();
    }

    py::dict statistics() {
        std::lock_guard<std::mutex> lock(mutex_);
        py::dict d;
        d["system_allocations"] = system_allocations_;
        d["bytes_held"] = held_;
        d["bytes_in_use"] = in_use_;
        d["peak_bytes_in_use"] = peak_;
        return d;
    }

  private:
    std::mutex mutex_;
    std::multimap<size_t, Block *> free_;
    size_t system_allocations_ = 0, held_ = 0, in_use_ = 0, peak_ = 0;
};

Pool &pool() {
    static Pool *the = new Pool; // never destroyed: arrays may outlive the module
    return *the;
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
    Pool::Block *block = pool().take((size_t)bytes);
    py::capsule owner(block, [](void *p) { pool().give_back(static_cast<Pool::Block *>(p)); });
    return py::array(dtype, shape, block->data, owner);
}

} // namespace

void bind_pool(py::module_ &m) {
    m.def("empty", empty, py::arg("shape"), py::arg("dtype"),
          "A NumPy array with undefined contents in 64-byte aligned memory of the pool, which takes it back with the "
          "array's last reference.");
    m.def(
        "pool_statistics", [] { return pool().statistics(); },
        "Counters of the pool: allocations from the system, bytes.");
    m.def("release_pool", [] { pool().release(); }, "Returns the pool's free blocks to the system.");
}
