/* Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011): ten rounds of two products of 32 by 32 bits turn four words of a counter
 * and two of a key into four random words. A counter's first word numbers it, the others are the generator's: which use of
 * random numbers it is for (the stream), and 64 bits that change from step to step. There is no state. */
#ifndef GOLLM_PHILOX_H
#define GOLLM_PHILOX_H

#include "summation_order.h" /* LANES */
#include "vec.h"

enum { PHILOX_ROUNDS = 10 };

struct generator {
    uint32_t key[2];   // seed
    uint32_t fixed[3]; // stream, step low, step high
};

static inline struct generator make_generator(int64_t seed, uint32_t stream, int64_t step) {
    return (struct generator){{(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)},
                              {stream, (uint32_t)step, (uint32_t)((uint64_t)step >> 32)}};
}

/* The words of counters first ... first + 15: out[w * LANES + b] is word w of counter first + b.
 * Each counter lies in a 64-bit lane, for products of that width: those with even numbers in one vector, odd ones in
 * another. What the upper halves hold does not matter, products take the lower ones. Per round and vector 2
 * multiplications, 2 shifts, 4 xors. */
static inline void philox(const struct generator *g, uint32_t first, uint32_t *restrict out) {
    enum { PER_PAIR = VEC_BYTES / sizeof(uint32_t) };
    static const uint64_t even[] = {0, 2, 4, 6, 8, 10, 12, 14};
    uvec64 numbers; // of a pair's even counters
    memcpy(&numbers, even, sizeof numbers);
    const uvec64 m0 = vec_set_u64(0xD2511F53u), m1 = vec_set_u64(0xCD9E8D57u), lower = vec_set_u64(UINT32_MAX);
    for (uint32_t base = 0; base < LANES; base += PER_PAIR) {
        uvec64 c0[2], c1[2], c2[2], c3[2]; // even, odd
        for (int odd = 0; odd < 2; odd++) {
            c0[odd] = numbers + vec_set_u64(first + base + (uint32_t)odd);
            c1[odd] = vec_set_u64(g->fixed[0]);
            c2[odd] = vec_set_u64(g->fixed[1]);
            c3[odd] = vec_set_u64(g->fixed[2]);
        }
        uint32_t k0 = g->key[0], k1 = g->key[1];
        for (int round = 0; round < PHILOX_ROUNDS; round++) {
            const uvec64 key0 = vec_set_u64(k0), key1 = vec_set_u64(k1);
            for (int odd = 0; odd < 2; odd++) {
                uvec64 product0 = vec_multiply_u32(c0[odd], m0), product1 = vec_multiply_u32(c2[odd], m1);
                c0[odd] = product1 >> 32 ^ c1[odd] ^ key0;
                c2[odd] = product0 >> 32 ^ c3[odd] ^ key1;
                c1[odd] = product1;
                c3[odd] = product0;
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const uvec64 words[4] = {(c0[0] & lower) | c0[1] << 32, (c1[0] & lower) | c1[1] << 32,
                                 (c2[0] & lower) | c2[1] << 32, (c3[0] & lower) | c3[1] << 32};
        for (int w = 0; w < 4; w++) memcpy(out + w * LANES + base, &words[w], sizeof words[w]);
    }
}

#endif
