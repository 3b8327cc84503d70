/* Picks the variant of the kernels that this CPU can run. Compiled for the oldest CPU that the library supports. */
#ifdef GOLLM_HAS_AMX
#define _GNU_SOURCE /* syscall */
#include <cpuid.h>
#include <sys/syscall.h> /* SYS_arch_prctl */
#include <unistd.h>      /* syscall */
#endif
#include <stdlib.h> /* getenv */
#include <string.h> /* strcmp */

#include "gollm.h"

#ifndef GOLLM_VERSION
#error "the build defines GOLLM_VERSION"
#endif

enum {
#define GOLLM_KERNEL(name, fields) INDEX_##name,
#include "kernels.def"
    KERNEL_COUNT
};

extern const struct gollm_kernel gollm_table_f64[];
#if defined(__x86_64__)
extern const struct gollm_kernel gollm_table_v2[], gollm_table_v3[], gollm_table_v4[];
/* Single features rather than "x86-64-v3": clang and older gcc know only these. */
static int supports_v2(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
}
static int supports_v3(void) {
    return supports_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
static int supports_v4(void) {
    return supports_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#ifdef GOLLM_HAS_AVX512BF16
extern const struct gollm_kernel gollm_table_avx512bf16[];
static int supports_avx512bf16(void) {
    return supports_v4() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#endif
#ifdef GOLLM_HAS_AMX
extern const struct gollm_kernel gollm_table_amx[];
/* Linux grants a process the registers of AMX, 8 KB a thread, when it asks for them; asked once. It refuses where a thread has
 * a signal stack on which they would not fit. */
static int supports_amx(void) {
    static int granted = -1;
    if (granted < 0) {
        enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
        enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, ALL = AMX_BF16 | AMX_TILE | AMX_INT8 };
        unsigned a, b, c, d;
        granted = supports_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & ALL) == ALL &&
                  syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
    }
    return granted;
}
#endif
#else
extern const struct gollm_kernel gollm_table_baseline[];
static int supports_baseline(void) { return 1; }
#endif

static const struct {
    const char *name;
    const struct gollm_kernel *table;
    int (*supported)(void);
} variants[] = {
#if defined(__x86_64__)
    {"v2", gollm_table_v2, supports_v2},
    {"v3", gollm_table_v3, supports_v3},
    {"v4", gollm_table_v4, supports_v4},
#ifdef GOLLM_HAS_AVX512BF16
    {"avx512bf16", gollm_table_avx512bf16, supports_avx512bf16},
#endif
#ifdef GOLLM_HAS_AMX
    {"amx", gollm_table_amx, supports_amx},
#endif
#else
    {"baseline", gollm_table_baseline, supports_baseline},
#endif
};
enum { VARIANT_COUNT = sizeof variants / sizeof *variants };

static int chosen = 0;

int gollm_isa_count(void) { return VARIANT_COUNT; }
const char *gollm_isa_name(int i) { return i >= 0 && i < VARIANT_COUNT ? variants[i].name : NULL; }
int gollm_isa_supported(int i) { return i >= 0 && i < VARIANT_COUNT && variants[i].supported(); }
const char *gollm_isa(void) { return variants[chosen].name; }

int gollm_set_isa(const char *name) {
    for (int i = 0; i < VARIANT_COUNT; i++)
        if (name && strcmp(name, variants[i].name) == 0 && variants[i].supported()) {
            chosen = i;
            return GOLLM_OK;
        }
    return GOLLM_BAD_VALUE;
}

/* When the library is loaded: the most demanding variant that runs here, or the one that GOLLM_ISA names. A name that cannot
 * be used is left to the caller to report (the Python package refuses to import with it). */
__attribute__((constructor)) static void choose(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (int i = 0; i < VARIANT_COUNT; i++)
        if (variants[i].supported()) chosen = i;
    const char *name = getenv("GOLLM_ISA");
    if (name && *name) gollm_set_isa(name);
}

int gollm_kernel_count(void) { return KERNEL_COUNT; }

const struct gollm_kernel *gollm_kernels(enum gollm_dtype dtype) {
    return dtype == GOLLM_FLOAT64 ? gollm_table_f64 : variants[chosen].table;
}

static const struct gollm_kernel *kernels(enum gollm_dtype dtype) {
    return dtype == GOLLM_BFLOAT16 ? NULL : gollm_kernels(dtype);
}
static int finish(void) { return GOLLM_OK; } // calls return when all is done
static void forget_plan(struct gollm_plan *plan) { (void)plan; }

static const struct gollm_backend cpu = {.name = "cpu",
                                         .n_kernels = KERNEL_COUNT,
                                         .kernels = kernels,
                                         .prepare_plan = gollm_prepare_plan,
                                         .run_plan = gollm_run_plan,
                                         .forget_plan = forget_plan,
                                         .finish = finish,
                                         .workspace_size = gollm_workspace_size,
                                         .reserve_workspace = gollm_reserve_workspace,
                                         .release_workspace = gollm_release_workspace};

const struct gollm_backend *gollm_cpu(void) { return &cpu; }

#define GOLLM_KERNEL(name, fields)                                                                                     \
    int gollm_##name(const struct gollm_##name##_args *args) {                                                         \
        return gollm_run(&variants[chosen].table[INDEX_##name], args);                                                 \
    }
#include "kernels.def"

const char *gollm_status_message(int status) {
    switch (status) {
    case GOLLM_OK: return "no error";
    case GOLLM_BAD_SHAPE: return "sizes that contradict each other or that this kernel does not take";
    case GOLLM_BAD_INDEX: return "a token id, position or page outside of its table";
    case GOLLM_BAD_VALUE: return "a value outside of its range";
    case GOLLM_OUT_OF_MEMORY: return "not enough memory for the workspace";
    case GOLLM_UNSUPPORTED: return "this device has no such kernel";
    case GOLLM_DEVICE_FAILED: return "the device reported an error";
    default: return "an unknown status";
    }
}

const char *gollm_version(void) { return GOLLM_VERSION; }

/* FNV-1a over names and contracts. */
uint64_t gollm_abi_version(void) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < KERNEL_COUNT; i++) {
        const char *texts[] = {gollm_table_f64[i].name, gollm_table_f64[i].contract};
        for (int j = 0; j < 2; j++)
            for (const char *p = texts[j];; p++) {
                hash = (hash ^ (unsigned char)*p) * 1099511628211u;
                if (!*p) break;
            }
    }
    return hash;
}
