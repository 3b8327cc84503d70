/* Merging: of a sequence of ids, again and again, the adjacent pair whose merge comes first becomes one id, until no pair
 * of neighbours has a merge. Of equals the leftmost.
 *
 * A merge's index in the list is its rank, unless the table has priorities: then merges with the same priority come
 * equally early. What bpe.h and sentencepiece.h have in common.
 */
#ifndef GOLLM_TOKENIZER_MERGE_H
#define GOLLM_TOKENIZER_MERGE_H

#include <stddef.h> // size_t
#include <stdint.h> // int32_t, uint32_t, uint64_t

#include "piece.h" // mix

enum { MERGE_ID_BITS = 20, MERGE_RANK_BITS = 24 };
#define NO_MERGE ((uint32_t)(1 << MERGE_RANK_BITS) - 1)

/* Not changed by encoding: threads share it. */
struct merge_table {
    uint32_t n, capacity;
    int32_t *result;    // (capacity): the id that each merge makes
    uint32_t *priority; // (capacity), or NULL: a merge's index
    uint64_t *pairs;    // hash table, at most half full; a slot is left:20 right:20 merge:24, NO_MERGE in a free one
    uint64_t mask;      // slots - 1
    uint64_t seed;
    int rising; // see merge_table_finish
};

/* Room for `capacity` < NO_MERGE merges. Returns 0, or -1 without memory. */
int merge_table_init(struct merge_table *table, size_t capacity, int with_priorities);
void merge_table_free(struct merge_table *table);

/* Adds the next merge. Returns its index, or that of an earlier merge of the same pair. */
uint32_t merge_table_add(struct merge_table *table, int32_t left, int32_t right, int32_t result);

/* To be called behind the last merge: finds out whether every merge comes after all those that make its parts. Then
 * merging goes through the priorities in order, and long sequences are merged in windows. Returns 0, or -1 without
 * memory. */
int merge_table_finish(struct merge_table *table);

/* The index of a pair's merge, NO_MERGE if there is none. */
static inline uint32_t merge_find(const struct merge_table *table, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)left << MERGE_ID_BITS | (uint64_t)right, slot;
    uint64_t i = mix(pair ^ table->seed, 0x9E3779B97F4A7C15ull) & table->mask;
    while ((slot = table->pairs[i]) >> MERGE_RANK_BITS != pair) {
        if ((slot & NO_MERGE) == NO_MERGE) return NO_MERGE;
        i = (i + 1) & table->mask;
    }
    return (uint32_t)(slot & NO_MERGE);
}

/* Memory for long sequences, kept between calls. */
struct merge_scratch {
    void *memory;
    size_t size;
};

int merge_scratch_reserve(struct merge_scratch *scratch, size_t size); // 0, or -1 without memory; what it held is lost
void merge_scratch_shrink(struct merge_scratch *scratch);              // gives back what only a giant needs
void merge_scratch_free(struct merge_scratch *scratch);

/* Merges id[0 : n] in place and returns how many are left: n >= 1, or 0 without memory. By scanning an array when short,
 * by a heap when long: O(n log n) time and 32 bytes of memory an id. If the table is rising, a very long sequence is
 * merged in windows that stay in the cache: O(n) time (merge_window.c). */
size_t merge_ids(const struct merge_table *table, struct merge_scratch *scratch, int32_t *id, size_t n);

/* What merge.c and merge_window.c share. */
enum { MERGE_SCAN_MAX = 48 }; // up to here the ranks are scanned for every merge, O(n^2) with a small constant

static inline uint32_t merge_priority(const struct merge_table *table, uint32_t merge) {
    return table->priority ? table->priority[merge] : merge;
}

/* The bytes of scratch memory that merge_by_heap needs for n ids. */
size_t merge_heap_bytes(size_t n);

/* at (ids left), or NULL: where in id[0 : n] each id begins that is left. */
size_t merge_by_heap(const struct merge_table *table, void *memory, int32_t *id, uint32_t n, uint32_t *at);

/* merge_ids for a rising table; 0, with id as it was, if n is no more than a few windows, if no walls hold, or without
 * memory. */
size_t merge_by_windows(const struct merge_table *table, struct merge_scratch *scratch, int32_t *id, size_t n);

#endif
