#include "trie.h"

#include <stdlib.h> // malloc, realloc, free

enum { FIRST_NODES = 1 << 8 };

/* An empty table of edges with room for `nodes` nodes. */
static uint64_t *new_edges(uint32_t nodes, uint64_t *mask) {
    size_t slots = 2 * (size_t)nodes;
    uint64_t *edges = malloc(slots * sizeof *edges);
    if (edges) memset(edges, 0xFF, slots * sizeof *edges);
    *mask = slots - 1;
    return edges;
}

static void put(struct trie *trie, uint64_t slot) {
    uint64_t i = trie_slot(trie, slot >> TRIE_NODE_BITS);
    while (trie->edges[i] != UINT64_MAX) i = (i + 1) & trie->mask;
    trie->edges[i] = slot;
}

int trie_init(struct trie *trie) {
    *trie = (struct trie){.n = 1, .capacity = FIRST_NODES, .seed = hash_seed(trie)};
    trie->edges = new_edges(FIRST_NODES, &trie->mask);
    trie->value = malloc(FIRST_NODES * sizeof *trie->value);
    if (!trie->edges || !trie->value) {
        trie_free(trie);
        return -1;
    }
    trie->value[TRIE_ROOT] = TRIE_NONE;
    return 0;
}

void trie_free(struct trie *trie) {
    free(trie->edges);
    free(trie->value);
    *trie = (struct trie){0};
}

static int grow(struct trie *trie) {
    if (trie->capacity >= TRIE_MAX) return -1;
    uint32_t capacity = 2 * trie->capacity;
    int32_t *value = realloc(trie->value, capacity * sizeof *value);
    if (!value) return -1;
    trie->value = value;
    uint64_t old_slots = trie->mask + 1, *old = trie->edges, mask, *edges = new_edges(capacity, &mask);
    if (!edges) return -1;
    trie->edges = edges;
    trie->mask = mask;
    trie->capacity = capacity;
    for (uint64_t i = 0; i < old_slots; i++)
        if (old[i] != UINT64_MAX) put(trie, old[i]);
    free(old);
    return 0;
}

int trie_add(struct trie *trie, const uint8_t *bytes, size_t length, int32_t value) {
    int32_t node = TRIE_ROOT;
    for (size_t i = 0; i < length; i++) {
        int32_t child = trie_child(trie, node, bytes[i]);
        if (child == TRIE_NONE) {
            if (trie->n == trie->capacity && grow(trie)) return -1;
            child = (int32_t)trie->n++;
            trie->value[child] = TRIE_NONE;
            put(trie, ((uint64_t)node << 8 | bytes[i]) << TRIE_NODE_BITS | (uint64_t)child);
        }
        node = child;
    }
    if (trie->value[node] != TRIE_NONE) return 1;
    trie->value[node] = value;
    return 0;
}
