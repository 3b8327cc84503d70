// Binds the table of kernels, generically: each contract of kernels.def becomes a Python function of keyword arguments
//
//     layernorm_forward(y=..., mean=None, x=..., w=..., b=None, eps=1e-5)
//
// that takes NumPy arrays and numbers, finds the sizes in the arrays' shapes, checks everything that the contract says,
// and runs the kernel without the GIL. A destination (INTO) is None, an array (overwritten), or a pair (array,
// accumulate).
#include "bind.h"

#include <pybind11/typing.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

enum class Kind { In, OptIn, Out, OptOut, InOut, Into, Scalar, Dim };

struct Size { // one axis of a contract's shape: a symbol (word of the argument struct) or a number
    int word;
    int64_t number;
};

struct Field {
    Kind kind;
    std::string type, name, shape_text;
    PyObject *key; // interned name
    int word;      // its first word in the argument struct
    std::vector<Size> shape;
    bool is_array() const { return kind != Kind::Scalar && kind != Kind::Dim; }
    bool is_number() const { return !is_array(); }
    bool is_argument() const { return kind != Kind::Dim; }
    bool is_optional() const { return kind == Kind::OptIn || kind == Kind::OptOut || kind == Kind::Into; }
    bool is_written() const { return is_array() && kind != Kind::In && kind != Kind::OptIn; }
};

std::vector<std::string> words_of(const std::string &text, const char *separators) {
    std::vector<std::string> words;
    for (size_t i = text.find_first_not_of(separators); i != std::string::npos;) {
        size_t end = text.find_first_of(separators, i);
        words.push_back(text.substr(i, end == std::string::npos ? end : end - i));
        i = text.find_first_not_of(separators, end);
    }
    return words;
}

Kind kind_of(const std::string &word) {
    static const std::pair<const char *, Kind> kinds[] = {
        {"IN", Kind::In},       {"OPT_IN", Kind::OptIn}, {"OUT", Kind::Out},       {"OPT_OUT", Kind::OptOut},
        {"INOUT", Kind::InOut}, {"INTO", Kind::Into},    {"SCALAR", Kind::Scalar}, {"DIM", Kind::Dim}};
    for (auto &[name, kind] : kinds)
        if (word == name) return kind;
    throw std::runtime_error("kernels.def: unknown entry " + word);
}

constexpr int64_t UNKNOWN = INT64_MIN; // no array has this size
constexpr int MAX_WORDS = 64;
constexpr int64_t EMPTY_ROWS_MAX = 1 << 20;

class Kernel {
  public:
    Kernel(int index, const char *name, const char *contract) : index_(index), name_(name) {
        for (const std::string &entry : words_of(contract, ")")) {
            size_t open = entry.find('(');
            std::string word = words_of(entry.substr(0, open), " \n")[0];
            std::vector<std::string> parts = words_of(entry.substr(open + 1), ",");
            for (auto &part : parts) part = words_of(part, " \n").size() > 1 ? part : words_of(part, " \n")[0];
            if (word == "ALIAS")
                aliases_.emplace_back(parts[0], parts[1]);
            else
                add(kind_of(word), parts);
        }
        if (n_words_ > MAX_WORDS) throw std::runtime_error("kernels.def: too many fields in " + name_);
        for (Field &field : fields_)
            for (const std::string &size : words_of(field.shape_text, " \n"))
                field.shape.push_back(isdigit(size[0]) ? Size{-1, std::stoll(size)} : Size{find(size).word, 0});
    }

