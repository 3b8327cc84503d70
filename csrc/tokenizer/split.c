/* The pre-tokenizers beyond ASCII words. */
#include "split.h"

#include <stddef.h> // NULL

enum { O = CLASS_OTHER, N = CLASS_NUMBER, S = CLASS_SPACE, R = CLASS_NEWLINE, U = CLASS_UPPER, L = CLASS_LOWER };

// clang-format off
const uint8_t split_byte_class[256] = {
    O, O, O, O, O, O, O, O, O, S, R, S, S, R, O, O,
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
};
// clang-format on

static inline struct character character(const uint8_t *p, const uint8_t *end) {
    if (*p < 0x80) return (struct character){split_byte_class[*p], 1};
    return utf8_character(p, end);
}

const uint8_t *split_run(const uint8_t *p, const uint8_t *end, unsigned set) {
    while (p < end) {
        struct character c = character(p, end);
        if (!(c.kind & set)) break;
        p += c.length;
    }
    return p;
}

int split_contraction(const uint8_t *p, const uint8_t *end, int fold) {
    if (end - p < 2) return 0;
    unsigned a = fold ? p[1] | 0x20u : p[1], b = end - p < 3 ? 0 : fold ? p[2] | 0x20u : p[2];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return 3;
    return fold && end - p >= 3 && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

/* The last character of the run of white space from p to stop goes to the next piece, unless it is the only one:
 * `\s+(?!\S)` gives it back, the `\s+` behind takes it alone. At the end of the text nothing is given back. */
static const uint8_t *give_back(const uint8_t *p, const uint8_t *stop, const uint8_t *end) {
    if (stop == end) return end;
    const uint8_t *last = stop - 1; // well-formed
    while (utf8_continues(*last)) last--;
    return last > p ? last : stop;
}

/* The space goes to the run behind it, whatever that is, except white space. */
const uint8_t *split_gpt2(const uint8_t *p, const uint8_t *end) {
    const uint8_t *start = p;
    if (*p == ' ' && end - p >= 2) p++;
    unsigned kind = character(p, end).kind;
    if (kind & SPACES) return give_back(start, split_run(p, end, SPACES), end);
    if (*start == '\'') {
        int length = split_contraction(start, end, 0);
        if (length) return start + length;
    }
    return split_run(p, end, kind & LETTERS ? LETTERS : kind & SIGNS ? SIGNS : kind);
}

/* What lies between two numbers is split as a text of its own. */
const uint8_t *split_smollm(const uint8_t *p, const uint8_t *end) {
    struct character c = character(p, end);
    if (c.kind == CLASS_NUMBER) return p + c.length;
    if (c.kind & SPACES) {
        const uint8_t *stop = split_run(p, end, SPACES);
        if (stop < end && character(stop, end).kind == CLASS_NUMBER) return stop;
    }
    return split_gpt2(p, end);
}

/* `\s*[\r\n]+|\s+(?!\S)|\s+`: the run of white space at p up to its last newline, or all of it. */
static const uint8_t *split_lines(const uint8_t *p, const uint8_t *end, int whole_at_end) {
    const uint8_t *stop = p, *line = NULL;
    while (stop < end) {
        struct character c = character(stop, end);
        if (!(c.kind & SPACES)) break;
        stop += c.length;
        if (c.kind == CLASS_NEWLINE) line = stop;
    }
    if (stop == end && whole_at_end) return end;
    return line ? line : give_back(p, stop, end);
}

static const uint8_t *split_numbers(const uint8_t *p, const uint8_t *end, int most) {
    for (; most-- && p < end; p += character(p, end).length)
        if (character(p, end).kind != CLASS_NUMBER) break;
    return p;
}

/* ` ?[^\s\p{L}\p{N}]+[\r\n]*`, or with slashes among the newlines: NULL where there are no signs. */
static const uint8_t *split_signs(const uint8_t *p, const uint8_t *end, int slashes) {
    const uint8_t *start = *p == ' ' ? p + 1 : p, *stop = split_run(start, end, SIGNS);
    if (stop == start) return NULL;
    while (stop < end && (*stop == '\r' || *stop == '\n' || (slashes && *stop == '/'))) stop++;
    return stop;
}

/* llama3 and its kin. */
static inline const uint8_t *split_kin(const uint8_t *p, const uint8_t *end, int numbers, int whole_at_end) {
    struct character c = character(p, end);
    if (c.kind & LETTERS) return split_letters(p, end, 1);
    if (c.kind == CLASS_NUMBER) return split_numbers(p, end, numbers);
    if (*p == '\'') {
        int length = split_contraction(p, end, 1);
        if (length) return p + length;
    }
    const uint8_t *next = p + c.length;
    if (c.kind != CLASS_NEWLINE && next < end && character(next, end).kind & LETTERS)
        return split_letters(next, end, 1);
    const uint8_t *signs = split_signs(p, end, 0);
    return signs ? signs : split_lines(p, end, whole_at_end);
}

const uint8_t *split_llama3(const uint8_t *p, const uint8_t *end) { return split_kin(p, end, 3, 0); }
const uint8_t *split_qwen2(const uint8_t *p, const uint8_t *end) { return split_kin(p, end, 1, 0); }
const uint8_t *split_cl100k(const uint8_t *p, const uint8_t *end) { return split_kin(p, end, 3, 1); }

/* o200k's words. With U the upper case, L the lower case, B what is in both sets (letters without case, and marks):
 *   [UB]*[LB]+   the run of U and B; then, if an L is behind it, the run of L and B; else the run is given back up to
 *                its last B, which [LB]+ needs; NULL without a B.
 * `*run` becomes the end of the run of U and B, all that [UB]+[LB]* can match where the first fails. */
static const uint8_t *split_cased(const uint8_t *p, const uint8_t *end, const uint8_t **run) {
    const uint8_t *both = NULL;
    while (p < end) {
        struct character c = character(p, end);
        if (c.kind == CLASS_LOWER) return split_letters(p, end, 0);
        if (!(c.kind & (LETTERS | CLASS_MARK))) break;
        p += c.length;
        if (c.kind != CLASS_UPPER) both = p;
    }
    *run = p;
    return both;
}

/* A sign or white space but no newline may stand before the word; a mark is such a sign too, or else the word's first
 * character. The first alternative is tried with it and without it before the second one. */
const uint8_t *split_o200k(const uint8_t *p, const uint8_t *end) {
    struct character c = character(p, end);
    const uint8_t *next = p + c.length, *run = NULL, *word = NULL;
    if (c.kind == CLASS_NUMBER) return split_numbers(p, end, 3);
    if (c.kind == CLASS_NEWLINE) return split_lines(p, end, 0);
    if (!(c.kind & LETTERS)) word = split_cased(next, end, &run);
    if (!word && c.kind & (LETTERS | CLASS_MARK)) word = split_cased(p, end, &run);
    if (!word && run > next) word = run;
    if (!word && c.kind & LETTERS) word = run;
    if (word) return word < end && *word == '\'' ? word + split_contraction(word, end, 1) : word;
    const uint8_t *signs = split_signs(p, end, 1);
    return signs ? signs : split_lines(p, end, 0);
}
