// SentencePiece's BPE: checks the arrays of a vocabulary, and encodes.
#include "encoder.h"

#include <optional>

#include <pybind11/stl.h>

extern "C" {
#include "tokenizer/sentencepiece.h"
}

namespace {

using Types = Bytes;
using Scores = py::array_t<float, py::array::c_style>;

enum sp_prefix prefix_of(const std::string &name) {
    if (name == "never") return SP_PREFIX_NEVER;
    if (name == "always") return SP_PREFIX_ALWAYS;
    if (name == "missing") return SP_PREFIX_MISSING;
    refuse("unknown prefix " + shown(py::str(name)) + "; known are: always, missing, never");
}

class SentencePieceEncoder : public Encoder {
  public:
    // Either scores (V) or merges (n, 3) must be there.
    SentencePieceEncoder(const Bytes &tokens, const Ids &offsets, const Types &types,
                         const std::optional<Scores> &scores, const std::optional<Ids> &merges, const Bytes &map,
                         const std::string &prefix, bool remove_extra_spaces, bool split_spaces, bool fuse_unknown)
        : charsmap(map) {
        check_vocabulary(tokens, offsets);
        struct sp_pieces pieces = {};
        pieces.v = vocabulary_of(tokens, offsets);
        if (types.ndim() != 1 || types.size() != pieces.v.n || charsmap.ndim() != 1)
            refuse("every token needs one type, and charsmap must be flat");
        pieces.type = types.data();
        if (scores.has_value() == merges.has_value()) refuse("either scores or merges are needed, not both");
        if (scores) {
            if (scores->ndim() != 1 || scores->size() != pieces.v.n) refuse("every token needs one score");
            pieces.score = scores->data();
        } else {
            if (merges->ndim() != 2 || merges->shape(1) != 3)
                refuse("merges must be an array (n, 3) of left, right and resulting ids");
            pieces.merges = merges->data();
            pieces.n_merges = static_cast<size_t>(merges->shape(0));
        }
        pieces.charsmap = charsmap.data();
        pieces.charsmap_size = static_cast<size_t>(charsmap.size());
        struct sp_settings settings = {prefix_of(prefix), remove_extra_spaces, split_spaces, fuse_unknown};
        char why[160];
        model = sp_model_new(&pieces, settings, why, sizeof why);
        if (model) return;
        if (*why) refuse(why);
        throw std::bad_alloc();
    }
    ~SentencePieceEncoder() override { sp_model_free(model); }

    int core(const uint8_t *text, size_t size, Workspace &work) const override {
        struct sp_workspace *own = work.get(sp_workspace_new, sp_workspace_free);
        return own ? sp_encode(model, own, text, size, &work.buffer) : -1;
    }

    // The place in characters.
    size_t cut(py::handle text) const {
        Text view(text);
        py::gil_scoped_release release;
        const size_t at = sp_cut(model, view.data, view.size);
        size_t characters = 0;
        for (size_t i = 0; i < at; i++) characters += (view.data[i] & 0xC0) != 0x80;
        return characters;
    }

  private:
    Bytes charsmap; // which the model borrows
    struct sp_model *model;
};

} // namespace

void bind_sentencepiece(py::module_ &m) {
    using namespace py::literals;
    py::class_<SentencePieceEncoder, Encoder>(m, "SentencePieceEncoder", "SentencePiece's BPE with given pieces.")
        .def(made<SentencePieceEncoder, const Bytes &, const Ids &, const Types &, const std::optional<Scores> &,
                  const std::optional<Ids> &, const Bytes &, const std::string &, bool, bool, bool>(),
             py::arg("tokens").noconvert(), py::arg("offsets").noconvert(), py::arg("types").noconvert(),
             py::arg("scores").noconvert(), py::arg("merges").noconvert(), py::arg("charsmap").noconvert(), "prefix"_a,
             "remove_extra_spaces"_a, "split_spaces"_a, "fuse_unknown"_a)
        .def("cut", &SentencePieceEncoder::cut, "text"_a);
}
