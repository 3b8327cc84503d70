// The tokenizers' C cores: what takes text or arrays, checks them, and calls csrc/tokenizer without the GIL.
#include "encoder.h"

extern "C" {
#include "tokenizer/bpe.h"
#include "tokenizer/bpe_train.h"
#include "tokenizer/words.h"
}

namespace {

// In the order of enum split_pattern.
const char *const PATTERNS[SPLIT_PATTERNS] = {"gpt2", "cl100k", "o200k", "llama3", "qwen2", "smollm"};

enum split_pattern pattern_of(const std::string &name) {
    std::string known;
    for (int i = 0; i < SPLIT_PATTERNS; i++) {
        if (name == PATTERNS[i]) return static_cast<enum split_pattern>(i);
        known += std::string(i ? ", " : "") + PATTERNS[i];
    }
    refuse("unknown pre-tokenizer pattern " + shown(py::str(name)) + "; known are " + known);
}

py::bytes decode_tokens(const Bytes &tokens, const Ids &offsets, const Ids &ids) {
    struct vocabulary v = vocabulary_of(tokens, offsets);
    auto n = static_cast<size_t>(ids.size());
    for (size_t i = 0; i < n; i++) { // only the ids' tokens: the whole vocabulary would take longer than most texts
        const int32_t id = ids.data()[i];
        if (id < 0 || id >= v.n) break;
        if (v.offsets[id] < 0 || v.offsets[id + 1] < v.offsets[id] || v.offsets[id + 1] > tokens.size())
            refuse("broken vocabulary: token " + std::to_string(id) + " lies outside of the tokens' bytes");
    }
    int64_t size = vocabulary_decode(&v, ids.data(), n, nullptr);
    if (size < 0)
        refuse("token id " + std::to_string(ids.data()[-1 - size]) + " at position " + std::to_string(-1 - size) +
               " is outside of the vocabulary; ids go from 0 to " + std::to_string(v.n - 1));
    auto out = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, size));
    if (!out) throw py::error_already_set();
    vocabulary_decode(&v, ids.data(), n, reinterpret_cast<uint8_t *>(PyBytes_AS_STRING(out.ptr())));
    return out;
}

// Held without the GIL. Whoever holds a mutex must not need the GIL, and whoever waits for one must not have it: a thread
// that runs Python in between, a finalizer of the garbage collector for one, would wait for itself.
struct Locked {
    WithoutGil released;
    std::lock_guard<std::mutex> lock;
    explicit Locked(std::mutex &mutex) : lock(mutex) {}
};

class BpeEncoder : public Encoder {
  public:
    BpeEncoder(const Bytes &tokens, const Ids &offsets, const Ids &merges, const std::string &pattern, const Ids &added,
               bool lowest_id_first, bool ignore_merges, int32_t unknown) {
        check_vocabulary(tokens, offsets);
        struct vocabulary v = vocabulary_of(tokens, offsets);
        for (py::ssize_t i = 0; i < added.size(); i++)
            if (added.data()[i] < 0 || added.data()[i] >= v.n)
                refuse("added token " + std::to_string(added.data()[i]) + " is not in the vocabulary");
        if (unknown < -1 || unknown >= v.n) refuse("the unknown token is not in the vocabulary");
        if (merges.ndim() != 2 || merges.shape(1) != 3)
            refuse("merges must be an array (n, 3) of left, right and resulting ids");
        char why[160];
        struct bpe_rules rules = {pattern_of(pattern), lowest_id_first, ignore_merges, unknown};
        model = bpe_model_new(&v, merges.data(), static_cast<size_t>(merges.shape(0)), added.data(),
                              static_cast<size_t>(added.size()), rules, why, sizeof why);
        if (model) return;
        if (*why) refuse(why);
        throw std::bad_alloc();
    }
    ~BpeEncoder() override { bpe_model_free(model); }

    int core(const uint8_t *text, size_t size, Workspace &work) const override {
        struct bpe_workspace *own = work.get(bpe_workspace_new, bpe_workspace_free);
        return own ? bpe_encode(model, own, text, size, &work.buffer) : -1;
    }

    // The ids of pieces that were cut elsewhere, one behind the other.
    Ids encode_pieces(const py::sequence &pieces) {
        Loan work(*this);
        struct bpe_workspace *own = work->get(bpe_workspace_new, bpe_workspace_free);
        bool failed = !own;
        for (py::object piece : pieces) { // not py::handle: the sequence may make its items anew
            Text view(piece);
            failed = failed || bpe_encode_piece(model, own, view.data, view.size, &work->buffer) != 0;
        }
        if (failed) throw std::bad_alloc();
        return work->buffer.take();
    }

