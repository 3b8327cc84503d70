/* The pre-tokenizers: they cut text into the pieces inside which byte pairs may merge.
 *
 * In every pattern the first alternative that matches wins and every alternative is greedy, so that the piece at p
 * follows from the characters behind p, and every byte lies in exactly one piece.
 *
 *   gpt2     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm   \p{N} first, and gpt2 in what lies between: numbers are one character each
 *   llama3   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
 *            |\s+(?!\S)|\s+
 *   qwen2    the same with \p{N} instead of \p{N}{1,3}
 *   cl100k   the same with \s+$ before \s*[\r\n]+: white space at the end of the text is one piece
 *   o200k    [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 *            |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 *            |\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * The way to a piece of ASCII letters, nearly half of a text, is inline; the rest is in split.c. Cost: about a
 * nanosecond per byte; ASCII letters go eight at a time. No character is looked at more than a few times, so that any
 * text takes linear time.
 */
#ifndef GOLLM_TOKENIZER_SPLIT_H
#define GOLLM_TOKENIZER_SPLIT_H

#include <stdint.h> // uint8_t, uint64_t
#include <string.h> // memcpy

#include "unicode.h" // enum char_class, utf8_character

/* The patterns known; a tokenizer file names one. */
enum split_pattern { SPLIT_GPT2, SPLIT_CL100K, SPLIT_O200K, SPLIT_LLAMA3, SPLIT_QWEN2, SPLIT_SMOLLM, SPLIT_PATTERNS };

extern const uint8_t split_byte_class[256]; // enum char_class, or 0 from 0x80 on

/* The end of the run of characters of the classes `set` that begins at p. */
const uint8_t *split_run(const uint8_t *p, const uint8_t *end, unsigned set);

/* The end of the piece at p < end, by each pattern, without a shortcut. */
const uint8_t *split_gpt2(const uint8_t *p, const uint8_t *end);
const uint8_t *split_smollm(const uint8_t *p, const uint8_t *end);
const uint8_t *split_llama3(const uint8_t *p, const uint8_t *end);
const uint8_t *split_qwen2(const uint8_t *p, const uint8_t *end);
const uint8_t *split_cl100k(const uint8_t *p, const uint8_t *end);
const uint8_t *split_o200k(const uint8_t *p, const uint8_t *end);

/* The end of the run of letters at p. Eight bytes x at once: with the case bit set (`fold`), 'a' <= x <= 'z' is tested
 * in the seven low bits of each byte by carries into its eighth (Mycroft's null-byte trick, widened), and bytes >= 0x80
 * are masked out. Without it, the run of lower-case letters, of those without case and of marks. */
static inline const uint8_t *split_letters(const uint8_t *p, const uint8_t *end, int fold) {
    const unsigned set = fold ? LETTERS : CLASS_LOWER | CLASS_CASELESS | CLASS_MARK;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t ones = 0x0101010101010101u, high = 0x80 * ones;
    while (end - p >= 8) {
        uint64_t x, low;
        memcpy(&x, p, 8);
        low = (fold ? x | 0x20 * ones : x) & ~high;
        uint64_t letters = (low + (0x80 - 'a') * ones) & ~(low + (0x7F - 'z') * ones) & ~x & high;
        if (letters != high) {
            p += __builtin_ctzll(letters ^ high) >> 3;
            return *p < 0x80 ? p : split_run(p, end, set);
        }
        p += 8;
    }
#endif
    return split_run(p, end, set);
}

/* The bytes of a contraction at p, where *p is an apostrophe: 0 for none. `fold`: of any case, with the long s, U+017F. */
int split_contraction(const uint8_t *p, const uint8_t *end, int fold);

/* The end of the piece that begins at p < end. */
static inline const uint8_t *split_piece(enum split_pattern pattern, const uint8_t *p, const uint8_t *end) {
    // A word of ASCII letters, mostly behind a space.
    const uint8_t *word = p + (*p == ' ' && end - p >= 2);
    unsigned kind = split_byte_class[*word];
    if (pattern == SPLIT_O200K) {
        if (!(kind & CLASS_LOWER)) return split_o200k(p, end);
        word = split_letters(word, end, 0);
        return word < end && *word == '\'' ? word + split_contraction(word, end, 1) : word;
    }
    if (kind & LETTERS) return split_letters(word, end, 1);
    switch (pattern) {
    case SPLIT_CL100K: return split_cl100k(p, end);
    case SPLIT_LLAMA3: return split_llama3(p, end);
    case SPLIT_QWEN2: return split_qwen2(p, end);
    case SPLIT_SMOLLM: return split_smollm(p, end);
    default: return split_gpt2(p, end);
    }
}

#endif
