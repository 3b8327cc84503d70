/* What the seven steps share: the function that each file defines, and vectors of the compiler's (gcc and clang).
 *
 *     c = a b        a, b, c: (n, n), rows one after the other, n a multiple of 96
 */
#ifndef MATMUL_H
#define MATMUL_H

#include <stdlib.h>
#include <string.h>

void matmul(int n, const float *restrict a, const float *restrict b, float *restrict c);

extern const char *const name; // of the step
extern const int is_threaded;

/* VL floats in a register, and the tile of c that is computed in registers: MR rows of two vectors.
 *
 *     AVX-512   8 x 32   16 of 32 registers
 *     AVX2      6 x 16   12 of 16 registers
 *     others    4 x 8     8 of 16 or 32 registers
 */
#if defined(__AVX512F__)
enum { VL = 16, MR = 8 };
#elif defined(__AVX__)
enum { VL = 8, MR = 6 };
#else
enum { VL = 4, MR = 4 };
#endif
enum { NR = 2 * VL };

typedef float vec __attribute__((vector_size(VL * sizeof(float))));

static inline vec load(const float *p) { // from anywhere: a vec itself would have to be aligned
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

static inline int min(int a, int b) { return a < b ? a : b; }

#endif
