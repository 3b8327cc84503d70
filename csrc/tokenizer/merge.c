#include "merge.h"

#include <stdlib.h> // malloc, free
#include <string.h> // memset

enum { SCRATCH_KEPT = 1 << 24 }; // bytes of scratch memory that are kept between calls

int merge_table_init(struct merge_table *table, size_t capacity, int with_priorities) {
    size_t slots = 512;
    while (slots < 2 * capacity) slots *= 2;
    *table = (struct merge_table){.capacity = (uint32_t)capacity, .mask = slots - 1, .seed = hash_seed(table)};
    table->result = malloc((capacity + 1) * sizeof *table->result);
    table->priority = with_priorities ? malloc((capacity + 1) * sizeof *table->priority) : NULL;
    table->pairs = malloc(slots * sizeof *table->pairs);
    if (!table->result || !table->pairs || (with_priorities && !table->priority)) {
        merge_table_free(table);
        return -1;
    }
    memset(table->pairs, 0xFF, slots * sizeof *table->pairs);
    return 0;
}

void merge_table_free(struct merge_table *table) {
    free(table->result);
    free(table->priority);
    free(table->pairs);
    *table = (struct merge_table){0};
}

uint32_t merge_table_add(struct merge_table *table, int32_t left, int32_t right, int32_t result) {
    uint64_t pair = (uint64_t)left << MERGE_ID_BITS | (uint64_t)right;
    uint64_t i = mix(pair ^ table->seed, 0x9E3779B97F4A7C15ull) & table->mask;
    for (; (table->pairs[i] & NO_MERGE) != NO_MERGE; i = (i + 1) & table->mask)
        if (table->pairs[i] >> MERGE_RANK_BITS == pair) return (uint32_t)(table->pairs[i] & NO_MERGE);
    table->pairs[i] = pair << MERGE_RANK_BITS | table->n;
    table->result[table->n] = result;
    return table->n++;
}

int merge_table_finish(struct merge_table *table) {
    uint32_t n_ids = 0;
    for (uint32_t i = 0; i < table->n; i++)
        if ((uint32_t)table->result[i] >= n_ids) n_ids = (uint32_t)table->result[i] + 1;
    uint32_t *made = calloc((size_t)n_ids + 1, sizeof *made); // the last priority, plus 1, of a merge that makes an id
    if (!made) return -1;
    for (uint32_t i = 0; i < table->n; i++) {
        uint32_t next = merge_priority(table, i) + 1, *last = &made[table->result[i]];
        if (next > *last) *last = next;
    }
    table->rising = 1;
    for (uint64_t slot = 0; slot <= table->mask; slot++) {
        uint64_t pair = table->pairs[slot];
        if ((pair & NO_MERGE) == NO_MERGE) continue;
        uint64_t left = pair >> (MERGE_ID_BITS + MERGE_RANK_BITS);
        uint64_t right = pair >> MERGE_RANK_BITS & ((1u << MERGE_ID_BITS) - 1);
        uint32_t priority = merge_priority(table, (uint32_t)(pair & NO_MERGE));
        if ((left < n_ids && made[left] > priority) || (right < n_ids && made[right] > priority)) table->rising = 0;
    }
    free(made);
    return 0;
}

void merge_scratch_free(struct merge_scratch *scratch) {
    free(scratch->memory);
    *scratch = (struct merge_scratch){0};
}

int merge_scratch_reserve(struct merge_scratch *scratch, size_t size) {
    if (size <= scratch->size) return 0;
    merge_scratch_free(scratch);
    scratch->memory = malloc(size);
    scratch->size = scratch->memory ? size : 0;
    return scratch->memory ? 0 : -1;
}

void merge_scratch_shrink(struct merge_scratch *scratch) {
    if (scratch->size > SCRATCH_KEPT) merge_scratch_free(scratch);
}

/* The pair's priority and, below it, its merge; UINT64_MAX if there is none. */
static inline uint64_t rank_of(const struct merge_table *table, int32_t left, int32_t right) {
    uint32_t merge = merge_find(table, left, right);
    if (merge == NO_MERGE) return UINT64_MAX;
    return (uint64_t)merge_priority(table, merge) << 32 | merge;
}