    void call(const py::kwargs &kwargs) const {
        int64_t words[MAX_WORDS] = {}; // also the second word of a destination that comes without its flag
        for (const Field &field : fields_) words[field.word] = field.kind == Kind::Dim ? UNKNOWN : 0;
        const Field *real_field = nullptr;
        int real_type = -1;
        Arrays arrays(fields_.size());
        Py_ssize_t used = 0;
        // Numbers first: shapes may name them.
        for (const Field &field : fields_)
            if (field.kind == Kind::Scalar) {
                PyObject *value = PyDict_GetItem(kwargs.ptr(), field.key);
                if (!value) fail("ConfigError", "the argument " + field.name + " is missing");
                used++;
                set_scalar(field, value, words);
            }
        for (size_t i = 0; i < fields_.size(); i++) {
            const Field &field = fields_[i];
            if (!field.is_array()) continue;
            PyObject *value = PyDict_GetItem(kwargs.ptr(), field.key);
            if (value) used++;
            if (field.kind == Kind::Into && value && PyTuple_Check(value) && PyTuple_GET_SIZE(value) == 2) {
                words[field.word + 1] = PyObject_IsTrue(PyTuple_GET_ITEM(value, 1));
                if (words[field.word + 1] < 0) {
                    PyErr_Clear();
                    fail("DTypeError", "whether to add to " + field.name + " is " + shown(PyTuple_GET_ITEM(value, 1)) +
                                           "; it must be True or False");
                }
                value = PyTuple_GET_ITEM(value, 0);
            }
            if (!value || value == Py_None) {
                if (!field.is_optional()) fail("ShapeError", "the argument " + field.name + " is missing");
                continue;
            }
            py::object held;
            if (!py::isinstance<py::array>(value)) {
                static PyObject *attribute = PyUnicode_InternFromString("array");
                held = py::reinterpret_steal<py::object>(PyObject_GetAttr(value, attribute));
                if (held) value = held.ptr(); else PyErr_Clear();
            }
            if (!py::isinstance<py::array>(value))
                fail("DTypeError", field.name + " must be a NumPy array, not " + Py_TYPE(value)->tp_name);
            const py::array array = py::reinterpret_borrow<py::array>(value);
            check_array(field, array, words, arrays, real_field, real_type);
            arrays[i] = {array, static_cast<const char *>(array.data()), array.nbytes()};
            words[field.word] = reinterpret_cast<int64_t>(arrays[i].data);
        }
        if (used != PyDict_Size(kwargs.ptr())) fail_unknown(kwargs, "argument", &Field::is_argument);
        for (const Field &field : fields_)
            if (field.kind == Kind::Dim && words[field.word] == UNKNOWN)
                words[field.word] = 0; // all that have it were left out
        check_overlap(arrays);
        const gollm_kernel *kernel = gollm_kernels(real_type == 8 ? GOLLM_FLOAT64 : GOLLM_FLOAT32) + index_;
        int status;
        {
            WithoutGil released;
            status = gollm_run(kernel, words);
        }
        if (status != GOLLM_OK) fail("KernelError", gollm_status_message(status));
        record_call(kernel, words, n_words_, arrays);
    }

    // The workspace that the team needs for these sizes and numbers when every optional buffer is given. Workspace
    // functions look at pointers only to see whether they are NULL.
    int64_t workspace_bytes(const py::kwargs &sizes) const {
        int64_t words[MAX_WORDS] = {};
        Py_ssize_t used = 0;
        for (const Field &field : fields_) {
            if (field.is_array()) {
                words[field.word] = (int64_t)(intptr_t)words;
                continue;
            }
            PyObject *value = PyDict_GetItem(sizes.ptr(), field.key);
            if (!value) continue;
            used++;
            set_scalar(field, value, words);
        }
        if (used != PyDict_Size(sizes.ptr())) fail_unknown(sizes, "size or number", &Field::is_number);
        const gollm_kernel *kernel = gollm_kernels(GOLLM_FLOAT32) + index_;
        return kernel->workspace ? kernel->workspace(words, gollm_num_threads()) : 0;
    }

  private:
    void add(Kind kind, const std::vector<std::string> &parts) {
        Field field{kind, "i64", parts.back(), "", nullptr, n_words_, {}};
        if (kind != Kind::Dim) field.type = parts[0], field.name = parts[1];
        if (field.is_array()) field.shape_text = parts[2];
        field.key = PyUnicode_InternFromString(field.name.c_str());
        n_words_ += kind == Kind::Into ? 2 : 1;
        fields_.push_back(field);
    }

    const Field &find(const std::string &name) const {
        for (const Field &field : fields_)
            if (field.name == name) return field;
        throw std::runtime_error("kernels.def: " + name_ + " names the size " + name + ", which it does not declare");
    }

