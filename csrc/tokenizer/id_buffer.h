/* A growing array of ids, which becomes a NumPy array without a copy. */
#ifndef GOLLM_TOKENIZER_ID_BUFFER_H
#define GOLLM_TOKENIZER_ID_BUFFER_H

#include <stddef.h> // size_t
#include <stdint.h> // int32_t
#include <stdlib.h> // realloc

struct id_buffer {
    int32_t *ids; // from malloc
    size_t n, capacity;
};

/* Makes room for `more` ids. Returns 0, or -1 without memory. */
static inline int id_buffer_reserve(struct id_buffer *buffer, size_t more) {
    if (buffer->capacity - buffer->n >= more) return 0;
    size_t capacity = buffer->capacity + buffer->capacity / 2 + more + 64;
    int32_t *ids = (int32_t *)realloc(buffer->ids, capacity * sizeof *ids);
    if (!ids) return -1;
    buffer->ids = ids;
    buffer->capacity = capacity;
    return 0;
}

#endif
