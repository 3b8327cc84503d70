#include "sentencepiece.h"

#include <math.h>   // isfinite
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, malloc, free, qsort

#include "unicode.h" // utf8_character

/* Of all pieces together the sum of their squared lengths, which the search for merges costs; LLaMA-2's is 2^21. */
static const uint64_t WORK_MAX = (uint64_t)1 << 34;

static size_t first_character(const uint8_t *p, const uint8_t *end) {
    return *p < 0x80 ? 1 : (size_t)utf8_character(p, end).length;
}

static int is_text(uint8_t type) { return type == SP_NORMAL || type == SP_USER_DEFINED; }

static int add_byte(struct sp_model *model, const struct vocabulary *v, int32_t id, char *why, size_t why_size) {
    int32_t *of_byte = token_length(v, id) == 1 ? &model->byte_id[*token_bytes(v, id)] : NULL;
    if (of_byte && *of_byte < 0) {
        *of_byte = id;
        return 1;
    }
    if (token_length(v, id) != 1)
        snprintf(why, why_size, "the byte token %ld is %zu bytes long", (long)id, token_length(v, id));
    else
        snprintf(why, why_size, "tokens %ld and %ld are the same byte", (long)*of_byte, (long)id);
    return 0;
}

/* Sorts the tokens by type: those that text is made of go into `ids` (id + 1). Returns 0 and says why it can't, -1
 * without memory. */
static int sort_tokens(struct sp_model *model, const struct sp_pieces *pieces, struct piece_map *ids, char *why,
                       size_t why_size) {
    const struct vocabulary *v = &pieces->v;
    const uint8_t *end = v->bytes + v->offsets[v->n];
    for (int32_t id = 0; id < v->n; id++) {
        const uint8_t *bytes = token_bytes(v, id);
        size_t length = token_length(v, id);
        switch (pieces->type[id]) {
        case SP_CONTROL: break;
        case SP_UNKNOWN:
            if (model->unknown >= 0) {
                snprintf(why, why_size, "tokens %ld and %ld are both the unknown one", (long)model->unknown, (long)id);
                return 0;
            }
            model->unknown = id;
            break;
        case SP_BYTE:
            if (!add_byte(model, v, id, why, why_size)) return 0;
            break;
        case SP_LITERAL:
            if (length > model->lookahead) model->lookahead = length;
            if (trie_add(&model->literal, bytes, length, id) < 0) return -1;
            break;
        case SP_USER_DEFINED: // in a text U+2581 is three bytes, a space here
            if (3 * length > model->lookahead) model->lookahead = 3 * length;
            if (trie_add(&model->user_defined, bytes, length, id) < 0) return -1; // fall through
        case SP_NORMAL: {
            int64_t *value = piece_map_at(ids, bytes, length, end);
            if (!value) return -1;
            if (*value) {
                snprintf(why, why_size, "tokens %ld and %ld are the same piece", (long)*value - 1, (long)id);
                return 0;
            }
            *value = id + 1;
            if (length != first_character(bytes, bytes + length)) break;
            if (*bytes < 0x80) model->ascii_id[*bytes] = id;
            if (!(value = piece_map_at(&model->characters, bytes, length, end))) return -1;
            *value = id + 1;
            break;
        }
        default:
            snprintf(why, why_size, "token %ld is of type %d, which is not known", (long)id, pieces->type[id]);
            return 0;
        }
    }
    return 1;
}

static int check_bytes(const struct sp_model *model, char *why, size_t why_size) {
    int n = 0, missing = 0;
    for (int byte = 0; byte < 256; byte++)
        if (model->byte_id[byte] >= 0)
            n++;
        else
            missing = byte;
    if (n != 0 && n != 256)
        snprintf(why, why_size, "there are tokens for %d bytes, and none for 0x%02x; there must be all or none", n,
                 missing);
    else if (n == 0 && model->unknown < 0)
        snprintf(why, why_size, "there is no unknown token, and there are none for bytes; one is needed");
    else
        return 1;
    return 0;
}

