#include "charsmap.h"

#include <stdio.h>  // snprintf
#include <string.h> // memchr

static uint32_t unit_at(const uint8_t *units, size_t i) {
    const uint8_t *b = units + 4 * i;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

int charsmap_open(struct charsmap *map, const uint8_t *bytes, size_t size, char *why, size_t why_size) {
    size_t trie = size >= 4 ? unit_at(bytes, 0) : 0;
    if (trie < 4 || trie % 4 || trie > size - 4) {
        snprintf(why, why_size, "its %zu bytes do not begin with a trie", size);
        return 0;
    }
    *map = (struct charsmap){bytes + 4, bytes + 4 + trie, trie / 4, size - 4 - trie};
    for (size_t at = 0; at < map->size;) {
        size_t rest = map->size - at, limit = rest < CHARSMAP_REPLACEMENT_MAX ? rest : CHARSMAP_REPLACEMENT_MAX;
        const uint8_t *zero = memchr(map->replacements + at, 0, limit);
        if (!zero) {
            snprintf(why, why_size, "the replacement at byte %zu has no end within %d bytes", at,
                     CHARSMAP_REPLACEMENT_MAX);
            return 0;
        }
        at = (size_t)(zero - map->replacements) + 1;
    }
    return 1;
}

const char *charsmap_find(const struct charsmap *map, const uint8_t *p, const uint8_t *end, size_t *length) {
    const char *found = NULL;
    if (end - p > CHARSMAP_KEY_MAX) end = p + CHARSMAP_KEY_MAX;
    uint32_t unit = unit_at(map->units, 0);
    size_t node = unit_offset(unit);
    for (const uint8_t *q = p; q < end;) {
        node ^= *q;
        if (node >= map->n_units) break;
        unit = unit_at(map->units, node);
        if ((unit & (1u << 31 | 0xFF)) != *q++) break;
        node ^= unit_offset(unit);
        if (!(unit >> 8 & 1) || node >= map->n_units) continue;
        size_t at = unit_at(map->units, node) & ~(1u << 31);
        if (at >= map->size) continue;
        found = (const char *)map->replacements + at;
        *length = (size_t)(q - p);
    }
    return found;
}