    // The tokens that merging does not make of their own bytes.
    Ids unreached(const Bytes &tokens, const Ids &offsets) {
        check_vocabulary(tokens, offsets);
        struct vocabulary v = vocabulary_of(tokens, offsets);
        Loan work(*this);
        struct bpe_workspace *own = work->get(bpe_workspace_new, bpe_workspace_free);
        if (!own) throw std::bad_alloc();
        std::vector<int32_t> found, ids;
        for (int32_t id = 0; id < v.n; id++) {
            size_t length = token_length(&v, id);
            if (ids.size() < length) ids.resize(length);
            if (length && (bpe_merge(model, own, token_bytes(&v, id), length, ids.data()) != 1 || ids[0] != id))
                found.push_back(id);
        }
        return Ids(static_cast<py::ssize_t>(found.size()), found.data());
    }

  private:
    struct bpe_model *model;
};

class WordEncoder : public Encoder {
  public:
    WordEncoder(const Bytes &tokens, const Ids &offsets, int32_t n_words, int32_t unknown, const std::string &pattern) {
        check_vocabulary(tokens, offsets);
        char why[160];
        struct vocabulary v = vocabulary_of(tokens, offsets);
        if (n_words < 0 || n_words > v.n || unknown < 0 || unknown >= v.n)
            refuse("a vocabulary of " + std::to_string(v.n) + " tokens can't have " + std::to_string(n_words) +
                   " words and token " + std::to_string(unknown) + " for unknown ones");
        model = word_model_new(&v, n_words, unknown, pattern_of(pattern), why, sizeof why);
        if (model) return;
        if (*why) refuse(why);
        throw std::bad_alloc();
    }
    ~WordEncoder() override { word_model_free(model); }

    int core(const uint8_t *text, size_t size, Workspace &work) const override {
        return word_encode(model, text, size, &work.buffer);
    }

  private:
    struct word_model *model;
};

// Counts the pieces of texts.
class PieceCounter : public Made {
  public:
    explicit PieceCounter(const std::string &name) : pattern(pattern_of(name)) {
        if (piece_map_init(&counts)) throw std::bad_alloc();
    }
    PieceCounter(const PieceCounter &) = delete;
    PieceCounter &operator=(const PieceCounter &) = delete;
    ~PieceCounter() { piece_map_free(&counts); }

    void add(py::handle text) {
        Text view(text);
        const Locked lock(mutex);
        if (count_pieces(&counts, pattern, view.data, view.size)) throw std::bad_alloc();
    }

    // Pieces that were cut elsewhere.
    void add_pieces(const py::sequence &pieces) {
        std::vector<Text> views; // all before the lock: a sequence may be anybody's code
        for (py::object piece : pieces) views.emplace_back(piece);
        const Locked lock(mutex);
        for (const Text &view : views) {
            if (view.size == 0) continue;
            int64_t *count = piece_map_at(&counts, view.data, view.size, view.data + view.size);
            if (!count) throw std::bad_alloc();
            ++*count;
        }
    }

    // (piece, count), in no particular order
    py::list items() {
        py::list result;
        for (auto &[piece, count] : copied()) result.append(py::make_tuple(py::bytes(piece), count));
        return result;
    }

    struct piece_map counts;
    enum split_pattern pattern;
    std::mutex mutex;

  private:
    std::vector<std::pair<std::string, int64_t>> copied() {
        const Locked lock(mutex);
        std::vector<std::pair<std::string, int64_t>> all;
        uint8_t buffer[PIECE_SHORT];
        for (size_t s = 0; s < counts.capacity; s++) {
            if (!counts.slots[s].key.hi) continue;
            size_t length;
            const uint8_t *bytes = piece_slot_bytes(&counts, &counts.slots[s], buffer, &length);
            all.emplace_back(std::string(reinterpret_cast<const char *>(bytes), length), counts.slots[s].value);
        }
        return all;
    }
};

class BpeTrainer : public Made {
  public:
    explicit BpeTrainer(PieceCounter &counter) {
        const Locked lock(counter.mutex);
        trainer = bpe_trainer_new(&counter.counts);
        if (!trainer) throw std::bad_alloc();
    }
    BpeTrainer(const BpeTrainer &) = delete;
    BpeTrainer &operator=(const BpeTrainer &) = delete;
    ~BpeTrainer() { bpe_trainer_free(trainer); }

    int64_t run(int32_t n_tokens, int64_t max_merges, int64_t min_count) {
        if (n_tokens > VOCABULARY_MAX) refuse("at most " + std::to_string(VOCABULARY_MAX) + " tokens are possible");
        const Locked lock(mutex);
        int64_t made = bpe_trainer_run(trainer, n_tokens, max_merges, min_count);
        if (made < 0) throw std::bad_alloc();
        return made;
    }

    int32_t n_tokens() {
        const Locked lock(mutex);
        return trainer->n_tokens;
    }

    // (tokens, offsets, merges); token 0 to 255 is the byte of that value
    py::tuple result() {
        std::vector<uint8_t> tokens;
        std::vector<int32_t> offsets, merges;
        copy(tokens, offsets, merges);
        const py::ssize_t n_merges = static_cast<py::ssize_t>(merges.size() / 3);
        return py::make_tuple(Bytes(static_cast<py::ssize_t>(tokens.size()), tokens.data()),
                              Ids(static_cast<py::ssize_t>(offsets.size()), offsets.data()),
                              Ids({n_merges, py::ssize_t{3}}, merges.data()));
    }