/* Whether nothing but a space stands before a space in any piece. */
static int words_stand_alone(const struct sp_pieces *pieces) {
    const struct vocabulary *v = &pieces->v;
    for (int32_t id = 0; id < v->n; id++) {
        const uint8_t *bytes = token_bytes(v, id);
        if (!is_text(pieces->type[id])) continue;
        for (size_t i = 1; i < token_length(v, id); i++)
            if (bytes[i] == ' ' && bytes[i - 1] != ' ') return 0;
    }
    return 1;
}

/* (v.n): 0 for the highest score, 1 for the next lower one, ...; NULL without memory */
struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static uint32_t *order_of_scores(const float *score, int32_t n) {
    struct scored *sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    uint32_t *order = malloc(((size_t)n + 1) * sizeof *order), place = 0;
    if (sorted && order) {
        for (int32_t id = 0; id < n; id++) sorted[id] = (struct scored){score[id], id};
        qsort(sorted, (size_t)n, sizeof *sorted, by_score);
        for (int32_t i = 0; i < n; i++) {
            place += i && sorted[i].score != sorted[i - 1].score;
            order[sorted[i].id] = place;
        }
    } else {
        free(order);
        order = NULL;
    }
    free(sorted);
    return order;
}

/* The id of the piece that merging may take part in, -1 if there is none. */
static int32_t mergeable(const struct sp_pieces *pieces, const struct piece_map *ids, const uint8_t *p, size_t length,
                         const uint8_t *end) {
    const int64_t *found = piece_map_find(ids, p, length, end);
    return found && pieces->type[*found - 1] == SP_NORMAL ? (int32_t)*found - 1 : -1;
}

/* Appends (left, right, id) for all ways in which the piece is two pieces. Returns as sort_tokens does. */
static int add_halves(const struct sp_pieces *pieces, const struct piece_map *ids, int32_t id, struct id_buffer *halves,
                      char *why, size_t why_size) {
    const uint8_t *bytes = token_bytes(&pieces->v, id), *end = bytes + token_length(&pieces->v, id);
    const uint8_t *all_end = pieces->v.bytes + pieces->v.offsets[pieces->v.n];
    size_t character = first_character(bytes, end);
    if (bytes + character == end) return 1;
    for (const uint8_t *p = bytes; p < end; p += character) {
        character = first_character(p, end);
        if (!piece_map_find(ids, p, character, all_end)) {
            snprintf(why, why_size, "token %ld has a character, at byte %zu, that is no token itself; not supported",
                     (long)id, (size_t)(p - bytes));
            return 0;
        }
        if (p == bytes) continue;
        int32_t left = mergeable(pieces, ids, bytes, (size_t)(p - bytes), all_end);
        int32_t right = left < 0 ? -1 : mergeable(pieces, ids, p, (size_t)(end - p), all_end);
        if (right < 0) continue;
        if (id_buffer_reserve(halves, 3)) return -1;
        halves->ids[halves->n++] = left, halves->ids[halves->n++] = right, halves->ids[halves->n++] = id;
    }
    return 1;
}

/* The merges that scores stand for: every pair of pieces that make a piece, by its score. */
static int merges_of_scores(struct sp_model *model, const struct sp_pieces *pieces, const struct piece_map *ids,
                            char *why, size_t why_size) {
    const struct vocabulary *v = &pieces->v;
    struct id_buffer halves = {NULL, 0, 0};
    uint32_t *order = NULL;
    uint64_t work = 0;
    int status = 1;
    for (int32_t id = 0; status == 1 && id < v->n; id++) {
        work += (uint64_t)token_length(v, id) * token_length(v, id);
        if (work > WORK_MAX) {
            snprintf(why, why_size, "the pieces are too long; token %ld has %zu bytes", (long)id, token_length(v, id));
            status = 0;
        } else if (!isfinite(pieces->score[id])) {
            snprintf(why, why_size, "the score of token %ld is not a finite number", (long)id);
            status = 0;
        } else if (pieces->type[id] == SP_NORMAL) {
            status = add_halves(pieces, ids, id, &halves, why, why_size);
        }
    }
    if (status == 1 && halves.n / 3 >= NO_MERGE) {
        snprintf(why, why_size, "%zu pairs of pieces make a piece; at most %ld are allowed", halves.n / 3,
                 (long)NO_MERGE - 1);
        status = 0;
    }
    if (status == 1 &&
        (!(order = order_of_scores(pieces->score, v->n)) || merge_table_init(&model->merges, halves.n / 3, 1)))
        status = -1;
    for (size_t i = 0; status == 1 && i < halves.n; i += 3) {
        uint32_t merge = merge_table_add(&model->merges, halves.ids[i], halves.ids[i + 1], halves.ids[i + 2]);
        model->merges.priority[merge] = order[halves.ids[i + 2]];
    }
    if (status == 1 && merge_table_finish(&model->merges)) status = -1;
    free(order);
    free(halves.ids);
    return status;
}

