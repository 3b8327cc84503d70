/* gollm.h: the kernels of gollm as a C library.
 *
 * For every kernel NAME of kernels.def there is `struct gollm_NAME_args` and
 *
 *     int gollm_NAME(const struct gollm_NAME_args *args);
 *
 * which runs it in single precision, on all threads, and returns 0, or a status (gollm_status_message says what it means)
 * with the outputs undefined. The same kernels are rows of a table (gollm_kernels), in single and in double precision, for
 * gollm_run, and for plans: lists of calls that are checked once and run many times (gollm_run_plan).
 *
 * kernels.def gives each buffer's type, shape and aliasing. The caller owns the buffers, which are row-major and contiguous
 * and need only the alignment of their element type; they are faster when aligned to GOLLM_ALIGNMENT. Their lengths are
 * not known here: a size that does not match its buffer is undefined behaviour. Several threads may call at once; the calls
 * take turns. After fork(), the child computes on a single thread, with the same results.
 */
#ifndef GOLLM_H
#define GOLLM_H

#include <stdint.h> /* int8_t, ..., int64_t */

#ifdef __cplusplus
extern "C" {
#endif

#define GOLLM_API __attribute__((visibility("default")))

#define GOLLM_MAX_SIZE ((int64_t)1 << 40) /* of a GOLLM_DIM: beyond it, or below 0, kernels return GOLLM_BAD_SHAPE */

enum gollm_status {
    GOLLM_OK = 0,
    GOLLM_BAD_SHAPE = 1,     /* sizes that contradict each other, or that the kernel does not take */
    GOLLM_BAD_INDEX = 2,     /* a token id, position or page outside of its table */
    GOLLM_BAD_VALUE = 3,     /* a scalar outside of its range */
    GOLLM_OUT_OF_MEMORY = 4, /* no memory for the workspace */
    GOLLM_UNSUPPORTED = 5,   /* the device has no such kernel */
    GOLLM_DEVICE_FAILED = 6  /* the device reported an error: no device, a launch that failed, a lost connection */
};

enum gollm_activation { GOLLM_NONE = 0, GOLLM_GELU_TANH = 1, GOLLM_GELU_ERF = 2, GOLLM_RELU = 3, GOLLM_SILU = 4 };

/* preference.c */
enum gollm_preference { GOLLM_DPO = 0, GOLLM_IPO = 1 };

enum { GOLLM_ALIGNMENT = 64 }; /* bytes of a cache line: workspaces are aligned to it, and the tensors of the package */

/* What `real` stands for in a call: float, double, or (on a GPU) bfloat16; and what the operands of a product are rounded
 * to. `wide` is double where real is double, else float. */
enum gollm_dtype { GOLLM_FLOAT32 = 0, GOLLM_FLOAT64 = 1, GOLLM_BFLOAT16 = 2 };

/* Argument structs and kernels, made from the contracts. The types of a contract in C; a call of the GOLLM_FLOAT64 table
 * takes the same structs with addresses of doubles where they say float, one of the GOLLM_BFLOAT16 table with addresses of
 * bfloat16 where a contract says real. */
#define GOLLM_TYPE_real float
#define GOLLM_TYPE_wide float
#define GOLLM_TYPE_f64 double
#define GOLLM_TYPE_i64 int64_t
#define GOLLM_TYPE_i32 int32_t
#define GOLLM_TYPE_bf16 uint16_t
#define GOLLM_TYPE_f16 uint16_t
#define GOLLM_TYPE_i8 int8_t
#define GOLLM_TYPE_u8 uint8_t

#define GOLLM_DIM(name) int64_t name;
#define GOLLM_SCALAR(type, name) GOLLM_TYPE_##type name;
#define GOLLM_IN(type, name, ...) const GOLLM_TYPE_##type *name;
#define GOLLM_OUT(type, name, ...) GOLLM_TYPE_##type *name;
#define GOLLM_INTO(type, name, ...)                                                                                    \
    GOLLM_TYPE_##type *name;                                                                                           \
    int64_t name##_accumulate;
#define GOLLM_KERNEL(name, fields)                                                                                     \
    struct gollm_##name##_args {                                                                                       \
        fields                                                                                                         \
    };                                                                                                                 \
    GOLLM_API int gollm_##name(const struct gollm_##name##_args *args);
#include "kernels.def"

/* One thread's view of the team that runs a kernel. */
struct gollm_barrier;
struct gollm_team {
    int thread; /* 0 ... n_threads - 1 */
    int n_threads;
    struct gollm_barrier *barrier; /* for gollm_team_wait */
    void *workspace;               /* one block for the whole team, aligned to GOLLM_ALIGNMENT, contents undefined */
    void *stream;                  /* CUDA's stream; NULL on the CPU */
    int32_t *error; /* on a GPU: a word in its memory, into which a kernel that meets bad data writes its status */
};
GOLLM_API void gollm_team_wait(const struct gollm_team *team); /* returns when every thread of the team has called it */

