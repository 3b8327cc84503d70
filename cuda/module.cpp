// gollm._cuda: the GPU's backend, for gollm._native to bind, and what GPU that is. Importing it needs no driver.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "backend.h"

#ifndef GOLLM_CUDA_TARGETS
#error "the build defines GOLLM_CUDA_TARGETS"
#endif

namespace py = pybind11;

static py::capsule backend(const py::capsule &cpu) {
    const gollm_backend *found = gollm_cuda(cpu.get_pointer<gollm_backend>());
    if (!found) throw std::runtime_error(gollm_cuda_error());
    return py::capsule(found, cpu.name());
}

static py::dict describe() {
    gollm_cuda_device device;
    if (gollm_cuda_describe(&device) != GOLLM_OK) throw std::runtime_error(gollm_cuda_error());
    auto version = [](int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); };
    py::dict d;
    d["name"] = device.name;
    d["total_bytes"] = device.total_bytes;
    d["compute_capability"] = std::to_string(device.major) + "." + std::to_string(device.minor);
    d["driver_supports"] = version(device.driver_version);
    d["runtime"] = version(device.runtime_version);
    return d;
}

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
    m.doc() = "gollm's kernels for NVIDIA GPUs.";
    m.attr("TARGETS") = GOLLM_CUDA_TARGETS;
    m.def("device_count", gollm_cuda_device_count, "The number of GPUs that can be used; 0 where error() says why.");
    m.def("error", gollm_cuda_error, "What failed last, in the CUDA runtime's words.");
    m.def("describe", describe, "The GPU in use: its name, memory and compute capability, and CUDA's versions.");
    m.def("backend", backend, py::arg("cpu"), "The GPU's backend, beside the CPU's, as gollm._native takes it.");
}
