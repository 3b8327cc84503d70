/* What BERT's normalisation and pre-tokenizer do with single characters (tables of tools/bert_characters.py). */
#ifndef GOLLM_TOKENIZER_BERT_CHARACTERS_H
#define GOLLM_TOKENIZER_BERT_CHARACTERS_H

#include <stdint.h> // uint8_t, uint32_t

enum bert_class { BERT_OTHER, BERT_SPACE, BERT_PUNCTUATION, BERT_REMOVED };

extern const uint8_t bert_block[0x1100];
extern const uint8_t bert_classes[][64];

static inline enum bert_class bert_class(uint32_t code) {
    uint8_t four = bert_classes[bert_block[code >> 8]][(code & 255) >> 2];
    return (enum bert_class)(four >> 2 * (code & 3) & 3);
}

/* Sorted by `from`; `to` ends at the first 0. */
struct bert_replacement {
    uint32_t from, to[3];
};

extern const struct bert_replacement bert_stripped[]; // decomposed, without accents; Hangul is not in it
extern const int bert_stripped_n;
extern const struct bert_replacement bert_lowered[];
extern const int bert_lowered_n;

/* What stands for a character in the table, NULL if it stays as it is. */
static inline const uint32_t *bert_replaced(const struct bert_replacement *table, int n, uint32_t code) {
    int low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2;
        if (table[middle].from < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && table[low].from == code ? table[low].to : (const uint32_t *)0;
}

/* The blocks that are taken for Chinese; tokenizers lets extension E begin at U+2B920, 256 characters late. */
static inline int bert_is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

#endif
