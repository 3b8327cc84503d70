/* Feeds the tokenizers' C cores with random bytes; built with the sanitizers and run by test_fuzz.py.
 *
 *   fuzz SEED ROUNDS
 *
 * Every text lies in a block of its own of exactly its size, so that the address sanitizer sees a read beyond either
 * end. Besides not crashing: pieces cover the text, training makes a valid vocabulary, encoding gives the bytes back,
 * cached and merged pieces agree, and a damaged vocabulary is refused or harmless.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../csrc/tokenizer/bpe.h"
#include "../../csrc/tokenizer/bpe_train.h"
#include "../../csrc/tokenizer/words.h"
#include "fuzz.h"

/* A text of random snippets, many of them not UTF-8, cut anywhere. */
static uint8_t *random_text(size_t *length) {
    static const char *const snippets[] = {
        "a",
        "b",
        "the ",
        "  ",
        "\n",
        "'s",
        "'re",
        "'",
        "42",
        "\xC3\xA9",
        "\xE6\xBC\xA2",
        "\xF0\x9F\x99\x82",
        "\xC2\xA0",
        "\xE3\x80\x80",
        "\xC2\xBD",
        "\xC3",
        "\xE6\xBC",
        "\xF0\x9F\x99",
        "\x80",
        "\xC0\xAF",
        "\xED\xA0\x80",
        "\xF4\x90\x80\x80",
        "\xFF",
        "\xF8",
        "abcdefghijklmnopqrst",
        "                ",
        "_!-",
        "\t\r\n",
        "\xE0\x80\x80",
        "\xF0\x80\x80\x80",
        "'LL",
        "'\xC5\xBF",
        "The",
        " A",
        "\xC4\x82",
        "\xCC\x81",
        "\r\n",
        "/",
        "12345",
        "\xE2\x85\xA7",
    };
    size_t wanted = draw(8) ? draw(64) : draw(3000), n = 0, kinds = 1 + draw(sizeof snippets / sizeof *snippets);
    uint8_t *scratch = malloc(wanted + 32);
    while (n < wanted) {
        if (draw(20) == 0) {
            scratch[n++] = (uint8_t)draw(256);
            continue;
        }
        const char *snippet = snippets[draw(kinds)];
        memcpy(scratch + n, snippet, strlen(snippet));
        n += strlen(snippet);
    }
    uint8_t *text = malloc(wanted ? wanted : 1);
    memcpy(text, scratch, wanted);
    free(scratch);
    *length = wanted;
    return text;
}

static enum split_pattern pattern; // drawn anew each round

static void check_split(const uint8_t *text, size_t length) {
    const uint8_t *end = text + length, *next;
    for (const uint8_t *p = text; p < end; p = next) {
        next = split_piece(pattern, p, end);
        CHECK(next > p && next <= end);
    }
}

struct arrays {
    uint8_t *bytes;
    int32_t *offsets, *merges;
    int32_t n;
    size_t size, n_merges;
};

/* What the binding hands to Python: bytes are their own ids. */
static struct arrays arrays_of(const struct bpe_trainer *t) {
    struct arrays a = {.n = t->n_tokens, .n_merges = t->n_merges};
    int32_t added = t->n_tokens - 256;
    a.size = 256 + (size_t)t->offsets[added];
    a.bytes = malloc(a.size);
    a.offsets = malloc(((size_t)a.n + 1) * sizeof *a.offsets);
    a.merges = malloc((3 * a.n_merges + 1) * sizeof *a.merges);
    for (int32_t i = 0; i < 256; i++) a.bytes[i] = (uint8_t)(a.offsets[i] = i);
    if (a.size > 256) memcpy(a.bytes + 256, t->bytes, a.size - 256);
    for (int32_t i = 0; i <= added; i++) a.offsets[256 + i] = 256 + t->offsets[i];
    for (size_t i = 0; i < 3 * a.n_merges; i++)
        a.merges[i] = t->merges[i] < 256 ? t->byte_of[t->merges[i]] : t->merges[i];
    return a;
}

