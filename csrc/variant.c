/* The table of one instruction-set variant: every kernel of kernels.def, compiled for it. */
#include "kernel.h" /* prototypes, KERNEL_FN */

/* fits_NAME: whether all sizes are from 0 to GOLLM_MAX_SIZE, so that a few of them can be multiplied. */
#define IN(type, name, shape)
#define OPT_IN(type, name, shape)
#define OUT(type, name, shape)
#define OPT_OUT(type, name, shape)
#define INOUT(type, name, shape)
#define INTO(type, name, shape)
#define SCALAR(type, name)
#define ALIAS(out, in)
#define DIM(name) &&a->name >= 0 && a->name <= GOLLM_MAX_SIZE
#define KERNEL(name, fields)                                                                                           \
    static int fits_##name(const struct gollm_##name##_args *a) {                                                      \
        (void)a;                                                                                                       \
        return 1 fields;                                                                                               \
    }
#define KERNEL_WITH_WORKSPACE(name, fields) KERNEL(name, fields)
#include "kernels.def"
#undef KERNEL_WITH_WORKSPACE
#undef KERNEL

#define KERNEL(name, fields)                                                                                           \
    static int run_##name(const void *args, const struct gollm_team *team) {                                           \
        return fits_##name(args) ? KERNEL_FN(name)(args, team) : GOLLM_BAD_SHAPE;                                      \
    }
#define KERNEL_WITH_WORKSPACE(name, fields)                                                                            \
    KERNEL(name, fields)                                                                                               \
    static int64_t workspace_##name(const void *args, int n_threads) {                                                 \
        return fits_##name(args) ? KERNEL_FN(name##_workspace)(args, n_threads) : 0;                                   \
    }
#include "kernels.def"
#undef KERNEL_WITH_WORKSPACE
#undef KERNEL

extern const struct gollm_kernel KERNEL_FN(gollm_table)[];
const struct gollm_kernel KERNEL_FN(gollm_table)[] = {
#define KERNEL(name, ...) {#name, #__VA_ARGS__, run_##name, NULL},
#define KERNEL_WITH_WORKSPACE(name, ...) {#name, #__VA_ARGS__, run_##name, workspace_##name},
#include "kernels.def"
#undef KERNEL_WITH_WORKSPACE
#undef KERNEL
};
