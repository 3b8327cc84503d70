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
        if (v->offsets[i + 1] <= v->offsets[i]) {
            snprintf(why, why_size, "token %ld is empty", (long)i);
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