static void free_arrays(struct arrays *a) {
    free(a->bytes);
    free(a->offsets);
    free(a->merges);
}

/* Any rules: they change the ids, but what these stand for only where a byte lacks its token. */
static struct bpe_model *random_model(const struct vocabulary *v, const struct arrays *a, char *why, size_t why_size) {
    struct bpe_rules rules = {pattern, (int)draw(2), (int)draw(2), draw(4) ? -1 : (int32_t)draw((uint64_t)v->n)};
    int32_t added[3];
    size_t n_added = draw(4) ? 0 : draw(4);
    for (size_t i = 0; i < n_added; i++) added[i] = (int32_t)draw((uint64_t)v->n);
    return bpe_model_new(v, a->merges, a->n_merges, added, n_added, rules, why, why_size);
}

static int every_byte_has_its_token(const struct vocabulary *v, const struct bpe_model *model) {
    for (int byte = 0; byte < 256; byte++) {
        int32_t id = model->byte_id[byte];
        if (id < 0 || token_length(v, id) != 1 || *token_bytes(v, id) != byte) return 0;
    }
    return 1;
}

static void check_encoding(const struct arrays *a, const struct bpe_model *model) {
    struct vocabulary v = {a->bytes, a->offsets, a->n};
    struct bpe_workspace *work = bpe_workspace_new();
    struct id_buffer ids = {NULL, 0, 0}, pieces = {NULL, 0, 0};
    int exact = every_byte_has_its_token(&v, model);
    for (int i = 0; i < 4; i++) {
        size_t length, n = 0;
        uint8_t *text = random_text(&length);
        for (int again = 0; again < 2; again++) { // the second time from the cache
            ids.n = 0;
            CHECK(bpe_encode(model, work, text, length, &ids) == 0);
            CHECK(again == 0 || ids.n == n);
            n = ids.n;
            int64_t size = vocabulary_decode(&v, ids.ids, ids.n, NULL);
            CHECK(size >= 0 && (size == (int64_t)length || !exact));
            uint8_t *decoded = malloc((size_t)size + 1);
            vocabulary_decode(&v, ids.ids, ids.n, decoded);
            CHECK(!exact || memcmp(decoded, text, length) == 0);
            free(decoded);
        }
        const uint8_t *end = text + length, *next;
        pieces.n = 0;
        for (const uint8_t *p = text; p < end; p = next) {
            next = split_piece(pattern, p, end);
            size_t size = (size_t)(next - p), at = pieces.n;
            CHECK(bpe_encode_piece(model, work, p, size, &pieces) == 0);
            if (model->rules.ignore_merges) continue;
            int32_t *merged = malloc(size * sizeof *merged);
            CHECK(bpe_merge(model, work, p, size, merged) == pieces.n - at);
            CHECK(pieces.n == at || memcmp(merged, pieces.ids + at, (pieces.n - at) * sizeof *merged) == 0);
            free(merged);
        }
        CHECK(pieces.n == ids.n && (ids.n == 0 || memcmp(pieces.ids, ids.ids, ids.n * sizeof *ids.ids) == 0));
        free(text);
    }
    free(ids.ids);
    free(pieces.ids);
    bpe_workspace_free(work);
}

/* A piece long enough for windows is merged in them as by the heap alone. */
static void check_windows(const struct bpe_model *model) {
    size_t length = 64 + draw(3000), letters = 1 + draw(6), chunk = 1 + draw(400);
    uint8_t *piece = malloc(length);
    for (size_t i = 0; i < length; i++)
        piece[i] = i >= chunk && draw(8) ? piece[i - chunk] : "ab eth\xC3\xA9"[draw(letters) + draw(2)];
    struct bpe_model by_heap = *model;
    by_heap.merges.rising = 0;
    struct bpe_workspace *work = bpe_workspace_new();
    int32_t *one = malloc(length * sizeof *one), *other = malloc(length * sizeof *other);
    size_t n = bpe_merge(model, work, piece, length, one);
    CHECK(n == bpe_merge(&by_heap, work, piece, length, other));
    CHECK(memcmp(one, other, n * sizeof *one) == 0);
    free(one);
    free(other);
    free(piece);
    bpe_workspace_free(work);
}

