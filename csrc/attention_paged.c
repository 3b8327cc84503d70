/* Attention over keys and values in pages (Kwon et al. 2023), for decoding and for prefilling in chunks.
 *
 *   attention_paged   qkv (N, (H + 2G) D), k_pages, v_pages (R, Z, G D)     ->  y (N, H D)
 *
 * Sequence s has the rows query_offsets[s] ... query_offsets[s + 1] - 1, which are the last of its lengths[s] tokens. Its
 * token at position j lies in page page_table[s][j / Z], slot j % Z, where kv_cache_write (kv_cache.c) has put it: write
 * first, then attend, since the keys and values of these rows are read from the pages, too. Of qkv only q is read.
 *
 * A row of y has the bits of attention_forward, whatever the chunks, the page size, and the other sequences of the call.
 * attention_forward.c states the rule, the cost and the memory, and does the work. Errors: see kv_cache.c.
 */
#include "attention.h"

int64_t KERNEL_FN(attention_paged_workspace)(const struct attention_paged_args *args, int n_threads) {
    if (!attention_heads_are_good(args->H, args->G, args->D)) return 0;
    const struct attention a = {ATTENTION_OVER_PAGES(args)};
    return attention_run_size(&a, n_threads);
}

int KERNEL_FN(attention_paged_check)(const struct attention_paged_args *args) {
    return attention_check(args->H, args->G, args->D, args->rotations, args->window, args->scale);
}

int KERNEL_FN(attention_paged)(const struct attention_paged_args *args, const struct gollm_team *team) {
    const struct attention a = {ATTENTION_OVER_PAGES(args), .y = args->y, .scale = (real)args->scale,
                                .window = args->window};
    const int status = attention_check_pages(&a, args->R, args->A);
    if (status == GOLLM_OK) attention_run(&a, team);
    return status;
}
