// WordPiece: checks the arrays of a vocabulary, encodes, and cuts text into BERT's words.
#include "encoder.h"

extern "C" {
#include "tokenizer/wordpiece.h"
}

namespace {

class WordPieceEncoder : public Encoder {
  public:
    WordPieceEncoder(const Bytes &tokens, const Ids &offsets, const Bytes &special, int32_t unknown, size_t max_word,
                     bool clean_text, bool space_chinese, bool strip_accents, bool lowercase) {
        check_vocabulary(tokens, offsets);
        struct vocabulary v = vocabulary_of(tokens, offsets);
        if (special.ndim() != 1 || special.size() != v.n) refuse("every token needs one mark");
        struct wp_settings settings = {clean_text, space_chinese, strip_accents, lowercase, unknown, max_word, 1};
        char why[160];
        model = wp_model_new(&v, special.data(), settings, why, sizeof why);
        if (model) return;
        if (*why) refuse(why);
        throw std::bad_alloc();
    }
    ~WordPieceEncoder() override { wp_model_free(model); }

    int core(const uint8_t *text, size_t size, Workspace &work) const override {
        struct wp_workspace *own = work.get(wp_workspace_new, wp_workspace_free);
        return own ? wp_encode(model, own, text, size, &work.buffer) : -1;
    }

  private:
    struct wp_model *model;
};

using Normalised = std::unique_ptr<struct wp_workspace, decltype(&wp_workspace_free)>;

Normalised normalised(py::handle text, struct wp_settings settings) {
    Text view(text);
    Normalised work(wp_workspace_new(), wp_workspace_free);
    if (!work || wp_normalize(&settings, work.get(), view.data, view.size)) throw std::bad_alloc();
    return work;
}

py::str bert_normalize(py::handle text, bool clean_text, bool space_chinese, bool strip_accents, bool lowercase) {
    Normalised work = normalised(text, {clean_text, space_chinese, strip_accents, lowercase, 0, 1, 0});
    return py::str(reinterpret_cast<const char *>(work->text), work->n);
}

py::list bert_words(py::handle text, bool clean_text, bool space_chinese, bool strip_accents, bool lowercase) {
    Normalised work = normalised(text, {clean_text, space_chinese, strip_accents, lowercase, 0, 1, 1});
    py::list words;
    const uint8_t *end = work->text + work->n, *word;
    for (const uint8_t *p = work->text; p < end;) {
        p = wp_next_word(p, end, &word);
        if (word < p) words.append(py::str(reinterpret_cast<const char *>(word), static_cast<size_t>(p - word)));
    }
    return words;
}

} // namespace

void bind_wordpiece(py::module_ &m) {
    using namespace py::literals;
    m.def("bert_normalize", bert_normalize, "text"_a, "clean_text"_a, "space_chinese"_a, "strip_accents"_a,
          "lowercase"_a, "A text after BERT's normalisation.");
    m.def("bert_words", bert_words, "text"_a, "clean_text"_a, "space_chinese"_a, "strip_accents"_a, "lowercase"_a,
          "The words that BERT's normalisation and pre-tokenizer make of a text.");
    py::class_<WordPieceEncoder, Encoder>(m, "WordPieceEncoder", "WordPiece with a given vocabulary.")
        .def(made<WordPieceEncoder, const Bytes &, const Ids &, const Bytes &, int32_t, size_t, bool, bool, bool,
                  bool>(),
             py::arg("tokens").noconvert(), py::arg("offsets").noconvert(), py::arg("special").noconvert(), "unknown"_a,
             "max_word"_a, "clean_text"_a, "space_chinese"_a, "strip_accents"_a, "lowercase"_a);
}