  private:
    void copy(std::vector<uint8_t> &tokens, std::vector<int32_t> &offsets, std::vector<int32_t> &merges) {
        const Locked lock(mutex);
        const int32_t added = trainer->n_tokens - 256;
        for (int32_t i = 0; i < 256; i++) {
            tokens.push_back(static_cast<uint8_t>(i));
            offsets.push_back(i);
        }
        tokens.insert(tokens.end(), trainer->bytes, trainer->bytes + trainer->offsets[added]);
        for (int32_t i = 0; i <= added; i++) offsets.push_back(256 + trainer->offsets[i]);
        for (size_t i = 0; i < 3 * trainer->n_merges; i++) {
            const int32_t id = trainer->merges[i];
            merges.push_back(id < 256 ? trainer->byte_of[id] : id);
        }
    }

    struct bpe_trainer *trainer;
    std::mutex mutex;
};

py::list split_text(py::handle text, const std::string &name) {
    Text view(text);
    enum split_pattern pattern = pattern_of(name);
    const uint8_t *end = view.data + view.size, *next;
    py::list pieces;
    for (const uint8_t *p = view.data; p < end; p = next) {
        next = split_piece(pattern, p, end);
        pieces.append(py::str(reinterpret_cast<const char *>(p), static_cast<size_t>(next - p)));
    }
    return pieces;
}

} // namespace

void bind_tokenizers(py::module_ &m) {
    using namespace py::literals;
    py::tuple names(static_cast<size_t>(SPLIT_PATTERNS));
    for (size_t i = 0; i < SPLIT_PATTERNS; i++) names[i] = py::str(PATTERNS[i]);
    m.attr("SPLIT_PATTERNS") = names;
    m.def("split_text", split_text, "text"_a, "pattern"_a, "The pieces that a pre-tokenizer pattern cuts a text into.");
    m.def("check_vocabulary", check_vocabulary, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
          "Raises TokenizerError unless the offsets (V + 1) cut the bytes into V tokens.");
    m.def("decode_tokens", decode_tokens, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
          py::arg("ids").noconvert(),
          "The bytes of ids (n); raises TokenizerError for an id outside of the vocabulary.");
    py::class_<Encoder>(m, "Encoder")
        .def("encode", &Encoder::encode, "text"_a, "The ids (n) of a text, int32.")
        .def("encode_batch", &Encoder::encode_batch, "texts"_a, "The ids of each text, on one thread.");
    py::class_<BpeEncoder, Encoder>(m, "BpeEncoder", "Byte-pair encoding with given merges.")
        .def(made<BpeEncoder, const Bytes &, const Ids &, const Ids &, const std::string &, const Ids &, bool, bool,
                  int32_t>(),
             py::arg("tokens").noconvert(), py::arg("offsets").noconvert(), py::arg("merges").noconvert(), "pattern"_a,
             py::arg("added").noconvert(), "lowest_id_first"_a, "ignore_merges"_a, "unknown"_a)
        .def("encode_pieces", &BpeEncoder::encode_pieces, "pieces"_a, "The ids (n) of pieces that were cut elsewhere.")
        .def("unreached", &BpeEncoder::unreached, py::arg("tokens").noconvert(), py::arg("offsets").noconvert(),
             "The ids (n) of tokens that merging does not make of their bytes.");
    py::class_<WordEncoder, Encoder>(m, "WordEncoder", "Words to ids.")
        .def(made<WordEncoder, const Bytes &, const Ids &, int32_t, int32_t, const std::string &>(),
             py::arg("tokens").noconvert(), py::arg("offsets").noconvert(), "n_words"_a, "unknown"_a, "pattern"_a);
    py::class_<PieceCounter>(m, "PieceCounter", "Counts the pieces of texts.")
        .def(made<PieceCounter, const std::string &>(), "pattern"_a)
        .def("add", &PieceCounter::add, "text"_a, "Counts a text's pieces.")
        .def("add_pieces", &PieceCounter::add_pieces, "pieces"_a, "Counts pieces that were cut elsewhere.")
        .def("items", &PieceCounter::items, "All pieces (bytes) with their counts.");
    py::class_<BpeTrainer>(m, "BpeTrainer", "Learns merges from counted pieces.")
        .def(made<BpeTrainer, PieceCounter &>(), "counter"_a)
        .def("run", &BpeTrainer::run, "n_tokens"_a, "max_merges"_a, "min_count"_a,
             "Goes on until there are n_tokens, or for max_merges; returns how many merges were made.")
        .def_property_readonly("n_tokens", &BpeTrainer::n_tokens, "The 256 bytes and the tokens learned so far.")
        .def("result", &BpeTrainer::result, "tokens, offsets and merges (n, 3): left, right, result.");
}
