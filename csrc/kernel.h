/* What a kernel file includes: its variant's names, the team, and how rows are split. */
#ifndef GOLLM_KERNEL_H
#define GOLLM_KERNEL_H

#include <stddef.h> /* size_t, NULL */

#include "gollm.h" /* argument structs, struct gollm_team */

/* The types of a contract in a kernel. */
#ifdef GOLLM_F64
typedef double real;
#else
typedef float real;
#endif
typedef real wide;
typedef double f64;
typedef int64_t i64;
typedef int32_t i32;
typedef uint16_t bf16;
typedef uint16_t f16;
typedef int8_t i8;
typedef uint8_t u8;

/* KERNEL_FN(name) is the variant's own symbol, for example layernorm_forward_v3. GOLLM_VARIANT comes from the build. */
#define GOLLM_PASTE2(a, b) a##_##b
#define GOLLM_PASTE(a, b) GOLLM_PASTE2(a, b)
#define KERNEL_FN(name) GOLLM_PASTE(name, GOLLM_VARIANT)

/* struct NAME_args is struct gollm_NAME_args with buffers of real, and a kernel is a function of it.
 *
 * NAME_check      0, or why the call is refused whatever its buffers hold: sizes and scalars. It is called once, before a
 *                 call is run or recorded, and after the sizes were found to be from 0 to GOLLM_MAX_SIZE
 * NAME_workspace  bytes of workspace; the sizes may be any from 0 to GOLLM_MAX_SIZE, and scalars anything
 * NAME            checks nothing but data: token ids, targets, pages. What it refuses, every thread refuses, before any has
 *                 waited for another
 */
#define GOLLM_DIM(name) int64_t name;
#define GOLLM_SCALAR(type, name) type name;
#define GOLLM_IN(type, name, ...) const type *name;
#define GOLLM_OUT(type, name, ...) type *name;
#define GOLLM_INTO(type, name, ...)                                                                                    \
    type *name;                                                                                                        \
    int64_t name##_accumulate;
#define GOLLM_KERNEL(name, fields)                                                                                     \
    struct name##_args {                                                                                               \
        fields                                                                                                         \
    };                                                                                                                 \
    int KERNEL_FN(name)(const struct name##_args *args, const struct gollm_team *team);
#define GOLLM_CHECK(name) int KERNEL_FN(name##_check)(const struct name##_args *args);
#define GOLLM_WORKSPACE(name) int64_t KERNEL_FN(name##_workspace)(const struct name##_args *args, int n_threads);
#include "kernels.def"

static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Sums and products of sizes that nobody has checked: INT64_MAX, for which there is no memory, where they overflow. */
static inline int64_t plus_i64(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}
static inline int64_t times_i64(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct range {
    int64_t begin, end;
};

/* Part i of n of 0 ... count - 1, cut at multiples of `grain`. */
static inline struct range split(int64_t count, int64_t grain, int64_t i, int64_t n) {
    int64_t grains = (count + grain - 1) / grain;
    return (struct range){min_i64(count, grains * i / n * grain), min_i64(count, grains * (i + 1) / n * grain)};
}

enum { LINE = GOLLM_ALIGNMENT / sizeof(real) }; /* reals of a cache line */

/* A thread's part of a loop whose iterations do not depend on each other. */
static inline struct range thread_range(int64_t count, int64_t grain, const struct gollm_team *team) {
    return split(count, grain, team->thread, team->n_threads);
}

#endif
