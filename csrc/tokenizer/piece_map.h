/* A hash table from pieces (byte strings) to 64-bit numbers: counts while training, ids in the word tokenizer.
 *
 * Open addressing, at most half full, 24 bytes a slot. A short piece is its own key; of a longer one the slot holds the
 * hash and the place of its bytes in the arena. Memory: 48 to 96 bytes per distinct piece, and the bytes of the long
 * ones.
 */
#ifndef GOLLM_TOKENIZER_PIECE_MAP_H
#define GOLLM_TOKENIZER_PIECE_MAP_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int64_t, uint64_t

#include "piece.h" // struct piece_key

struct piece_slot {
    struct piece_key key; // long piece: lo = hash, hi = PIECE_LONG | offset in the arena; hi == 0: a free slot
    int64_t value;
};

struct piece_map {
    struct piece_slot *slots;
    size_t capacity, n; // slots (a power of two), used ones
    uint8_t *arena;     // per long piece: its length (8 bytes), its bytes
    size_t arena_size, arena_capacity;
    uint64_t seed;
};

/* Returns 0, or -1 without memory. */
int piece_map_init(struct piece_map *map);
void piece_map_free(struct piece_map *map);

/* The value of a piece, new pieces beginning with 0; NULL without memory. Bytes up to `end` may be read. length >= 1.
 */
int64_t *piece_map_at(struct piece_map *map, const uint8_t *piece, size_t length, const uint8_t *end);

/* The value of a piece, or NULL where there is none. */
const int64_t *piece_map_find(const struct piece_map *map, const uint8_t *piece, size_t length, const uint8_t *end);

/* The bytes of a used slot; `buffer` has room for PIECE_SHORT bytes and is used for short pieces. */
const uint8_t *piece_slot_bytes(const struct piece_map *map, const struct piece_slot *slot, uint8_t *buffer,
                                size_t *length);

#endif
