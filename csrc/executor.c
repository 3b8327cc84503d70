/* The executor: the one place that owns threads and workspace. A call, or a plan of many, runs in one parallel region.
 *
 * Between the calls of a plan the threads meet at the barrier, unless a call overlaps the one before it: that costs a
 * fraction of ending a region and starting the next. The workspace is as large as the call that needs most. Calls from
 * several threads queue on a mutex, so the workspace belongs to the one that runs. OpenMP's threads do not survive fork():
 * the child computes alone, on one thread, which gives the same results. */
#include <pthread.h>   /* mutex, atfork */
#include <stdatomic.h> /* how a plan ended */
#include <stdlib.h>    /* aligned_alloc */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "barrier.h"

static pthread_mutex_t queue = PTHREAD_MUTEX_INITIALIZER;
static void *workspace;
static _Atomic int64_t workspace_bytes; // read by whoever asks, written with the queue locked
static atomic_int num_threads;
static int forked;

static void lock_before_fork(void) { pthread_mutex_lock(&queue); }
static void unlock_in_parent(void) { pthread_mutex_unlock(&queue); }
static void start_over_in_child(void) {
    forked = 1;
    pthread_mutex_unlock(&queue);
}

/* The OpenMP library is woken first: clang's takes its own locks before a fork, by a handler that it registers then.
 * Handlers run in reverse order, so ours waits for a running call while that call can still end its parallel region. */
__attribute__((constructor)) static void initialise(void) {
#ifdef _OPENMP
    (void)omp_get_max_threads();
    atomic_store(&num_threads, omp_get_num_procs());
#else
    atomic_store(&num_threads, 1);
#endif
    pthread_atfork(lock_before_fork, unlock_in_parent, start_over_in_child);
}

int gollm_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int gollm_num_threads(void) { return gollm_has_openmp() && !forked ? atomic_load(&num_threads) : 1; }

int gollm_set_num_threads(int n) {
    if (n < 1 || n > MAX_THREADS) return GOLLM_BAD_VALUE;
    atomic_store(&num_threads, n);
    return GOLLM_OK;
}

/* The following two with the queue locked. */
static void release(void) {
    free(workspace);
    workspace = NULL;
    workspace_bytes = 0;
}

static int reserve(int64_t bytes) {
    if (bytes <= workspace_bytes) return GOLLM_OK;
    release();
    if (bytes > INT64_MAX - GOLLM_ALIGNMENT) return GOLLM_OUT_OF_MEMORY;
    bytes = (bytes + GOLLM_ALIGNMENT - 1) / GOLLM_ALIGNMENT * GOLLM_ALIGNMENT;
    workspace = aligned_alloc(GOLLM_ALIGNMENT, (size_t)bytes);
    if (!workspace) return GOLLM_OUT_OF_MEMORY;
    workspace_bytes = bytes;
    return GOLLM_OK;
}

int64_t gollm_workspace_size(void) { return workspace_bytes; }

int gollm_reserve_workspace(int64_t bytes) {
    pthread_mutex_lock(&queue);
    const int status = reserve(bytes);
    pthread_mutex_unlock(&queue);
    return status;
}

void gollm_release_workspace(void) {
    pthread_mutex_lock(&queue);
    release();
    pthread_mutex_unlock(&queue);
}

int gollm_check(const struct gollm_kernel *kernel, const void *args) {
    return kernel->run ? kernel->check(args) : GOLLM_UNSUPPORTED;
}

/* The bytes that the call which needs most needs, for n threads. */
static void measure_workspace(struct gollm_plan *plan, int n) {
    plan->workspace = 0;
    plan->n_threads = n;
    for (int64_t i = 0; i < plan->n_calls; i++) {
        const struct gollm_kernel *kernel = plan->calls[i].kernel;
        const int64_t bytes = kernel->workspace ? kernel->workspace(plan->calls[i].args, n) : 0;
        if (bytes > plan->workspace) plan->workspace = bytes;
    }
}

int gollm_prepare_plan(struct gollm_plan *plan, int64_t *failed) {
    for (*failed = 0; *failed < plan->n_calls; ++*failed) {
        const int status = gollm_check(plan->calls[*failed].kernel, plan->calls[*failed].args);
        if (status != GOLLM_OK) return status;
    }
    measure_workspace(plan, gollm_num_threads());
    return GOLLM_OK;
}

/* How a plan ended. A call's threads return the same status, so they may all write it. */
struct outcome {
    atomic_int status;
    atomic_llong failed; /* which call did, counted from the first of the first run; or that of all runs */
};

/* What each thread of the team does: the plan's calls, `times` times. A call's status is the same on every thread, so after
 * one that failed all leave at the same place: at once where the next call overlaps it, else at the barrier. There a thread
 * may have failed at the next call already, and have written its number, which the others, still looking at this call, let
 * pass. */
static void run_calls(const struct gollm_plan *plan, int64_t times, struct outcome *outcome,
                      const struct gollm_team *team) {
    const int64_t n = plan->n_calls, all = times * n;
    for (int64_t x = 0; x < all; x++) {
        const struct gollm_call *call = plan->calls + x % n, *next = plan->calls + (x + 1) % n;
        const int status = call->kernel->run(call->args, team);
        if (status != GOLLM_OK) {
            atomic_store(&outcome->status, status);
            atomic_store(&outcome->failed, x);
        }
        if (x + 1 == all) return; /* the end of the region is the last barrier */
        if (next->overlaps) {
            if (status != GOLLM_OK) return;
            continue;
        }
        gollm_team_wait(team);
        if (atomic_load_explicit(&outcome->failed, memory_order_relaxed) <= x) return;
    }
}

int gollm_run_plan(struct gollm_plan *plan, int64_t times, int64_t *failed) {
    struct outcome outcome = {GOLLM_OK, times * plan->n_calls};
    pthread_mutex_lock(&queue);
    const int n = gollm_num_threads();
    if (n != plan->n_threads) measure_workspace(plan, n);
    if (reserve(plan->workspace) != GOLLM_OK) {
        outcome.status = GOLLM_OUT_OF_MEMORY;
        for (int64_t i = plan->n_calls; i-- > 0;) { // the first call that there is no room for
            const struct gollm_call *call = &plan->calls[i];
            if (call->kernel->workspace && call->kernel->workspace(call->args, n) == plan->workspace)
                outcome.failed = i;
        }
    } else if (n == 1) {
        struct gollm_team alone = {0, 1, &gollm_barrier, workspace, NULL, NULL};
        run_calls(plan, times, &outcome, &alone);
    }
#ifdef _OPENMP
    else {
#pragma omp parallel num_threads(n)
        {
            struct gollm_team team = {
                omp_get_thread_num(), omp_get_num_threads(), &gollm_barrier, workspace, NULL, NULL};
            run_calls(plan, times, &outcome, &team);
        }
    }
#endif
    pthread_mutex_unlock(&queue);
    *failed = outcome.status == GOLLM_OK ? plan->n_calls : outcome.failed % plan->n_calls;
    return outcome.status;
}

int gollm_run(const struct gollm_kernel *kernel, const void *args) {
    const struct gollm_call call = {kernel, args, 0};
    struct gollm_plan plan = {.calls = &call, .n_calls = 1};
    int64_t failed;
    const int status = gollm_check(kernel, args);
    return status != GOLLM_OK ? status : gollm_run_plan(&plan, 1, &failed);
}
