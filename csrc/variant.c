/* The table of one instruction-set variant: every kernel of kernels.def, compiled for it. */
#include "kernel.h" /* argument structs, prototypes, KERNEL_FN */

/* fits_NAME: whether all sizes are from 0 to GOLLM_MAX_SIZE, so that a few of them can be multiplied. */
#define GOLLM_DIM(name) &&args->name >= 0 && args->name <= GOLLM_MAX_SIZE
#define GOLLM_KERNEL(name, fields)                                                                                     \
    static int fits_##name(const struct name##_args *args) {                                                           \
        (void)args;                                                                                                    \
        return 1 fields;                                                                                               \
    }
#include "kernels.def"

/* A kernel's struct differs from the public one by the type of its pointers alone. */
#define GOLLM_SAME_PLACE(name)                                                                                         \
    _Static_assert(offsetof(own_args, name) == offsetof(public_args, name), "not where gollm.h has it");
#define GOLLM_DIM(name) GOLLM_SAME_PLACE(name)
#define GOLLM_SCALAR(type, name) GOLLM_SAME_PLACE(name)
#define GOLLM_IN(type, name, ...) GOLLM_SAME_PLACE(name)
#define GOLLM_OUT(type, name, ...) GOLLM_SAME_PLACE(name)
#define GOLLM_KERNEL(name, fields)                                                                                     \
    static int run_##name(const void *args, const struct gollm_team *team) {                                           \
        typedef struct name##_args own_args;                                                                           \
        typedef struct gollm_##name##_args public_args;                                                                \
        _Static_assert(sizeof(own_args) == sizeof(public_args), "not as large as in gollm.h");                         \
        fields return fits_##name(args) ? KERNEL_FN(name)(args, team) : GOLLM_BAD_SHAPE;                               \
    }
#define GOLLM_WORKSPACE(name)                                                                                          \
    static int64_t workspace_##name(const void *args, int n_threads) {                                                 \
        return fits_##name(args) ? KERNEL_FN(name##_workspace)(args, n_threads) : 0;                                   \
    }
#include "kernels.def"

enum {
#define GOLLM_KERNEL(name, fields) INDEX_##name,
#include "kernels.def"
};

extern const struct gollm_kernel KERNEL_FN(gollm_table)[];
const struct gollm_kernel KERNEL_FN(gollm_table)[] = {
#define GOLLM_KERNEL(kernel, fields)                                                                                   \
    [INDEX_##kernel].name = #kernel, [INDEX_##kernel].contract = #fields, [INDEX_##kernel].run = run_##kernel,
#define GOLLM_WORKSPACE(kernel) [INDEX_##kernel].workspace = workspace_##kernel,
#include "kernels.def"
};
