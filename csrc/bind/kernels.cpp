// Binds the table of kernels, generically: each contract of kernels.def becomes a Python function of keyword arguments
//
//     layernorm_forward(y=..., mean=None, x=..., w=..., b=None, eps=1e-5)
//
// that takes arrays and numbers, finds the sizes in the arrays' shapes, checks everything that the contract says, and runs
// the kernel without the GIL. An array is one of the kernel's device, a NumPy array on the CPU, or a storage, an object whose
// attribute `array` is one. A destination (GOLLM_INTO) is None, an array (overwritten), or a pair (array, accumulate). The
// dtype of the arrays that are `real` chooses the table.
#include "device.h"

#include <pybind11/typing.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

enum class Kind { In, OptIn, Out, OptOut, InOut, Into };

// The types of a contract, as NumPy has them: kind of dtype and bytes of an element; 0 for `real`, -1 for `wide`, which a call
// decides.
namespace type {
struct Type {
    char kind;
    int bytes;
    bool is_fixed() const { return bytes > 0; }
    bool is_wide() const { return bytes < 0; }
    std::string dtype() const {
        return (kind == 'f' ? "float" : kind == 'u' ? "uint" : "int") + std::to_string(8 * bytes);
    }
};
constexpr Type real{'f', 0}, wide{'f', -1}, f64{'f', 8}, i64{'i', 8}, i32{'i', 4}, i8{'i', 1}, bf16{'u', 2},
    f16{'u', 2}, u8{'u', 1};
} // namespace type
using type::Type;

constexpr int64_t UNKNOWN = INT64_MIN; // a size that is not known yet; like every number below 0 the size of no array
constexpr int MAX_WORDS = 64;
constexpr int64_t EMPTY_ROWS_MAX = 1 << 20;

// One axis of a contract's shape: a symbol, a number, or an expression of them.
struct Size {
    int word = -1; // of the argument struct, where it is a symbol
    int64_t number = 0;
    std::function<int64_t(const int64_t *words)> expression;
    std::vector<int> symbols; // the words of all its symbols

    Size(int64_t n) : number(n) {}
    static Size symbol(int word) {
        Size size(0);
        size.word = word;
        size.symbols = {word};
        return size;
    }
    int64_t value(const int64_t *words) const {
        return word >= 0 ? words[word] : expression ? expression(words) : number;
    }
};

// Calculates without overflow; a result below 0, or beyond 64 bits, is UNKNOWN.
template <class Calculate> Size calculated(const Size &a, const Size &b, Calculate calculate) {
    Size size(0);
    size.expression = [a, b, calculate](const int64_t *words) {
        const int64_t x = a.value(words), y = b.value(words);
        int64_t result;
        return x < 0 || y < 0 || calculate(x, y, &result) || result < 0 ? UNKNOWN : result;
    };
    size.symbols = a.symbols;
    size.symbols.insert(size.symbols.end(), b.symbols.begin(), b.symbols.end());
    return size;
}
Size operator+(const Size &a, const Size &b) {
    return calculated(a, b, [](int64_t x, int64_t y, int64_t *z) { return __builtin_add_overflow(x, y, z); });
}
Size operator-(const Size &a, const Size &b) {
    return calculated(a, b, [](int64_t x, int64_t y, int64_t *z) { return __builtin_sub_overflow(x, y, z); });
}
Size operator*(const Size &a, const Size &b) {
    return calculated(a, b, [](int64_t x, int64_t y, int64_t *z) { return __builtin_mul_overflow(x, y, z); });
}
Size operator/(const Size &a, const Size &b) {
    return calculated(a, b, [](int64_t x, int64_t y, int64_t *z) { return y == 0 || (*z = x / y, 0); });
}

// An array of either kind, as far as the checks look at it.
struct View {
    py::object object;
    char *data;
    const py::ssize_t *shape;
    py::ssize_t ndim, size, itemsize;
    char kind;
    bool is_swapped, is_plain, is_writeable; // plain: contiguous and aligned

