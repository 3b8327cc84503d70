/* Learning byte-pair merges.
 *
 * Equal pieces are one word with a count, so that memory depends on the distinct words and not on the corpus. All words
 * lie in one array of symbols, linked to their neighbours. For every pair of adjacent symbols: how often it occurs (64
 * bits: weighted by the words' counts) and where. A merge then touches only the places where its pair occurs: O(symbols
 * log symbols) in all, also for a megabyte-long word, and nothing is counted twice.
 *
 * The most frequent pair is merged next; of equally frequent ones the pair with the smaller left, then right id, where
 * the bytes' ids are in the order of GPT-2's alphabet (printable characters first). That is Hugging Face's rule, and so
 * are the merges. Two merges may spell the same token: then it keeps its first id.
 */
#ifndef GOLLM_TOKENIZER_BPE_TRAIN_H
#define GOLLM_TOKENIZER_BPE_TRAIN_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t, int64_t, uint32_t

#include "pair_table.h" // struct pair_table
#include "piece_map.h"  // struct piece_map
#include "split.h"      // enum split_pattern

enum { BPE_TOKEN_MAX = 1 << 16 }; // bytes; no merge makes a longer token

struct bpe_trainer {
    uint8_t byte_of[256]; // while training, ids below 256 are places in GPT-2's alphabet; this is the byte of each
    size_t n_symbols;
    int32_t *symbol;        // (n_symbols): an id, or -1 where a symbol has been merged into its left neighbour
    uint32_t *left, *right; // (n_symbols): neighbours in the word, PAIR_NOWHERE at its ends
    uint32_t *word;         // (n_symbols): the word that a symbol belongs to
    int64_t *count;         // (n_words)
    struct pair_table pairs;

    struct piece_map ids; // token -> id
    uint8_t *bytes;       // the tokens from 256 on, one behind the other: as a struct vocabulary has them
    int32_t *offsets;     // (n_tokens - 256 + 1)
    size_t bytes_capacity;
    int32_t n_tokens, tokens_capacity;
    int32_t *merges; // (n_merges, 3): left, right, result
    size_t n_merges, merges_capacity;
    uint64_t *changed; // (n_changed): the pairs that the merge at work has brought forth
    size_t n_changed, changed_capacity;
};

/* Adds the pieces of text[0 : length] to the counts. Returns 0, or -1 without memory. */
int count_pieces(struct piece_map *counts, enum split_pattern pattern, const uint8_t *text, size_t length);

/* Takes over what was counted. Returns NULL without memory, or if the distinct words have more than 2^32 - 2 bytes. */
struct bpe_trainer *bpe_trainer_new(const struct piece_map *counts);
void bpe_trainer_free(struct bpe_trainer *trainer);

/* Merges until there are n_tokens tokens, or max_merges merges were made now, or no pair occurs min_count times.
 * Returns the number of merges made, 0 at the end, or -1 without memory. */
int64_t bpe_trainer_run(struct bpe_trainer *trainer, int32_t n_tokens, int64_t max_merges, int64_t min_count);

#endif