    [[noreturn]] void fail(const char *error, const std::string &what) const {
        raise_error(error, name_ + ": " + what);
    }

    [[noreturn]] void fail_unknown(const py::kwargs &kwargs, const char *what, bool (Field::*takes)() const) const {
        for (auto item : kwargs) {
            bool known = false;
            for (const Field &field : fields_)
                known |= (field.*takes)() && PyUnicode_Compare(field.key, item.first.ptr()) == 0;
            if (!known) fail("ConfigError", std::string("it takes no ") + what + " " + argument_name(item.first));
        }
        fail("ConfigError", "an argument was given twice");
    }

    static std::string argument_name(py::handle name) {
        const std::string quoted = shown(name);
        return quoted.size() > 2 ? quoted.substr(1, quoted.size() - 2) : quoted;
    }

    void set_scalar(const Field &field, PyObject *value, int64_t *words) const {
        const bool is_float = field.type == "f64";
        if (is_float) {
            double number = PyFloat_AsDouble(value);
            std::memcpy(&words[field.word], &number, sizeof number);
        } else {
            words[field.word] = PyLong_AsLongLong(value);
        }
        if (!PyErr_Occurred()) return;
        PyErr_Clear();
        fail("DTypeError", field.name + " is " + shown(value) + "; it must be " +
                               (is_float ? "a number" : "a whole number of at most 64 bits"));
    }

    static std::string shape_of(py::handle array) { return py::str(array.attr("shape")); }

