/* Rotary position embedding (Su et al. 2021). Position p rotates the pairs (x_2i, x_2i+1) of a head's D values by the
 * angle p * frequency_i:
 *
 *     y_2i = x_2i cos - x_2i+1 sin,    y_2i+1 = x_2i+1 cos + x_2i sin
 *
 * so that q.k depends on the distance of their positions alone. The table of rotations (A, D) has a row for each
 * position, with cos and sin of each pair side by side. Attention rotates rows of q and k while it packs them or writes
 * them to the cache: there is no extra pass over memory.
 */
#include "rope.h"

#include "vec.h"

static inline void rotate(real *y, const real *x, const real *rotation, int64_t D, real direction) {
    ivec even;
    for (int i = 0; i < VL; i++) even[i] = i & 1 ? 0 : -1;
    const vec sign = vec_select(even, vec_set(-direction), vec_set(direction));
    for (int64_t d = 0; d < D; d += VL) {
        const vec v = vec_load_n(x + d, D - d), r = vec_load_n(rotation + d, D - d);
        vec_store_n(y + d, v * vec_double_even(r) + vec_swap_pairs(v) * (vec_double_odd(r) * sign), D - d);
    }
}

void rope_rotate(real *y, const real *x, const real *rotation, int64_t D) { rotate(y, x, rotation, D, 1); }

void rope_rotate_back(real *y, const real *x, const real *rotation, int64_t D) { rotate(y, x, rotation, D, -1); }

void rope_rotate_rows(const real *rotations, int64_t D, int n, const real **row, const int64_t *position, real *to) {
    for (int i = 0; i < n && rotations; i++) {
        rope_rotate(to + i * D, row[i], rotations + position[i] * D, D);
        row[i] = to + i * D;
    }
}
