/* The shapes of AMX's tiles in a product: sums in tiles 0 ... 3, of 16 x 16; panels of a in 4 and 5, of 16 rows x `depth`
 * bytes; panels of b in 6 and 7, of depth / 4 rows x 16 lanes of 4 bytes.
 *
 * The state of the tiles belongs to the thread; it is set up for each product and given back at its end, so that between
 * products there is none to switch, nor to inherit in fork(). The kernel keeps it over signals. */
#ifndef GOLLM_AMX_H
#define GOLLM_AMX_H

#include <immintrin.h>
#include <stdint.h>

static inline void tiles_begin(int depth) {
    const uint8_t rows = (uint8_t)(depth / 4);
    const uint16_t bytes = (uint16_t)depth;
    const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, bytes, bytes, 64, 64}, {16, 16, 16, 16, 16, 16, rows, rows}};
    __asm__ volatile("ldtilecfg %0" ::"m"(shape));
}
static inline void tiles_end(void) { _tile_release(); }

#endif