    void check_array(const Field &field, const py::array &array, int64_t *words, const Arrays &arrays,
                     const Field *&real_field, int &real_type) const {
        const char kind = array.dtype().kind();
        const int bytes = (int)array.itemsize();
        const bool is_real = field.type == "real";
        bool fits = is_real ? kind == 'f' && (bytes == 4 || bytes == 8) && (real_type < 0 || real_type == bytes)
                            : kind == field.type[0] && bytes == std::stoi(field.type.substr(1)) / 8;
        if (!fits || array.dtype().byteorder() == '>') {
            std::string allowed = !is_real ? (kind_name(field.type[0]) + field.type.substr(1))
                                  : real_type < 0
                                      ? std::string("float32 or float64")
                                      : (real_type == 4 ? "float32" : "float64") + (" as " + real_field->name + " is");
            fail("DTypeError",
                 field.name + " is of dtype " + std::string(py::str(array.dtype())) + "; it must be " + allowed);
        }
        if (is_real && real_type < 0) real_type = bytes, real_field = &field;
        if (!(array.flags() & py::array::c_style) || !(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
            fail("ShapeError",
                 field.name + " of shape " + shape_of(array) + " must be contiguous and aligned in memory (C order)");
        if (field.is_written() && !array.writeable())
            fail("ShapeError", field.name + " is written to, but the array is read-only");
        const auto extra = array.ndim() - (py::ssize_t)field.shape.size();
        if (array.size() == 0) check_empty(field, array, extra);
        bool matches = extra >= 0;
        for (size_t j = 0; matches && j < field.shape.size(); j++) {
            int64_t size = array.shape(extra + (py::ssize_t)j);
            if (j == 0)
                for (py::ssize_t k = 0; k < extra; k++) size *= array.shape(k);
            const Size &expected = field.shape[j];
            if (expected.word < 0)
                matches = size == expected.number;
            else if (words[expected.word] == UNKNOWN)
                words[expected.word] = size;
            else
                matches = words[expected.word] == size;
        }
        if (!matches) fail_shape(field, array, words, arrays);
    }

    // No memory bounds the sizes of an empty array, but loops go over them: over its rows, where it has some.
    void check_empty(const Field &field, const py::array &array, py::ssize_t extra) const {
        int64_t longest = 1, most = EMPTY_ROWS_MAX;
        for (py::ssize_t k = 0; k < array.ndim(); k++) {
            if (array.shape(k) == 0 && k <= extra) most = INT32_MAX;
            if (__builtin_mul_overflow(longest, std::max<int64_t>(1, array.shape(k)), &longest)) longest = INT64_MAX;
        }
        if (longest > most)
            fail("ShapeError", field.name + " has shape " + shape_of(array) +
                                   "; the sizes of an empty array may be at most " + std::to_string(most) +
                                   ", all but 0 multiplied");
    }

    static std::string kind_name(char kind) { return kind == 'f' ? "float" : kind == 'u' ? "uint" : "int"; }

    // "b has shape (5, 7); it must be (N, K) with K = 8, as in a of shape (4, 8)"
    [[noreturn]] void fail_shape(const Field &field, const py::array &array, const int64_t *words,
                                 const Arrays &arrays) const {
        std::string message = field.name + " has shape " + shape_of(array) + "; it must be (";
        std::string sizes, seen;
        for (size_t j = 0; j < field.shape.size(); j++) {
            const Size &size = field.shape[j];
            std::string symbol = words_of(field.shape_text, " \n")[j];
            message += (j ? ", " : "") + symbol;
            if (size.word >= 0 && words[size.word] != UNKNOWN)
                sizes += (sizes.empty() ? " with " : ", ") + symbol + " = " + std::to_string(words[size.word]);
        }
        for (size_t i = 0; i < fields_.size(); i++) { // the arrays before it that name the same sizes
            if (!arrays[i].object) continue;
            for (const Size &a : fields_[i].shape)
                for (const Size &b : field.shape)
                    if (a.word >= 0 && a.word == b.word && seen.find(" " + fields_[i].name + " ") == std::string::npos)
                        seen += (seen.empty() ? ", as in " : " and ") + fields_[i].name + " of shape " +
                                shape_of(arrays[i].object);
        }
        fail("ShapeError", message + ")" + sizes + seen);
    }

    void check_overlap(const Arrays &arrays) const {
        for (size_t i = 0; i < fields_.size(); i++) {
            if (!fields_[i].is_written()) continue;
            const Array &a = arrays[i];
            for (size_t j = 0; j < fields_.size(); j++) {
                const Array &b = arrays[j];
                if (i == j || a.data >= b.data + b.bytes || b.data >= a.data + a.bytes) continue;
                if (a.data == b.data && a.bytes == b.bytes && may_alias(i, j)) continue;
                fail("ShapeError", fields_[i].name + " and " + fields_[j].name + " overlap in memory");
            }
        }
    }

    bool may_alias(size_t i, size_t j) const {
        for (auto &[out, in] : aliases_)
            if ((fields_[i].name == out && fields_[j].name == in) || (fields_[i].name == in && fields_[j].name == out))
                return true;
        return false;
    }

    int index_;
    std::string name_;
    std::vector<Field> fields_;
    std::vector<std::pair<std::string, std::string>> aliases_;
    int n_words_ = 0;
};

py::typing::Dict<py::str, py::str> contracts() {
    py::typing::Dict<py::str, py::str> texts;
    const gollm_kernel *table = gollm_kernels(GOLLM_FLOAT32);
    for (int i = 0; i < gollm_kernel_count(); i++) texts[table[i].name] = table[i].contract;
    return texts;
}

} // namespace

void bind_kernels(py::module_ &m) {
    auto all = std::make_shared<std::map<std::string, std::shared_ptr<Kernel>>>();
    m.def(
        "workspace_bytes",
        [all](const std::string &kernel, const py::kwargs &sizes) {
            auto found = all->find(kernel);
            if (found == all->end()) raise_error("KernelError", "there is no kernel " + shown(py::str(kernel)));
            return found->second->workspace_bytes(sizes);
        },
        py::arg("kernel"),
        "Bytes of workspace that a float32 kernel needs for sizes and numbers by name, with the present number of "
        "threads.");
    m.def("contracts", contracts, "The contract of every kernel, as kernels.def states it, by name.");
    const gollm_kernel *table = gollm_kernels(GOLLM_FLOAT32);
    for (int i = 0; i < gollm_kernel_count(); i++) {
        auto kernel = std::make_shared<Kernel>(i, table[i].name, table[i].contract);
        (*all)[table[i].name] = kernel;
        m.def(table[i].name, [kernel](const py::kwargs &kwargs) { kernel->call(kwargs); }, table[i].contract);
    }
}
