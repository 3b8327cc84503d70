/* What happens to a text before it is cut into symbols. */
#include "sentencepiece.h"

#include <stdlib.h> // realloc

#include "unicode.h" // utf8_character

static const uint8_t MARK[3] = {0xE2, 0x96, 0x81}; // U+2581

static int at_mark(const uint8_t *p, const uint8_t *end) { return end - p >= 3 && memcmp(p, MARK, 3) == 0; }

static int reserve(struct sp_workspace *work, size_t more) {
    if (work->capacity - work->n >= more) return 0;
    size_t capacity = work->capacity + work->capacity / 2 + more + 64;
    uint8_t *text = realloc(work->text, capacity);
    if (!text) return -1;
    work->text = text;
    work->capacity = capacity;
    return 0;
}

/* Appends p[0 : end - p], marks as spaces; there is room. */
static void append(struct sp_workspace *work, const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        const uint8_t *mark = memchr(p, MARK[0], (size_t)(end - p));
        size_t plain = (size_t)((mark ? mark : end) - p);
        memcpy(work->text + work->n, p, plain);
        work->n += plain;
        p += plain;
        if (!mark) break;
        int is_mark = at_mark(p, end);
        work->text[work->n++] = is_mark ? ' ' : *p;
        p += is_mark ? 3 : 1;
    }
}

/* The bytes of the user-defined piece that the text begins with, 0 for none. In the text as it came a space is no mark. */
static size_t user_defined(const struct sp_model *model, const uint8_t *p, const uint8_t *end) {
    size_t found = 0, literal = 0;
    int32_t node = TRIE_ROOT;
    if (model->literal.n > 1 && trie_longest(&model->literal, TRIE_ROOT, p, end, &literal) == TRIE_NONE) literal = 0;
    for (const uint8_t *q = p; q < end && *q != ' ';) {
        int is_mark = at_mark(q, end);
        node = trie_child(&model->user_defined, node, is_mark ? ' ' : *q);
        if (node == TRIE_NONE) break;
        q += is_mark ? 3 : 1;
        if (model->user_defined.value[node] != TRIE_NONE) found = (size_t)(q - p);
    }
    return found > literal ? found : literal;
}

static size_t character_length(const uint8_t *p, const uint8_t *end) {
    return *p < 0x80 ? 1 : (size_t)utf8_character(p, end).length;
}

/* What a text begins with that is normalised at once, `length` bytes, and what becomes of it: from[0 : to - from]. */
struct step {
    size_t length;
    const uint8_t *from, *to;
};

static struct step step_at(const struct sp_model *model, const uint8_t *p, const uint8_t *end) {
    const int pieces = model->user_defined.n > 1 || model->literal.n > 1;
    const char *replacement = NULL;
    size_t length = pieces ? user_defined(model, p, end) : 0;
    if (!length && model->charsmap.n_units) replacement = charsmap_find(&model->charsmap, p, end, &length);
    if (!length) length = character_length(p, end);
    if (!replacement) return (struct step){length, p, p + length};
    const uint8_t *from = (const uint8_t *)replacement;
    return (struct step){length, from, from + strlen(replacement)};
}

/* Character by character, where some are replaced or spaces left out. */
static int append_normalized(const struct sp_model *model, struct sp_workspace *work, const uint8_t *p,
                             const uint8_t *end) {
    const int shorten = model->settings.remove_extra_spaces;
    int after_space = shorten;
    for (size_t length; p < end; p += length) {
        const struct step step = step_at(model, p, end);
        const uint8_t *from = step.from, *to = step.to;
        length = step.length;
        while (after_space && from < to && *from == ' ') from++;
        if (from == to) continue;
        if (reserve(work, (size_t)(to - from))) return -1;
        after_space = shorten && to[-1] == ' ';
        append(work, from, to);
    }
    while (shorten && work->n && work->text[work->n - 1] == ' ') work->n--;
    return 0;
}

int sp_normalize(const struct sp_model *model, struct sp_workspace *work, const uint8_t *text, size_t length) {
    const uint8_t *end = text + length;
    work->n = 0;
    if (!length) return 0;
    if (reserve(work, length + 1)) return -1;
    const enum sp_prefix prefix = model->settings.prefix;
    int spaced = *text == ' ' || at_mark(text, end);
    if (prefix == SP_PREFIX_ALWAYS || (prefix == SP_PREFIX_MISSING && !spaced)) work->text[work->n++] = ' ';
    if (model->settings.remove_extra_spaces || model->charsmap.n_units)
        return append_normalized(model, work, text, end);
    append(work, text, end);
    return 0;
}

size_t sp_cut(const struct sp_model *model, const uint8_t *text, size_t length) {
    const uint8_t *end = text + length;
    size_t cut = 0;
    int after_space = 1; // so that something stands before a cut
    if (!model->cuts) return 0;
    for (const uint8_t *p = text; (size_t)(end - p) > model->lookahead;) {
        const struct step step = step_at(model, p, end);
        const size_t bytes = (size_t)(step.to - step.from);
        const int space = bytes == 1 && *step.from == ' ';
        if (space && !after_space && step.length == 1 && *p == ' ') cut = (size_t)(p - text);
        if (bytes) after_space = step.to[-1] == ' ' || (bytes >= 3 && at_mark(step.to - 3, step.to));
        p += step.length;
    }
    return cut;
}
