/* BERT's normalisation; words come out with spaces between them. */
#include <stdlib.h> // realloc

#include "bert_characters.h"
#include "unicode.h" // utf8_character
#include "wordpiece.h"

enum {
    CHARACTER_MAX = 64
}; // bytes that one character becomes: 3 for its decomposition, 3 of each in lower case, spaces

static int reserve(struct wp_workspace *work) {
    if (work->capacity - work->n >= CHARACTER_MAX) return 0;
    size_t capacity = work->capacity + work->capacity / 2 + 4096;
    uint8_t *text = realloc(work->text, capacity);
    if (!text) return -1;
    work->text = text;
    work->capacity = capacity;
    return 0;
}

static uint32_t decode(const uint8_t *p, int length) {
    switch (length) {
    case 2: return (p[0] & 31u) << 6 | (p[1] & 63u);
    case 3: return (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
    default: return (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
    }
}

static void put(struct wp_workspace *work, uint32_t c) {
    uint8_t *to = work->text + work->n;
    if (c < 0x80) {
        to[0] = (uint8_t)c;
        work->n += 1;
    } else if (c < 0x800) {
        to[0] = (uint8_t)(0xC0 | c >> 6);
        to[1] = (uint8_t)(0x80 | (c & 63));
        work->n += 2;
    } else if (c < 0x10000) {
        to[0] = (uint8_t)(0xE0 | c >> 12);
        to[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        to[2] = (uint8_t)(0x80 | (c & 63));
        work->n += 3;
    } else {
        to[0] = (uint8_t)(0xF0 | c >> 18);
        to[1] = (uint8_t)(0x80 | (c >> 12 & 63));
        to[2] = (uint8_t)(0x80 | (c >> 6 & 63));
        to[3] = (uint8_t)(0x80 | (c & 63));
        work->n += 4;
    }
}

/* A character of the result: white space as a space, punctuation as a word, where they are asked for. */
static void put_word_part(const struct wp_settings *settings, struct wp_workspace *work, uint32_t c) {
    enum bert_class kind = bert_class(c);
    if (kind == BERT_SPACE && (settings->words || settings->clean_text)) c = ' ';
    int alone = kind == BERT_PUNCTUATION && settings->words;
    if (alone) put(work, ' ');
    put(work, c);
    if (alone) put(work, ' ');
}

static void put_lower(const struct wp_settings *settings, struct wp_workspace *work, uint32_t c) {
    const uint32_t *lower = settings->lowercase ? bert_replaced(bert_lowered, bert_lowered_n, c) : NULL;
    if (!lower) {
        put_word_part(settings, work, c);
        return;
    }
    for (int i = 0; i < 3 && lower[i]; i++) put_word_part(settings, work, lower[i]);
}

static void put_stripped(const struct wp_settings *settings, struct wp_workspace *work, uint32_t c) {
    if (c >= 0xAC00 && c < 0xD7A4) { // Hangul, The Unicode Standard 3.12: 19 x 21 x 28 syllables
        uint32_t s = c - 0xAC00;
        put(work, 0x1100 + s / 588);
        put(work, 0x1161 + s % 588 / 28);
        if (s % 28) put(work, 0x11A7 + s % 28);
        return;
    }
    const uint32_t *stripped = bert_replaced(bert_stripped, bert_stripped_n, c);
    if (!stripped) {
        put_lower(settings, work, c);
        return;
    }
    for (int i = 0; i < 3 && stripped[i]; i++) put_lower(settings, work, stripped[i]);
}

static void put_ascii(const struct wp_settings *settings, struct wp_workspace *work, uint8_t c) {
    enum bert_class kind = bert_class(c);
    if (settings->clean_text && (kind == BERT_REMOVED || c == 0x0B || c == 0x0C)) return;
    put_word_part(settings, work, settings->lowercase && c >= 'A' && c <= 'Z' ? c + 32u : c);
}

int wp_normalize(const struct wp_settings *settings, struct wp_workspace *work, const uint8_t *text, size_t length) {
    const uint8_t *end = text + length;
    work->n = 0;
    for (const uint8_t *p = text; p < end;) {
        if (reserve(work)) return -1;
        if (*p < 0x80) {
            put_ascii(settings, work, *p++);
            continue;
        }
        int bytes = utf8_character(p, end).length;
        if (bytes == 1) { // not UTF-8: kept
            work->text[work->n++] = *p++;
            continue;
        }
        uint32_t c = decode(p, bytes);
        p += bytes;
        if (settings->clean_text && (bert_class(c) == BERT_REMOVED || c == 0x85)) continue;
        int chinese = settings->space_chinese && bert_is_chinese(c);
        if (chinese) put(work, ' ');
        if (settings->strip_accents)
            put_stripped(settings, work, c);
        else
            put_lower(settings, work, c);
        if (chinese) put(work, ' ');
    }
    return 0;
}