    explicit View(const py::array &array)
        : object(array), data((char *)array.data()), shape(array.shape()), ndim(array.ndim()), size(array.size()),
          itemsize(array.itemsize()), kind(array.dtype().kind()), is_swapped(array.dtype().byteorder() == '>'),
          is_plain((array.flags() & py::array::c_style) && (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)),
          is_writeable(array.writeable()) {}
    View(py::object of, const DeviceArray &array)
        : object(std::move(of)), data(array.data), shape(array.shape.data()), ndim((py::ssize_t)array.shape.size()),
          size(array.size()), itemsize(array.dtype.itemsize()), kind(array.dtype.kind()), is_swapped(false),
          is_plain(true), is_writeable(true) {}
    std::string dtype() const { return py::str(object.attr("dtype")); }
    std::string shape_text() const { return py::str(object.attr("shape")); }
};

// What `real` and `wide` are in a call, as its arrays so far say.
struct Reals {
    Type real{}, wide{};
    const std::string *real_name = nullptr, *wide_name = nullptr; // whose dtypes these are

    gollm_dtype table() const {
        const Type &type = real_name ? real : wide;
        return type.bytes == 8 ? GOLLM_FLOAT64 : type.kind == 'u' ? GOLLM_BFLOAT16 : GOLLM_FLOAT32;
    }
};

struct Field {
    std::string name;
    Type type;
    PyObject *key; // interned name
    int word;      // its first word in the argument struct
};

struct ArrayField : Field {
    Kind kind;
    std::string shape_text;
    std::vector<Size> shape;
    bool has_expression;
    bool is_optional() const { return kind == Kind::OptIn || kind == Kind::OptOut || kind == Kind::Into; }
    bool is_written() const { return kind != Kind::In && kind != Kind::OptIn; }
};

class Kernel {
  public:
    Kernel(int index, const char *name, size_t args_bytes)
        : index_(index), name_(name), n_words_((int)(args_bytes / sizeof(int64_t))) {
        if (n_words_ > MAX_WORDS) throw std::runtime_error("kernels.def: too many fields in " + name_);
    }

    const std::string &name() const { return name_; }

    // What the entries of kernels.def become, in their order.
    Size dim(const char *name, size_t offset) {
        dims_.push_back(field(name, type::i64, offset));
        return Size::symbol(dims_.back().word);
    }
    Size scalar(const char *name, Type type, size_t offset) {
        scalars_.push_back(field(name, type, offset));
        return Size::symbol(scalars_.back().word);
    }
    void array(Kind kind, const char *name, Type type, size_t offset, const char *text, std::vector<Size> shape) {
        const bool has_expression =
            std::any_of(shape.begin(), shape.end(), [](const Size &s) { return !!s.expression; });
        arrays_.push_back({field(name, type, offset), kind, text, std::move(shape), has_expression});
    }
    void alias(const char *out, const char *in) { aliases_.emplace_back(out, in); }

    void call(Device &device, const py::kwargs &kwargs) const {
        int64_t words[MAX_WORDS] = {}; // also the second word of a destination that comes without its flag
        for (const Field &dim : dims_) words[dim.word] = UNKNOWN;
        Arrays arrays(arrays_.size());
        Reals reals;
        Py_ssize_t used = 0;
        for (const Field &scalar : scalars_) { // before the arrays, whose shapes may name them
            PyObject *value = PyDict_GetItem(kwargs.ptr(), scalar.key);
            if (!value) fail("ConfigError", "the argument " + scalar.name + " is missing");
            used++;
            set_scalar(scalar, value, words);
        }
        for (size_t i = 0; i < arrays_.size(); i++) {
            const ArrayField &field = arrays_[i];
            auto value = py::reinterpret_borrow<py::object>(PyDict_GetItem(kwargs.ptr(), field.key));
            if (value) used++;
            if (field.kind == Kind::Into && value && PyTuple_Check(value.ptr()) && PyTuple_GET_SIZE(value.ptr()) == 2)
                value = split_destination(field, value, words);
            if (!value || value.is_none()) {
                if (!field.is_optional()) fail("ShapeError", "the argument " + field.name + " is missing");
                continue;
            }
            const View array = view_of(device, field, std::move(value));
            check_array(device, field, array, words, arrays, reals);
            arrays[i] = {array.object, array.data, array.size * array.itemsize, field.is_written()};
            words[field.word] = reinterpret_cast<int64_t>(arrays[i].data);
        }
        if (used != PyDict_Size(kwargs.ptr())) fail_unknown(kwargs, "argument", false);
        for (const Field &dim : dims_)
            if (words[dim.word] == UNKNOWN) words[dim.word] = 0; // all arrays that have it were left out
        check_expressions(arrays, words);
        check_overlap(arrays);
        const gollm_kernel *kernel = device.backend->kernels(reals.table()) + index_;
        int status = gollm_check(kernel, words);
        if (status == GOLLM_OK) {
            if (measure_call(device, kernel, words)) return;
            const gollm_call call = {kernel, words, 0};
            gollm_plan alone = {&call, 1, 0, 0, nullptr};
            int64_t failed;
            WithoutGil released;
            status = device.backend->run_plan(&alone, 1, &failed);
        }
        check_status(device, status, name_);
        record_call(device, kernel, words, n_words_, arrays);
    }

