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
        if (is_real()) device_.totals.allocations++, device_.totals.held += bytes;
    }
    block->pool = shared_from_this();
    block->lent = lent;
    lent_ += lent;
    if (is_real()) device_.totals.in_use += block->bytes;
    device_.totals.peak = std::max(device_.totals.peak, device_.totals.in_use);
    return block;
}

void Pool::give_back(Block *block) {
    const std::shared_ptr<Pool> pool = std::move(block->pool); // goes last: it may be the pool's last reference
    std::lock_guard<std::mutex> lock(mutex);
    if (pool->is_real()) pool->device_.totals.in_use -= block->bytes;
    pool->lent_ -= block->lent;
    pool->free_.emplace(block->bytes, block);
}

void Pool::release() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &[bytes, block] : free_) {
        held_ -= bytes;
        if (is_real()) device_.totals.held -= bytes;
        blocks_.erase(block->data);
        free(block);
    }
    free_.clear();
}

void *Pool::allocate(size_t bytes) const {
    if (!is_real()) {
        void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return data == MAP_FAILED ? nullptr : data;
    }
    if (!device_.is_cpu()) return device_.backend->allocate((int64_t)bytes);
    const size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE;
    void *data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__)
    if (data && bytes >= HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
}

void Pool::free(Block *block) const {
    if (!is_real())
        munmap(block->data, block->bytes);
    else if (!device_.is_cpu())
        device_.backend->release(block->data);
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

py::dict statistics(const Device &device) {
    std::lock_guard<std::mutex> lock(mutex);
    py::dict d;
    d["system_allocations"] = device.totals.allocations;
    d["bytes_held"] = device.totals.held;
    d["bytes_in_use"] = device.totals.in_use;
    d["peak_bytes_in_use"] = device.totals.peak;
    return d;
}

// A block of the pool in use, or of the shared one where the memory must not be a plan's.
Pool::Block *take_block(Device &device, size_t bytes, bool of_plan) {
    const PoolInUse use = pool_in_use(device);
    const bool own = use.pool && (of_plan || use.measuring);
    Pool &pool = own ? *use.pool : *device.pool;
    try {
        return pool.take(bytes, own && use.lent);
    } catch (const std::bad_alloc &) {
        if (device.is_cpu()) return nullptr;
    }
    device.pool->release(); // which the device cannot give to anyone else
    try {
        return pool.take(bytes, own && use.lent);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

std::string gigabytes(int64_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%.2f GB", (double)bytes / 1e9);
    return text;
}

// ": 4.00 GB were asked for, and 1.50 GB of 8.00 GB are free", where the device knows.
std::string what_is_free(const Device &device, int64_t bytes) {
    int64_t left, total;
    if (device.is_cpu() || device.backend->free_memory(&left, &total) != GOLLM_OK) return "";
    return ": " + gigabytes(bytes) + " were asked for, and " + gigabytes(left) + " of " + gigabytes(total) +
           " are free on " + device.backend->name;
}

// The memory of an array, and its axes.
struct Place {
    std::vector<py::ssize_t> shape;
    char *data;
    py::capsule owner;
};

Place place_of(Device &device, const py::tuple &sizes, const py::dtype &dtype, bool of_plan) {
    constexpr size_t MOST_AXES = 64; // NumPy's; NumPy 1 has 32, and says so
    if (dtype.flags() & HOLDS_OBJECTS)
        raise_error("DTypeError", "arrays of dtype " + cut(py::str(dtype)) + " cannot lie in the pool");
    if (!dtype.attr("subdtype").is_none())
        raise_error("DTypeError",
                    "arrays of dtype " + cut(py::str(dtype)) + " cannot lie in the pool; give its axes in the shape");
    if (sizes.size() > MOST_AXES)
        raise_error("ShapeError", "a shape of " + std::to_string(sizes.size()) + " axes is too long; at most " +
                                      std::to_string(MOST_AXES) + " are possible");
    Place place;
    py::ssize_t bytes = dtype.itemsize(); // counting sizes of 0 as 1, as NumPy does, which has a limit for it
    bool is_empty = false, too_large = false;
    for (py::handle item : sizes) {
        if (!PyIndex_Check(item.ptr()))
            raise_error("ShapeError", "the shape " + shown(sizes) + " has a size that is not a whole number");
        const py::ssize_t size = PyNumber_AsSsize_t(item.ptr(), nullptr); // nullptr: clipped to the type's range
        if (PyErr_Occurred()) throw py::error_already_set();
        if (size < 0) raise_error("ShapeError", "the shape " + shown(sizes) + " has a negative size");
        place.shape.push_back(size);
        is_empty |= size == 0;
        too_large |= __builtin_mul_overflow(bytes, std::max<py::ssize_t>(size, 1), &bytes);
    }
    Pool::Block *block = too_large ? nullptr : take_block(device, is_empty ? 0 : (size_t)bytes, of_plan);
    if (!block) {
        const std::string what = "not enough memory for an array of shape " + shown(sizes) + " and dtype ";
        const std::string free = too_large ? "" : what_is_free(device, bytes);
        PyErr_SetString(PyExc_MemoryError, (what + cut(py::str(dtype)) + free).c_str());
        throw py::error_already_set();
    }
    place.data = block->data;
    place.owner = py::capsule(block, [](void *p) { Pool::give_back(static_cast<Pool::Block *>(p)); });
    return place;
}

py::array empty(const py::tuple &sizes, const py::dtype &dtype) {
    const Place place = place_of(cpu_device(), sizes, dtype, true);
    return py::array(dtype, place.shape, place.data, place.owner);
}

} // namespace

std::unique_ptr<DeviceArray> device_array(Device &device, const py::tuple &sizes, const py::dtype &dtype,
                                          bool of_plan) {
    Place place = place_of(device, sizes, dtype, of_plan);
    return std::unique_ptr<DeviceArray>(
        ::new DeviceArray(&device, place.data, std::move(place.shape), dtype, std::move(place.owner)));
}

void bind_pool(py::module_ &m, Device &device) {
    if (device.is_cpu())
        m.def(
            "empty", empty, py::arg("shape"), py::arg("dtype"),
            "A NumPy array with undefined contents in 64-byte aligned memory of the pool, which takes it back with the "
            "array's last reference.");
    else
        m.def(
            "empty",
            [&device](const py::tuple &sizes, const py::dtype &dtype) { return device_array(device, sizes, dtype); },
            py::arg("shape"), py::arg("dtype"), "The same in the device's memory.");
    m.def(
        "pool_statistics", [&device] { return statistics(device); },
        "Counters of all pools, those of plans too: allocations from the system, bytes.");
    m.def(
        "release_pool", [&device] { device.pool->release(); }, "Returns the shared pool's free blocks to the system.");
}
