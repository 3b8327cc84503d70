/* WordPiece as BERT has it (Devlin et al. 2018): text -> ids.
 *
 *   normalise   control characters removed, white space as spaces, spaces around Chinese characters, accents removed, lower
 *               case: each if the settings say so
 *   words       what stands between spaces; a punctuation character is a word of its own
 *   pieces      the longest token that the word begins with, then the longest one for what is left, as it is spelled
 *               behind "##". A word whose rest has no token, or with too many characters, is the unknown token.
 *
 * Words are remembered (piece_cache.h). A word has a bounded number of characters, so that time is linear in the text.
 */
#ifndef GOLLM_TOKENIZER_WORDPIECE_H
#define GOLLM_TOKENIZER_WORDPIECE_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t

#include "id_buffer.h"   // struct id_buffer
#include "piece_cache.h" // struct piece_cache
#include "trie.h"        // struct trie
#include "vocabulary.h"  // struct vocabulary

enum { WP_WORD_MAX = 1000 }; // characters

struct wp_settings {
    int clean_text, space_chinese, strip_accents, lowercase;
    int32_t unknown;
    size_t max_word; // characters, up to WP_WORD_MAX
    int words;       // 0: only normalised, white space and punctuation stay as they are
};

/* Not changed by encoding: threads share it. */
struct wp_model {
    struct wp_settings settings;
    struct trie tokens;
    int32_t continuing; // the node of "##", TRIE_NONE if no token begins so
};

/* Tokens marked in special (v->n) are made by no text. Everything is checked. Returns NULL and says why, or with an
 * empty `why` for lack of memory. */
struct wp_model *wp_model_new(const struct vocabulary *v, const uint8_t *special, struct wp_settings settings,
                              char *why, size_t why_size);
void wp_model_free(struct wp_model *model);

/* What one thread needs while it encodes; the cache stays warm from call to call. */
struct wp_workspace {
    struct piece_cache cache;
    uint8_t *text; // (capacity): the normalised text, words with spaces between them
    size_t n, capacity;
};

struct wp_workspace *wp_workspace_new(void);
void wp_workspace_free(struct wp_workspace *work);

/* Normalises text[0 : length] into work->text. Returns 0, or -1 without memory. */
int wp_normalize(const struct wp_settings *settings, struct wp_workspace *work, const uint8_t *text, size_t length);

/* The word in p[0 : end - p], behind any spaces: *word to the returned end; both are `end` if there is none. */
static inline const uint8_t *wp_next_word(const uint8_t *p, const uint8_t *end, const uint8_t **word) {
    while (p < end && *p == ' ') p++;
    *word = p;
    while (p < end && *p != ' ') p++;
    return p;
}

/* Appends the ids of text[0 : length], UTF-8. Returns 0, or -1 without memory. */
int wp_encode(const struct wp_model *model, struct wp_workspace *work, const uint8_t *text, size_t length,
              struct id_buffer *out);

#endif
