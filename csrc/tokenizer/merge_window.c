/* Merging a very long sequence in windows, for a table in which every merge comes after all that make its parts.
 *
 * Then a merge brings forth only pairs that come later: merging goes through the priorities in ascending order, as
 * through time, and an id exists from the priority of the merge that made it to that of the merge that takes it. Put a
 * wall between two neighbours and merge both sides alone. If no id that the left side ever had at the wall could have
 * merged with one that the right side had there at the same time, the wall has changed nothing, and so for any number
 * of walls at once. What stood at a wall is found by merging the two tokens beside it once more: inside of a token
 * merging goes as it does among its neighbours.
 *
 * So: merge a window that reaches somewhat beyond what is wanted, choose a wall between two tokens near its end, and go
 * on from there. Where no wall holds, as in a run of equal ids, the window doubles. A wall is checked once more with
 * what follows it up to the next one, since the window that it was chosen in did not go as far.
 */
#include "merge.h"

#include <string.h> // memcpy, memmove

#ifndef MERGE_WINDOW // the fuzz program takes small ones, whose walls often do not hold
#define MERGE_WINDOW 2048
#endif

enum { WINDOW = MERGE_WINDOW, BEYOND = WINDOW / 16, WINDOW_MAX = 16 * WINDOW, HISTORY = MERGE_SCAN_MAX };

/* What stood at one side of a wall, and from when to when. */
struct stay {
    int32_t id;
    uint32_t from, to;
};

struct history {
    struct stay stay[HISTORY];
    size_t n;
};

/* What was the last (or the first) id of id[0 : n] while these became one token; no stay at all if n is too large. */
static void recall(const struct merge_table *table, const int32_t *id, size_t n, int last, struct history *history) {
    int32_t now[MERGE_SCAN_MAX];
    history->n = 0;
    if (n > MERGE_SCAN_MAX) return;
    memcpy(now, id, n * sizeof *id);
    history->stay[history->n++] = (struct stay){now[last ? n - 1 : 0], 0, UINT32_MAX};
    while (n > 1) {
        uint32_t lowest = UINT32_MAX, merge = NO_MERGE;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t found = merge_find(table, now[i], now[i + 1]);
            if (found == NO_MERGE || merge_priority(table, found) >= lowest) continue;
            lowest = merge_priority(table, found);
            merge = found;
            at = i;
        }
        if (merge == NO_MERGE) break;
        now[at] = table->result[merge];
        memmove(now + at + 1, now + at + 2, (n - at - 2) * sizeof *now);
        n--;
        if (at != (last ? n - 1 : 0)) continue;
        history->stay[history->n - 1].to = lowest;
        history->stay[history->n++] = (struct stay){now[at], lowest, UINT32_MAX};
    }
}

static int wall_holds(const struct merge_table *table, const struct history *left, const struct history *right) {
    if (!left->n || !right->n) return 0;
    for (size_t i = 0; i < left->n; i++)
        for (size_t j = 0; j < right->n; j++) {
            const struct stay *a = &left->stay[i], *b = &right->stay[j];
            uint32_t merge = merge_find(table, a->id, b->id);
            if (merge == NO_MERGE) continue;
            uint32_t priority = merge_priority(table, merge);
            if (priority >= a->from && priority >= b->from && priority <= a->to && priority <= b->to) return 0;
        }
    return 1;
}

/* The number of tokens in front of a wall that holds, the last one with at most `wanted` ids before it; 0 for none. */
static size_t choose_wall(const struct merge_table *table, const int32_t *id, size_t length, const uint32_t *at,
                          size_t n, size_t wanted, struct history *before) {
    struct history behind;
    for (size_t k = n - 1; k > 0 && at[k] > wanted / 2; k--) {
        if (at[k] > wanted) continue;
        size_t end = k + 1 < n ? at[k + 1] : length;
        recall(table, id + at[k - 1], at[k] - at[k - 1], 1, before);
        recall(table, id + at[k], end - at[k], 0, &behind);
        if (wall_holds(table, before, &behind)) return k;
    }
    return 0;
}

size_t merge_by_windows(const struct merge_table *table, struct merge_scratch *scratch, int32_t *id, size_t n) {
    const size_t most = WINDOW_MAX + BEYOND;
    if (n < 4 * WINDOW) return 0;
    if (merge_scratch_reserve(scratch, merge_heap_bytes(most) + (2 * most + n) * sizeof *id)) return 0;
    int32_t *now = (int32_t *)((char *)scratch->memory + merge_heap_bytes(most)), *out = now + 2 * most;
    uint32_t *at = (uint32_t *)(now + most);
    struct history before = {.n = 0}, next_before, behind;
    size_t start = 0, window = WINDOW, n_out = 0;
    for (;;) {
        size_t length = n - start <= window + BEYOND ? n - start : window + BEYOND;
        memcpy(now, id + start, length * sizeof *id);
        size_t made = merge_by_heap(table, scratch->memory, now, (uint32_t)length, at), taken = made;
        if (start + length < n) {
            taken = choose_wall(table, id + start, length, at, made, window, &next_before);
            if (!taken && window == WINDOW_MAX) return 0;
            if (!taken) {
                window *= 2;
                continue;
            }
        }
        recall(table, id + start, made > 1 ? at[1] : length, 0, &behind);
        if (start && !wall_holds(table, &before, &behind)) return 0;
        memcpy(out + n_out, now, taken * sizeof *id);
        n_out += taken;
        if (taken == made) break;
        start += at[taken];
        before = next_before;
        window = WINDOW;
    }
    memcpy(id, out, n_out * sizeof *id);
    return n_out;
}
