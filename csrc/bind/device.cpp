// Devices other than the CPU: a backend of another module becomes a namespace of the same functions that this module has for
// the CPU, and of copies between the two memories.
//
// A device runs behind the program's back. What has gone wrong there (gollm_backend.finish) is raised where values are read:
// that is the only place where the program waits for it.
#include "pool.h"

#include <pybind11/stl.h> // std::vector of sizes as a tuple

#include <cstring>
#include <mutex>

namespace {

constexpr const char *BACKEND = "gollm_backend"; // the name of capsules that hold one

std::string shape_text(const std::vector<py::ssize_t> &shape) { return py::str(py::tuple(py::cast(shape))); }

// The array of another shape in the same memory; one size may be -1.
std::unique_ptr<DeviceArray> reshaped(const DeviceArray &array, const py::object &shape) {
    std::vector<py::ssize_t> sizes;
    if (PyIndex_Check(shape.ptr()))
        sizes.push_back(py::cast<py::ssize_t>(shape));
    else
        sizes = py::cast<std::vector<py::ssize_t>>(shape);
    py::ssize_t known = 1, *open = nullptr;
    for (py::ssize_t &size : sizes)
        if (size == -1 && !open)
            open = &size;
        else
            known *= size;
    if (open && known) *open = array.size() / known;
    if (known * (open ? *open : 1) != array.size())
        raise_error("ShapeError",
                    "an array of shape " + shape_text(array.shape) + " cannot have the shape " + shown(shape));
    return std::unique_ptr<DeviceArray>(
        ::new DeviceArray(array.device, array.data, std::move(sizes), array.dtype, array.owner));
}

// One index, or a slice without gaps, along the first axis; or indices of the first axes.
std::unique_ptr<DeviceArray> part(const DeviceArray &array, const py::object &index) {
    if (py::isinstance<py::tuple>(index)) {
        auto found = reshaped(array, py::cast(array.shape));
        for (py::handle one : py::cast<py::tuple>(index)) found = part(*found, py::reinterpret_borrow<py::object>(one));
        return found;
    }
    if (array.shape.empty()) throw py::index_error("an array without axes has no parts");
    const py::ssize_t n = array.shape[0], stride = n ? array.nbytes() / n : 0;
    std::vector<py::ssize_t> shape = array.shape;
    py::ssize_t begin;
    if (py::isinstance<py::slice>(index)) {
        size_t start, stop, step, length;
        if (!py::cast<py::slice>(index).compute((size_t)n, &start, &stop, &step, &length))
            throw py::error_already_set();
        if (step != 1) raise_error("ShapeError", "a part of an array on a device must be without gaps");
        begin = (py::ssize_t)start, shape[0] = (py::ssize_t)length;
    } else {
        begin = py::cast<py::ssize_t>(index);
        if (begin < 0) begin += n;
        if (begin < 0 || begin >= n)
            throw py::index_error("index " + shown(index) + " of an axis of " + std::to_string(n));
        shape.erase(shape.begin());
    }
    return std::unique_ptr<DeviceArray>(
        ::new DeviceArray(array.device, array.data + begin * stride, std::move(shape), array.dtype, array.owner));
}

void check_same(const DeviceArray &to, const std::vector<py::ssize_t> &shape, const py::dtype &dtype) {
    if (to.shape != shape || !to.dtype.equal(dtype))
        raise_error("ShapeError", "the values are " + std::string(py::str(dtype)) + " of shape " + shape_text(shape) +
                                      ", and the array that they go into is " + std::string(py::str(to.dtype)) +
                                      " of shape " + shape_text(to.shape));
}

std::vector<py::ssize_t> shape_of(const py::array &array) {
    return std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim());
}

py::array contiguous(const py::array &array) { return py::array::ensure(array, py::array::c_style); }

// Queues a copy into the device's memory; not while a step is measured, whose memory is none.
void write_from_host(const DeviceArray &to, const py::array &values) {
    if (pool_in_use(*to.device).measuring) return;
    const py::array source = contiguous(values);
    int status;
    {
        WithoutGil released;
        status = to.device->backend->write(to.data, source.data(), (int64_t)source.nbytes());
    }
    check_status(*to.device, status, "a copy to the device");
}

std::unique_ptr<DeviceArray> from_host(Device &device, const py::array &values) {
    // Not a plan's memory, which later calls of the plan use again: its contents have to stay.
    auto array = device_array(device, py::tuple(py::cast(shape_of(values))), values.dtype(), false);
    write_from_host(*array, values);
    return array;
}

// Waits for the device, and raises what has gone wrong there.
void finish(Device &device) {
    int status;
    {
        WithoutGil released;
        status = device.backend->finish();
    }
    check_status(device, status, "a kernel since values were read last");
}

py::array to_host(Device &device, const DeviceArray &array) {
    py::array values(array.dtype, array.shape);
    const PoolInUse use = pool_in_use(device);
    if (use.pool && !use.lent && !use.measuring)
        raise_error("GollmError",
                    "a value that is read while a plan is recorded would stay the first one for ever; return "
                    "the tensor, and read it after the plan has run");
    if (use.measuring) {
        std::memset(values.mutable_data(), 0, (size_t)values.nbytes());
    } else {
        int status;
        {
            WithoutGil released;
            status = device.backend->copy(values.mutable_data(), array.data, (int64_t)array.nbytes());
        }
        check_status(device, status, "a copy from the device");
        finish(device);
    }
    values.attr("flags").attr("writeable") = false; // what is written to the copy would not reach the device
    return values;
}

