/* The pre-tokenizer: cuts text into the pieces inside which byte pairs may merge.
 *
 *   GPT-2's pattern:  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * The first alternative that matches wins and every alternative is greedy, so the piece at p follows from its first
 * characters: '            a contraction if one of the seven follows, else one of the "others" below letter       the
 * run of letters; number: the run of numbers; other: the run of others U+0020       belongs to the run of non-space
 * characters behind it, whatever their class ... white space  ... else the run of white space. If text follows, the run
 * leaves its last character to the next piece, unless it is that single character: `\s+(?!\S)` gives it back, the last
 * alternative takes it alone. Every byte lies in exactly one piece. Cost: about a nanosecond per byte; ASCII letters go
 * eight at a time.
 */
#ifndef GOLLM_TOKENIZER_SPLIT_H
#define GOLLM_TOKENIZER_SPLIT_H

#include <stdint.h> // uint8_t, uint64_t
#include <string.h> // memcpy

#include "unicode.h" // enum char_class

/* The patterns known; a tokenizer file names one. */
enum split_pattern { SPLIT_GPT2, SPLIT_PATTERNS };

enum { CLASS_BEYOND_ASCII = 4 };
extern const uint8_t split_byte_class[256]; // enum char_class, or CLASS_BEYOND_ASCII from 0x80 on

/* The end of the run of characters of class `kind` that begins at p (p itself if *p is of another class, or p == end).
 */
const uint8_t *split_run(const uint8_t *p, const uint8_t *end, enum char_class kind);

/* The piece that begins with white space at p: see above. */
const uint8_t *split_space(const uint8_t *p, const uint8_t *end);

/* The bytes of a contraction at p, where *p is an apostrophe: 2, 3, or 0 for none. */
static inline int split_contraction(const uint8_t *p, const uint8_t *end) {
    if (end - p >= 2 && (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd')) return 2;
    if (end - p >= 3 && ((p[2] == 'e' && (p[1] == 'r' || p[1] == 'v')) || (p[1] == 'l' && p[2] == 'l'))) return 3;
    return 0;
}

/* The end of the run of letters at p. Eight bytes x at once: with the case bit set, 'a' <= x <= 'z' is tested in the
 * seven low bits of each byte by carries into its eighth (Mycroft's null-byte trick, widened), and bytes >= 0x80 are
 * masked out. */
static inline const uint8_t *split_letters(const uint8_t *p, const uint8_t *end) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t ones = 0x0101010101010101u, high = 0x80 * ones;
    while (end - p >= 8) {
        uint64_t x, low;
        memcpy(&x, p, 8);
        low = (x | 0x20 * ones) & ~high;
        uint64_t letters = (low + (0x80 - 'a') * ones) & ~(low + (0x7F - 'z') * ones) & ~x & high;
        if (letters != high) {
            p += __builtin_ctzll(letters ^ high) >> 3;
            return *p < 0x80 ? p : split_run(p, end, CLASS_LETTER);
        }
        p += 8;
    }
#endif
    return split_run(p, end, CLASS_LETTER);
}

static inline const uint8_t *split_gpt2(const uint8_t *p, const uint8_t *end) {
    const uint8_t *start = p;
    if (*p == ' ' && end - p >= 2) p++;
    unsigned kind = split_byte_class[*p];
    if (kind == CLASS_LETTER) return split_letters(p, end);
    if (kind == CLASS_BEYOND_ASCII) kind = utf8_character(p, end).kind;
    if (kind == CLASS_SPACE) return split_space(start, end);
    if (*start == '\'') {
        int length = split_contraction(start, end);
        if (length) return start + length;
    }
    return split_run(p, end, (enum char_class)kind);
}

/* The end of the piece that begins at p < end. */
static inline const uint8_t *split_piece(enum split_pattern pattern, const uint8_t *p, const uint8_t *end) {
    switch (pattern) {
    case SPLIT_GPT2:
    default: return split_gpt2(p, end);
    }
}

#endif