    // The workspace that the team needs for these sizes and numbers when every optional buffer is given. Workspace
    // functions look at pointers only to see whether they are NULL.
    int64_t workspace_bytes(const py::kwargs &sizes) const {
        int64_t words[MAX_WORDS] = {};
        Py_ssize_t used = 0;
        for (const ArrayField &field : arrays_) words[field.word] = (int64_t)(intptr_t)words;
        for (const std::vector<Field> *fields : {&dims_, &scalars_})
            for (const Field &field : *fields) {
                PyObject *value = PyDict_GetItem(sizes.ptr(), field.key);
                if (!value) continue;
                used++;
                set_scalar(field, value, words);
            }
        if (used != PyDict_Size(sizes.ptr())) fail_unknown(sizes, "size or number", true);
        const gollm_kernel *kernel = gollm_kernels(GOLLM_FLOAT32) + index_;
        return kernel->workspace ? kernel->workspace(words, gollm_num_threads()) : 0;
    }

  private:
    static Field field(const char *name, Type type, size_t offset) {
        return {name, type, PyUnicode_InternFromString(name), (int)(offset / sizeof(int64_t))};
    }

    [[noreturn]] void fail(const char *error, const std::string &what) const {
        raise_error(error, name_ + ": " + what);
    }

    [[noreturn]] void fail_unknown(const py::kwargs &kwargs, const char *what, bool sizes) const {
        for (auto item : kwargs) {
            auto has = [&item](const Field &field) { return PyUnicode_Compare(field.key, item.first.ptr()) == 0; };
            if (std::any_of(scalars_.begin(), scalars_.end(), has) ||
                (sizes ? std::any_of(dims_.begin(), dims_.end(), has)
                       : std::any_of(arrays_.begin(), arrays_.end(), has)))
                continue;
            fail("ConfigError", std::string("it takes no ") + what + " " + argument_name(item.first));
        }
        fail("ConfigError", "an argument was given twice");
    }

    static std::string argument_name(py::handle name) {
        const std::string quoted = shown(name);
        return quoted.size() > 2 ? quoted.substr(1, quoted.size() - 2) : quoted;
    }

    void set_scalar(const Field &field, PyObject *value, int64_t *words) const {
        const bool is_float = field.type.kind == 'f';
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

    // (array, accumulate) -> array, and the destination's second word
    py::object split_destination(const ArrayField &field, const py::object &pair, int64_t *words) const {
        PyObject *accumulate = PyTuple_GET_ITEM(pair.ptr(), 1);
        words[field.word + 1] = PyObject_IsTrue(accumulate);
        if (words[field.word + 1] < 0) {
            PyErr_Clear();
            fail("DTypeError",
                 "whether to add to " + field.name + " is " + shown(accumulate) + "; it must be True or False");
        }
        return py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(pair.ptr(), 0));
    }

