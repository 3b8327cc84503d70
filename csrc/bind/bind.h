// What the parts of the extension module share: each binds its own functions into gollm._native.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

// Raises gollm.errors.NAME(message).
[[noreturn]] void raise_error(const char *name, const std::string &message);

void bind_kernels(py::module_ &m);
void bind_pool(py::module_ &m);
void bind_tokenizers(py::module_ &m);
