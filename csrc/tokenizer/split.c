/* The parts of the pre-tokenizer that are not on the path of ASCII words. */
#include "split.h"

enum { O = CLASS_OTHER, L = CLASS_LETTER, N = CLASS_NUMBER, S = CLASS_SPACE, U = CLASS_BEYOND_ASCII };

// clang-format off
const uint8_t split_byte_class[256] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, // white space: tab to carriage return
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
};
// clang-format on

const uint8_t *split_run(const uint8_t *p, const uint8_t *end, enum char_class kind) {
    while (p < end) {
        unsigned here = split_byte_class[*p];
        int length = 1;
        if (here == CLASS_BEYOND_ASCII) {
            struct character c = utf8_character(p, end);
            here = c.kind;
            length = c.length;
        }
        if (here != kind) break;
        p += length;
    }
    return p;
}

const uint8_t *split_space(const uint8_t *p, const uint8_t *end) {
    const uint8_t *stop = split_run(p, end, CLASS_SPACE);
    if (stop == end) return end;
    const uint8_t *last = stop - 1; // the run's last character, which is well-formed
    while (utf8_continues(*last)) last--;
    return last > p ? last : stop;
}
