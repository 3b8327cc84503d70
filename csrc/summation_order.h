/* The numbers that decide in which order kernels add: to change one is to change the bits of results. Numbers that are
 * only tuning stand at the top of the file that uses them.
 *
 * The rule: within a variant and a dtype, results do not depend on the number of threads, on the batch, on chunks, nor on
 * a cached prefix. So every sum is cut into blocks at places that depend on its own length alone, and blocks are added in
 * ascending order, whoever computes them.
 *
 * Sums along a row are taken in VL lanes (norms, softmax) or 2 VL (attention's weights: a panel of NR keys at a time), and
 * the lanes pairwise (vec_sum): their bits also depend on the variant.
 */
#ifndef GOLLM_SUMMATION_ORDER_H
#define GOLLM_SUMMATION_ORDER_H

enum {
    /* Products: an element of c is the sum of blocks of KC steps of k, each block one chain of multiply-adds from 0. */
    KC = 256,

    /* Attention, forward: a score is one chain over the head's values. Keys are taken in blocks of KEY_BLOCK, the first at
     * position 0; p v of a block is one chain. */
    MAX_HEAD_DIM = 256,
    KEY_BLOCK = 256,

    /* Attention, backward: dq adds blocks of KEYS keys, dk and dv add blocks of QUERIES queries, each block one chain. */
    KEYS = 192,
    QUERIES = 96,

    /* Gradients of norms' weights, and the gradient's norm: the rows are cut into this many parts, summed one by one. */
    ROW_BLOCKS = 64,

    /* The gradient's norm: partial sums of a part. Dropout and stochastic rounding: counters of the random generator that
     * decide over neighbouring elements. The same in all variants, whose results are therefore equal. */
    LANES = 16
};

_Static_assert(MAX_HEAD_DIM <= KC && KEY_BLOCK <= KC && KEYS <= KC && QUERIES <= KC, "a chain is at most KC steps");
_Static_assert(KEYS % QUERIES == 0, "the first query that sees a block of keys begins a block of queries");

#endif
