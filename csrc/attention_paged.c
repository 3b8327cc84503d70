/* Attention over keys and values in pages (Kwon et al. 2023), for decoding and for prefilling in chunks.
 *
 *   attention_paged   qkv (N, (H + 2G) D), k_pages (R, G, D, Z), v_pages (R, G, Z, D)     ->  y (N, H D)
 *
 * Sequence s has the rows query_offsets[s] ... query_offsets[s + 1] - 1, which are the last of its lengths[s] tokens. Its
 * token at position j lies in page page_table[s][j / Z], slot j % Z, where kv_cache_write (kv_cache.c) has put it: write
 * first, then attend, since the keys and values of these rows are read from the pages, too. Of qkv only q is read.
 *
 * A page holds the keys of a head as a product with a query reads them, and the values as a sum over tokens does: both are
 * streams. Pages are reals, bfloat16 or half precision (_bf16, _f16), which are widened as they are read.
 *
 * A row of y has the bits of attention_forward over the keys and values in the pages, whatever the chunks, the page size,
 * and the other sequences of the call. attention_forward.c states the rule, the cost and the memory, and does the work.
 * Errors: see kv_cache.c.
 */
#include "attention.h"

#define ATTENTION_PAGED(kernel, format)                                                                                \
    int64_t KERNEL_FN(kernel##_workspace)(const struct kernel##_args *args, int n_threads) {                           \
        if (!attention_heads_are_good(args->H, args->G, args->D)) return 0;                                            \
        const struct attention a = {ATTENTION_OVER_PAGES(args, format)};                                               \
        return attention_run_size(&a, n_threads);                                                                      \
    }                                                                                                                  \
    int KERNEL_FN(kernel##_check)(const struct kernel##_args *args) {                                                  \
        return attention_check(args->H, args->G, args->D, args->rotations, args->window, args->scale);                 \
    }                                                                                                                  \
    int KERNEL_FN(kernel)(const struct kernel##_args *args, const struct gollm_team *team) {                           \
        const struct attention a = {ATTENTION_OVER_PAGES(args, format), .y = args->y, .scale = (real)args->scale,      \
                                    .window = args->window};                                                           \
        const int status = attention_check_pages(&a, args->R, args->A);                                                \
        if (status == GOLLM_OK) attention_run(&a, team);                                                               \
        return status;                                                                                                 \
    }

ATTENTION_PAGED(attention_paged, REALS)
ATTENTION_PAGED(attention_paged_bf16, BF16)
ATTENTION_PAGED(attention_paged_f16, F16)
