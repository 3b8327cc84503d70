#include "piece_map.h"

#include <stdlib.h> // calloc, realloc, free
#include <time.h>   // timespec_get

static const uint64_t PIECE_LONG = 0xFFull << 56; // a length that no short piece has
enum { LENGTH_BYTES = 8, FIRST_CAPACITY = 1 << 12 };

uint64_t piece_hash(const uint8_t *p, size_t length, uint64_t seed) {
    uint64_t h = seed ^ length, word;
    for (; length >= 8; p += 8, length -= 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word, 0x9E3779B97F4A7C15ull);
    }
    word = 0;
    memcpy(&word, p, length);
    return mix(h ^ word, 0xD6E8FEB86659FD93ull);
}

uint64_t hash_seed(const void *salt) {
    struct timespec now = {0, 0};
    timespec_get(&now, TIME_UTC);
    return mix((uint64_t)now.tv_sec ^ (uint64_t)now.tv_nsec << 32 ^ 0xA0761D6478BD642Full, (uint64_t)(uintptr_t)salt);
}

int piece_map_init(struct piece_map *map) {
    *map = (struct piece_map){.capacity = FIRST_CAPACITY, .seed = hash_seed(map)};
    map->slots = calloc(map->capacity, sizeof *map->slots);
    return map->slots ? 0 : -1;
}

void piece_map_free(struct piece_map *map) {
    free(map->slots);
    free(map->arena);
    *map = (struct piece_map){0};
}

static const uint8_t *long_piece(const struct piece_map *map, struct piece_key key, size_t *length) {
    const uint8_t *stored = map->arena + (key.hi & ~PIECE_LONG);
    uint64_t size;
    memcpy(&size, stored, LENGTH_BYTES);
    *length = (size_t)size;
    return stored + LENGTH_BYTES;
}

const uint8_t *piece_slot_bytes(const struct piece_map *map, const struct piece_slot *slot, uint8_t *buffer,
                                size_t *length) {
    if (slot->key.hi >= PIECE_LONG) return long_piece(map, slot->key, length);
    *length = piece_key_length(slot->key);
    piece_key_bytes(slot->key, buffer);
    return buffer;
}

static int slot_holds(const struct piece_map *map, const struct piece_slot *slot, struct piece_key key,
                      const uint8_t *piece, size_t length) {
    if (slot->key.lo != key.lo) return 0;
    if (length <= PIECE_SHORT) return slot->key.hi == key.hi;
    if (slot->key.hi < PIECE_LONG) return 0;
    size_t stored_length;
    const uint8_t *stored = long_piece(map, slot->key, &stored_length);
    return stored_length == length && memcmp(stored, piece, length) == 0;
}

/* The slot of the piece, or the free one where it would go. For a long piece key->lo becomes its hash. */
static struct piece_slot *slot_of(const struct piece_map *map, const uint8_t *piece, size_t length, const uint8_t *end,
                                  struct piece_key *key) {
    uint64_t hash;
    if (length <= PIECE_SHORT) {
        *key = piece_key(piece, length, end);
        hash = piece_key_hash(*key, map->seed);
    } else {
        hash = piece_hash(piece, length, map->seed);
        *key = (struct piece_key){hash, PIECE_LONG};
    }
    size_t i = hash & (map->capacity - 1);
    while (map->slots[i].key.hi && !slot_holds(map, &map->slots[i], *key, piece, length))
        i = (i + 1) & (map->capacity - 1);
    return &map->slots[i];
}

const int64_t *piece_map_find(const struct piece_map *map, const uint8_t *piece, size_t length, const uint8_t *end) {
    struct piece_key key;
    const struct piece_slot *slot = slot_of(map, piece, length, end, &key);
    return slot->key.hi ? &slot->value : NULL;
}

static int grow(struct piece_map *map) {
    size_t capacity = 2 * map->capacity;
    struct piece_slot *slots = calloc(capacity, sizeof *slots);
    if (!slots) return -1;
    for (size_t s = 0; s < map->capacity; s++) {
        struct piece_slot *slot = &map->slots[s];
        if (!slot->key.hi) continue;
        uint64_t hash = slot->key.hi >= PIECE_LONG ? slot->key.lo : piece_key_hash(slot->key, map->seed);
        size_t i = hash & (capacity - 1);
        while (slots[i].key.hi) i = (i + 1) & (capacity - 1);
        slots[i] = *slot;
    }
    free(map->slots);
    map->slots = slots;
    map->capacity = capacity;
    return 0;
}

/* Copies a long piece into the arena; returns its offset, or -1. */
static int64_t store(struct piece_map *map, const uint8_t *piece, size_t length) {
    size_t needed = map->arena_size + LENGTH_BYTES + length;
    if (needed > map->arena_capacity) {
        size_t capacity = 2 * needed + 4096;
        uint8_t *arena = realloc(map->arena, capacity);
        if (!arena) return -1;
        map->arena = arena;
        map->arena_capacity = capacity;
    }
    uint64_t size = length;
    int64_t offset = (int64_t)map->arena_size;
    memcpy(map->arena + offset, &size, LENGTH_BYTES);
    memcpy(map->arena + offset + LENGTH_BYTES, piece, length);
    map->arena_size = needed;
    return offset;
}

int64_t *piece_map_at(struct piece_map *map, const uint8_t *piece, size_t length, const uint8_t *end) {
    struct piece_key key;
    struct piece_slot *slot = slot_of(map, piece, length, end, &key);
    if (slot->key.hi) return &slot->value;
    if (2 * (map->n + 1) > map->capacity) {
        if (grow(map)) return NULL;
        slot = slot_of(map, piece, length, end, &key);
    }
    if (length > PIECE_SHORT) {
        int64_t offset = store(map, piece, length);
        if (offset < 0) return NULL;
        key.hi |= (uint64_t)offset;
    }
    slot->key = key;
    slot->value = 0;
    map->n++;
    return &slot->value;
}
