/* Feeds the cores of SentencePiece and WordPiece with random vocabularies and bytes; see fuzz.c.
 *
 *   fuzz_pieces SEED ROUNDS
 *
 * Every text and every array lies in a block of its own of exactly its size. Besides not crashing: a vocabulary is refused
 * with a reason or encodes whatever comes, ids are tokens, and what is remembered is what is made anew.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/tokenizer/sentencepiece.h"
#include "../../csrc/tokenizer/wordpiece.h"
#include "fuzz.h"

static const char *const snippets[] = {
    "a",
    "b",
    "c",
    " ",
    "  ",
    "#",
    "##",
    "\n",
    "\xC3\xA9",
    "\xC3",
    "\xCC\x81",
    "\xE6\xBC\xA2",
    "\xE2\x96\x81",
    "\xE2\x96",
    "\xEA\xB0\x81",
    "\xF0\x9F\x99\x82",
    "\xF0\x9F",
    "\x80",
    "!",
    "\xFF",
    "\xC2\xA0",
    "A",
    "\xE1\xBA\xAD",
    "\xEF\xBF\xBD",
};
enum { SNIPPETS = sizeof snippets / sizeof *snippets };

/* Up to `most` random snippets in a block of exactly their size; at least one byte if `most` > 0. */
static uint8_t *random_bytes(size_t most, size_t kinds, size_t *length) {
    uint8_t *scratch = malloc(4 * most + 4);
    size_t n = 0;
    for (size_t i = most ? 1 + draw(most) : 0; i--;) {
        const char *snippet = snippets[draw(kinds)];
        memcpy(scratch + n, snippet, strlen(snippet));
        n += strlen(snippet);
    }
    uint8_t *bytes = malloc(n ? n : 1);
    memcpy(bytes, scratch, n);
    free(scratch);
    *length = n;
    return bytes;
}

struct arrays {
    struct vocabulary v;
    uint8_t *bytes, *type;
    int32_t *offsets;
    float *score;
};

/* Whether one of the tokens from `first` on, of which there are n so far, is the given one; its id, or -1. */
static int32_t find_token(const struct arrays *a, int32_t first, int32_t n, const uint8_t *token, size_t length) {
    for (int32_t id = first; id < n; id++)
        if ((size_t)(a->offsets[id + 1] - a->offsets[id]) == length &&
            memcmp(a->bytes + a->offsets[id], token, length) == 0)
            return id;
    return -1;
}

/* Tokens of random snippets, each character first; sometimes with all bytes, seldom with one twice. */
static struct arrays random_arrays(size_t kinds) {
    int32_t n_bytes = draw(2) ? 256 : 0, n = n_bytes + 1 + (int32_t)draw(60);
    struct arrays a = {.bytes = malloc(64 * 64 + 512), .type = malloc((size_t)n)};
    a.offsets = malloc(((size_t)n + 1) * sizeof *a.offsets);
    a.score = malloc((size_t)n * sizeof *a.score);
    size_t size = 0;
    for (int32_t id = 0; id < n; id++) {
        size_t length = 1;
        a.offsets[id] = (int32_t)size;
        a.type[id] = SP_NORMAL;
        a.score[id] = -(float)draw(20);
        if (id < n_bytes) {
            a.bytes[size] = (uint8_t)id;
            a.type[id] = SP_BYTE;
        } else {
            uint8_t *token = NULL;
            for (int tries = 0; tries < 8; tries++) {
                free(token);
                token = random_bytes(id - n_bytes < (int32_t)kinds ? 1 : 1 + draw(5), kinds, &length);
                if (find_token(&a, n_bytes, id, token, length) < 0 || draw(300) == 0) break;
            }
            memcpy(a.bytes + size, token, length);
            free(token);
            if (id == n_bytes && draw(4))
                a.type[id] = SP_UNKNOWN;
            else if (draw(12) == 0)
                a.type[id] = (uint8_t)draw(8);
            if (draw(200) == 0) a.score[id] = draw(2) ? NAN : INFINITY;
        }
        size += length;
    }
    a.offsets[n] = (int32_t)size;
    a.bytes = realloc(a.bytes, size);
    a.v = (struct vocabulary){a.bytes, a.offsets, n};
    return a;
}

static void free_arrays(struct arrays *a) {
    free(a->bytes);
    free(a->type);
    free(a->offsets);
    free(a->score);
}

static void check_ids(const struct arrays *a, const struct id_buffer *ids) {
    for (size_t i = 0; i < ids->n; i++) CHECK(ids->ids[i] >= 0 && ids->ids[i] < a->v.n);
}

