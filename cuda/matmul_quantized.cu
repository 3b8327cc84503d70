/* Products with quantised weights and their epilogues (csrc/matmul_quantized.c has the formulas, panels.h the layout):
 *
 *   int8, int4, int4_min      c (M, N) = f(a (M, K) w (N, K)^T + bias) * factor + residual
 *
 * Activations are quantised first, in the same groups of inputs, to 16 bits for int8 and to 8 bits for int4 and int4_min, by a
 * kernel of its own, a warp a group. The sum of a group is an exact integer, from dot products of 4 codes (dp4a) or 2 (dp2a):
 * int8's with an activation's codes of 2 bytes, int4's with those of one. A chunk's groups are then added in ascending order by
 * one multiply-add each. Of a single row, a lane has an output, neighbouring lanes read neighbouring words of codes, and a chunk's
 * words are all on their way before the first is used. Of several rows, a group's integers come from tensor cores (mma.sync of 8
 * bits, which int8's activations pass as two planes of bytes): the same ones.
 */
#include "packed_product.h"

namespace GOLLM_VARIANT {

/* Quantised activations: codes (M, groups, group) of int16 for INT8, else int8; scales, sums (M, groups). */
struct Quantised {
    int64_t groups;
    char *codes;
    float *scales;
    int32_t *sums;
};

static int64_t group_count(int64_t K, int64_t group) { return ceil_div(K, group); }

template <Format FORMAT>
__global__ void __launch_bounds__(ROW_WARPS * 32)
    quantise_kernel(Quantised to, const real *a, int64_t M, int64_t K, int group) {
    const int64_t unit = row_of_warp(), m = unit / to.groups, k0 = unit % to.groups * group;
    if (m >= M) return;
    const int lane = threadIdx.x % 32;
    constexpr float STEPS = FORMAT == INT8 ? 32767 : 127;
    uint32_t most = 0; // the largest |x| as integers, whose order is that of the numbers; NaN is beyond infinity
    for (int i = lane; i < group; i += 32) {
        const float x = k0 + i < K ? to_float(a[m * K + k0 + i]) : 0;
        const uint32_t bits = __float_as_uint(x) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
#pragma unroll
    for (int mask = 16; mask; mask /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, most, mask);
        most = other > most ? other : most;
    }
    const float largest = __uint_as_float(most), inverse = STEPS / largest;
    const bool counts = inverse > 0 && isfinite(inverse);
    int32_t sum = 0;
    for (int i = lane; i < group; i += 32) {
        const float x = k0 + i < K ? to_float(a[m * K + k0 + i]) : 0;
        const int32_t code = counts ? __float2int_rn(x * inverse) : 0;
        if (FORMAT == INT8)
            ((int16_t *)to.codes)[unit * group + i] = (int16_t)code;
        else
            ((int8_t *)to.codes)[unit * group + i] = (int8_t)code;
        sum += code;
    }
#pragma unroll
    for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (lane != 0) return;
    to.scales[unit] = counts ? largest / STEPS : largest * 0; // 0, or NaN
    to.sums[unit] = sum;
}

struct alignas(16) Words {
    int32_t x[4];
};

/* ALIGNED: to words. */
template <bool ALIGNED> __device__ __forceinline__ int32_t load_word(const uint8_t *p) {
    if (ALIGNED) return *(const int32_t *)p;
    return (int32_t)(p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

/* Of a single row, in dot products. */
template <Format FORMAT, bool ALIGNED> struct QuantisedWeight {
    const uint8_t *b; // (panels, groups, block)
    Quantised a;
    int group;

    __device__ __forceinline__ void multiply(const PackedProduct &, int64_t panel, int64_t, int64_t chunk,
                                             ChunkSums<1> &sums) const {
        constexpr int WORDS = FORMAT == INT8 ? 8 : 4, PARTS = CHUNK / 32; // of codes in a part, of 32 inputs
        const int lane = threadIdx.x % 32, shift = group == 32 ? 0 : group == 64 ? 1 : 2; // 2^shift parts a group
        const int64_t bytes = block_bytes(FORMAT, group), first = chunk * (PARTS >> shift);
        int32_t w[PARTS][WORDS];
        float scale[PARTS], minimum[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) { // past the last group, that one again
            const int64_t unit = min_i64(first + (i >> shift), a.groups - 1);
            const int part = i & ((1 << shift) - 1);
            const uint8_t *block = b + (panel * a.groups + unit) * bytes;
            const uint8_t *codes = block + codes_offset(FORMAT) + (part * WORDS * PANEL + lane) * 4;
#pragma unroll
            for (int j = 0; j < WORDS; j++) w[i][j] = load_word<ALIGNED>(codes + j * PANEL * 4);
            scale[i] = load_f16(block + lane * 2);
            minimum[i] = FORMAT == INT4_MIN ? load_f16(block + (PANEL + lane) * 2) : 0;
        }
        float chain = 0;
        int32_t dot = 0;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const int64_t unit = first + (i >> shift);
            const int part = i & ((1 << shift) - 1);
            if (unit >= a.groups) break;
            const Words *codes = (const Words *)a.codes + (unit * (group / 32) + part) * (WORDS / 2);
#pragma unroll
            for (int j = 0; j < WORDS / 2; j++) { // 16 bytes of activations, two words of weights
                const Words q = codes[j];
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    const uint32_t word = (uint32_t)w[i][2 * j + k];
                    if (FORMAT == INT8) {
                        const int32_t four = (int32_t)(word ^ 0x80808080u); // code - 128
                        dot = dot2_high(q.x[2 * k + 1], four, dot2_low(q.x[2 * k], four, dot));
                    } else {
                        dot = dot4(q.x[2 * k], (int32_t)(word & 0x0f0f0f0f), dot);
                        dot = dot4(q.x[2 * k + 1], (int32_t)(word >> 4 & 0x0f0f0f0f), dot);
                    }
                }
            }
            if (part + 1 < 1 << shift) continue; // the group goes on
            if (FORMAT == INT4) dot -= 8 * a.sums[unit];
            chain = fmaf((float)dot, a.scales[unit] * scale[i], chain);
            if (FORMAT == INT4_MIN) chain = fmaf(minimum[i], a.scales[unit] * (float)a.sums[unit], chain);
            dot = 0;
        }
        sums.x[0][lane] = chain;
    }
};

/* The same on tensor cores: w is the left operand, of 16 outputs, whose registers are its words of codes. */
template <Format FORMAT, bool ALIGNED> struct QuantisedTensorWeight {
    const uint8_t *b; // (panels, groups, block)
    Quantised a;
    int group;

    template <int ROWS>
    __device__ __forceinline__ void multiply(const PackedProduct &p, int64_t panel, int64_t m0, int64_t chunk,
                                             ChunkSums<ROWS> &sums) const {
        constexpr int TILES = ROWS / 8, PLANES = FORMAT == INT8 ? 2 : 1;
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, per_chunk = CHUNK / group;
        const int64_t bytes = block_bytes(FORMAT, group), first = chunk * per_chunk;
        float chain[2][TILES][4] = {}; // outputs 16 half + {g, g, g + 8, g + 8}, rows 8 tile + {2t, 2t + 1, 2t, 2t + 1}
#pragma unroll(ROWS == 8 ? 4 : 1)
        for (int64_t unit = first; unit < first + per_chunk && unit < a.groups; unit++) {
            const uint8_t *block = b + (panel * a.groups + unit) * bytes;
            int32_t dots[PLANES][2][TILES][4] = {};
#pragma unroll 1
            for (int k = 0; k < group; k += 32) {
                uint32_t w[2][4];
#pragma unroll
                for (int i = 0; i < 4; i++) { // outputs g + 8 i
                    const uint8_t *at = block + codes_offset(FORMAT) + (g + 8 * i) * 4;
                    if (FORMAT == INT8) { // code - 128 of inputs 4t ... and 16 + 4t ...
                        w[i / 2][i % 2] = (uint32_t)load_word<ALIGNED>(at + (k / 4 + t) * PANEL * 4) ^ 0x80808080u;
                        w[i / 2][2 + i % 2] =
                            (uint32_t)load_word<ALIGNED>(at + (k / 4 + 4 + t) * PANEL * 4) ^ 0x80808080u;
                    } else { // of inputs 8t ... and 8t + 4 ...
                        const uint32_t word = (uint32_t)load_word<ALIGNED>(at + (k / 8 + t) * PANEL * 4);
                        w[i / 2][i % 2] = word & 0x0f0f0f0f;
                        w[i / 2][2 + i % 2] = word >> 4 & 0x0f0f0f0f;
                    }
                }
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    const int64_t row = min_i64(m0 + tile * 8 + g, p.M - 1) * a.groups + unit;
                    const uint2 *q = (const uint2 *)(a.codes + (row * group + k) * (FORMAT == INT8 ? 2 : 1)) + t;
                    if (FORMAT == INT8) {
                        const uint2 q0 = q[0], q1 = q[4]; // 4 inputs each
                        const uint32_t low[2] = {low_bytes(q0.x, q0.y), low_bytes(q1.x, q1.y)};
                        const uint32_t high[2] = {high_bytes(q0.x, q0.y), high_bytes(q1.x, q1.y)};
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            mma_s8u8(dots[0][half][tile], w[half], low[0], low[1]);
                            mma_s8s8(dots[PLANES - 1][half][tile], w[half], high[0], high[1]);
                        }
                    } else {
                        const uint2 q8 = q[0]; // 8 inputs
#pragma unroll
                        for (int half = 0; half < 2; half++) mma_s8s8(dots[0][half][tile], w[half], q8.x, q8.y);
                    }
                }
            }
            float scale[4], minimum[4]; // of outputs g + 8 i
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scale[i] = load_f16(block + (g + 8 * i) * 2);
                minimum[i] = FORMAT == INT4_MIN ? load_f16(block + (PANEL + g + 8 * i) * 2) : 0;
            }
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int column = 0; column < 2; column++) {
                    const int64_t at = min_i64(m0 + tile * 8 + 2 * t + column, p.M - 1) * a.groups + unit;
                    const float of_row = a.scales[at];
                    const int32_t sum = FORMAT == INT8 ? 0 : a.sums[at];
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int e = i % 2 * 2 + column;
                        int32_t dot = dots[0][i / 2][tile][e];
                        if (FORMAT == INT8) dot += 256 * dots[PLANES - 1][i / 2][tile][e];
                        if (FORMAT == INT4) dot -= 8 * sum;
                        float &x = chain[i / 2][tile][e];
                        x = fmaf((float)dot, of_row * scale[i], x);
                        if (FORMAT == INT4_MIN) x = fmaf(minimum[i], of_row * (float)sum, x);
                    }
                }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums.x[tile * 8 + 2 * t + e % 2][16 * half + g + e / 2 * 8] = chain[half][tile][e];
    }
};

