/* Pairs of adjacent symbols: how often each occurs, where, and which comes next. */
#ifndef GOLLM_TOKENIZER_PAIR_TABLE_H
#define GOLLM_TOKENIZER_PAIR_TABLE_H

#include <stddef.h> // size_t
#include <stdint.h> // int32_t, int64_t, uint32_t, uint64_t

static const uint32_t PAIR_NOWHERE = UINT32_MAX;

struct pair {
    uint64_t key;        // left << 32 | right, both + 1 so that 0 is a free slot
    int64_t count;       // 0 once merged
    uint32_t head, tail; // its places: a list of blocks
    uint32_t round;      // the merge that last brought it forth, 0 for none
    uint32_t merged;
};

/* Places of a pair, in the order in which they were added: an unrolled list, one block per cache line half. */
struct pair_block {
    uint32_t next, n, at[6];
};

/* What the heap holds may be out of date: `count` is compared with the pair's own when it comes to the top. */
struct pair_entry {
    int64_t count;
    uint64_t key;
};

struct pair_table {
    struct pair *slots; // open addressing, at most half full
    size_t capacity, n;
    struct pair_block *blocks;
    uint32_t n_blocks, blocks_capacity, free_block;
    struct pair_entry *heap; // the most frequent on top; of equals the smallest key
    size_t n_heap, heap_capacity;
};

static inline uint64_t pair_key(int32_t left, int32_t right) {
    return ((uint64_t)left + 1) << 32 | ((uint64_t)right + 1);
}

int pair_table_init(struct pair_table *table); // 0, or -1 without memory, as below
void pair_table_free(struct pair_table *table);

struct pair *pair_find(const struct pair_table *table, uint64_t key); // NULL if there is none
struct pair *pair_at(struct pair_table *table, uint64_t key);         // a new one if there is none; NULL without memory
int pair_add_place(struct pair_table *table, struct pair *pair, uint32_t at);
void pair_drop_places(struct pair_table *table, struct pair *pair); // gives its blocks back

int pair_push(struct pair_table *table, const struct pair *pair);
int pair_push_all(struct pair_table *table); // every pair, once, in linear time

/* Takes the most frequent pair off the heap; NULL if no pair occurs any more. */
struct pair *pair_pop(struct pair_table *table);

#endif
