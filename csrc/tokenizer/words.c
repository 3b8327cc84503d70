#include "words.h"

#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free

struct word_model *word_model_new(const struct vocabulary *v, int32_t n_words, int32_t unknown,
                                  enum split_pattern pattern, char *why, size_t why_size) {
    const uint8_t *end = v->bytes + v->offsets[v->n], *space = (const uint8_t *)" ";
    *why = 0;
    struct word_model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    model->pattern = pattern;
    model->unknown = unknown;
    if (piece_map_init(&model->ids)) goto failed;
    for (int32_t id = 0; id < n_words; id++) {
        if (token_length(v, id) == 0) {
            snprintf(why, why_size, "token %ld is an empty word", (long)id);
            goto failed;
        }
        int64_t *value = piece_map_at(&model->ids, token_bytes(v, id), token_length(v, id), end);
        if (!value) goto failed;
        if (*value) {
            snprintf(why, why_size, "tokens %ld and %ld are the same word", (long)*value - 1, (long)id);
            goto failed;
        }
        *value = id + 1;
    }
    const int64_t *found = piece_map_find(&model->ids, space, 1, space + 1);
    model->space = found ? (int32_t)*found - 1 : -1;
    return model;
failed:
    word_model_free(model);
    return NULL;
}

void word_model_free(struct word_model *model) {
    if (!model) return;
    piece_map_free(&model->ids);
    free(model);
}

int word_encode(const struct word_model *model, const uint8_t *text, size_t length, struct id_buffer *out) {
    const uint8_t *end = text + length, *next;
    for (const uint8_t *p = text; p < end; p = next) {
        next = split_piece(model->pattern, p, end);
        if (id_buffer_reserve(out, 2)) return -1;
        const int64_t *found = piece_map_find(&model->ids, p, (size_t)(next - p), end);
        if (!found && *p == ' ' && model->space >= 0 && next - p > 1) {
            out->ids[out->n++] = model->space;
            found = piece_map_find(&model->ids, p + 1, (size_t)(next - p - 1), end);
        }
        out->ids[out->n++] = found ? (int32_t)*found - 1 : model->unknown;
    }
    return 0;
}
