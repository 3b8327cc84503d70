/* Classes of characters, and UTF-8.
 *
 * The pre-tokenizers' patterns ask of a character to which of these it belongs: letters (\p{L}) with upper case (\p{Lu},
 * \p{Lt}), lower case (\p{Ll}) or no case (\p{Lm}, \p{Lo}), marks (\p{M}), numbers (\p{N}), white space (\s, the 25 code
 * points with the property White_Space), of which the newlines are \r and \n, and the rest. A class is one bit, so that
 * a set of classes is a number and a test is an AND. Two levels of tables: a block number for every 256 code points,
 * then 4 bits, the class's bit number, for each code point of the block. They are Unicode 16.0's
 * (tools/unicode_classes.py).
 */
#ifndef GOLLM_TOKENIZER_UNICODE_H
#define GOLLM_TOKENIZER_UNICODE_H

#include <stdint.h> // uint8_t, uint32_t

enum char_class {
    CLASS_OTHER = 1,
    CLASS_MARK = 2,
    CLASS_NUMBER = 4,
    CLASS_SPACE = 8,
    CLASS_NEWLINE = 16,
    CLASS_UPPER = 32,
    CLASS_LOWER = 64,
    CLASS_CASELESS = 128,
};

/* \p{L}; \s; [^\s\p{L}\p{N}] */
enum {
    LETTERS = CLASS_UPPER | CLASS_LOWER | CLASS_CASELESS,
    SPACES = CLASS_SPACE | CLASS_NEWLINE,
    SIGNS = CLASS_OTHER | CLASS_MARK,
};

extern const uint8_t unicode_block[0x1100];
extern const uint8_t unicode_classes[][128];

static inline unsigned unicode_class(uint32_t code_point) {
    unsigned two = unicode_classes[unicode_block[code_point >> 8]][(code_point & 255) >> 1];
    return 1u << (two >> 4 * (code_point & 1) & 15);
}

/* One character of UTF-8. A byte that begins no well-formed character (overlong forms, surrogates and code points
 * beyond U+10FFFF included) stands for itself: length 1, class other. So every input is split, and no byte is lost. */
struct character {
    unsigned kind; // enum char_class
    int length;    // bytes, 1 to 4
};

static inline int utf8_continues(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* The character at p; p < end, and *p >= 0x80 (ASCII has a faster way in split.h). */
static inline struct character utf8_character(const uint8_t *p, const uint8_t *end) {
    uint32_t lead = p[0], c;
    if (lead >= 0xC2 && lead < 0xE0) {
        if (end - p >= 2 && utf8_continues(p[1]))
            return (struct character){unicode_class((lead & 31) << 6 | (p[1] & 63u)), 2};
    } else if (lead >= 0xE0 && lead < 0xF0) {
        if (end - p >= 3 && utf8_continues(p[1]) && utf8_continues(p[2])) {
            c = (lead & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
            if (c >= 0x800 && (c < 0xD800 || c >= 0xE000)) return (struct character){unicode_class(c), 3};
        }
    } else if (lead >= 0xF0 && lead < 0xF5) {
        if (end - p >= 4 && utf8_continues(p[1]) && utf8_continues(p[2]) && utf8_continues(p[3])) {
            c = (lead & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
            if (c >= 0x10000 && c < 0x110000) return (struct character){unicode_class(c), 4};
        }
    }
    return (struct character){CLASS_OTHER, 1};
}

#endif