/* A kernel as a row of its device's table. args is its argument struct. */
struct gollm_kernel {
    const char *name;
    const char *contract; /* its entry's text in kernels.def */
    /* 0, or why a call with these sizes and scalars is refused, whatever the buffers hold. */
    int (*check)(const void *args);
    /* Called by every thread of a team with the same args, which `check` has passed. Checks nothing but data, such as token
     * ids, and returns the same status to every thread. NULL: the device does not have this kernel. */
    int (*run)(const void *args, const struct gollm_team *team);
    int64_t (*workspace)(const void *args, int n_threads); /* bytes that the team needs; NULL for none */
};

GOLLM_API int gollm_kernel_count(void);
GOLLM_API const struct gollm_kernel *gollm_kernels(enum gollm_dtype dtype); /* the chosen variant's table */

/* 0, or why the call would be refused before it runs. */
GOLLM_API int gollm_check(const struct gollm_kernel *kernel, const void *args);
GOLLM_API int gollm_run(const struct gollm_kernel *kernel, const void *args);

/* A plan: calls that run one after the other without leaving the team, with the bits of as many gollm_run. */
struct gollm_call {
    const struct gollm_kernel *kernel;
    const void *args;
    /* Not 0: the call may begin before the one in front of it has ended on every thread. Allowed where, among the calls since
     * the last that waited, none reads or writes what another writes, and at most one has a workspace. */
    int overlaps;
};
struct gollm_plan {
    const struct gollm_call *calls;
    int64_t n_calls;
    int64_t workspace; /* bytes for n_threads; gollm_prepare_plan and gollm_run_plan set both */
    int n_threads;
    void *recording; /* what a device keeps of a plan that it has prepared, such as a CUDA graph; NULL at first */
};

/* Checks every call, once. gollm_run_plan then runs the plan `times` times, with nothing in between, and checks nothing but
 * data. Both return 0, or the status of the first call that failed, whose number is then in *failed; those after it are not
 * run. The first call overlaps none. */
GOLLM_API int gollm_prepare_plan(struct gollm_plan *plan, int64_t *failed);
GOLLM_API int gollm_run_plan(struct gollm_plan *plan, int64_t times, int64_t *failed);

/* The workspace, which grows as calls need it: its bytes, room for at least so many, and giving it back. */
GOLLM_API int64_t gollm_workspace_size(void);
GOLLM_API int gollm_reserve_workspace(int64_t bytes); /* 0, or GOLLM_OUT_OF_MEMORY */
GOLLM_API void gollm_release_workspace(void);

/* A device: what is above for the CPU. Another device is another one of these, with a row for each kernel. A GPU runs behind
 * the program's back: run_plan returns when all is queued, and bad data (GOLLM_BAD_INDEX, GOLLM_BAD_VALUE) show when
 * `finish` waits for the results; what was queued after them may have computed with them. */
struct gollm_backend {
    const char *name;
    int n_kernels;
    const struct gollm_kernel *(*kernels)(enum gollm_dtype dtype); /* NULL: no table of this type */
    int (*prepare_plan)(struct gollm_plan *plan, int64_t *failed);
    int (*run_plan)(struct gollm_plan *plan, int64_t times, int64_t *failed); /* a prepared plan, or a single call */
    void (*forget_plan)(struct gollm_plan *plan);                             /* gives back its recording */
    int (*finish)(void); /* 0, or the status of the first call since the last `finish` that met bad data */
    int64_t (*workspace_size)(void);
    int (*reserve_workspace)(int64_t bytes);
    void (*release_workspace)(void);

    /* The device's memory; NULL on the CPU, whose memory is the program's. */
    void *(*allocate)(int64_t bytes); /* NULL: there is not enough */
    void (*release)(void *memory);
    int (*write)(void *to, const void *from,
                 int64_t bytes); /* from the program's memory, which may change when it returns */
    int (*copy)(void *to, const void *from, int64_t bytes); /* between any two memories; waits until it is done */
    int (*free_memory)(int64_t *free_bytes, int64_t *total_bytes);
    const char *(*error)(void); /* why the last GOLLM_DEVICE_FAILED or NULL was, in the device's words */
};
GOLLM_API const struct gollm_backend *gollm_cpu(void);

GOLLM_API const char *gollm_status_message(int status);
GOLLM_API const char *gollm_version(void);
GOLLM_API uint64_t gollm_abi_version(void); /* a hash of all contracts: equal versions can call each other */

/* Instruction-set variants: names such as "v2", "v4", "amx", or "baseline" where the architecture has only one. */
GOLLM_API int gollm_isa_count(void);
GOLLM_API const char *gollm_isa_name(int i);   /* from the least to the most demanding */
GOLLM_API int gollm_isa_supported(int i);      /* 1 where this CPU can run it */
GOLLM_API const char *gollm_isa(void);         /* the one in use */
GOLLM_API int gollm_set_isa(const char *name); /* 0, or GOLLM_BAD_VALUE when it is unknown or this CPU cannot run it */

GOLLM_API int gollm_has_openmp(void);
GOLLM_API int gollm_num_threads(void);
GOLLM_API int gollm_set_num_threads(int n); /* 0, or GOLLM_BAD_VALUE unless 1 <= n <= 1024 */

#ifdef __cplusplus
}
#endif
#endif
