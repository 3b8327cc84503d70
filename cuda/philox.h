/* Philox4x32-10 (Salmon et al. 2011): four random words from a counter of four words and a key of two. */
#ifndef GOLLM_CUDA_PHILOX_H
#define GOLLM_CUDA_PHILOX_H

#include "kernel.h"

namespace GOLLM_VARIANT {

__device__ __forceinline__ void philox(uint32_t (&c)[4], uint32_t k0, uint32_t k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ k0, c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1, c[3] = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

} // namespace GOLLM_VARIANT

#endif
