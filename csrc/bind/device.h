// A device: its backend (gollm.h), and the memory that arrays lie in. The CPU's arrays are NumPy's; another device has
// DeviceArrays, whose values Python does not see.
#pragma once

#include "bind.h"

#include <memory>

class Pool;

// Of all pools of a device's real memory.
struct PoolTotals {
    size_t allocations = 0, held = 0, in_use = 0, peak = 0;
};

struct Device {
    const gollm_backend *backend;
    PoolTotals totals;
    std::shared_ptr<Pool> pool; // of arrays that belong to no plan

    explicit Device(const gollm_backend *of);
    Device(const Device &) = delete;
    bool is_cpu() const { return !backend->allocate; }
    // ": why", in the device's words, behind the message of a status; or nothing.
    std::string reason(int status) const;
};
Device &cpu_device();

// Raises KernelError where `status` says so, `what` in front.
void check_status(const Device &device, int status, const std::string &what);

// Row-major and contiguous memory of a device, with a shape and dtype as NumPy has them.
struct DeviceArray : Made {
    Device *device;
    char *data;
    std::vector<py::ssize_t> shape;
    py::dtype dtype;
    py::object owner; // of the memory

    DeviceArray(Device *device, char *data, std::vector<py::ssize_t> shape, py::dtype dtype, py::object owner)
        : device(device), data(data), shape(std::move(shape)), dtype(std::move(dtype)), owner(std::move(owner)) {}
    py::ssize_t size() const {
        py::ssize_t n = 1;
        for (py::ssize_t axis : shape) n *= axis;
        return n;
    }
    py::ssize_t nbytes() const { return size() * dtype.itemsize(); }
};
std::unique_ptr<DeviceArray> device_array(Device &device, const py::tuple &shape, const py::dtype &dtype,
                                          bool of_plan = true);

// DLPack (dlpack.cpp): the capsule of a device's array, and the array of a capsule's memory on that device.
py::capsule to_dlpack(const DeviceArray &array, bool bfloat16);
py::tuple from_dlpack(Device &device, const py::object &other);