/* Changes some numbers; what is still accepted must encode. */
static void check_damage(struct arrays *a) {
    char why[160];
    for (uint64_t hits = 1 + draw(3); hits--;) switch (draw(3)) {
        case 0: a->bytes[draw(a->size)] = (uint8_t)draw(256); break;
        case 1:
            a->offsets[draw((uint64_t)a->n + 1)] =
                (int32_t)draw(3) ? (int32_t)draw(a->size + 2) - 1 : (int32_t)draw(1ull << 32);
            break;
        default:
            if (a->n_merges)
                a->merges[draw(3 * a->n_merges)] =
                    draw(3) ? (int32_t)draw((uint64_t)a->n + 2) - 1 : (int32_t)draw(1ull << 32);
        }
    struct vocabulary v = {a->bytes, a->offsets, a->n};
    if (!vocabulary_valid(&v, a->size, why, sizeof why)) {
        CHECK(*why);
        return;
    }
    struct bpe_model *model = random_model(&v, a, why, sizeof why);
    CHECK(model || *why);
    if (model) {
        check_encoding(a, model);
        check_windows(model);
    }
    bpe_model_free(model);
}

static void check_words(const struct arrays *a) {
    char why[160];
    struct vocabulary v = {a->bytes, a->offsets, a->n};
    int32_t n_words = (int32_t)draw((uint64_t)a->n) + 1, unknown = (int32_t)draw((uint64_t)a->n);
    struct word_model *model = word_model_new(&v, n_words, unknown, pattern, why, sizeof why);
    CHECK(model);
    struct id_buffer ids = {NULL, 0, 0};
    size_t length;
    uint8_t *text = random_text(&length);
    CHECK(word_encode(model, text, length, &ids) == 0);
    CHECK(vocabulary_decode(&v, ids.ids, ids.n, NULL) >= 0);
    free(text);
    free(ids.ids);
    word_model_free(model);
}

static void fuzz_round(void) {
    char why[160];
    struct piece_map counts;
    pattern = (enum split_pattern)draw(SPLIT_PATTERNS);
    CHECK(piece_map_init(&counts) == 0);
    for (uint64_t texts = 1 + draw(4); texts--;) {
        size_t length;
        uint8_t *text = random_text(&length);
        check_split(text, length);
        CHECK(count_pieces(&counts, pattern, text, length) == 0);
        free(text);
    }
    struct bpe_trainer *trainer = bpe_trainer_new(&counts);
    CHECK(trainer);
    int32_t wanted = 256 + (int32_t)draw(300);
    int64_t min_count = 1 + (int64_t)draw(3);
    while (bpe_trainer_run(trainer, wanted, 1 + (int64_t)draw(50), min_count) > 0);
    CHECK(trainer->n_tokens <= wanted);
    struct arrays a = arrays_of(trainer);
    bpe_trainer_free(trainer);
    piece_map_free(&counts);

    for (uint64_t swaps = a.n_merges && !draw(3) ? draw(40) : 0; swaps--;) { // an order that no training gives
        int32_t *one = a.merges + 3 * draw(a.n_merges), *other = a.merges + 3 * draw(a.n_merges), kept[3];
        memcpy(kept, one, sizeof kept);
        memmove(one, other, sizeof kept);
        memcpy(other, kept, sizeof kept);
    }
    struct vocabulary v = {a.bytes, a.offsets, a.n};
    CHECK(vocabulary_valid(&v, a.size, why, sizeof why));
    struct bpe_model *model = random_model(&v, &a, why, sizeof why);
    CHECK(model);
    check_encoding(&a, model);
    check_windows(model);
    bpe_model_free(model);
    check_words(&a);
    check_damage(&a);
    free_arrays(&a);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fuzz SEED ROUNDS\n");
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    long rounds = strtol(argv[2], NULL, 10);
    for (round_number = 0; round_number < rounds; round_number++) fuzz_round();
    return 0;
}
