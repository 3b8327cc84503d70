/* Carving a kernel's workspace into pieces.
 *
 *     struct carve at = {team->workspace, 0};
 *     real *p = carve(&at, rows * ROW, sizeof *p);
 *
 * Each piece is aligned to a cache line. A kernel's workspace function runs the same code on {NULL, 0}: the pieces are then
 * NULL, and at.used is the size, INT64_MAX where it overflows.
 */
#ifndef GOLLM_WORKSPACE_H
#define GOLLM_WORKSPACE_H

#include "kernel.h" /* plus_i64, times_i64 */

struct carve {
    char *base;
    int64_t used; // bytes
};

static inline void *carve(struct carve *at, int64_t count, size_t size) {
    enum { CACHE_LINE = 64 };
    void *piece = at->base ? at->base + at->used : NULL;
    const int64_t end = plus_i64(at->used, times_i64(count, (int64_t)size));
    at->used = end > INT64_MAX - CACHE_LINE ? INT64_MAX : round_up(end, CACHE_LINE);
    return piece;
}

#endif
