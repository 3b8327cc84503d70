/* Rotary position embedding (Su et al. 2021): the pairs (x_2i, x_2i+1) of a head's D values are turned by the angle that
 * position p has for pair i, p * frequency_i:
 *
 *     y_2i = x_2i cos - x_2i+1 sin,    y_2i+1 = x_2i+1 cos + x_2i sin
 *
 * so that q.k depends on the distance of their positions alone. A row of the table of rotations, (D), holds cos and sin of
 * each pair side by side. Attention turns rows of q and k on the way into its packed panels and into the cache: no pass
 * over memory is made for it.
 */
#include "attention.h"

static inline void turn(real *y, const real *x, const real *rotation, int64_t D, real direction) {
    ivec even;
    for (int i = 0; i < VL; i++) even[i] = i & 1 ? 0 : -1;
    const vec sign = vec_select(even, vec_set(-direction), vec_set(direction));
    for (int64_t d = 0; d < D; d += VL) {
        const vec v = vec_load_n(x + d, D - d), r = vec_load_n(rotation + d, D - d);
        vec_store_n(y + d, v * vec_double_even(r) + vec_swap_pairs(v) * (vec_double_odd(r) * sign), D - d);
    }
}

void rope_turn(real *y, const real *x, const real *rotation, int64_t D) { turn(y, x, rotation, D, 1); }

void rope_turn_back(real *y, const real *x, const real *rotation, int64_t D) { turn(y, x, rotation, D, -1); }

void rope_turn_lines(const real *rotations, int64_t D, int n, const real **line, const int64_t *position, real *rows) {
    for (int i = 0; i < n && rotations; i++) {
        rope_turn(rows + i * D, line[i], rotations + position[i] * D, D);
        line[i] = rows + i * D;
    }
}
