/* Text to ids: the loop over the pieces, and its caches. */
#include "bpe.h"

#include <stdlib.h> // calloc, free

enum {
    SHORT_SETS = 1 << 15, // of 2 entries: 2 MB; most of a text hits the few hundred sets that stay in L1
    SHORT_IDS = 4,
    LONG_ENTRIES = 1 << 12, // of 256 bytes: 1 MB
    LONG_PIECE = 62,
    LONG_IDS = 46,
    SCRATCH_KEPT = 1 << 24, // bytes of scratch memory that a workspace keeps between calls
};

/* The upper half of the length's byte, which a piece of up to 15 bytes leaves free, holds the number of ids. */
struct bpe_short_entry {
    struct piece_key key;
    int32_t ids[SHORT_IDS];
};

static const uint64_t N_IDS_MASK = 0xFull << 60;

struct bpe_long_entry {
    uint64_t hash;
    uint8_t length, n_ids, bytes[LONG_PIECE];
    int32_t ids[LONG_IDS];
};

struct bpe_workspace *bpe_workspace_new(void) {
    struct bpe_workspace *work = calloc(1, sizeof *work);
    if (!work) return NULL;
    work->short_cache = calloc(2 * SHORT_SETS, sizeof *work->short_cache);
    work->long_cache = calloc(LONG_ENTRIES, sizeof *work->long_cache);
    if (work->short_cache && work->long_cache) return work;
    bpe_workspace_free(work);
    return NULL;
}

void bpe_workspace_free(struct bpe_workspace *work) {
    if (!work) return;
    free(work->short_cache);
    free(work->long_cache);
    free(work->scratch);
    free(work);
}

/* A piece that the first cache can't hold, for its length or for the number of its ids, or does not hold yet. */
static size_t encode_long(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece,
                          size_t length, int32_t *out) {
    if (length > LONG_PIECE) return bpe_merge(model, work, piece, length, out);
    uint64_t hash = piece_hash(piece, length, 0);
    struct bpe_long_entry *entry = &work->long_cache[hash % LONG_ENTRIES];
    if (entry->hash == hash && entry->length == length && memcmp(entry->bytes, piece, length) == 0) {
        memcpy(out, entry->ids, entry->n_ids * sizeof *out);
        return entry->n_ids;
    }
    size_t n = bpe_merge(model, work, piece, length, out);
    if (n && n <= LONG_IDS && (length > PIECE_SHORT || n > SHORT_IDS)) {
        entry->hash = hash;
        entry->length = (uint8_t)length;
        entry->n_ids = (uint8_t)n;
        memcpy(entry->bytes, piece, length);
        memcpy(entry->ids, out, n * sizeof *out);
    }
    return n;
}

/* Remembers what few ids a short piece has; the set's first entry moves to the second place. */
__attribute__((noinline)) static size_t encode_short(const struct bpe_model *model, struct bpe_workspace *work,
                                                     struct bpe_short_entry *set, struct piece_key key,
                                                     const uint8_t *piece, size_t length, int32_t *out) {
    size_t n = encode_long(model, work, piece, length, out);
    if (n && n <= SHORT_IDS) {
        set[1] = set[0];
        set[0].key = (struct piece_key){key.lo, key.hi | (uint64_t)n << 60};
        memcpy(set[0].ids, out, n * sizeof *out);
    }
    return n;
}

static inline int holds(const struct bpe_short_entry *entry, struct piece_key key) {
    return entry->key.lo == key.lo && (entry->key.hi & ~N_IDS_MASK) == key.hi;
}

int bpe_encode(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *text, size_t length,
               struct id_buffer *out) {
    const uint8_t *p = text, *end = text + length, *next;
    int status = 0;
    for (; p < end && status == 0; p = next) {
        next = split_piece(model->pattern, p, end);
        size_t bytes = (size_t)(next - p), n;
        // A piece has at most as many ids as bytes; a hit writes SHORT_IDS ids whatever their number.
        if ((status = id_buffer_reserve(out, bytes + SHORT_IDS))) break;
        int32_t *ids = out->ids + out->n;
        if (bytes <= PIECE_SHORT) {
            struct piece_key key = piece_key(p, bytes, end);
            struct bpe_short_entry *set = &work->short_cache[2 * (piece_key_hash(key, 0) % SHORT_SETS)];
            const struct bpe_short_entry *hit = holds(set, key) ? set : set + 1;
            if (hit == set || holds(hit, key)) {
                memcpy(ids, hit->ids, sizeof hit->ids);
                n = hit->key.hi >> 60;
            } else {
                n = encode_short(model, work, set, key, p, bytes, ids);
            }
        } else {
            n = encode_long(model, work, p, bytes, ids);
        }
        out->n += n;
        status = n ? 0 : -1;
    }
    if (work->scratch_size > SCRATCH_KEPT) {
        free(work->scratch);
        work->scratch = NULL;
        work->scratch_size = 0;
    }
    return status;
}
