#include "bpe.h"

#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free

/* The byte that each of the 256 single-byte tokens stands for: each exactly once. */
static int find_bytes(struct bpe_model *model, const struct vocabulary *v, char *why, size_t why_size) {
    for (int byte = 0; byte < 256; byte++) model->byte_id[byte] = -1;
    for (int32_t id = 0; id < v->n; id++) {
        if (token_length(v, id) != 1) continue;
        int32_t *of_byte = &model->byte_id[*token_bytes(v, id)];
        if (*of_byte >= 0) {
            snprintf(why, why_size, "tokens %ld and %ld are the same byte 0x%02x", (long)*of_byte, (long)id,
                     *token_bytes(v, id));
            return 0;
        }
        *of_byte = id;
    }
    for (int byte = 0; byte < 256; byte++)
        if (model->byte_id[byte] < 0) {
            snprintf(why, why_size, "there is no token for the byte 0x%02x; all 256 bytes need one", byte);
            return 0;
        }
    return 1;
}

static int add_merges(struct bpe_model *model, const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                      char *why, size_t why_size) {
    if (merge_table_init(&model->merges, n_merges, 0)) return 0;
    for (size_t rank = 0; rank < n_merges; rank++) {
        const int32_t *merge = merges + 3 * rank;
        if (!vocabulary_joins(v, merge, rank, why, why_size)) return 0;
        uint32_t index = merge_table_add(&model->merges, merge[0], merge[1], merge[2]);
        if (index != rank) {
            snprintf(why, why_size, "merges %lu and %zu join the same pair, tokens %ld and %ld", (unsigned long)index,
                     rank, (long)merge[0], (long)merge[1]);
            return 0;
        }
    }
    return 1;
}

struct bpe_model *bpe_model_new(const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                                enum split_pattern pattern, char *why, size_t why_size) {
    *why = 0;
    if (n_merges >= NO_MERGE) {
        snprintf(why, why_size, "%zu merges; at most %ld are allowed", n_merges, (long)NO_MERGE - 1);
        return NULL;
    }
    struct bpe_model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    model->pattern = pattern;
    if (find_bytes(model, v, why, why_size) && add_merges(model, v, merges, n_merges, why, why_size)) return model;
    bpe_model_free(model);
    return NULL;
}

void bpe_model_free(struct bpe_model *model) {
    if (!model) return;
    merge_table_free(&model->merges);
    free(model);
}
