/* Weights in panels of 32 outputs: of 2-byte numbers and reals [panel][K][32]; quantised [panel][group of inputs][block]:
 *
 *     block, INT8       [32 scales]              [group/4][32 outputs][4 inputs]     w = scale * (code - 128)
 *            INT4       [32 scales]              [group/8][32 outputs][4 bytes]      w = scale * (code - 8)
 *            INT4_MIN   [32 scales][32 minimums] [group/8][32 outputs][4 bytes]      w = scale * code + minimum
 *
 * Scales and minimums are IEEE halves. A byte of INT4 holds the codes of inputs i (lower half) and i + 4 of its 8. Groups are
 * 32, 64 or 128 inputs, in INT4 and INT4_MIN always 32 (csrc/quantized.h).
 */
#ifndef GOLLM_CUDA_PANELS_H
#define GOLLM_CUDA_PANELS_H

#include "kernel.h"

namespace GOLLM_VARIANT {

enum Format { INT8, INT4, INT4_MIN };
constexpr int PANEL = 32, INT4_GROUP = 32;

/* Where a block's codes begin, and its bytes. */
__host__ __device__ constexpr int codes_offset(Format format) { return (format == INT4_MIN ? 2 : 1) * PANEL * 2; }
__host__ __device__ constexpr int block_bytes(Format format, int group) {
    return codes_offset(format) + PANEL * group / (format == INT8 ? 1 : 2);
}

__device__ __forceinline__ float load_f16(const uint8_t *p) { return float_of_f16((uint16_t)(p[0] | p[1] << 8)); }

} // namespace GOLLM_VARIANT

#endif
