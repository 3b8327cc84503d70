/* Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2): text -> ids.
 *
 * The text is cut into pieces (split.h). A piece begins as its bytes' tokens; then, again and again, the adjacent pair
 * whose merge comes first, the leftmost of equals, becomes one token, until no pair of neighbours has a merge. First is
 * the merge that was listed first, as in GPT-2, or that makes the token of the lowest id, as in tiktoken. Where
 * `ignore_merges` is set, a piece that is a token as it stands is not merged at all (LLaMA-3, tiktoken).
 *
 * Pieces that come again are remembered (piece_cache.h), the others merged (merge.h). No allocation per piece; ids go
 * straight into the result.
 */
#ifndef GOLLM_TOKENIZER_BPE_H
#define GOLLM_TOKENIZER_BPE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t, uint32_t, uint64_t

#include "id_buffer.h"   // struct id_buffer
#include "merge.h"       // struct merge_table
#include "piece_cache.h" // struct piece_cache
#include "piece_map.h"   // struct piece_map
#include "split.h"       // enum split_pattern
#include "vocabulary.h"  // struct vocabulary

struct bpe_rules {
    enum split_pattern pattern;
    int lowest_id_first, ignore_merges;
    int32_t unknown; // what a byte without a token becomes; -1: nothing, as if it were not there
};

/* What a tokenizer has learned, made ready to be used. Not changed by encoding: threads share it. */
struct bpe_model {
    struct bpe_rules rules;
    int32_t byte_id[256]; // -1 for none
    struct merge_table merges;
    struct piece_map whole; // token -> id + 1, with rules.ignore_merges
};

/* merges (n_merges, 3): left, right, result. added (n_added): tokens that stand outside, such as special ones: no
 * whole piece becomes one. Everything is checked: no byte has two tokens, each merge's result is the bytes of its
 * parts, no pair comes twice. Returns NULL and says why, or with an empty `why` for lack of memory. */
struct bpe_model *bpe_model_new(const struct vocabulary *v, const int32_t *merges, size_t n_merges,
                                const int32_t *added, size_t n_added, struct bpe_rules rules, char *why,
                                size_t why_size);
void bpe_model_free(struct bpe_model *model);

/* What one thread needs while it encodes; the cache stays warm from call to call. */
struct bpe_workspace {
    struct piece_cache cache;
    struct merge_scratch scratch;
    int no_memory; // set by bpe_merge
};

struct bpe_workspace *bpe_workspace_new(void);
void bpe_workspace_free(struct bpe_workspace *work);

/* Appends the ids of text[0 : length]. Returns 0, or -1 without memory. */
int bpe_encode(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *text, size_t length,
               struct id_buffer *out);

/* Appends the ids of one piece that was cut elsewhere. Returns 0, or -1 without memory. */
int bpe_encode_piece(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                     struct id_buffer *out);

/* The ids of one piece by merging, without the cache, to out[0 : length]; returns how many: 0 if no byte of it has a
 * token, or without memory. */
size_t bpe_merge(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                 int32_t *out);

#endif
