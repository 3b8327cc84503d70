/* Tiles of bfloat16 in shared memory: rows of 128 bytes, 64 values, in which chunk c of 16 bytes of row r lies at chunk
 * c ^ (r % 8), so that ldmatrix's eight rows hit all banks once. Wider tiles are slabs of 64 columns, one after the other. */
#ifndef GOLLM_CUDA_CHUNKS_H
#define GOLLM_CUDA_CHUNKS_H

#include "kernel.h"

namespace GOLLM_VARIANT {

__device__ __forceinline__ uint32_t chunk_address(uint32_t tile, int row, int chunk) {
    return tile + row * 128 + ((chunk ^ (row & 7)) << 4);
}

} // namespace GOLLM_VARIANT

#endif
