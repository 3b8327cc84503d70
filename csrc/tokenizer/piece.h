/* A short piece as two words, and hashes of pieces.
 *
 * Nearly every piece of text has at most 15 bytes. Those fit into 128 bits together with their length, so that they are
 * compared and hashed without a loop: lo holds bytes 0..7, hi bytes 8..14 and, on top, the length.
 */
#ifndef GOLLM_TOKENIZER_PIECE_H
#define GOLLM_TOKENIZER_PIECE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, uint64_t
#include <string.h> // memcpy

enum { PIECE_SHORT = 15 };

struct piece_key {
    uint64_t lo, hi;
};

/* The key of the piece of 1 <= length <= PIECE_SHORT bytes at p. Bytes up to `end` may be read. */
static inline struct piece_key piece_key(const uint8_t *p, size_t length, const uint8_t *end) {
    struct piece_key key = {0, 0};
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (end - p >= 16) { // two loads and a mask instead of a copy of variable length
        memcpy(&key, p, 16);
        unsigned bits = 8 * (unsigned)length;
        key.lo &= bits >= 64 ? ~0ull : (1ull << bits) - 1;
        key.hi &= bits <= 64 ? 0 : (1ull << (bits - 64)) - 1;
    } else
#endif
    {
        (void)end;
        for (size_t i = 0; i < length; i++)
            if (i < 8)
                key.lo |= (uint64_t)p[i] << 8 * i;
            else
                key.hi |= (uint64_t)p[i] << 8 * (i - 8);
    }
    key.hi |= (uint64_t)length << 56;
    return key;
}

static inline size_t piece_key_length(struct piece_key key) { return key.hi >> 56; }

/* Writes the piece's bytes to `bytes`. */
static inline void piece_key_bytes(struct piece_key key, uint8_t *bytes) {
    for (size_t i = 0; i < piece_key_length(key); i++)
        bytes[i] = (uint8_t)(i < 8 ? key.lo >> 8 * i : key.hi >> 8 * (i - 8));
}

/* Both halves of a 128-bit product, folded: one multiplication mixes two words (the core of Wang Yi's wyhash). */
static inline uint64_t mix(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Hashes take a seed that differs from table to table and from run to run: a hostile vocabulary can't be written so
 * that all its entries collide. No result depends on it. */
static inline uint64_t piece_key_hash(struct piece_key key, uint64_t seed) {
    return mix(key.lo ^ seed, key.hi ^ 0x9E3779B97F4A7C15ull);
}

uint64_t piece_hash(const uint8_t *p, size_t length, uint64_t seed);
uint64_t hash_seed(const void *salt); // salt: an address, different for tables made at the same time

#endif