static size_t merge_by_scan(const struct merge_table *table, int32_t *id, size_t n) {
    uint64_t rank[MERGE_SCAN_MAX]; // of the pair that begins at i; behind the last pair: UINT64_MAX
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(table, id[i], id[i + 1]);
    rank[n - 1] = UINT64_MAX;
    for (;;) {
        uint64_t lowest = UINT64_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (rank[i] >> 32 < lowest >> 32) {
                lowest = rank[i];
                at = i;
            }
        if (lowest == UINT64_MAX) return n;
        n--;
        id[at] = table->result[(uint32_t)lowest];
        for (size_t i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
        }
        rank[at] = at + 1 < n ? rank_of(table, id[at], id[at + 1]) : UINT64_MAX;
        if (at > 0) rank[at - 1] = rank_of(table, id[at - 1], id[at]);
    }
}

/* A doubly linked list of ids, and a heap of the pairs that may merge. A heap entry is priority:32 position:32, so that
 * the smallest is the earliest merge at the leftmost place. It is out of date when the merge at its position has another
 * priority by now; then it is dropped. At most one entry per position at first and two more per merge: never more than
 * 2n at a time. */
struct node {
    int32_t id;
    uint32_t merge; // of the pair that begins here; NO_MERGE also once the node has been merged into its left neighbour
    uint32_t left, right;
};

static const uint32_t NOWHERE = UINT32_MAX;

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t entry = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= entry) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static void push(uint64_t *heap, size_t *n, uint64_t entry) {
    size_t i = (*n)++;
    for (size_t parent; i > 0 && heap[parent = (i - 1) / 2] > entry; i = parent) heap[i] = heap[parent];
    heap[i] = entry;
}

static inline uint64_t entry_of(const struct merge_table *table, uint32_t merge, uint32_t at) {
    return (uint64_t)merge_priority(table, merge) << 32 | at;
}

static void rank_pair(const struct merge_table *table, struct node *node, uint32_t at, uint64_t *heap, size_t *n_heap) {
    uint32_t right = node[at].right;
    node[at].merge = right == NOWHERE ? NO_MERGE : merge_find(table, node[at].id, node[right].id);
    if (node[at].merge != NO_MERGE) push(heap, n_heap, entry_of(table, node[at].merge, at));
}

size_t merge_heap_bytes(size_t n) { return n * (sizeof(struct node) + 2 * sizeof(uint64_t)); }

size_t merge_by_heap(const struct merge_table *table, void *memory, int32_t *id, uint32_t n, uint32_t *at_of) {
    uint64_t *heap = memory;
    struct node *node = (struct node *)(heap + 2 * (size_t)n);
    size_t n_heap = 0, n_ids = 0;
    for (uint32_t i = 0; i < n; i++)
        node[i] = (struct node){id[i], NO_MERGE, i ? i - 1 : NOWHERE, i + 1 < n ? i + 1 : NOWHERE};
    for (uint32_t i = 0; i + 1 < n; i++) {
        node[i].merge = merge_find(table, id[i], id[i + 1]);
        if (node[i].merge != NO_MERGE) heap[n_heap++] = entry_of(table, node[i].merge, i);
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, n_heap, i);
    while (n_heap) {
        uint64_t entry = heap[0];
        uint32_t at = (uint32_t)entry, merge = node[at].merge;
        heap[0] = heap[--n_heap];
        if (n_heap) sift_down(heap, n_heap, 0);
        if (merge == NO_MERGE || entry_of(table, merge, at) != entry) continue;
        uint32_t gone = node[at].right, right = node[gone].right;
        node[at].id = table->result[merge];
        node[at].right = right;
        node[gone].merge = NO_MERGE;
        if (right != NOWHERE) node[right].left = at;
        rank_pair(table, node, at, heap, &n_heap);
        if (node[at].left != NOWHERE) rank_pair(table, node, node[at].left, heap, &n_heap);
    }
    for (uint32_t i = 0; i != NOWHERE; i = node[i].right) {
        if (at_of) at_of[n_ids] = i;
        id[n_ids++] = node[i].id;
    }
    return n_ids;
}

size_t merge_ids(const struct merge_table *table, struct merge_scratch *scratch, int32_t *id, size_t n) {
    if (n <= MERGE_SCAN_MAX) return merge_by_scan(table, id, n);
    if (n >= NOWHERE) return 0;
    if (table->rising) {
        size_t left = merge_by_windows(table, scratch, id, n);
        if (left) return left;
    }
    if (merge_scratch_reserve(scratch, merge_heap_bytes(n))) return 0;
    return merge_by_heap(table, scratch->memory, id, (uint32_t)n, NULL);
}
