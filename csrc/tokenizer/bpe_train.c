#include "bpe_train.h"

#include <stdlib.h> // calloc, malloc, realloc, free

static const int32_t MERGED = -1;

int count_pieces(struct piece_map *counts, enum split_pattern pattern, const uint8_t *text, size_t length) {
    const uint8_t *end = text + length, *next;
    for (const uint8_t *p = text; p < end; p = next) {
        next = split_piece(pattern, p, end);
        int64_t *count = piece_map_at(counts, p, (size_t)(next - p), end);
        if (!count) return -1;
        ++*count;
    }
    return 0;
}

static int printable(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD); }

/* GPT-2's alphabet: the printable bytes in order, then the others. */
static void fill_alphabet(uint8_t byte_of[256], int32_t index_of[256]) {
    int32_t n = 0;
    for (int wanted = 1; wanted >= 0; wanted--)
        for (int byte = 0; byte < 256; byte++)
            if (printable(byte) == wanted) {
                byte_of[n] = (uint8_t)byte;
                index_of[byte] = n++;
            }
}

/* Lays the words of two bytes and more one behind the other, and registers their pairs. */
static int lay_words(struct bpe_trainer *t, const struct piece_map *counts) {
    uint8_t buffer[PIECE_SHORT];
    int32_t index[256];
    size_t length, at = 0, n_words = 0;
    fill_alphabet(t->byte_of, index);
    for (size_t s = 0; s < counts->capacity; s++) {
        if (!counts->slots[s].key.hi) continue;
        const uint8_t *bytes = piece_slot_bytes(counts, &counts->slots[s], buffer, &length);
        if (length < 2) continue;
        for (size_t i = 0; i < length; i++, at++) {
            t->symbol[at] = index[bytes[i]];
            t->word[at] = (uint32_t)n_words;
            t->left[at] = i ? (uint32_t)at - 1 : PAIR_NOWHERE;
            t->right[at] = i + 1 < length ? (uint32_t)at + 1 : PAIR_NOWHERE;
        }
        t->count[n_words++] = counts->slots[s].value;
    }
    for (at = 0; at < t->n_symbols; at++) {
        if (t->right[at] == PAIR_NOWHERE) continue;
        struct pair *pair = pair_at(&t->pairs, pair_key(t->symbol[at], t->symbol[at + 1]));
        if (!pair || pair_add_place(&t->pairs, pair, (uint32_t)at)) return -1;
        pair->count += t->count[t->word[at]];
    }
    return pair_push_all(&t->pairs);
}

struct bpe_trainer *bpe_trainer_new(const struct piece_map *counts) {
    uint8_t buffer[PIECE_SHORT];
    size_t length, n_symbols = 0, n_words = 0;
    for (size_t s = 0; s < counts->capacity; s++)
        if (counts->slots[s].key.hi) {
            piece_slot_bytes(counts, &counts->slots[s], buffer, &length);
            n_symbols += length < 2 ? 0 : length;
            n_words += length >= 2;
        }
    if (n_symbols >= PAIR_NOWHERE) return NULL;
    struct bpe_trainer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->n_symbols = n_symbols;
    t->n_tokens = 256;
    t->symbol = malloc((n_symbols + 1) * sizeof *t->symbol);
    t->left = malloc((n_symbols + 1) * sizeof *t->left);
    t->right = malloc((n_symbols + 1) * sizeof *t->right);
    t->word = malloc((n_symbols + 1) * sizeof *t->word);
    t->count = malloc((n_words + 1) * sizeof *t->count);
    t->offsets = calloc(1, sizeof *t->offsets);
    if (t->symbol && t->left && t->right && t->word && t->count && t->offsets && piece_map_init(&t->ids) == 0 &&
        pair_table_init(&t->pairs) == 0 && lay_words(t, counts) == 0)
        return t;
    bpe_trainer_free(t);
    return NULL;
}

void bpe_trainer_free(struct bpe_trainer *t) {
    if (!t) return;
    free(t->symbol);
    free(t->left);
    free(t->right);
    free(t->word);
    free(t->count);
    free(t->bytes);
    free(t->offsets);
    free(t->merges);
    free(t->changed);
    piece_map_free(&t->ids);
    pair_table_free(&t->pairs);
    free(t);
}

/* The length of a token; its bytes go to `out` unless that is NULL. */
static size_t spell(const struct bpe_trainer *t, int32_t id, uint8_t *out) {
    if (id < 256) {
        if (out) *out = t->byte_of[id];
        return 1;
    }
    const int32_t *offset = t->offsets + (id - 256);
    if (out) memcpy(out, t->bytes + offset[0], (size_t)(offset[1] - offset[0]));
    return (size_t)(offset[1] - offset[0]);
}

static int reserve(struct bpe_trainer *t, size_t token_bytes) {
    size_t n = (size_t)t->n_tokens - 256, used = (size_t)t->offsets[n];
    if (used + token_bytes > INT32_MAX) return -1;
    if (used + token_bytes > t->bytes_capacity) {
        size_t capacity = 2 * (used + token_bytes) + 4096;
        uint8_t *bytes = realloc(t->bytes, capacity);
        if (!bytes) return -1;
        t->bytes = bytes;
        t->bytes_capacity = capacity;
    }
    if (n + 2 > (size_t)t->tokens_capacity) {
        int32_t capacity = 2 * t->tokens_capacity + 256;
        int32_t *offsets = realloc(t->offsets, (size_t)capacity * sizeof *offsets);
        if (!offsets) return -1;
        t->offsets = offsets;
        t->tokens_capacity = capacity;
    }
    if (t->n_merges == t->merges_capacity) {
        size_t capacity = 2 * t->merges_capacity + 256;
        int32_t *merges = realloc(t->merges, capacity * 3 * sizeof *merges);
        if (!merges) return -1;
        t->merges = merges;
        t->merges_capacity = capacity;
    }
    return 0;
}

