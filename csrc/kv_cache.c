/* Writing keys and values into the pages of a cache.
 *
 *   kv_cache_write    qkv (N, (H + 2G) D)     ->  the rows' keys and values, in k_pages and v_pages (R, Z, G D)
 *
 * R pages of Z tokens. Row n of sequence s, at position j, goes to page page_table[s][j / Z], slot j % Z
 * (attention_paged.c says which rows and positions a sequence has). With rotations (A, D), keys are rotated when they are
 * written, queries when they are read. Two rows of a call must not be written to one slot. Bound by memory: N G D reals
 * each of k and v are read and written.
 *
 * Lengths and pages change from call to call, so each call checks all of them, on every thread, before anything is
 * written. GOLLM_BAD_INDEX: query_offsets do not cut up the N rows; a
 * length is shorter than its rows or longer than its L pages; a page is not among the R; a position has no rotation.
 */
#include "attention.h"

int attention_check_pages(const struct attention *a, int64_t R, int64_t A) {
    if (a->query_offsets[0] != 0 || a->query_offsets[a->S] != a->N) return GOLLM_BAD_INDEX;
    for (int64_t s = 0; s < a->S; s++) {
        const int64_t queries = (int64_t)a->query_offsets[s + 1] - a->query_offsets[s], length = a->lengths[s];
        if (queries < 0 || length < queries || length > a->T) return GOLLM_BAD_INDEX;
        if (a->rotations && length > A) return GOLLM_BAD_INDEX;
        for (int64_t j = 0; j * a->Z < length; j++) {
            const int32_t page = a->page_table[s * a->L + j];
            if (page < 0 || page >= R) return GOLLM_BAD_INDEX;
        }
    }
    return GOLLM_OK;
}

int KERNEL_FN(kv_cache_write_check)(const struct kv_cache_write_args *args) {
    return attention_check(args->H, args->G, args->D, args->rotations, 0, 0);
}

int KERNEL_FN(kv_cache_write)(const struct kv_cache_write_args *args, const struct gollm_team *team) {
    const struct attention a = {ATTENTION_OVER_PAGES(args)};
    const int status = attention_check_pages(&a, args->R, args->A);
    if (status != GOLLM_OK) return status;
    const int64_t D = a.D, width = a.G * D;
    const struct range rows = thread_range(a.N, 1, team);
    for (int64_t index = 0; index < a.S; index++) {
        const struct sequence s = sequence_at(&a, index);
        const int64_t begin = max_i64(rows.begin, s.first_row), end = min_i64(rows.end, s.first_row + s.queries);
        for (int64_t n = begin; n < end; n++) {
            const int64_t position = s.past + n - s.first_row, slot = key_offset(&a, &s, 0, position);
            const real *k = args->qkv + n * a.q_stride + a.H * D; // (G D), then v (G D)
            memcpy(args->k_pages + slot, k, (size_t)width * sizeof(real));
            memcpy(args->v_pages + slot, k + width, (size_t)width * sizeof(real));
            for (int64_t g = 0; g < a.G && a.rotations; g++)
                rope_rotate(args->k_pages + slot + g * D, k + g * D, a.rotations + position * D, D);
        }
    }
    return GOLLM_OK;
}
