/* The table of one instruction-set variant: every kernel of kernels.def, compiled for it. */
#include "kernel.h" /* prototypes, KERNEL_FN */

#define KERNEL(name, fields)                                                                                           \
    static int run_##name(const void *args, const struct gollm_team *team) {                                           \
        return KERNEL_FN(name)((const struct gollm_##name##_args *)args, team);                                        \
    }
#define KERNEL_WITH_WORKSPACE(name, fields)                                                                            \
    KERNEL(name, fields)                                                                                               \
    static int64_t workspace_##name(const void *args, int n_threads) {                                                 \
        return KERNEL_FN(name##_workspace)((const struct gollm_##name##_args *)args, n_threads);                       \
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
