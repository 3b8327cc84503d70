/* The barrier: a thread that waits looks for a while, and then sleeps until the last one arrives.
 *
 * Where threads run decides how long a wait is. Two on one CPU take turns there: one looks in vain while the other, which has to
 * arrive, waits for the CPU. A scheduler parts them late, or never while they sleep in turns, and it even brings them together:
 * it may put a thread that is woken on the CPU of the one that wakes it, and a virtual machine's idle CPUs look taken to it. So
 * each thread notes its CPU when it arrives; one that finds another's note of the same CPU moves to a CPU that nobody has noted;
 * and one that sleeps stays where it is until it is woken. docs/performance.md has the figures. */
#define _GNU_SOURCE
#include "barrier.h"

#include <sched.h> /* sched_getcpu, sched_setaffinity, sched_yield */
#include <stdatomic.h>
#include <time.h> /* clock_gettime */
#ifdef __linux__
#include <linux/futex.h> /* FUTEX_WAIT_PRIVATE */
#include <sys/syscall.h> /* SYS_futex */
#include <unistd.h>      /* syscall */
#endif

/* Nanoseconds of looking before a thread moves away, and before it sleeps: several times what waking one takes (25 us), or a
 * thread that was woken finds the others asleep at the next barrier. */
enum { LOOKS_BETWEEN_TIMES = 16, BEFORE_MOVING = 20000, BEFORE_SLEEP = 100000 };

struct place {
    _Alignas(GOLLM_ALIGNMENT) atomic_int cpu; /* of a thread, when it arrived last, counted from 1; 0: not yet */
};

/* Counts arrivals; the last one of n starts the next phase. A line each: waiting threads read only `phase`. */
struct gollm_barrier {
    _Alignas(GOLLM_ALIGNMENT) atomic_int arrived;
    atomic_int sleeping;
    _Alignas(GOLLM_ALIGNMENT) atomic_uint phase; /* wraps around */
    struct place places[MAX_THREADS];
};

struct gollm_barrier gollm_barrier;

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void wake_all(atomic_uint *word) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
#else
    (void)word;
#endif
}

#ifdef __linux__

static void note_cpu(const struct gollm_team *team) {
    atomic_int *noted = &team->barrier->places[team->thread].cpu;
    const int cpu = sched_getcpu() + 1;
    if (atomic_load_explicit(noted, memory_order_relaxed) != cpu)
        atomic_store_explicit(noted, cpu, memory_order_relaxed);
}

/* Of the CPUs that the calling thread may use, those that no thread of the team has noted; and its own, unless another one has
 * noted that. 0: it cannot be said. */
static int find_cpus(const struct gollm_team *team, cpu_set_t *allowed, cpu_set_t *free, cpu_set_t *own) {
    const int here = sched_getcpu() + 1;
    if (here == 0 || sched_getaffinity(0, sizeof *allowed, allowed) != 0) return 0;
    *free = *allowed;
    CPU_ZERO(own);
    CPU_SET((size_t)here - 1, own);
    for (int i = 0; i < team->n_threads; i++) {
        const int cpu = atomic_load_explicit(&team->barrier->places[i].cpu, memory_order_relaxed);
        if (cpu > 0) CPU_CLR((size_t)cpu - 1, free);
        if (cpu == here && i != team->thread) CPU_ZERO(own);
    }
    return 1;
}

/* Moves the calling thread if another one has noted the same CPU, and there is one that nobody has. */
static void move_apart(const struct gollm_team *team) {
    cpu_set_t allowed, free, own;
    if (!find_cpus(team, &allowed, &free, &own) || CPU_COUNT(&own) || !CPU_COUNT(&free)) return;
    if (sched_setaffinity(0, sizeof free, &free) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
    note_cpu(team);
}

/* Sleeps until *word is not `value`, and wakes on the same CPU. */
static void sleep_while(const struct gollm_team *team, atomic_uint *word, unsigned value) {
    cpu_set_t allowed, free, own;
    const int stays =
        find_cpus(team, &allowed, &free, &own) && CPU_COUNT(&own) && sched_setaffinity(0, sizeof own, &own) == 0;
    while (atomic_load(word) == value) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    if (stays) sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

static void note_cpu(const struct gollm_team *team) { (void)team; }
static void move_apart(const struct gollm_team *team) { (void)team; }
static void sleep_while(const struct gollm_team *team, atomic_uint *word, unsigned value) {
    (void)team;
    while (atomic_load(word) == value) sched_yield();
}

#endif

/* Whoever sleeps has counted itself before it looks at `phase` the last time, and the last one to arrive looks at that count
 * after it has written `phase`: in the order of all sequentially consistent operations one of them sees the other. */
void gollm_team_wait(const struct gollm_team *team) {
    if (team->n_threads == 1) return;
    struct gollm_barrier *b = team->barrier;
    note_cpu(team);
    const unsigned phase = atomic_load_explicit(&b->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) == team->n_threads - 1) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_store(&b->phase, phase + 1);
        if (atomic_load(&b->sleeping)) wake_all(&b->phase);
        return;
    }
    int64_t begin = 0, waited = 0;
    for (int moved = 0; waited < BEFORE_SLEEP;) {
        for (int looks = 0; looks < LOOKS_BETWEEN_TIMES; looks++) {
            if (atomic_load_explicit(&b->phase, memory_order_acquire) != phase) return;
            pause_cpu();
        }
        const int64_t now = nanoseconds();
        if (!begin) begin = now;
        waited = now - begin;
        if (!moved && waited >= BEFORE_MOVING) move_apart(team), moved = 1;
    }
    atomic_fetch_add(&b->sleeping, 1);
    sleep_while(team, &b->phase, phase);
    atomic_fetch_sub(&b->sleeping, 1);
}
