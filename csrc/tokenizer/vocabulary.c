#include "vocabulary.h"

#include <stdio.h>  // snprintf
#include <string.h> // memcpy

int vocabulary_valid(const struct vocabulary *v, size_t size, char *why, size_t why_size) {
    if (v->n < 1 || v->n > VOCABULARY_MAX) {
        snprintf(why, why_size, "a vocabulary of %ld tokens; 1 to %d are allowed", (long)v->n, VOCABULARY_MAX);
        return 0;
    }
    if (v->offsets[0] != 0) {
        snprintf(why, why_size, "token 0 begins at offset %ld instead of 0", (long)v->offsets[0]);
        return 0;
    }
    for (int32_t i = 0; i < v->n; i++)
        if (v->offsets[i + 1] < v->offsets[i]) {
            snprintf(why, why_size, "token %ld ends before it begins", (long)i);
            return 0;
        }
    if ((size_t)v->offsets[v->n] != size) {
        snprintf(why, why_size, "the tokens end at byte %ld of %zu", (long)v->offsets[v->n], size);
        return 0;
    }
    return 1;
}

int64_t vocabulary_decode(const struct vocabulary *v, const int32_t *ids, size_t n_ids, uint8_t *out) {
    int64_t total = 0;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= v->n) return -1 - (int64_t)i;
        size_t length = token_length(v, ids[i]);
        if (out) memcpy(out + total, token_bytes(v, ids[i]), length);
        total += (int64_t)length;
    }
    return total;
}

int vocabulary_joins(const struct vocabulary *v, const int32_t *merge, size_t rank, char *why, size_t why_size) {
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
