// gollm._cuda: whether a GPU can be used. Importing it needs no driver.
#include <pybind11/pybind11.h>

#include "backend.h"

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
    m.doc() = "gollm's kernels for NVIDIA GPUs.";
    m.def("device_count", gollm_cuda_device_count, "The number of GPUs that can be used; 0 where error() says why.");
    m.def("error", gollm_cuda_error, "What failed last, in the CUDA runtime's words.");
}