static void check_sentencepiece(const struct arrays *a, size_t kinds) {
    char why[160];
    uint8_t *charsmap = NULL;
    int32_t *merges = NULL;
    struct sp_pieces pieces = {.v = a->v, .type = a->type, .score = a->score};
    if (draw(2)) {
        pieces.n_merges = draw(20);
        merges = malloc((3 * pieces.n_merges + 1) * sizeof *merges);
        size_t n = 0;
        for (size_t tries = 0; tries < 400 && n < 3 * pieces.n_merges; tries++) {
            int32_t left = (int32_t)draw((uint64_t)a->v.n), right = (int32_t)draw((uint64_t)a->v.n);
            size_t of_left = token_length(&a->v, left), of_right = token_length(&a->v, right);
            uint8_t *joined = malloc(of_left + of_right);
            memcpy(joined, token_bytes(&a->v, left), of_left);
            memcpy(joined + of_left, token_bytes(&a->v, right), of_right);
            int32_t result = find_token(a, 0, a->v.n, joined, of_left + of_right);
            free(joined);
            if (result < 0 && draw(2000)) continue;
            merges[n++] = left, merges[n++] = right, merges[n++] = result;
        }
        pieces.n_merges = n / 3;
        pieces.score = NULL;
        pieces.merges = merges;
    }
    if (draw(3) == 0) {
        size_t units = 1 + draw(300), rest = draw(200);
        pieces.charsmap_size = 4 + 4 * units + rest;
        charsmap = malloc(pieces.charsmap_size);
        for (size_t i = 0; i < pieces.charsmap_size; i++) charsmap[i] = (uint8_t)(draw(3) ? draw(4) : draw(256));
        uint32_t size = (uint32_t)(draw(8) ? 4 * units : draw(1ull << 32));
        for (int i = 0; i < 4; i++) charsmap[i] = (uint8_t)(size >> 8 * i);
        if (rest) charsmap[pieces.charsmap_size - 1] = (uint8_t)(draw(8) == 0);
        pieces.charsmap = charsmap;
    }
    struct sp_settings settings = {(enum sp_prefix)draw(3), (int)draw(2), (int)draw(2), (int)draw(2)};
    struct sp_model *model = sp_model_new(&pieces, settings, why, sizeof why);
    CHECK(model || *why);
    struct sp_workspace *work = sp_workspace_new();
    for (int i = 0; model && i < 6; i++) {
        struct id_buffer ids = {NULL, 0, 0}, again = {NULL, 0, 0};
        size_t length;
        uint8_t *text = random_bytes(draw(8) ? draw(40) : draw(2000), kinds, &length);
        CHECK(sp_encode(model, work, text, length, &ids) == 0);
        CHECK(sp_encode(model, work, text, length, &again) == 0);
        CHECK(ids.n == again.n && (!ids.n || memcmp(ids.ids, again.ids, ids.n * sizeof *ids.ids) == 0));
        check_ids(a, &ids);
        free(text);
        free(ids.ids);
        free(again.ids);
    }
    sp_workspace_free(work);
    sp_model_free(model);
    free(charsmap);
    free(merges);
}

static void check_wordpiece(const struct arrays *a, size_t kinds) {
    char why[160];
    uint8_t *special = malloc((size_t)a->v.n);
    for (int32_t id = 0; id < a->v.n; id++) special[id] = a->type[id] != SP_NORMAL;
    struct wp_settings settings = {
        (int)draw(2), (int)draw(2), (int)draw(2), (int)draw(2), (int32_t)draw((uint64_t)a->v.n), draw(12), 1};
    struct wp_model *model = wp_model_new(&a->v, special, settings, why, sizeof why);
    CHECK(model || *why);
    struct wp_workspace *work = wp_workspace_new();
    for (int i = 0; model && i < 6; i++) {
        struct id_buffer ids = {NULL, 0, 0};
        size_t length;
        uint8_t *text = random_bytes(draw(8) ? draw(40) : draw(2000), kinds, &length);
        CHECK(wp_encode(model, work, text, length, &ids) == 0);
        check_ids(a, &ids);
        free(text);
        free(ids.ids);
    }
    wp_workspace_free(work);
    wp_model_free(model);
    free(special);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fuzz_pieces SEED ROUNDS\n");
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    long rounds = strtol(argv[2], NULL, 10);
    for (round_number = 0; round_number < rounds; round_number++) {
        size_t kinds = 1 + draw(SNIPPETS);
        struct arrays a = random_arrays(kinds);
        check_sentencepiece(&a, kinds);
        check_wordpiece(&a, kinds);
        free_arrays(&a);
    }
    return 0;
}