    // The argument itself, or the array of a storage.
    View view_of(const Device &device, const ArrayField &field, py::object value) const {
        if (!is_array(value)) {
            static PyObject *const attribute = PyUnicode_InternFromString("array");
            auto array = py::reinterpret_steal<py::object>(PyObject_GetAttr(value.ptr(), attribute));
            if (!array && !PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
            PyErr_Clear();
            if (!array || !is_array(array))
                fail("DTypeError", field.name + " must be a NumPy array, not " + Py_TYPE(value.ptr())->tp_name);
            value = std::move(array);
        }
        const bool in_host_memory = py::isinstance<py::array>(value);
        const Device &place = in_host_memory ? cpu_device() : *py::cast<const DeviceArray &>(value).device;
        if (&place != &device)
            fail("DTypeError", field.name + " is in the memory of the device '" + place.backend->name +
                                   "'; this kernel is one of '" + device.backend->name + "'");
        if (in_host_memory) return View(py::reinterpret_steal<py::array>(value.release()));
        const DeviceArray &array = py::cast<const DeviceArray &>(value);
        return View(std::move(value), array);
    }

    static bool is_array(const py::object &value) {
        return py::isinstance<py::array>(value) || py::isinstance<DeviceArray>(value);
    }

    // Notes what `real` or `wide` is; false where it is not what it was, or what the device does not have.
    static bool fits(const Device &device, const ArrayField &field, const View &array, Reals &reals) {
        const Type type{array.kind, (int)array.itemsize};
        const bool is_wide = field.type.is_wide();
        Type &own = is_wide ? reals.wide : reals.real;
        const Type &other = is_wide ? reals.real : reals.wide;
        const std::string *&own_name = is_wide ? reals.wide_name : reals.real_name;
        const bool other_known = is_wide ? reals.real_name : reals.wide_name;
        if (own_name) return type.kind == own.kind && type.bytes == own.bytes;
        const bool is_bf16 = type.kind == 'u' && type.bytes == 2;
        if (!(type.kind == 'f' && (type.bytes == 4 || type.bytes == 8)) && !(is_bf16 && !is_wide)) return false;
        const gollm_dtype table = is_bf16 ? GOLLM_BFLOAT16 : type.bytes == 8 ? GOLLM_FLOAT64 : GOLLM_FLOAT32;
        if (!device.backend->kernels(table)) return false;
        if (other_known && (type.bytes == 8) != (other.bytes == 8)) return false;
        own = type, own_name = &field.name;
        return true;
    }

    // What fits() would have taken.
    static std::string allowed(const Device &device, const ArrayField &field, const Reals &reals) {
        const bool is_wide = field.type.is_wide();
        auto as = [](const Type &type, const std::string &name) {
            return (type.kind == 'u' ? "uint16 (bfloat16)" : type.dtype()) + " as " + name + " is";
        };
        if (is_wide && reals.wide_name) return as(reals.wide, *reals.wide_name);
        if (!is_wide && reals.real_name) return as(reals.real, *reals.real_name);
        if (is_wide ? reals.real_name : reals.wide_name) {
            const Type other{'f', (is_wide ? reals.real : reals.wide).bytes == 8 ? 8 : 4};
            return as(other, is_wide ? *reals.real_name : *reals.wide_name);
        }
        std::string names = "float32";
        if (device.backend->kernels(GOLLM_FLOAT64)) names += " or float64";
        if (!is_wide && device.backend->kernels(GOLLM_BFLOAT16)) names += " or uint16 (bfloat16)";
        return names;
    }

    void check_array(const Device &device, const ArrayField &field, const View &array, int64_t *words,
                     const Arrays &arrays, Reals &reals) const {
        const bool is_good = field.type.is_fixed() ? array.kind == field.type.kind && array.itemsize == field.type.bytes
                                                   : fits(device, field, array, reals);
        if (!is_good || array.is_swapped)
            fail("DTypeError", field.name + " is of dtype " + array.dtype() + "; it must be " +
                                   (field.type.is_fixed() ? field.type.dtype() : allowed(device, field, reals)));
        if (!array.is_plain)
            fail("ShapeError", field.name + " of shape " + array.shape_text() +
                                   " must be contiguous and aligned in memory (C order)");
        if (field.is_written() && !array.is_writeable)
            fail("ShapeError", field.name + " is written to, but the array is read-only");
        const auto extra = array.ndim - (py::ssize_t)field.shape.size();
        if (array.size == 0) check_empty(field, array, extra);
        bool matches = extra >= 0;
        for (size_t j = 0; matches && j < field.shape.size(); j++) {
            const Size &expected = field.shape[j];
            if (expected.expression) continue; // of symbols that may not be known yet
            const int64_t size = axis(array, field, j);
            if (expected.word >= 0 && words[expected.word] == UNKNOWN)
                words[expected.word] = size;
            else
                matches = size == expected.value(words);
        }
        if (!matches) fail_shape(field, array, words, arrays);
    }

    // The size of axis j of a shape; axes that the array has before them count with the first.
    static int64_t axis(const View &array, const ArrayField &field, size_t j) {
        const auto extra = array.ndim - (py::ssize_t)field.shape.size();
        int64_t size = array.shape[extra + (py::ssize_t)j];
        for (py::ssize_t k = 0; j == 0 && k < extra; k++) size *= array.shape[k];
        return size;
    }

    static View view_again(const py::object &object) {
        return py::isinstance<py::array>(object) ? View(py::reinterpret_borrow<py::array>(object))
                                                 : View(object, py::cast<const DeviceArray &>(object));
    }

    void check_expressions(const Arrays &arrays, const int64_t *words) const {
        for (size_t i = 0; i < arrays_.size(); i++) {
            if (!arrays_[i].has_expression || !arrays[i].object) continue;
            const View array = view_again(arrays[i].object);
            for (size_t j = 0; j < arrays_[i].shape.size(); j++)
                if (axis(array, arrays_[i], j) != arrays_[i].shape[j].value(words))
                    fail_shape(arrays_[i], array, words, arrays);
        }
    }

    // No memory bounds the sizes of an empty array, but loops go over them: over its rows, where it has some.
    void check_empty(const ArrayField &field, const View &array, py::ssize_t extra) const {
        int64_t longest = 1, most = EMPTY_ROWS_MAX;
        for (py::ssize_t k = 0; k < array.ndim; k++) {
            if (array.shape[k] == 0 && k <= extra) most = INT32_MAX;
            if (__builtin_mul_overflow(longest, std::max<int64_t>(1, array.shape[k]), &longest)) longest = INT64_MAX;
        }
        if (longest > most)
            fail("ShapeError", field.name + " has shape " + array.shape_text() +
                                   "; the sizes of an empty array may be at most " + std::to_string(most) +
                                   ", all but 0 multiplied");
    }

    // "b has shape (5, 7); it must be (N, K) with K = 8, as in a of shape (4, 8)": the symbols that are known, and the
    // other arrays so far that name them.
    [[noreturn]] void fail_shape(const ArrayField &field, const View &array, const int64_t *words,
                                 const Arrays &arrays) const {
        std::vector<int> known;
        for (const Size &size : field.shape)
            for (int word : size.symbols)
                if (words[word] != UNKNOWN && std::find(known.begin(), known.end(), word) == known.end())
                    known.push_back(word);
        std::string sizes, seen;
        for (int word : known)
            sizes += (sizes.empty() ? " with " : ", ") + name_of(word) + " = " + std::to_string(words[word]);
        for (size_t i = 0; i < arrays_.size(); i++) {
            if (!arrays[i].object || &arrays_[i] == &field) continue;
            const bool shares = std::any_of(arrays_[i].shape.begin(), arrays_[i].shape.end(), [&](const Size &size) {
                return size.word >= 0 && std::find(known.begin(), known.end(), size.word) != known.end();
            });
            if (shares)
                seen += (seen.empty() ? ", as in " : " and ") + arrays_[i].name + " of shape " +
                        view_again(arrays[i].object).shape_text();
        }
        fail("ShapeError", field.name + " has shape " + array.shape_text() + "; it must be (" + field.shape_text + ")" +
                               sizes + seen);
    }

    const std::string &name_of(int word) const {
        for (const std::vector<Field> *fields : {&dims_, &scalars_})
            for (const Field &field : *fields)
                if (field.word == word) return field.name;
        return name_;
    }

    void check_overlap(const Arrays &arrays) const {
        for (size_t i = 0; i < arrays_.size(); i++) {
            if (!arrays_[i].is_written()) continue;
            const Array &a = arrays[i];
            for (size_t j = 0; j < arrays_.size(); j++) {
                const Array &b = arrays[j];
                if (i == j || !a.meets(b)) continue;
                if (a.data == b.data && a.bytes == b.bytes && may_alias(arrays_[i].name, arrays_[j].name)) continue;
                fail("ShapeError", arrays_[i].name + " and " + arrays_[j].name + " overlap in memory");
            }
        }
    }

    bool may_alias(const std::string &a, const std::string &b) const {
        return std::any_of(aliases_.begin(), aliases_.end(), [&](const auto &pair) {
            return (pair.first == a && pair.second == b) || (pair.first == b && pair.second == a);
        });
    }

    int index_;
    std::string name_;
    int n_words_;
    std::vector<Field> dims_, scalars_;
    std::vector<ArrayField> arrays_;
    std::vector<std::pair<std::string, std::string>> aliases_;
};

// All kernels, in the table's order.
std::vector<std::shared_ptr<Kernel>> all_kernels() {
    std::vector<std::shared_ptr<Kernel>> all;
#define GOLLM_OFFSET(field) offsetof(Args, field)
#define GOLLM_DIM(name) const Size name = kernel.dim(#name, GOLLM_OFFSET(name));
#define GOLLM_SCALAR(t, name) const Size name = kernel.scalar(#name, type::t, GOLLM_OFFSET(name));
#define GOLLM_ARRAY(kind, t, name, ...)                                                                                \
    kernel.array(Kind::kind, #name, type::t, GOLLM_OFFSET(name), #__VA_ARGS__, {__VA_ARGS__});
#define GOLLM_IN(t, name, ...) GOLLM_ARRAY(In, t, name, __VA_ARGS__)
#define GOLLM_OPT_IN(t, name, ...) GOLLM_ARRAY(OptIn, t, name, __VA_ARGS__)
#define GOLLM_OUT(t, name, ...) GOLLM_ARRAY(Out, t, name, __VA_ARGS__)
#define GOLLM_OPT_OUT(t, name, ...) GOLLM_ARRAY(OptOut, t, name, __VA_ARGS__)
#define GOLLM_INOUT(t, name, ...) GOLLM_ARRAY(InOut, t, name, __VA_ARGS__)
#define GOLLM_INTO(t, name, ...) GOLLM_ARRAY(Into, t, name, __VA_ARGS__)
#define GOLLM_ALIAS(out, in) kernel.alias(#out, #in);
#define GOLLM_KERNEL(name, fields)                                                                                     \
    {                                                                                                                  \
        using Args = gollm_##name##_args;                                                                              \
        all.push_back(std::make_shared<Kernel>((int)all.size(), #name, sizeof(Args)));                                 \
        Kernel &kernel = *all.back();                                                                                  \
        fields                                                                                                         \
    }
#include "kernels.def"
    return all;
}

py::typing::Dict<py::str, py::str> contracts() {
    py::typing::Dict<py::str, py::str> texts;
    const gollm_kernel *table = gollm_kernels(GOLLM_FLOAT32);
    for (int i = 0; i < gollm_kernel_count(); i++) texts[table[i].name] = table[i].contract;
    return texts;
}

} // namespace

void bind_kernels(py::module_ &m, Device &device) {
    std::map<std::string, std::shared_ptr<Kernel>> by_name;
    for (const auto &kernel : all_kernels()) by_name[kernel->name()] = kernel;
    if (device.is_cpu())
        m.def(
            "workspace_bytes",
            [by_name](const std::string &kernel, const py::kwargs &sizes) {
                auto found = by_name.find(kernel);
                if (found == by_name.end()) raise_error("KernelError", "there is no kernel " + shown(py::str(kernel)));
                return found->second->workspace_bytes(sizes);
            },
            py::arg("kernel"),
            "Bytes of workspace that a float32 kernel needs for sizes and numbers by name, with the present number of "
            "threads.");
    m.def("contracts", contracts, "The contract of every kernel, as kernels.def states it, by name.");
    const gollm_kernel *table = device.backend->kernels(GOLLM_FLOAT32);
    for (int i = 0; i < device.backend->n_kernels; i++) {
        const auto kernel = by_name[table[i].name];
        m.def(
            table[i].name, [kernel, &device](const py::kwargs &kwargs) { kernel->call(device, kwargs); },
            table[i].contract);
    }
}
