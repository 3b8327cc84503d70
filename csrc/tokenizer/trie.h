/* Byte strings, to find the longest of them that a text begins with: in time that grows with what matches, not with how
 * many strings there are. The edges are one hash table from (node, byte) to node. */
#ifndef GOLLM_TOKENIZER_TRIE_H
#define GOLLM_TOKENIZER_TRIE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t, uint32_t, uint64_t

#include "piece.h" // mix

enum { TRIE_MAX = 1 << 24, TRIE_NODE_BITS = 28, TRIE_ROOT = 0, TRIE_NONE = -1 };

struct trie {
    uint64_t *edges; // at most half full; node:28 byte:8 child:28, all ones in a free one
    uint64_t mask;
    int32_t *value; // (n): of the string that ends in a node, or TRIE_NONE
    uint32_t n, capacity;
    uint64_t seed;
};

int trie_init(struct trie *trie); // 0, or -1 without memory
void trie_free(struct trie *trie);

/* Sets the value >= 0 of the string, which is not empty. Returns 0, 1 if it is there already, -1 without memory or
 * if all strings together have more than TRIE_MAX different beginnings. */
int trie_add(struct trie *trie, const uint8_t *bytes, size_t length, int32_t value);

static inline uint64_t trie_slot(const struct trie *trie, uint64_t edge) {
    return mix(edge ^ trie->seed, 0x9E3779B97F4A7C15ull) & trie->mask;
}

/* The node behind an edge, or TRIE_NONE. */
static inline int32_t trie_child(const struct trie *trie, int32_t node, uint8_t byte) {
    uint64_t edge = (uint64_t)node << 8 | byte, slot;
    for (uint64_t i = trie_slot(trie, edge); (slot = trie->edges[i]) != UINT64_MAX; i = (i + 1) & trie->mask)
        if (slot >> TRIE_NODE_BITS == edge) return (int32_t)(slot & (((uint64_t)1 << TRIE_NODE_BITS) - 1));
    return TRIE_NONE;
}

/* The value of the longest string that p[0 : end - p] begins with, from `node` on, and in *length how long it is;
 * TRIE_NONE if there is none. */
static inline int32_t trie_longest(const struct trie *trie, int32_t node, const uint8_t *p, const uint8_t *end,
                                   size_t *length) {
    int32_t found = TRIE_NONE;
    for (const uint8_t *q = p; q < end && (node = trie_child(trie, node, *q)) != TRIE_NONE;) {
        q++;
        if (trie->value[node] == TRIE_NONE) continue;
        found = trie->value[node];
        *length = (size_t)(q - p);
    }
    return found;
}

#endif
