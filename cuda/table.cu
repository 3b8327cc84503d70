/* The table of one type: every kernel of kernels.def. One that no file here defines is a weak symbol that nothing resolves, and
 * the row's `run` is NULL: the call is refused as GOLLM_UNSUPPORTED, by name. */
#include <string.h> /* strcmp */

#include "kernel.h" /* argument structs, prototypes */

namespace GOLLM_VARIANT {

#define GOLLM_KERNEL(name, fields)                                                                                     \
    __attribute__((weak)) int name(const name##_args *args, const gollm_team *team);                                   \
    __attribute__((weak)) int64_t name##_workspace(const name##_args *args);
#include "kernels.def"

enum {
#define GOLLM_KERNEL(name, fields) INDEX_##name,
#include "kernels.def"
    KERNEL_COUNT
};

static const gollm_kernel *cpu; // whose checks of sizes and scalars are this table's, too

#define GOLLM_KERNEL(name, fields)                                                                                     \
    static int check_##name(const void *args) { return cpu[INDEX_##name].check(args); }                                \
    static int run_##name(const void *args, const gollm_team *team) {                                                  \
        static_assert(sizeof(name##_args) == sizeof(gollm_##name##_args), "not as large as in gollm.h");               \
        return name((const name##_args *)args, team);                                                                  \
    }                                                                                                                  \
    static int64_t workspace_##name(const void *args, int) { return name##_workspace((const name##_args *)args); }
#include "kernels.def"

/* The rows, beside the CPU's backend; NULL where that one has other contracts. */
const gollm_kernel *table(const gollm_backend *cpu_backend) {
    static gollm_kernel rows[KERNEL_COUNT];
    if (cpu_backend->n_kernels != KERNEL_COUNT) return nullptr;
    cpu = cpu_backend->kernels(GOLLM_FLOAT32);
#define GOLLM_KERNEL(kernel, fields)                                                                                   \
    rows[INDEX_##kernel] = {#kernel, #fields, check_##kernel, kernel ? run_##kernel : nullptr,                         \
                            kernel##_workspace ? workspace_##kernel : nullptr};
#include "kernels.def"
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (strcmp(rows[i].name, cpu[i].name) || strcmp(rows[i].contract, cpu[i].contract)) return nullptr;
    return rows;
}

} // namespace GOLLM_VARIANT
