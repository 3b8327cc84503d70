/* Text to ids: words, and the longest tokens in them. */
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free

#include "unicode.h" // utf8_continues
#include "wordpiece.h"

enum { TEXT_KEPT = 1 << 24 }; // bytes of normalised text for which memory is kept between calls

static const uint8_t CONTINUING[2] = {'#', '#'};

static int add_tokens(struct wp_model *model, const struct vocabulary *v, const uint8_t *special, char *why,
                      size_t why_size) {
    for (int32_t id = 0; id < v->n; id++) {
        if (special[id]) continue;
        int status = trie_add(&model->tokens, token_bytes(v, id), token_length(v, id), id);
        if (status == 1) snprintf(why, why_size, "token %ld is spelled like one before it", (long)id);
        if (status) return 0;
    }
    model->continuing = TRIE_ROOT;
    for (int i = 0; i < 2 && model->continuing != TRIE_NONE; i++)
        model->continuing = trie_child(&model->tokens, model->continuing, CONTINUING[i]);
    return 1;
}

struct wp_model *wp_model_new(const struct vocabulary *v, const uint8_t *special, struct wp_settings settings,
                              char *why, size_t why_size) {
    *why = 0;
    if (settings.unknown < 0 || settings.unknown >= v->n || settings.max_word < 1 || settings.max_word > WP_WORD_MAX) {
        snprintf(why, why_size, "unknown token %ld of %ld, and words of up to %zu characters; 1 to %d are allowed",
                 (long)settings.unknown, (long)v->n, settings.max_word, WP_WORD_MAX);
        return NULL;
    }
    struct wp_model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    model->settings = settings;
    if (trie_init(&model->tokens) == 0 && add_tokens(model, v, special, why, why_size)) return model;
    wp_model_free(model);
    return NULL;
}

void wp_model_free(struct wp_model *model) {
    if (!model) return;
    trie_free(&model->tokens);
    free(model);
}

struct wp_workspace *wp_workspace_new(void) {
    struct wp_workspace *work = calloc(1, sizeof *work);
    if (work && piece_cache_init(&work->cache) == 0) return work;
    free(work);
    return NULL;
}

void wp_workspace_free(struct wp_workspace *work) {
    if (!work) return;
    piece_cache_free(&work->cache);
    free(work->text);
    free(work);
}

static size_t make_word(const void *context, void *work, const uint8_t *word, size_t length, int32_t *ids) {
    const struct wp_model *model = context;
    const uint8_t *end = word + length;
    size_t n = 0, characters = 0, bytes = 0;
    int32_t node = TRIE_ROOT;
    (void)work;
    for (const uint8_t *p = word; p < end && characters <= model->settings.max_word; p++)
        characters += !utf8_continues(*p);
    if (characters > model->settings.max_word) goto unknown;
    for (const uint8_t *p = word; p < end; p += bytes) {
        int32_t id = node == TRIE_NONE ? TRIE_NONE : trie_longest(&model->tokens, node, p, end, &bytes);
        if (id == TRIE_NONE) goto unknown;
        ids[n++] = id;
        node = model->continuing;
    }
    return n;
unknown:
    ids[0] = model->settings.unknown;
    return 1;
}

int wp_encode(const struct wp_model *model, struct wp_workspace *work, const uint8_t *text, size_t length,
              struct id_buffer *out) {
    int status = wp_normalize(&model->settings, work, text, length);
    const uint8_t *end = work->text + work->n, *word;
    for (const uint8_t *p = work->text; status == 0 && p < end;) {
        p = wp_next_word(p, end, &word);
        if (word == p) break;
        size_t bytes = (size_t)(p - word);
        if ((status = id_buffer_reserve(out, bytes + CACHE_SHORT_IDS))) break;
        size_t n = cache_ids(&work->cache, word, bytes, end, out->ids + out->n, make_word, model, work);
        out->n += n;
        status = n ? 0 : -1;
    }
    if (work->capacity > TEXT_KEPT) {
        free(work->text);
        work->text = NULL;
        work->capacity = 0;
    }
    return status;
}
