/* Where the threads of a team meet between two kernels. */
#ifndef GOLLM_BARRIER_H
#define GOLLM_BARRIER_H

#include "gollm.h"

enum { MAX_THREADS = 1024 };

/* The process' barrier, for one team at a time. */
extern struct gollm_barrier gollm_barrier;

#endif
