// What the parts of the extension module share: each binds its own functions into gollm._native.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gollm.h"

namespace py = pybind11;

// Raises gollm.errors.NAME(message).
[[noreturn]] void raise_error(const char *name, const std::string &message);

// A text in ASCII, cut where it is long, for a message; and repr(value) so.
std::string cut(const py::str &text);
std::string shown(py::handle value);

// Gives the GIL back for as long as it lives. At the interpreter's end Python (before 3.14) ends a thread that asks for the
// GIL, by unwinding its stack, which C++ answers with std::terminate. Such a thread, a daemon, sleeps here instead: the
// process ends without it.
class WithoutGil {
  public:
    WithoutGil() : state(PyEval_SaveThread()) {}
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &operator=(const WithoutGil &) = delete;
    ~WithoutGil();

  private:
    PyThreadState *state;
};

// A base of the classes that Python sees. An object of T.__new__(T), whose __init__ has not run, has no C++ object:
// pybind11 would take memory for it from T's operator new and call methods on whatever lies there. So this operator
// refuses, and made<T, ...>() is what such classes have instead of py::init<...>().
struct Made {
    static void *operator new(size_t) { throw py::type_error("this object was made without its __init__"); }
};
template <class T, class... Args> auto made() {
    return py::init([](Args... args) { return ::new T(std::forward<Args>(args)...); });
}

// A buffer of a kernel's call, object being its array, which is kept alive; nullptr where none was given.
struct Array {
    py::object object;
    const char *data;
    py::ssize_t bytes;
    bool written;
    bool meets(const Array &other) const { return data < other.data + other.bytes && other.data < data + bytes; }
};
using Arrays = std::vector<Array>;

struct Device;

// Where this thread measures a step of the device (plan.cpp): notes the call's workspace, and returns true; the call is not
// run.
bool measure_call(const Device &device, const gollm_kernel *kernel, const int64_t *words);
// Adds a call that has just succeeded to the plan that this thread records, if it records one of the device.
void record_call(const Device &device, const gollm_kernel *kernel, const int64_t *words, int n_words,
                 const Arrays &arrays);

// What every device has, the CPU in the module itself: its kernels, plans, and pool.
void bind_kernels(py::module_ &m, Device &device);
void bind_plan(py::module_ &m, Device &device);
void bind_pool(py::module_ &m, Device &device);

void bind_plan_classes(py::module_ &m);
void bind_devices(py::module_ &m);
void bind_tokenizers(py::module_ &m);
void bind_sentencepiece(py::module_ &m);
void bind_wordpiece(py::module_ &m);
