/* Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2): text -> ids.
 *
 * The text is cut into pieces (split.h). A piece begins as its bytes' tokens; then, again and again, the adjacent pair
 * whose merge was learned first, the leftmost of equals, becomes one token, until no pair of neighbours has a merge.
 *
 * Three roads, by what a piece is worth:
 *   - up to 15 bytes: a 2-way cache from the piece to at most 4 ids, 32 bytes an entry: nearly all of a text;
 *   - up to 62 bytes: a second cache, up to 46 ids (indentation, long words, Chinese phrases);
 *   - not cached: merging, by scanning an array of ranks when short, by a heap when long, so that a megabyte without a
 * space costs O(n log n) time and 32 bytes of memory a byte. No allocation per piece; ids go straight into the result.
 */
#ifndef GOLLM_TOKENIZER_BPE_H
#define GOLLM_TOKENIZER_BPE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t, uint32_t, uint64_t

#include "id_buffer.h"  // struct id_buffer
#include "piece.h"      // mix
#include "split.h"      // enum split_pattern
#include "vocabulary.h" // struct vocabulary

enum { BPE_ID_BITS = 20, BPE_RANK_BITS = 24 };
#define BPE_NO_RANK ((uint32_t)(1 << BPE_RANK_BITS) - 1)

/* What a tokenizer has learned, made ready to be used. Not changed by encoding: threads share it. */
struct bpe_model {
    enum split_pattern pattern;
    int32_t byte_id[256];
    uint32_t n_merges;
    int32_t *result; // (n_merges): the token that each merge makes; a merge's index is its rank
    uint64_t
        *pairs; // hash table, at most half full; a slot is left:20 right:20 rank:24, rank BPE_NO_RANK in a free one
    uint64_t pairs_mask; // slots - 1
    uint64_t seed;
};

/* merges (n_merges, 3): left, right, result. Everything is checked: each byte has exactly one token, each merge's
 * result is the bytes of its parts, no pair comes twice. Returns NULL and says why, or with an empty `why` for lack of
 * memory. */
struct bpe_model *bpe_model_new(const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                                enum split_pattern pattern, char *why, size_t why_size);
void bpe_model_free(struct bpe_model *model);

static inline uint64_t bpe_pair(int32_t left, int32_t right) { return (uint64_t)left << BPE_ID_BITS | (uint64_t)right; }

/* The rank of a pair's merge, BPE_NO_RANK if there is none. */
static inline uint32_t bpe_rank(const struct bpe_model *model, int32_t left, int32_t right) {
    uint64_t pair = bpe_pair(left, right), slot;
    uint64_t i = mix(pair ^ model->seed, 0x9E3779B97F4A7C15ull) & model->pairs_mask;
    while ((slot = model->pairs[i]) >> BPE_RANK_BITS != pair) {
        if ((slot & BPE_NO_RANK) == BPE_NO_RANK) return BPE_NO_RANK;
        i = (i + 1) & model->pairs_mask;
    }
    return (uint32_t)(slot & BPE_NO_RANK);
}

/* What one thread needs while it encodes: caches, which stay warm from call to call, and scratch memory for long
 * pieces. */
struct bpe_workspace {
    struct bpe_short_entry *short_cache;
    struct bpe_long_entry *long_cache;
    void *scratch;
    size_t scratch_size;
};

struct bpe_workspace *bpe_workspace_new(void);
void bpe_workspace_free(struct bpe_workspace *work);

/* Appends the ids of text[0 : length]. Returns 0, or -1 without memory. */
int bpe_encode(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *text, size_t length,
               struct id_buffer *out);

/* The ids of one piece by merging, without the caches, to out[0 : length]; returns how many, or 0 without memory. */
size_t bpe_merge(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                 int32_t *out);

#endif
