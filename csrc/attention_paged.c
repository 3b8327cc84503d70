/* Attention over a cache of keys and values in pages (Kwon et al. 2023), for decoding and for prefilling in chunks.
 *
 *   kv_cache_write    qkv (N, (H + 2G) D)                        ->  the keys and values of its rows, in k_pages and v_pages
 *   attention_paged   qkv (N, E), k_pages, v_pages      ->  y (N, H D)
 *
 * k_pages, v_pages (R, Z, G D): R pages of Z tokens. Sequence s has the rows query_offsets[s] ... query_offsets[s + 1]
 * - 1, which are the last of its lengths[s] tokens; its token at position j lies in page page_table[s][j / Z], slot
 * j % Z. Write first, then attend: the rows' own keys and values are read from the pages. Two rows of a call must not
 * be written to one slot. With rotations, keys are turned when they are written, queries when they are read.
 *
 * A row of y has the bits of attention_forward, whatever the chunks, the page size, and the other sequences of the
 * call: attention_forward.c states the rule and does the work.
 *
 * Lengths and pages change from call to call, so each call checks all of them, on every thread, before anything is written:
 * GOLLM_BAD_INDEX for offsets that do not cut up the N rows,
 * for a length that is shorter than its rows or longer than its L pages, for a page that is not there, and
 * for a position without a rotation.
 */
#include "attention.h"

#include <string.h> /* memcpy */

struct pages {
    int64_t N, S, L, Z, R;
    const int32_t *query_offsets, *lengths, *page_table; // (S + 1), (S), (S, L)
    const real *rotations;                               // (A, D) or NULL
    int64_t A;
};

static int check_pages(const struct pages *p) {
    if (p->query_offsets[0] != 0 || p->query_offsets[p->S] != p->N) return GOLLM_BAD_INDEX;
    for (int64_t s = 0; s < p->S; s++) {
        const int64_t queries = (int64_t)p->query_offsets[s + 1] - p->query_offsets[s], length = p->lengths[s];
        if (queries < 0 || length < queries || length > times_i64(p->L, p->Z)) return GOLLM_BAD_INDEX;
        if (p->rotations && length > p->A) return GOLLM_BAD_INDEX;
        for (int64_t j = 0; j * p->Z < length; j++) {
            const int32_t page = p->page_table[s * p->L + j];
            if (page < 0 || page >= p->R) return GOLLM_BAD_INDEX;
        }
    }
    return GOLLM_OK;
}

int KERNEL_FN(kv_cache_write_check)(const struct kv_cache_write_args *a) {
    return attention_check(a->H, a->G, a->D, a->rotations, 0, 0);
}

int KERNEL_FN(kv_cache_write)(const struct kv_cache_write_args *a, const struct gollm_team *team) {
    const struct pages pages = {a->N,       a->S,          a->L,         a->Z, a->R, a->query_offsets,
                                a->lengths, a->page_table, a->rotations, a->A};
    const int status = check_pages(&pages);
    if (status != GOLLM_OK) return status;
    const int64_t W = a->G * a->D;
    const struct range rows = thread_range(a->N, 1, team);
    for (int64_t s = 0; s < a->S; s++) {
        const int64_t begin = a->query_offsets[s], end = a->query_offsets[s + 1];
        for (int64_t n = max_i64(rows.begin, begin); n < min_i64(rows.end, end); n++) {
            const int64_t position = a->lengths[s] - (end - n);
            const int64_t token = a->page_table[s * a->L + position / a->Z] * a->Z + position % a->Z;
            const real *k = a->qkv + n * qkv_width(a->H, a->G, a->D) + a->H * a->D, *v = k + W; // (W)
            real *k_slot = a->k_pages + token * W;                                              // (W)
            if (a->rotations)
                for (int64_t g = 0; g < a->G; g++)
                    rope_turn(k_slot + g * a->D, k + g * a->D, a->rotations + position * a->D, a->D);
            else
                memcpy(k_slot, k, (size_t)W * sizeof(real));
            memcpy(a->v_pages + token * W, v, (size_t)W * sizeof(real));
        }
    }
    return GOLLM_OK;
}

static struct attention attention_of(const struct attention_paged_args *a) {
    return (struct attention){.H = a->H,
                              .G = a->G,
                              .D = a->D,
                              .S = a->S,
                              .N = a->N,
                              .scale = (real)a->scale,
                              .q = a->qkv,
                              .k = a->k_pages,
                              .v = a->v_pages,
                              .q_stride = qkv_width(a->H, a->G, a->D),
                              .kv_stride = a->G * a->D,
                              .y = a->y,
                              .query_offsets = a->query_offsets,
                              .lengths = a->lengths,
                              .page_table = a->page_table,
                              .L = a->L,
                              .Z = a->Z,
                              .rotations = a->rotations,
                              .window = a->window};
}

int64_t KERNEL_FN(attention_paged_workspace)(const struct attention_paged_args *a, int n_threads) {
    if (!attention_heads_are_good(a->H, a->G, a->D)) return 0;
    const struct attention all = attention_of(a);
    return attention_run_size(&all, n_threads);
}

int KERNEL_FN(attention_paged_check)(const struct attention_paged_args *a) {
    return attention_check(a->H, a->G, a->D, a->rotations, a->window, a->scale);
}

int KERNEL_FN(attention_paged)(const struct attention_paged_args *a, const struct gollm_team *team) {
    const struct pages pages = {a->N,       a->S,          a->L,         a->Z, a->R, a->query_offsets,
                                a->lengths, a->page_table, a->rotations, a->A};
    const int status = check_pages(&pages);
    if (status != GOLLM_OK) return status;
    const struct attention all = attention_of(a);
    attention_run(&all, team);
    return GOLLM_OK;
}
