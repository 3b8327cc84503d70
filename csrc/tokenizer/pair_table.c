#include "pair_table.h"

#include <stdlib.h> // calloc, realloc, free

#include "piece.h" // mix

enum { FIRST_CAPACITY = 1 << 12 };

int pair_table_init(struct pair_table *table) {
    *table = (struct pair_table){.capacity = FIRST_CAPACITY, .free_block = PAIR_NOWHERE};
    table->slots = calloc(table->capacity, sizeof *table->slots);
    return table->slots ? 0 : -1;
}

void pair_table_free(struct pair_table *table) {
    free(table->slots);
    free(table->blocks);
    free(table->heap);
    *table = (struct pair_table){0};
}

static struct pair *slot_of(struct pair *slots, size_t capacity, uint64_t key) {
    size_t i = mix(key, 0x9E3779B97F4A7C15ull) & (capacity - 1);
    while (slots[i].key && slots[i].key != key) i = (i + 1) & (capacity - 1);
    return &slots[i];
}

struct pair *pair_find(const struct pair_table *table, uint64_t key) {
    struct pair *slot = slot_of(table->slots, table->capacity, key);
    return slot->key ? slot : NULL;
}

struct pair *pair_at(struct pair_table *table, uint64_t key) {
    struct pair *slot = slot_of(table->slots, table->capacity, key);
    if (slot->key) return slot;
    if (2 * (table->n + 1) > table->capacity) {
        size_t capacity = 2 * table->capacity;
        struct pair *slots = calloc(capacity, sizeof *slots);
        if (!slots) return NULL;
        for (size_t i = 0; i < table->capacity; i++)
            if (table->slots[i].key) *slot_of(slots, capacity, table->slots[i].key) = table->slots[i];
        free(table->slots);
        table->slots = slots;
        table->capacity = capacity;
        slot = slot_of(slots, capacity, key);
    }
    table->n++;
    *slot = (struct pair){.key = key, .head = PAIR_NOWHERE, .tail = PAIR_NOWHERE};
    return slot;
}

int pair_add_place(struct pair_table *table, struct pair *pair, uint32_t at) {
    uint32_t b = pair->tail;
    if (b == PAIR_NOWHERE || table->blocks[b].n == sizeof table->blocks->at / sizeof *table->blocks->at) {
        if (table->free_block != PAIR_NOWHERE) {
            b = table->free_block;
            table->free_block = table->blocks[b].next;
        } else {
            if (table->n_blocks == table->blocks_capacity) {
                uint64_t capacity = 2 * (uint64_t)table->blocks_capacity + 1024;
                if (capacity >= PAIR_NOWHERE) capacity = PAIR_NOWHERE - 1;
                struct pair_block *blocks = capacity == table->blocks_capacity
                                                ? NULL
                                                : realloc(table->blocks, (size_t)capacity * sizeof *blocks);
                if (!blocks) return -1;
                table->blocks = blocks;
                table->blocks_capacity = (uint32_t)capacity;
            }
            b = table->n_blocks++;
        }
        table->blocks[b].next = PAIR_NOWHERE;
        table->blocks[b].n = 0;
        if (pair->tail == PAIR_NOWHERE)
            pair->head = b;
        else
            table->blocks[pair->tail].next = b;
        pair->tail = b;
    }
    table->blocks[b].at[table->blocks[b].n++] = at;
    return 0;
}

void pair_drop_places(struct pair_table *table, struct pair *pair) {
    if (pair->head == PAIR_NOWHERE) return;
    table->blocks[pair->tail].next = table->free_block;
    table->free_block = pair->head;
    pair->head = pair->tail = PAIR_NOWHERE;
}

static int before(const struct pair_entry *a, const struct pair_entry *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void sift_down(struct pair_entry *heap, size_t n, size_t i) {
    struct pair_entry entry = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &entry)) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static int reserve_heap(struct pair_table *table, size_t n) {
    if (n <= table->heap_capacity) return 0;
    struct pair_entry *heap = realloc(table->heap, 2 * n * sizeof *heap);
    if (!heap) return -1;
    table->heap = heap;
    table->heap_capacity = 2 * n;
    return 0;
}

int pair_push(struct pair_table *table, const struct pair *pair) {
    if (reserve_heap(table, table->n_heap + 1)) return -1;
    struct pair_entry entry = {pair->count, pair->key};
    size_t i = table->n_heap++;
    for (size_t parent; i > 0 && before(&entry, &table->heap[parent = (i - 1) / 2]); i = parent)
        table->heap[i] = table->heap[parent];
    table->heap[i] = entry;
    return 0;
}

int pair_push_all(struct pair_table *table) {
    if (reserve_heap(table, table->n)) return -1;
    table->n_heap = 0;
    for (size_t i = 0; i < table->capacity; i++)
        if (table->slots[i].key)
            table->heap[table->n_heap++] = (struct pair_entry){table->slots[i].count, table->slots[i].key};
    for (size_t i = table->n_heap / 2; i-- > 0;) sift_down(table->heap, table->n_heap, i);
    return 0;
}

struct pair *pair_pop(struct pair_table *table) {
    while (table->n_heap) {
        struct pair_entry top = table->heap[0];
        struct pair *pair = pair_find(table, top.key);
        if (pair->count == top.count || pair->count <= 0) {
            table->heap[0] = table->heap[--table->n_heap];
            if (table->n_heap) sift_down(table->heap, table->n_heap, 0);
            if (pair->count > 0) return pair;
        } else { // out of date: back to where it belongs now
            table->heap[0].count = pair->count;
            sift_down(table->heap, table->n_heap, 0);
        }
    }
    return NULL;
}