static int add_merges(struct sp_model *model, const struct sp_pieces *pieces, char *why, size_t why_size) {
    const struct vocabulary *v = &pieces->v;
    if (pieces->n_merges >= NO_MERGE) {
        snprintf(why, why_size, "%zu merges; at most %ld are allowed", pieces->n_merges, (long)NO_MERGE - 1);
        return 0;
    }
    if (merge_table_init(&model->merges, pieces->n_merges, 0)) return -1;
    for (size_t rank = 0; rank < pieces->n_merges; rank++) {
        const int32_t *merge = pieces->merges + 3 * rank;
        if (!vocabulary_joins(v, merge, rank, why, why_size)) return 0;
        for (int i = 0; i < 3; i++)
            if (pieces->type[merge[i]] != SP_NORMAL) {
                snprintf(why, why_size, "merge %zu names token %ld, which is no ordinary piece; not supported", rank,
                         (long)merge[i]);
                return 0;
            }
        uint32_t index = merge_table_add(&model->merges, merge[0], merge[1], merge[2]);
        if (index != rank) {
            snprintf(why, why_size, "merges %lu and %zu join the same pair, tokens %ld and %ld", (unsigned long)index,
                     rank, (long)merge[0], (long)merge[1]);
            return 0;
        }
    }
    return merge_table_finish(&model->merges) ? -1 : 1;
}

static int build(struct sp_model *model, const struct sp_pieces *pieces, struct piece_map *ids, char *why,
                 size_t why_size) {
    int status = sort_tokens(model, pieces, ids, why, why_size);
    if (status != 1) return status;
    if (!check_bytes(model, why, why_size)) return 0;
    if (pieces->charsmap_size &&
        !charsmap_open(&model->charsmap, pieces->charsmap, pieces->charsmap_size, why, why_size))
        return 0;
    const int spaces_known = model->ascii_id[' '] >= 0 || model->byte_id[' '] >= 0;
    if (model->settings.split_spaces && !spaces_known) {
        snprintf(why, why_size, "there is no token for the space");
        return 0;
    }
    model->cuts = model->settings.split_spaces || (spaces_known && words_stand_alone(pieces));
    return pieces->score ? merges_of_scores(model, pieces, ids, why, why_size)
                         : add_merges(model, pieces, why, why_size);
}

struct sp_model *sp_model_new(const struct sp_pieces *pieces, struct sp_settings settings, char *why, size_t why_size) {
    struct piece_map ids = {0};
    *why = 0;
    struct sp_model *model = calloc(1, sizeof *model);
    if (!model) return NULL;
    model->settings = settings;
    model->lookahead = CHARSMAP_KEY_MAX;
    model->unknown = -1;
    memset(model->byte_id, 0xFF, sizeof model->byte_id);
    memset(model->ascii_id, 0xFF, sizeof model->ascii_id);
    int status = piece_map_init(&model->characters) || trie_init(&model->user_defined) || trie_init(&model->literal) ||
                         piece_map_init(&ids)
                     ? -1
                     : build(model, pieces, &ids, why, why_size);
    piece_map_free(&ids);
    if (status == 1) return model;
    if (status < 0) *why = 0;
    sp_model_free(model);
    return NULL;
}

void sp_model_free(struct sp_model *model) {
    if (!model) return;
    piece_map_free(&model->characters);
    trie_free(&model->user_defined);
    trie_free(&model->literal);
    merge_table_free(&model->merges);
    free(model);
}
