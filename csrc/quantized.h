/* Weights quantised to 8 or 4 bits: w (N, K) in blocks of PANEL outputs by one group of inputs,
 *
 *     [panel of 32 outputs][group of inputs][block]            outputs past N and inputs past K do not count
 *
 *     block, INT8       [32 scales]              [group/4][32 outputs][4 inputs]     w = scale * (code - 128)
 *            INT4       [32 scales]              [group/8][32 outputs][4 bytes]      w = scale * (code - 8)
 *            INT4_MIN   [32 scales][32 minimums] [group/8][32 outputs][4 bytes]      w = scale * code + minimum
 *
 * Scales and minimums are IEEE halves. A byte of INT4 holds the codes of inputs i (lower half) and i + 4 of its 8. Groups are
 * 32, 64 or 128 inputs, in INT4 and INT4_MIN always 32. A block is a multiple of 64 bytes, and whoever reads a panel from
 * front to back reads one stream. A vector of VL outputs and four inputs has one output in each lane of 32 bits, as the
 * integer products (integer_dot.h) take it.
 */
#ifndef GOLLM_QUANTIZED_H
#define GOLLM_QUANTIZED_H

#include "gemm_pack.h" /* PANEL */
#include "half.h"      /* load_f16 */

enum format { INT8, INT4, INT4_MIN };
enum { INT4_GROUP = 32, GROUP_MAX = 128 };

static inline int group_is_known(int64_t group) { return group == 32 || group == 64 || group == 128; }

static inline int64_t group_count(int64_t K, int64_t group) { return (K + group - 1) / group; }

/* Where a block's codes begin, and its bytes. */
static inline int64_t codes_offset(enum format format) {
    return (format == INT4_MIN ? 2 : 1) * PANEL * (int64_t)sizeof(uint16_t);
}
static inline int64_t block_bytes(enum format format, int64_t group) {
    return codes_offset(format) + PANEL * group / (format == INT8 ? 1 : 2);
}

#endif
