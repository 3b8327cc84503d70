/* Writing keys and values into the pages of a cache.
 *
 *   kv_cache_write    qkv (N, (H + 2G) D)     ->  the rows' keys and values, in k_pages (R, G, D, Z) and v_pages (R, G, Z, D)
 *
 * R pages of Z tokens, of reals, bfloat16 or half precision (_bf16, _f16), to which values are rounded (half.h). Row n of sequence s, at position j, goes to page page_table[s][j / Z], slot j % Z
 * (attention_paged.c says which rows and positions a sequence has). With rotations (A, D), keys are rotated when they are
 * written, queries when they are read. Two rows of a call must not be written to one slot. Bound by memory: N G D values
 * each of k and v are read and written, those of a key Z apart.
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

/* Rows of qkv into the pages, which are those of `a`. */
static inline __attribute__((always_inline)) int write_rows(const enum number_format format, const struct attention *a,
                                                            void *k_pages, void *v_pages,
                                                            const struct gollm_team *team) {
    const int64_t D = a->D, Z = a->Z;
    const struct range rows = thread_range(a->N, 1, team);
    for (int64_t index = 0; index < a->S; index++) {
        const struct sequence s = sequence_at(a, index);
        const int64_t begin = max_i64(rows.begin, s.first_row), end = min_i64(rows.end, s.first_row + s.queries);
        for (int64_t n = begin; n < end; n++) {
            const int64_t position = s.past + n - s.first_row, slot = position % Z;
            for (int64_t g = 0; g < a->G; g++) {
                const real *k = a->q + n * a->q_stride + (a->H + g) * D, *v = k + a->G * D; // (D) each
                const int64_t page = page_offset(a, &s, g, position);
                real rotated[MAX_HEAD_DIM];
                rope_rotate_rows(a->rotations, D, 1, &k, &position, rotated);
                for (int64_t d = 0; d < D; d++) store_as(format, k_pages, page + d * Z + slot, k[d]);
                for (int64_t d = 0; d < D; d++) store_as(format, v_pages, page + slot * D + d, v[d]);
            }
        }
    }
    return GOLLM_OK;
}

#define KV_CACHE_WRITE(kernel, format)                                                                                 \
    int KERNEL_FN(kernel##_check)(const struct kernel##_args *args) {                                                  \
        return attention_check(args->H, args->G, args->D, args->rotations, 0, 0);                                      \
    }                                                                                                                  \
    int KERNEL_FN(kernel)(const struct kernel##_args *args, const struct gollm_team *team) {                           \
        const struct attention a = {ATTENTION_OVER_PAGES(args, format)};                                               \
        const int status = attention_check_pages(&a, args->R, args->A);                                                \
        return status != GOLLM_OK ? status : write_rows(format, &a, args->k_pages, args->v_pages, team);               \
    }

KV_CACHE_WRITE(kv_cache_write, REALS)
KV_CACHE_WRITE(kv_cache_write_bf16, BF16)
KV_CACHE_WRITE(kv_cache_write_f16, F16)