/* The id of left and right joined: a new token unless another merge has spelled it before. -1 without memory. */
static int32_t token_of(struct bpe_trainer *t, int32_t left, int32_t right, size_t length) {
    if (reserve(t, length)) return -1;
    uint8_t *bytes = t->bytes + t->offsets[t->n_tokens - 256];
    spell(t, right, bytes + spell(t, left, bytes));
    int64_t *id = piece_map_at(&t->ids, bytes, length, bytes + length);
    if (!id) return -1;
    if (*id == 0) {
        *id = t->n_tokens++;
        t->offsets[t->n_tokens - 256] = t->offsets[t->n_tokens - 257] + (int32_t)length;
    }
    return (int32_t)*id;
}

/* The pair (left, right) has come into being at `at`, or vanished there. */
static int appear(struct bpe_trainer *t, int32_t left, int32_t right, uint32_t at, int64_t count) {
    struct pair *pair = pair_at(&t->pairs, pair_key(left, right));
    if (!pair || pair_add_place(&t->pairs, pair, at)) return -1;
    pair->count += count;
    if (pair->round == t->n_merges) return 0;
    if (t->n_changed == t->changed_capacity) {
        size_t capacity = 2 * t->changed_capacity + 256;
        uint64_t *changed = realloc(t->changed, capacity * sizeof *changed);
        if (!changed) return -1;
        t->changed = changed;
        t->changed_capacity = capacity;
    }
    pair->round = (uint32_t)t->n_merges;
    t->changed[t->n_changed++] = pair->key;
    return 0;
}

static void vanish(struct bpe_trainer *t, int32_t left, int32_t right, int64_t count) {
    pair_find(&t->pairs, pair_key(left, right))->count -= count;
}

/* (left, right) at `at` becomes `id`. */
static int merge_at(struct bpe_trainer *t, uint32_t at, int32_t left, int32_t right, int32_t id) {
    uint32_t gone = t->right[at], before = t->left[at], after = t->right[gone];
    int64_t count = t->count[t->word[at]];
    if (before != PAIR_NOWHERE) {
        vanish(t, t->symbol[before], left, count);
        if (appear(t, t->symbol[before], id, before, count)) return -1;
    }
    if (after != PAIR_NOWHERE) {
        vanish(t, right, t->symbol[after], count);
        if (appear(t, id, t->symbol[after], at, count)) return -1;
        t->left[after] = at;
    }
    t->symbol[at] = id;
    t->symbol[gone] = MERGED;
    t->right[at] = after;
    return 0;
}

/* Merges `pair` wherever it occurs. */
static int merge_pair(struct bpe_trainer *t, struct pair *pair, int32_t left, int32_t right, size_t length) {
    uint32_t head = pair->head; // the slot moves when the table grows, its blocks keep their numbers
    uint64_t key = pair->key;
    int32_t id = token_of(t, left, right, length);
    if (id < 0) return -1;
    int32_t *merge = t->merges + 3 * t->n_merges++;
    merge[0] = left, merge[1] = right, merge[2] = id;
    t->n_changed = 0;
    for (uint32_t b = head; b != PAIR_NOWHERE; b = t->pairs.blocks[b].next)
        for (uint32_t i = 0; i < t->pairs.blocks[b].n; i++) {
            uint32_t at = t->pairs.blocks[b].at[i]; // may be out of date
            if (t->symbol[at] == left && t->right[at] != PAIR_NOWHERE && t->symbol[t->right[at]] == right &&
                merge_at(t, at, left, right, id))
                return -1;
        }
    pair = pair_find(&t->pairs, key);
    pair->merged = 1;
    pair->count = 0;
    pair_drop_places(&t->pairs, pair);
    for (size_t i = 0; i < t->n_changed; i++) {
        pair = pair_find(&t->pairs, t->changed[i]);
        if (pair->count > 0 && pair_push(&t->pairs, pair)) return -1;
    }
    return 0;
}

int64_t bpe_trainer_run(struct bpe_trainer *t, int32_t n_tokens, int64_t max_merges, int64_t min_count) {
    int64_t made = 0;
    while (t->n_tokens < n_tokens && made < max_merges) {
        struct pair *pair = pair_pop(&t->pairs);
        if (!pair) break;
        if (pair->count < min_count) {
            if (pair_push(&t->pairs, pair)) return -1;
            break;
        }
        int32_t left = (int32_t)(pair->key >> 32) - 1, right = (int32_t)(pair->key & UINT32_MAX) - 1;
        size_t length = spell(t, left, NULL) + spell(t, right, NULL);
        if (pair->merged || length > BPE_TOKEN_MAX) {
            pair->count = 0;
            pair_drop_places(&t->pairs, pair);
            continue;
        }
        if (merge_pair(t, pair, left, right, length)) return -1;
        made++;
    }
    return made;
}
