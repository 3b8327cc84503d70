/* Text to ids: words, symbols, merging. */
#include "sentencepiece.h"

#include <stdlib.h> // calloc, free

#include "unicode.h" // utf8_character

enum { TEXT_KEPT = 1 << 24 }; // bytes of normalised text for which memory is kept between calls

struct sp_workspace *sp_workspace_new(void) {
    struct sp_workspace *work = calloc(1, sizeof *work);
    if (work && piece_cache_init(&work->cache) == 0) return work;
    free(work);
    return NULL;
}

void sp_workspace_free(struct sp_workspace *work) {
    if (!work) return;
    piece_cache_free(&work->cache);
    merge_scratch_free(&work->scratch);
    free(work->text);
    free(work);
}

static int32_t character_id(const struct sp_model *model, const uint8_t *p, size_t length, const uint8_t *end) {
    if (*p < 0x80) return model->ascii_id[*p];
    const int64_t *found = piece_map_find(&model->characters, p, length, end);
    return found ? (int32_t)*found - 1 : -1;
}

/* Merges ids[run : *n]. Returns 0, or -1 without memory. */
static int merge_run(const struct sp_model *model, struct sp_workspace *work, int32_t *ids, size_t run, size_t *n) {
    if (*n == run) return 0;
    size_t left = merge_ids(&model->merges, &work->scratch, ids + run, *n - run);
    *n = run + left;
    return left ? 0 : -1;
}

/* What nothing merges with stands between the runs that are merged: user-defined pieces, bytes, unknown tokens. */
static size_t make_word(const void *context, void *work, const uint8_t *word, size_t length, int32_t *ids) {
    const struct sp_model *model = context;
    const uint8_t *end = word + length;
    size_t n = 0, run = 0, bytes;
    for (const uint8_t *p = word; p < end; p += bytes) {
        int32_t user =
            model->user_defined.n > 1 ? trie_longest(&model->user_defined, TRIE_ROOT, p, end, &bytes) : TRIE_NONE;
        if (user == TRIE_NONE) {
            bytes = *p < 0x80 ? 1 : (size_t)utf8_character(p, end).length;
            int32_t id = character_id(model, p, bytes, end);
            if (id >= 0) {
                ids[n++] = id;
                continue;
            }
        }
        if (merge_run(model, work, ids, run, &n)) return 0;
        if (user != TRIE_NONE)
            ids[n++] = user;
        else if (model->byte_id[0] >= 0)
            for (size_t i = 0; i < bytes; i++) ids[n++] = model->byte_id[p[i]];
        else if (!n || !model->settings.fuse_unknown || ids[n - 1] != model->unknown)
            ids[n++] = model->unknown;
        run = n;
    }
    return merge_run(model, work, ids, run, &n) ? 0 : n;
}

/* The end of the word that begins at p < end: spaces, then other characters. */
static const uint8_t *word_end(const struct sp_model *model, const uint8_t *p, const uint8_t *end) {
    if (!model->cuts) return end;
    if (model->settings.split_spaces)
        p++;
    else
        while (p < end && *p == ' ') p++;
    while (p < end && *p != ' ') p++;
    return p;
}

int sp_encode(const struct sp_model *model, struct sp_workspace *work, const uint8_t *text, size_t length,
              struct id_buffer *out) {
    int status = sp_normalize(model, work, text, length);
    const uint8_t *p = work->text, *end = p + work->n, *next;
    for (; status == 0 && p < end; p = next) {
        next = word_end(model, p, end);
        size_t bytes = (size_t)(next - p);
        if ((status = id_buffer_reserve(out, bytes + CACHE_SHORT_IDS))) break;
        size_t n = cache_ids(&work->cache, p, bytes, end, out->ids + out->n, make_word, model, work);
        out->n += n;
        status = n ? 0 : -1;
    }
    merge_scratch_shrink(&work->scratch);
    if (work->capacity > TEXT_KEPT) {
        free(work->text);
        work->text = NULL;
        work->capacity = 0;
    }
    return status;
}
