/* SentencePiece's BPE (Kudo & Richardson 2018), with the variants of llama2.c and of Hugging Face's tokenizer.json.
 *
 *   normalise   replaced characters (charsmap.h), runs of spaces shortened, a space put before the text; U+2581, the
 *               mark that pieces have for the space, is a space
 *   symbols     user-defined pieces, the longest first, which nothing merges with; else characters, and where a character
 *               is no piece its bytes' tokens or, without those, the unknown token
 *   merge       the adjacent pair that makes the piece of the highest score, the leftmost of equals; or, where a file lists
 *               merges, the one listed first
 *
 * No piece of a usual vocabulary has a space behind another character. Then nothing merges across the beginning of a
 * space, and a text is cut there into words, which are remembered (piece_cache.h). Else the whole text is one word.
 * O(n log n) time for a text of n bytes.
 */
#ifndef GOLLM_TOKENIZER_SENTENCEPIECE_H
#define GOLLM_TOKENIZER_SENTENCEPIECE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t

#include "charsmap.h"    // struct charsmap
#include "id_buffer.h"   // struct id_buffer
#include "merge.h"       // struct merge_table
#include "piece_cache.h" // struct piece_cache
#include "piece_map.h"   // struct piece_map
#include "trie.h"        // struct trie
#include "vocabulary.h"  // struct vocabulary

/* The numbers of SentencePiece's own files. A byte token's text in the vocabulary is that byte. SP_LITERAL is our own: a
 * user-defined piece that is spelled with a space instead of U+2581. Normalisation leaves it as it is, but its spaces
 * become marks like all others, so nothing is encoded to it. */
enum sp_type { SP_NORMAL = 1, SP_UNKNOWN = 2, SP_CONTROL = 3, SP_USER_DEFINED = 4, SP_BYTE = 6, SP_LITERAL = 7 };

enum sp_prefix {
    SP_PREFIX_NEVER,
    SP_PREFIX_ALWAYS,  // a space before every text that is not empty
    SP_PREFIX_MISSING, // unless it begins with one
};

struct sp_settings {
    enum sp_prefix prefix;
    int remove_extra_spaces; // leading, trailing and doubled ones
    int split_spaces;        // nothing merges with the space behind it
    int fuse_unknown;        // several in a row are one
};

/* Not changed by encoding: threads share it. */
struct sp_model {
    struct sp_settings settings;
    int cuts;                                     // the text is cut into words
    int32_t unknown, byte_id[256], ascii_id[128]; // -1 where there is none
    struct piece_map characters;                  // character -> id + 1
    struct trie user_defined, literal;
    size_t lookahead; // bytes: how much of a text decides what normalisation does at a place
    struct merge_table merges;
    struct charsmap charsmap; // n_units is 0 where there is none
};

/* What a vocabulary file says about its tokens. */
struct sp_pieces {
    struct vocabulary v;
    const uint8_t *type;   // (v.n), enum sp_type
    const float *score;    // (v.n); NULL if merges are listed
    const int32_t *merges; // (n_merges, 3): left, right, result
    size_t n_merges;
    const uint8_t *charsmap; // (charsmap_size), which must outlive the model
    size_t charsmap_size;
};

/* Everything is checked. Returns NULL and says why, or with an empty `why` for lack of memory. */
struct sp_model *sp_model_new(const struct sp_pieces *pieces, struct sp_settings settings, char *why, size_t why_size);
void sp_model_free(struct sp_model *model);

/* What one thread needs while it encodes; the cache stays warm from call to call. */
struct sp_workspace {
    struct piece_cache cache;
    struct merge_scratch scratch;
    uint8_t *text; // (capacity): the normalised text
    size_t n, capacity;
};

struct sp_workspace *sp_workspace_new(void);
void sp_workspace_free(struct sp_workspace *work);

/* Normalises text[0 : length] into work->text. Returns 0, or -1 without memory. */
int sp_normalize(const struct sp_model *model, struct sp_workspace *work, const uint8_t *text, size_t length);

/* The last place, or 0, where text[0 : length] can be cut, whatever follows: in front of a space behind something else.
 * If a space is put before every text, the second part is encoded without its own first one. */
size_t sp_cut(const struct sp_model *model, const uint8_t *text, size_t length);

/* Appends the ids of text[0 : length], UTF-8. Returns 0, or -1 without memory. */
int sp_encode(const struct sp_model *model, struct sp_workspace *work, const uint8_t *text, size_t length,
              struct id_buffer *out);

#endif
