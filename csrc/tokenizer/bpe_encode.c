/* Text to ids: the loop over the pieces. */
#include "bpe.h"

#include <stdlib.h> // calloc, free

struct bpe_workspace *bpe_workspace_new(void) {
    struct bpe_workspace *work = calloc(1, sizeof *work);
    if (work && piece_cache_init(&work->cache) == 0) return work;
    free(work);
    return NULL;
}

void bpe_workspace_free(struct bpe_workspace *work) {
    if (!work) return;
    piece_cache_free(&work->cache);
    merge_scratch_free(&work->scratch);
    free(work);
}

size_t bpe_merge(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                 int32_t *out) {
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        out[n] = model->byte_id[piece[i]];
        n += out[n] >= 0;
    }
    if (n == 0) return 0;
    n = merge_ids(&model->merges, &work->scratch, out, n);
    if (n == 0) work->no_memory = 1;
    return n;
}

static size_t make_piece(const void *of, void *work, const uint8_t *piece, size_t length, int32_t *ids) {
    const struct bpe_model *model = of;
    if (model->rules.ignore_merges) {
        const int64_t *found = piece_map_find(&model->whole, piece, length, piece + length);
        if (found) {
            *ids = (int32_t)*found - 1;
            return 1;
        }
    }
    return bpe_merge(model, work, piece, length, ids);
}

/* Appends the ids of a piece; bytes up to `end` may be read. */
static inline int append_piece(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece,
                               size_t length, const uint8_t *end, struct id_buffer *out) {
    if (id_buffer_reserve(out, length + CACHE_SHORT_IDS)) return -1;
    size_t n = cache_ids(&work->cache, piece, length, end, out->ids + out->n, make_piece, model, work);
    out->n += n;
    return n || !work->no_memory ? 0 : -1;
}

int bpe_encode_piece(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                     struct id_buffer *out) {
    if (length == 0) return 0;
    work->no_memory = 0;
    int status = append_piece(model, work, piece, length, piece + length, out);
    merge_scratch_shrink(&work->scratch);
    return status;
}

int bpe_encode(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *text, size_t length,
               struct id_buffer *out) {
    const uint8_t *p = text, *end = text + length, *next;
    const enum split_pattern pattern = model->rules.pattern;
    int status = 0;
    work->no_memory = 0;
    for (; p < end && status == 0; p = next) {
        next = split_piece(pattern, p, end);
        status = append_piece(model, work, p, (size_t)(next - p), end, out);
    }
    merge_scratch_shrink(&work->scratch);
    return status;
}
