#include "bpe.h"

#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free

/* The byte that each single-byte token stands for; a token that stands outside does so where no other does. Not all
 * bytes need one. */
static int find_bytes(struct bpe_model *model, const struct vocabulary *v, const uint8_t *outside, char *why,
                      size_t why_size) {
    for (int byte = 0; byte < 256; byte++) model->byte_id[byte] = -1;
    for (int32_t id = 0; id < v->n; id++) {
        if (token_length(v, id) != 1) continue;
        int32_t *of_byte = &model->byte_id[*token_bytes(v, id)];
        if (*of_byte < 0 || (outside[*of_byte] && !outside[id])) {
            *of_byte = id;
        } else if (!outside[id]) {
            snprintf(why, why_size, "tokens %ld and %ld are the same byte 0x%02x", (long)*of_byte, (long)id,
                     *token_bytes(v, id));
            return 0;
        }
    }
    for (int byte = 0; byte < 256; byte++)
        if (model->byte_id[byte] < 0) model->byte_id[byte] = model->rules.unknown;
    return 1;
}

/* The tokens that a whole piece can be; of two with the same bytes the first. */
static int find_whole(struct bpe_model *model, const struct vocabulary *v, const uint8_t *outside) {
    const uint8_t *end = v->bytes + v->offsets[v->n];
    if (piece_map_init(&model->whole)) return 0;
    for (int32_t id = 0; id < v->n; id++) {
        if (token_length(v, id) == 0 || outside[id]) continue;
        int64_t *value = piece_map_at(&model->whole, token_bytes(v, id), token_length(v, id), end);
        if (!value) return 0;
        if (!*value) *value = id + 1;
    }
    return 1;
}

static int add_merges(struct bpe_model *model, const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                      char *why, size_t why_size) {
    if (merge_table_init(&model->merges, n_merges, model->rules.lowest_id_first)) return 0;
    for (size_t rank = 0; rank < n_merges; rank++) {
        const int32_t *merge = merges + 3 * rank;
        if (!vocabulary_joins(v, merge, rank, why, why_size)) return 0;
        uint32_t index = merge_table_add(&model->merges, merge[0], merge[1], merge[2]);
        if (index != rank) {
            snprintf(why, why_size, "merges %lu and %zu join the same pair, tokens %ld and %ld", (unsigned long)index,
                     rank, (long)merge[0], (long)merge[1]);
            return 0;
        }
        if (model->rules.lowest_id_first) model->merges.priority[rank] = (uint32_t)merge[2];
    }
    return merge_table_finish(&model->merges) == 0;
}

struct bpe_model *bpe_model_new(const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                                const int32_t *added, size_t n_added, struct bpe_rules rules, char *why,
                                size_t why_size) {
    *why = 0;
    if (n_merges >= NO_MERGE) {
        snprintf(why, why_size, "%zu merges; at most %ld are allowed", n_merges, (long)NO_MERGE - 1);
        return NULL;
    }
    struct bpe_model *model = calloc(1, sizeof *model);
    uint8_t *outside = calloc((size_t)v->n, 1); // 1 for the tokens that stand outside
    int made = 0;
    if (model && outside) {
        for (size_t i = 0; i < n_added; i++) outside[added[i]] = 1;
        model->rules = rules;
        made = find_bytes(model, v, outside, why, why_size) &&
               (!rules.ignore_merges || find_whole(model, v, outside)) &&
               add_merges(model, v, merges, n_merges, why, why_size);
    }
    free(outside);
    if (made) return model;
    bpe_model_free(model);
    return NULL;
}

void bpe_model_free(struct bpe_model *model) {
    if (!model) return;
    merge_table_free(&model->merges);
    piece_map_free(&model->whole);
    free(model);
}
