// What the bindings of the tokenizers share: texts, vocabularies, and encoders over C cores.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bind.h"

extern "C" {
#include "tokenizer/id_buffer.h"
#include "tokenizer/vocabulary.h"
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Ids = py::array_t<int32_t, py::array::c_style>;

[[noreturn]] inline void refuse(const std::string &why) { raise_error("TokenizerError", why); }

// A str as UTF-8: an ASCII string's own memory, else an encoded copy.
struct Text {
    py::object owner;
    const uint8_t *data;
    size_t size;

    explicit Text(py::handle text) {
        if (!PyUnicode_Check(text.ptr()))
            throw py::type_error("text must be a str, not " + std::string(Py_TYPE(text.ptr())->tp_name));
        if (PyUnicode_IS_ASCII(text.ptr())) {
            owner = py::reinterpret_borrow<py::object>(text);
            data = PyUnicode_1BYTE_DATA(text.ptr());
            size = static_cast<size_t>(PyUnicode_GET_LENGTH(text.ptr()));
            return;
        }
        owner = py::reinterpret_steal<py::object>(PyUnicode_AsUTF8String(text.ptr()));
        if (!owner) lone_surrogate();
        data = reinterpret_cast<const uint8_t *>(PyBytes_AS_STRING(owner.ptr()));
        size = static_cast<size_t>(PyBytes_GET_SIZE(owner.ptr()));
    }

    [[noreturn]] static void lone_surrogate() {
        py::error_already_set error;
        if (!error.matches(PyExc_UnicodeEncodeError)) throw error;
        auto at = error.value().attr("start").cast<size_t>();
        auto code = py::module_::import("builtins")
                        .attr("ord")(error.value().attr("object").attr("__getitem__")(at))
                        .cast<unsigned>();
        char name[16];
        snprintf(name, sizeof name, "U+%04X", code);
        refuse("the text has a lone surrogate " + std::string(name) + " at position " + std::to_string(at) +
               ", which is no character; decode your input with errors='replace' or remove it");
    }
};

// The vocabulary in two arrays, which must outlive the result.
inline struct vocabulary vocabulary_of(const Bytes &tokens, const Ids &offsets) {
    if (tokens.ndim() != 1 || offsets.ndim() != 1 || offsets.size() < 1 || offsets.size() - 1 > VOCABULARY_MAX)
        refuse("a vocabulary needs its tokens' bytes and up to " + std::to_string(VOCABULARY_MAX) +
               " tokens' offsets, both flat");
    return {tokens.data(), offsets.data(), static_cast<int32_t>(offsets.size() - 1)};
}

inline void check_vocabulary(const Bytes &tokens, const Ids &offsets) {
    char why[160];
    struct vocabulary v = vocabulary_of(tokens, offsets);
    if (!vocabulary_valid(&v, static_cast<size_t>(tokens.size()), why, sizeof why))
        refuse("broken vocabulary: " + std::string(why));
}

// Memory that a call fills with ids. A short result is copied out of it, so that the next call finds it allocated; a
// long one is handed to NumPy as it is.
struct Buffer : id_buffer {
    Buffer() : id_buffer{nullptr, 0, 0} {}
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { free(ids); }

    static constexpr size_t COPIED = 1 << 14;

    Ids take() {
        if (n <= COPIED) return copy(0, n);
        auto *data = static_cast<int32_t *>(realloc(ids, n * sizeof *ids));
        if (!data) data = ids;
        auto size = static_cast<py::ssize_t>(n);
        static_cast<id_buffer &>(*this) = {nullptr, 0, 0};
        py::capsule owner(data, free);
        return Ids(size, data, owner);
    }

    Ids copy(size_t from, size_t to) const {
        Ids part(static_cast<py::ssize_t>(to - from));
        if (to > from) memcpy(part.mutable_data(), ids + from, (to - from) * sizeof *ids);
        return part;
    }

    void shrink() {
        n = 0;
        if (capacity <= 16 * COPIED) return;
        free(ids);
        static_cast<id_buffer &>(*this) = {nullptr, 0, 0};
    }
};

// What one call uses and the next one finds warm.
struct Workspace {
    Buffer buffer;
    std::shared_ptr<void> core; // what the encoder's C core keeps; made by the first call

    // The core's memory, made by `make` and freed by `drop`; nullptr without memory.
    template <class T> T *get(T *(*make)(), void (*drop)(T *)) {
        if (!core)
            if (T *made = make()) core = std::shared_ptr<T>(made, drop);
        return static_cast<T *>(core.get());
    }
};

// encode and encode_batch over any `int core(const uint8_t *text, size_t size, Workspace &)`. Calls from several
// threads take different workspaces.
class Encoder : public Made {
  public:
    virtual ~Encoder() = default;
    virtual int core(const uint8_t *text, size_t size, Workspace &work) const = 0;

    Ids encode(py::handle text) {
        Text view(text);
        Loan work(*this);
        run(&view, 1, *work, nullptr);
        return work->buffer.take();
    }

    py::list encode_batch(const py::sequence &texts) {
        std::vector<Text> views;
        for (py::object text : texts) views.emplace_back(text); // not py::handle: the sequence may make its items anew
        std::vector<size_t> ends(views.size() + 1, 0);
        Loan work(*this);
        run(views.data(), views.size(), *work, ends.data() + 1);
        py::list result(views.size());
        for (size_t i = 0; i < views.size(); i++) result[i] = work->buffer.copy(ends[i], ends[i + 1]);
        return result;
    }

  protected:
    void run(const Text *texts, size_t n, Workspace &work, size_t *ends) const {
        bool failed = false;
        {
            WithoutGil released;
            for (size_t i = 0; i < n && !failed; i++) {
                failed = core(texts[i].data, texts[i].size, work) != 0;
                if (ends) ends[i] = work.buffer.n;
            }
        }
        if (failed) throw std::bad_alloc();
    }

    struct Loan {
        Encoder &encoder;
        std::unique_ptr<Workspace> work;
        explicit Loan(Encoder &lender) : encoder(lender) {
            std::lock_guard<std::mutex> lock(encoder.mutex);
            if (encoder.idle.empty()) {
                work = std::make_unique<Workspace>();
            } else {
                work = std::move(encoder.idle.back());
                encoder.idle.pop_back();
            }
        }
        ~Loan() {
            work->buffer.shrink();
            std::lock_guard<std::mutex> lock(encoder.mutex);
            encoder.idle.push_back(std::move(work));
        }
        Workspace &operator*() { return *work; }
        Workspace *operator->() { return work.get(); }
    };

    std::mutex mutex;
    std::vector<std::unique_ptr<Workspace>> idle;
};
