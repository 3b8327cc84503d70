/* A vocabulary as it lies in memory and in checkpoints: the tokens' bytes one behind the other, and where each begins.
 */
#ifndef GOLLM_TOKENIZER_VOCABULARY_H
#define GOLLM_TOKENIZER_VOCABULARY_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, int32_t

enum { VOCABULARY_MAX = (1 << 20) - 1 }; // tokens; merge.h packs two ids and a rank into 64 bits

struct vocabulary {
    const uint8_t *bytes;   // (offsets[n])
    const int32_t *offsets; // (n + 1), token i is bytes[offsets[i] : offsets[i + 1]]
    int32_t n;
};

static inline size_t token_length(const struct vocabulary *v, int32_t id) {
    return (size_t)(v->offsets[id + 1] - v->offsets[id]);
}

static inline const uint8_t *token_bytes(const struct vocabulary *v, int32_t id) { return v->bytes + v->offsets[id]; }

/* Whether the offsets begin at 0, never fall (an empty token is an id that stands for nothing), end at `size`, and are not too many. Checks
 * what comes from a file; every other function here relies on it. On failure `why` (of `why_size` bytes) says what is
 * wrong. */
int vocabulary_valid(const struct vocabulary *v, size_t size, char *why, size_t why_size);

/* Whether merge (3) names three tokens, the last of which is the first two joined. `rank` is its place in a list; on
 * failure `why` says what is wrong. */
int vocabulary_joins(const struct vocabulary *v, const int32_t *merge, size_t rank, char *why, size_t why_size);

/* The bytes that `ids` stand for. Returns their number, or -1 - i where ids[i] is no token. Nothing is written if `out`
 * is NULL. */
int64_t vocabulary_decode(const struct vocabulary *v, const int32_t *ids, size_t n_ids, uint8_t *out);

#endif
