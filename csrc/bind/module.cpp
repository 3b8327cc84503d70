// gollm._native: version, instruction-set variants, threads; the other parts bind themselves.
#include "device.h"

#include <pybind11/typing.h>

#include <climits>
#include <string>
#if defined(__GLIBCXX__) && defined(__linux__)
#include <unistd.h> // pause
#endif

[[noreturn]] void raise_error(const char *name, const std::string &message) {
    py::object type = py::module_::import("gollm.errors").attr(name);
    PyErr_SetString(type.ptr(), message.c_str());
    throw py::error_already_set();
}

std::string cut(const py::str &text) {
    constexpr size_t LIMIT = 60;
    const std::string ascii = py::str(text.attr("encode")("ascii", "backslashreplace").attr("decode")("ascii"));
    return ascii.size() <= LIMIT ? ascii : ascii.substr(0, LIMIT - 3) + "...";
}

std::string shown(py::handle value) { return cut(py::repr(value)); }

WithoutGil::~WithoutGil() {
#if defined(__GLIBCXX__) && defined(__linux__)
    try {
        PyEval_RestoreThread(state);
    } catch (...) { // the unwinding, which may not be swallowed; it has no object that a reference could be bound to
        for (;;) pause();
    }
#else
    PyEval_RestoreThread(state);
#endif
}

static py::typing::List<py::str> isa_variants() {
    py::typing::List<py::str> names;
    for (int i = 0; i < gollm_isa_count(); i++) names.append(gollm_isa_name(i));
    return names;
}

static py::typing::List<py::str> isa_supported() {
    py::typing::List<py::str> names;
    for (int i = 0; i < gollm_isa_count(); i++)
        if (gollm_isa_supported(i)) names.append(gollm_isa_name(i));
    return names;
}

static void set_isa(const std::string &name) {
    if (name.find('\0') != name.npos || gollm_set_isa(name.c_str()) != GOLLM_OK)
        raise_error("ConfigError", "instruction-set variant " + shown(py::str(name)) +
                                       " cannot be used here; choose one of " + std::string(py::str(isa_supported())));
}

static void set_num_threads(const py::object &n) {
    int overflow = 0;
    long number = PyBool_Check(n.ptr()) || !PyIndex_Check(n.ptr()) ? 0 : PyLong_AsLongAndOverflow(n.ptr(), &overflow);
    if (PyErr_Occurred()) throw py::error_already_set();
    number = overflow || number < 0 || number > INT_MAX ? 0 : number;
    if (gollm_set_num_threads(static_cast<int>(number)) != GOLLM_OK)
        raise_error("ConfigError",
                    "the number of threads is " + shown(n) + "; it must be a whole number from 1 to 1024");
}

static const char *compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

// pybind11's own start waits for ever in a subinterpreter, so it gets another name, and what Python calls comes before it.
#define PyInit__native init_in_main_interpreter
PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    m.doc() = "gollm's compiled part: the kernels, the buffer pool and the tokenizers' cores.";
    m.attr("__version__") = gollm_version();
    m.def("compiler", compiler, "The compiler and its version.");
    m.def("abi_version", gollm_abi_version, "A hash of all kernel contracts.");
    m.def("has_openmp", [] { return gollm_has_openmp() == 1; }, "Whether kernels can use more than one thread.");
    m.def("num_threads", gollm_num_threads, "The number of threads that kernels use.");
    m.def("set_num_threads", set_num_threads, py::arg("n"),
          "Sets the number of threads, 1 to 1024; raises ConfigError.");
    m.def("workspace_size", gollm_workspace_size, "Bytes of workspace that kernels hold between calls.");
    m.def(
        "release_workspace",
        [] {
            WithoutGil released; // it waits for the end of running calls
            gollm_release_workspace();
        },
        "Returns the kernels' workspace to the system; the next call that needs one takes it anew.");
    m.def("isa", gollm_isa, "The instruction-set variant in use.");
    m.def("isa_variants", isa_variants, "The variants that were built, from the least to the most demanding.");
    m.def("isa_supported", isa_supported, "The variants that this CPU can run.");
    m.def("set_isa", set_isa, py::arg("name"), "Switches to another variant; raises ConfigError.");
    bind_kernels(m, cpu_device());
    bind_plan_classes(m);
    bind_plan(m, cpu_device());
    bind_pool(m, cpu_device());
    bind_devices(m);
    bind_tokenizers(m);
    bind_sentencepiece(m);
    bind_wordpiece(m);
}
#undef PyInit__native

extern "C" PYBIND11_EXPORT PyObject *PyInit__native() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return init_in_main_interpreter();
    PyErr_SetString(PyExc_ImportError,
                    "gollm works in the main interpreter only, not in a subinterpreter; use threads or processes");
    return nullptr;
}
