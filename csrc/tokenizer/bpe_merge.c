/* Merging one piece, forward only: what the caches of bpe_encode.c do not hold. */
#include "bpe.h"

#include <stdlib.h> // malloc, free

/* Up to here an array of ranks is scanned for every merge, O(n^2) with a small constant; beyond, a heap. */
enum { SCAN_MAX = 48 };

static size_t merge_by_scan(const struct bpe_model *model, const uint8_t *piece, size_t length, int32_t *id) {
    uint32_t rank[SCAN_MAX]; // of the pair that begins at i; behind the last pair: BPE_NO_RANK
    size_t n = length;
    for (size_t i = 0; i < n; i++) id[i] = model->byte_id[piece[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = bpe_rank(model, id[i], id[i + 1]);
    rank[n - 1] = BPE_NO_RANK;
    for (;;) {
        uint32_t lowest = BPE_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (rank[i] < lowest) {
                lowest = rank[i];
                at = i;
            }
        if (lowest == BPE_NO_RANK) return n;
        n--;
        id[at] = model->result[lowest];
        for (size_t i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
        }
        rank[at] = at + 1 < n ? bpe_rank(model, id[at], id[at + 1]) : BPE_NO_RANK;
        if (at > 0) rank[at - 1] = bpe_rank(model, id[at - 1], id[at]);
    }
}

/* A doubly linked list of tokens, and a heap of the pairs that may merge. A heap entry is rank:32 position:32, so that
 * the smallest is the earliest merge at the leftmost place. It is out of date when the rank at its position has
 * changed; then it is dropped. At most one entry per position at first and two more per merge: never more than 2n at a
 * time. */
struct node {
    int32_t id;
    uint32_t
        rank; // of the pair that begins here; BPE_NO_RANK also once the node has been merged into its left neighbour
    uint32_t left, right;
};

static const uint32_t NOWHERE = UINT32_MAX;

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t entry = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= entry) break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static void push(uint64_t *heap, size_t *n, uint64_t entry) {
    size_t i = (*n)++;
    for (size_t parent; i > 0 && heap[parent = (i - 1) / 2] > entry; i = parent) heap[i] = heap[parent];
    heap[i] = entry;
}

static void rank_pair(const struct bpe_model *model, struct node *node, uint32_t at, uint64_t *heap, size_t *n_heap) {
    uint32_t right = node[at].right;
    node[at].rank = right == NOWHERE ? BPE_NO_RANK : bpe_rank(model, node[at].id, node[right].id);
    if (node[at].rank != BPE_NO_RANK) push(heap, n_heap, (uint64_t)node[at].rank << 32 | at);
}

static size_t merge_by_heap(const struct bpe_model *model, struct node *node, uint64_t *heap, const uint8_t *piece,
                            uint32_t n, int32_t *out) {
    size_t n_heap = 0, n_ids = 0;
    for (uint32_t i = 0; i < n; i++)
        node[i] =
            (struct node){model->byte_id[piece[i]], BPE_NO_RANK, i ? i - 1 : NOWHERE, i + 1 < n ? i + 1 : NOWHERE};
    for (uint32_t i = 0; i + 1 < n; i++) {
        node[i].rank = bpe_rank(model, node[i].id, node[i + 1].id);
        if (node[i].rank != BPE_NO_RANK) heap[n_heap++] = (uint64_t)node[i].rank << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, n_heap, i);
    while (n_heap) {
        uint32_t at = (uint32_t)heap[0], rank = (uint32_t)(heap[0] >> 32);
        heap[0] = heap[--n_heap];
        if (n_heap) sift_down(heap, n_heap, 0);
        if (node[at].rank != rank) continue;
        uint32_t gone = node[at].right, right = node[gone].right;
        node[at].id = model->result[rank];
        node[at].right = right;
        node[gone].rank = BPE_NO_RANK;
        if (right != NOWHERE) node[right].left = at;
        rank_pair(model, node, at, heap, &n_heap);
        if (node[at].left != NOWHERE) rank_pair(model, node, node[at].left, heap, &n_heap);
    }
    for (uint32_t i = 0; i != NOWHERE; i = node[i].right) out[n_ids++] = node[i].id;
    return n_ids;
}

size_t bpe_merge(const struct bpe_model *model, struct bpe_workspace *work, const uint8_t *piece, size_t length,
                 int32_t *out) {
    if (length <= SCAN_MAX) return merge_by_scan(model, piece, length, out);
    if (length >= NOWHERE) return 0;
    size_t needed = length * (sizeof(struct node) + 2 * sizeof(uint64_t));
    if (needed > work->scratch_size) {
        free(work->scratch);
        work->scratch = malloc(needed);
        work->scratch_size = work->scratch ? needed : 0;
        if (!work->scratch) return 0;
    }
    uint64_t *heap = work->scratch;
    return merge_by_heap(model, (struct node *)(heap + 2 * length), heap, piece, (uint32_t)length, out);
}
