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
    for (size_t i = 0; i < length; i++) out[i] = model->byte_id[piece[i]];
    return merge_ids(&model->merges, &work->scratch, out, length);
}

static size_t make_piece(const void *model, void *work, const uint8_t *piece, size_t length, int32_t *ids) {
    return bpe_merge(model, work, piece, length, ids);
}

int bpe_encode(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *text, size_t length,
               struct id_buffer *out) {
    const uint8_t *p = text, *end = text + length, *next;
    int status = 0;
    for (; p < end && status == 0; p = next) {
        next = split_piece(model->pattern, p, end);
        size_t bytes = (size_t)(next - p);
        if ((status = id_buffer_reserve(out, bytes + CACHE_SHORT_IDS))) break;
        size_t n = cache_ids(&work->cache, p, bytes, end, out->ids + out->n, make_piece, model, work);
        out->n += n;
        status = n ? 0 : -1;
    }
    merge_scratch_shrink(&work->scratch);
    return status;
}
