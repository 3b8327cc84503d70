/* Whole words as tokens: each piece of the text (split.h) is looked up. */
#ifndef GOLLM_TOKENIZER_WORDS_H
#define GOLLM_TOKENIZER_WORDS_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t

#include "id_buffer.h"  // struct id_buffer
#include "piece_map.h"  // struct piece_map
#include "split.h"      // enum split_pattern
#include "vocabulary.h" // struct vocabulary

struct word_model {
    enum split_pattern pattern;
    int32_t unknown, space; // ids; space is -1 where no word is a single space
    struct piece_map ids;   // word -> id + 1
};

/* The first n_words tokens of the vocabulary are words, `unknown` is the id that stands for all others. Returns NULL
 * and says why, or with an empty `why` for lack of memory. */
struct word_model *word_model_new(const struct vocabulary *v, int32_t n_words, int32_t unknown,
                                  enum split_pattern pattern, char *why, size_t why_size);
void word_model_free(struct word_model *model);

/* Appends the ids of text[0 : length]. If there is a word " ", a word that is unknown with the space before it becomes
 * " " and the word without it. What is still unknown is `unknown`. Returns 0, or -1 without memory. */
int word_encode(const struct word_model *model, const uint8_t *text, size_t length, struct id_buffer *out);

#endif
