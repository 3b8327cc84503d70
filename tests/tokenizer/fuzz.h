/* What the fuzz programs share: a check that names its round, and random numbers that follow from the seed. */
#ifndef GOLLM_TESTS_FUZZ_H
#define GOLLM_TESTS_FUZZ_H

#include <stdint.h> // uint64_t
#include <stdio.h>  // fprintf
#include <stdlib.h> // exit

#define CHECK(condition)                                                                                               \
    do                                                                                                                 \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "round %ld, line %d: %s\n", round_number, __LINE__, #condition);                           \
            exit(1);                                                                                                   \
        }                                                                                                              \
    while (0)

static long round_number;
static uint64_t state;

static uint64_t draw(uint64_t below) // splitmix64
{
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return (z ^ z >> 31) % below;
}

#endif