void write(Device &device, const DeviceArray &to, const py::object &values) {
    if (!py::isinstance<DeviceArray>(values)) {
        const auto array = py::cast<py::array>(values);
        check_same(to, shape_of(array), array.dtype());
        write_from_host(to, array);
        return;
    }
    const auto &from = py::cast<const DeviceArray &>(values);
    check_same(to, from.shape, from.dtype);
    if (pool_in_use(device).measuring) return;
    int status;
    {
        WithoutGil released;
        status = device.backend->copy(to.data, from.data, (int64_t)from.nbytes());
    }
    check_status(device, status, "a copy on the device");
}

// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3; 1 is the legacy default stream, with which
// all is done when `finish` has returned.
py::dict cuda_array_interface(const DeviceArray &array) {
    finish(*array.device);
    py::dict d;
    d["shape"] = py::tuple(py::cast(array.shape));
    d["typestr"] = array.dtype.attr("str");
    d["data"] = py::make_tuple((uintptr_t)array.data, false);
    d["strides"] = py::none();
    d["version"] = 3;
    d["stream"] = 1;
    return d;
}

std::string description(const DeviceArray &array) {
    return "DeviceArray(shape=" + shape_text(array.shape) + ", dtype=" + std::string(py::str(array.dtype)) +
           ", device=" + array.device->backend->name + ")";
}

py::object refuse_numpy(const DeviceArray &array, const py::args &, const py::kwargs &) {
    raise_error("DTypeError", description(array) + " is not in the CPU's memory; to_host() of its kernels copies it");
}

py::dict memory(const Device &device) {
    int64_t left = 0, total = 0;
    check_status(device, device.backend->free_memory(&left, &total), "the device's memory");
    py::dict d;
    d["free_bytes"] = left;
    d["total_bytes"] = total;
    return d;
}

// The namespace of a device, which stays until the process ends, as the backend does.
py::module_ bind(const py::capsule &capsule) {
    if (std::strcmp(capsule.name(), BACKEND) != 0) throw py::type_error("this capsule holds no backend");
    Device &device = *new Device(capsule.get_pointer<gollm_backend>());
    const std::string name = std::string("gollm._native.") + device.backend->name;
    auto m = py::cast<py::module_>(py::module_::import("types").attr("ModuleType")(name));
    bind_kernels(m, device);
    bind_plan(m, device);
    bind_pool(m, device);
    m.def("workspace_size", [&device] { return device.backend->workspace_size(); });
    m.def("release_workspace", [&device] {
        WithoutGil released;
        device.backend->release_workspace();
    });
    m.def("from_host", [&device](const py::array &values) { return from_host(device, values); });
    m.def("to_host", [&device](const DeviceArray &array) { return to_host(device, array); });
    m.def("write", [&device](const DeviceArray &to, const py::object &values) { write(device, to, values); });
    m.def("finish", [&device] { finish(device); });
    m.def("memory", [&device] { return memory(device); });
    m.def("from_dlpack", [&device](const py::object &other) { return from_dlpack(device, other); });
    m.def("to_dlpack", [&device](const DeviceArray &array, bool bfloat16) {
        finish(device);
        return to_dlpack(array, bfloat16);
    });
    return m;
}

} // namespace

Device::Device(const gollm_backend *of) : backend(of), pool(std::make_shared<Pool>(*this)) {}

std::string Device::reason(int status) const {
    return status == GOLLM_DEVICE_FAILED && backend->error ? std::string(": ") + backend->error() : "";
}

Device &cpu_device() {
    static Device *the = new Device(gollm_cpu()); // never destroyed: arrays may outlive the module
    return *the;
}

void check_status(const Device &device, int status, const std::string &what) {
    if (status != GOLLM_OK)
        raise_error("KernelError", what + ": " + gollm_status_message(status) + device.reason(status));
}

void bind_devices(py::module_ &m) {
    py::class_<DeviceArray>(m, "DeviceArray")
        .def_property_readonly("shape", [](const DeviceArray &a) { return py::tuple(py::cast(a.shape)); })
        .def_property_readonly("dtype", [](const DeviceArray &a) { return a.dtype; })
        .def_property_readonly("ndim", [](const DeviceArray &a) { return a.shape.size(); })
        .def_property_readonly("size", &DeviceArray::size)
        .def_property_readonly("nbytes", &DeviceArray::nbytes)
        .def_property_readonly("device", [](const DeviceArray &a) { return a.device->backend->name; })
        .def_property_readonly("__cuda_array_interface__", cuda_array_interface)
        .def("reshape", reshaped, py::arg("shape"), "The same memory in another shape.")
        .def("__getitem__", part, "A part along the first axes, in the same memory.")
        .def("__array__", refuse_numpy)
        .def("__repr__", description);
    m.def(
        "cpu_backend", [] { return py::capsule(gollm_cpu(), BACKEND); },
        "The CPU's backend, which another device's module takes.");
    m.def("bind", bind, py::arg("backend"), "What this module has for the CPU, for the device of a capsule.");
}
