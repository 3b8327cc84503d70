/* SentencePiece's precompiled normalisation (NFKC and the like): a trie from character sequences to what replaces them.
 *
 * The bytes are: uint32 size of the trie, the trie, the replacements, each ending in a zero byte. The trie is a double
 * array as Yata's darts-clone lays it out, 32 bits a unit: child = node ^ byte, where node ^= offset of the unit before;
 * a unit whose `has_leaf` bit is set has, at its offset, the place of a replacement.
 */
#ifndef GOLLM_TOKENIZER_CHARSMAP_H
#define GOLLM_TOKENIZER_CHARSMAP_H

#include <stddef.h> // size_t
#include <stdint.h> // uint8_t, uint32_t

enum { CHARSMAP_KEY_MAX = 256, CHARSMAP_REPLACEMENT_MAX = 256 }; // bytes; NFKC's longest have a tenth of it

struct charsmap {
    const uint8_t *units, *replacements; // little-endian units; both borrowed
    size_t n_units, size;                // of the replacements, in bytes
};

/* What the bytes hold. Returns 0 and says why if they are broken. */
int charsmap_open(struct charsmap *map, const uint8_t *bytes, size_t size, char *why, size_t why_size);

/* The replacement (ending in 0) of the longest sequence that p[0 : end - p] begins with, and in *length how long that
 * sequence is; NULL if nothing is replaced here. */
const char *charsmap_find(const struct charsmap *map, const uint8_t *p, const uint8_t *end, size_t *length);

#endif
