/* From pieces of text to their ids, for those that come again: nearly all of a text.
 *
 *   - a piece of up to 15 bytes with at most 4 ids: two places for it in a set, 32 bytes an entry;
 *   - up to 62 bytes and 46 ids: a second table (indentation, long words, Chinese phrases);
 *   - what is longer is made anew each time.
 *
 * The caller says how a piece that is not there is made; a piece must always have the same ids. No result depends on
 * what the cache holds.
 */
#ifndef GOLLM_TOKENIZER_PIECE_CACHE_H
#define GOLLM_TOKENIZER_PIECE_CACHE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t, uint64_t

#include "piece.h" // struct piece_key

enum {
    CACHE_SETS = 1 << 15, // of 2 entries: 2 MB; most of a text hits the few hundred sets that stay in L1
    CACHE_SHORT_IDS = 4,
};

/* The upper half of the length's byte, which a piece of up to 15 bytes leaves free, holds the number of ids. */
struct cache_short_entry {
    struct piece_key key;
    int32_t ids[CACHE_SHORT_IDS];
};

struct piece_cache {
    struct cache_short_entry *shorts; // (2 * CACHE_SETS)
    struct cache_long_entry *longs;
};

int piece_cache_init(struct piece_cache *cache); // 0, or -1 without memory
void piece_cache_free(struct piece_cache *cache);

/* Writes the ids of a piece to ids[0 : length], not more than it has bytes, and returns how many; 0 without memory. */
typedef size_t piece_maker(const void *model, void *work, const uint8_t *piece, size_t length, int32_t *ids);

/* A piece that the first table can't hold, or does not hold yet. */
size_t cache_long_ids(struct piece_cache *cache, const uint8_t *piece, size_t length, int32_t *ids, piece_maker *make,
                      const void *model, void *work);
size_t cache_new_ids(struct piece_cache *cache, struct cache_short_entry *set, struct piece_key key,
                     const uint8_t *piece, size_t length, int32_t *ids, piece_maker *make, const void *model,
                     void *work);

static inline int cache_entry_holds(const struct cache_short_entry *entry, struct piece_key key) {
    return entry->key.lo == key.lo && (entry->key.hi & ~(0xFull << 60)) == key.hi;
}

/* The ids of the piece of length >= 1; bytes up to `end` may be read. `ids` needs room for length + CACHE_SHORT_IDS: a
 * hit writes CACHE_SHORT_IDS ids whatever their number. Returns their number, or 0 without memory. */
static inline size_t cache_ids(struct piece_cache *cache, const uint8_t *piece, size_t length, const uint8_t *end,
                               int32_t *ids, piece_maker *make, const void *model, void *work) {
    if (length > PIECE_SHORT) return cache_long_ids(cache, piece, length, ids, make, model, work);
    struct piece_key key = piece_key(piece, length, end);
    struct cache_short_entry *set = &cache->shorts[2 * (piece_key_hash(key, 0) % CACHE_SETS)];
    const struct cache_short_entry *hit = cache_entry_holds(set, key) ? set : set + 1;
    if (hit != set && !cache_entry_holds(hit, key))
        return cache_new_ids(cache, set, key, piece, length, ids, make, model, work);
    memcpy(ids, hit->ids, sizeof hit->ids);
    return hit->key.hi >> 60;
}

#endif
