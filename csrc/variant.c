/* The table of one instruction-set variant: every kernel of kernels.def, compiled for it. */
#include "kernel.h" /* argument structs, prototypes, KERNEL_FN */

enum {
#define GOLLM_KERNEL(name, fields) INDEX_##name,
#include "kernels.def"
    KERNEL_COUNT
};

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
        fields return KERNEL_FN(name)(args, team);                                                                     \
    }
#include "kernels.def"

/* Whether all sizes are from 0 to GOLLM_MAX_SIZE, so that a few of them can be multiplied. */
#define GOLLM_DIM(name) &&args->name >= 0 && args->name <= GOLLM_MAX_SIZE
#define GOLLM_KERNEL(name, fields)                                                                                     \
    static int sizes_fit_##name(const struct name##_args *args) {                                                      \
        (void)args;                                                                                                    \
        return 1 fields;                                                                                               \
    }
#include "kernels.def"

/* The checks that some kernels have beside that of the sizes. */
#define GOLLM_CHECK(name)                                                                                              \
    static int check_values_##name(const void *args) { return KERNEL_FN(name##_check)(args); }
#include "kernels.def"
static int (*const check_values[KERNEL_COUNT])(const void *args) = {
#define GOLLM_CHECK(name) [INDEX_##name] = check_values_##name,
#include "kernels.def"
};

#define GOLLM_KERNEL(name, fields)                                                                                     \
    static int check_##name(const void *args) {                                                                        \
        if (!sizes_fit_##name(args)) return GOLLM_BAD_SHAPE;                                                           \
        return check_values[INDEX_##name] ? check_values[INDEX_##name](args) : GOLLM_OK;                               \
    }
#define GOLLM_WORKSPACE(name)                                                                                          \
    static int64_t workspace_##name(const void *args, int n_threads) {                                                 \
        return sizes_fit_##name(args) ? KERNEL_FN(name##_workspace)(args, n_threads) : 0;                              \
    }
#include "kernels.def"

extern const struct gollm_kernel KERNEL_FN(gollm_table)[];
const struct gollm_kernel KERNEL_FN(gollm_table)[] = {
#define GOLLM_KERNEL(kernel, fields)                                                                                   \
    [INDEX_##kernel].name = #kernel, [INDEX_##kernel].contract = #fields, [INDEX_##kernel].check = check_##kernel,     \
    [INDEX_##kernel].run = run_##kernel,
#define GOLLM_WORKSPACE(kernel) [INDEX_##kernel].workspace = workspace_##kernel,
#include "kernels.def"
};
