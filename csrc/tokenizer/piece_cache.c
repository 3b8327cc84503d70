#include "piece_cache.h"

#include <stdlib.h> // calloc, free

enum {
    LONG_ENTRIES = 1 << 12, // of 256 bytes: 1 MB
    LONG_PIECE = 62,
    LONG_IDS = 46,
};

struct cache_long_entry {
    uint64_t hash;
    uint8_t length, n_ids, bytes[LONG_PIECE];
    int32_t ids[LONG_IDS];
};

int piece_cache_init(struct piece_cache *cache) {
    cache->shorts = calloc(2 * CACHE_SETS, sizeof *cache->shorts);
    cache->longs = calloc(LONG_ENTRIES, sizeof *cache->longs);
    if (cache->shorts && cache->longs) return 0;
    piece_cache_free(cache);
    return -1;
}

void piece_cache_free(struct piece_cache *cache) {
    free(cache->shorts);
    free(cache->longs);
    *cache = (struct piece_cache){0};
}

size_t cache_long_ids(struct piece_cache *cache, const uint8_t *piece, size_t length, int32_t *ids, piece_maker *make,
                      const void *model, void *work) {
    if (length > LONG_PIECE) return make(model, work, piece, length, ids);
    uint64_t hash = piece_hash(piece, length, 0);
    struct cache_long_entry *entry = &cache->longs[hash % LONG_ENTRIES];
    if (entry->hash == hash && entry->length == length && memcmp(entry->bytes, piece, length) == 0) {
        memcpy(ids, entry->ids, entry->n_ids * sizeof *ids);
        return entry->n_ids;
    }
    size_t n = make(model, work, piece, length, ids);
    if (n && n <= LONG_IDS && (length > PIECE_SHORT || n > CACHE_SHORT_IDS)) {
        entry->hash = hash;
        entry->length = (uint8_t)length;
        entry->n_ids = (uint8_t)n;
        memcpy(entry->bytes, piece, length);
        memcpy(entry->ids, ids, n * sizeof *ids);
    }
    return n;
}

/* Remembers what few ids a short piece has; the set's first entry moves to the second place. */
size_t cache_new_ids(struct piece_cache *cache, struct cache_short_entry *set, struct piece_key key,
                     const uint8_t *piece, size_t length, int32_t *ids, piece_maker *make, const void *model,
                     void *work) {
    size_t n = cache_long_ids(cache, piece, length, ids, make, model, work);
    if (n && n <= CACHE_SHORT_IDS) {
        set[1] = set[0];
        set[0].key = (struct piece_key){key.lo, key.hi | (uint64_t)n << 60};
        memcpy(set[0].ids, ids, n * sizeof *ids);
    }
    return n;
}