/* Bytes of the quantised activations, or INT64_MAX: codes, scales, sums. */
static int64_t quantised_bytes(Format format, int64_t M, int64_t K, int64_t group) {
    if (group <= 0) return 0;
    const double values = (double)M * (double)group_count(K, group);
    const double bytes = values * ((double)group * (format == INT8 ? 2 : 1) + 8);
    return bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
}

template <Format FORMAT, bool ALIGNED>
static int run_quantised_rows(const PackedProduct &p, const uint8_t *b, const Quantised &a, int64_t group,
                              const gollm_team *team) {
    constexpr int ROWS = FORMAT == INT8 ? 16 : 32; // what registers hold
    if (p.M == 1) return run_packed<1>(p, QuantisedWeight<FORMAT, ALIGNED>{b, a, (int)group}, team);
    const QuantisedTensorWeight<FORMAT, ALIGNED> weight = {b, a, (int)group};
    return p.M <= 8 ? run_packed<8>(p, weight, team) : run_packed<ROWS>(p, weight, team);
}

template <Format FORMAT, class Args> static int run_quantised(const Args *args, int64_t group, const gollm_team *team) {
    Quantised a = {group_count(args->K, group), (char *)team->workspace, nullptr, nullptr};
    const int64_t units = args->M * a.groups;
    a.scales = (float *)(a.codes + units * group * (FORMAT == INT8 ? 2 : 1));
    a.sums = (int32_t *)(a.scales + units);
    const int status = launch(quantise_kernel<FORMAT>, row_blocks(units), ROW_WARPS * 32, 0, team, a, args->a, args->M,
                              args->K, (int)group);
    if (status != GOLLM_OK) return status;
    const PackedProduct p = packed_product_of(args);
    return (uintptr_t)args->b % 4 == 0 ? run_quantised_rows<FORMAT, true>(p, args->b, a, group, team)
                                       : run_quantised_rows<FORMAT, false>(p, args->b, a, group, team);
}

int64_t matmul_int8_workspace(const matmul_int8_args *args) {
    return quantised_bytes(INT8, args->M, args->K, args->group);
}
int matmul_int8(const matmul_int8_args *args, const gollm_team *team) {
    return run_quantised<INT8>(args, args->group, team);
}

int64_t matmul_int4_workspace(const matmul_int4_args *args) {
    return quantised_bytes(INT4, args->M, args->K, INT4_GROUP);
}
int matmul_int4(const matmul_int4_args *args, const gollm_team *team) {
    return run_quantised<INT4>(args, INT4_GROUP, team);
}

int64_t matmul_int4_min_workspace(const matmul_int4_min_args *args) {
    return quantised_bytes(INT4_MIN, args->M, args->K, INT4_GROUP);
}
int matmul_int4_min(const matmul_int4_min_args *args, const gollm_team *team) {
    return run_quantised<INT4_MIN>(args, INT4_GROUP, team);
}

} // namespace GOLLM_VARIANT
