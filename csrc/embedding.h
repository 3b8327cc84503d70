/* What embeddings over tables of any kind share. */
#ifndef GOLLM_EMBEDDING_H
#define GOLLM_EMBEDDING_H

#include "kernel.h"

static inline int all_below(const int32_t *ids, int64_t n, int64_t limit) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= limit) return 0;
    return 1;
}

/* Whether all ids of a forward kernel's arguments lie in the tables that are given. */
#define ids_are_known(args)                                                                                            \
    (all_below((args)->tokens, (args)->N, (args)->V) &&                                                                \
     (!(args)->position_table || all_below((args)->positions, (args)->N, (args)->T)))
/* Of a packed table, whose rows no axis counts: the number of rows is a scalar. */
#define check_packed_table(args)                                                                                       \
    ((args)->V < 0 || (args)->V > GOLLM_MAX_SIZE || ((args)->position_table && !(args)->positions) ? GOLLM_BAD_SHAPE   \
                                                                                                   : GOLLM_OK)

#endif
