#include "bpe.h"

#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, malloc, free

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

static int merge_valid(const struct vocabulary *v, size_t rank, const int32_t *merge, char *why, size_t why_size) {
    for (int i = 0; i < 3; i++)
        if (merge[i] < 0 || merge[i] >= v->n) {
            snprintf(why, why_size, "merge %zu names token %ld; the vocabulary has 0 to %ld", rank, (long)merge[i],
                     (long)v->n - 1);
            return 0;
        }
    size_t left = token_length(v, merge[0]), right = token_length(v, merge[1]);
    const uint8_t *result = token_bytes(v, merge[2]);
    if (token_length(v, merge[2]) != left + right || memcmp(result, token_bytes(v, merge[0]), left) ||
        memcmp(result + left, token_bytes(v, merge[1]), right)) {
        snprintf(why, why_size, "merge %zu: token %ld is not tokens %ld and %ld joined", rank, (long)merge[2],
                 (long)merge[0], (long)merge[1]);
        return 0;
    }
    return 1;
}

static int add_merges(struct bpe_model *model, const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                      char *why, size_t why_size) {
    size_t slots = 512;
    while (slots < 2 * n_merges) slots *= 2;
    model->result = malloc((n_merges + 1) * sizeof *model->result);
    model->pairs = malloc(slots * sizeof *model->pairs);
    if (!model->result || !model->pairs) return 0;
    memset(model->pairs, 0xFF, slots * sizeof *model->pairs);
    model->pairs_mask = slots - 1;
    model->n_merges = (uint32_t)n_merges;
    for (size_t rank = 0; rank < n_merges; rank++) {
        const int32_t *merge = merges + 3 * rank;
        if (!merge_valid(v, rank, merge, why, why_size)) return 0;
        uint64_t pair = bpe_pair(merge[0], merge[1]);
        uint64_t i = mix(pair ^ model->seed, 0x9E3779B97F4A7C15ull) & model->pairs_mask;
        for (; (model->pairs[i] & BPE_NO_RANK) != BPE_NO_RANK; i = (i + 1) & model->pairs_mask)
            if (model->pairs[i] >> BPE_RANK_BITS == pair) {
                snprintf(why, why_size, "merges %zu and %zu join the same pair, tokens %ld and %ld",
                         (size_t)(model->pairs[i] & BPE_NO_RANK), rank, (long)merge[0], (long)merge[1]);
                return 0;
            }
        model->pairs[i] = pair << BPE_RANK_BITS | rank;
        model->result[rank] = merge[2];
    }
    return 1;
}

struct bpe_model *bpe_model_new(const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                                enum split_pattern pattern, char *why, size_t why_size) {
    *why = 0;
    if (n_merges >= BPE_NO_RANK) {
        snprintf(why, why_size, "%zu merges; at most %ld are allowed", n_merges, (long)BPE_NO_RANK - 1);
        return NULL;
    }
    struct bpe_model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    model->pattern = pattern;
    model->seed = hash_seed(model);
    if (find_bytes(model, v, why, why_size) && add_merges(model, v, merges, n_merges, why, why_size)) return model;
    bpe_model_free(model);
    return NULL;
}

void bpe_model_free(struct bpe_model *model) {
    if (!model) return;
    free(model->result);
    free(model->pairs);
    free(model);
}
