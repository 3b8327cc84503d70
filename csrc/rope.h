/* Rotary position embedding: rotating rows of q and k by their positions (rope.c has the formula). */
#ifndef GOLLM_ROPE_H
#define GOLLM_ROPE_H

#include "kernel.h" /* real */

#define rope_rotate KERNEL_FN(rope_rotate)
#define rope_rotate_back KERNEL_FN(rope_rotate_back)
#define rope_rotate_rows KERNEL_FN(rope_rotate_rows)

/* y (D) = x (D), rotated by one row of the table, or rotated back. y may be x. */
void rope_rotate(real *y, const real *x, const real *rotation, int64_t D);
void rope_rotate_back(real *y, const real *x, const real *rotation, int64_t D);

/* Rotates n rows by their positions and lets `row` point to the results in `to` (n, D). Without a table (NULL) nothing
 * changes. */
void rope_rotate_rows(const real *rotations, int64_t D, int n, const real **row, const int64_t *position, real *to);

#endif
